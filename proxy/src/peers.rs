//! Until when clients have proved who they are. A connection does not outlive the certificate that it was made with, unless its client
//! has shown a newer one since, on whatever connection.
//!
//! A client is an identity at an address: sidecars renew long before the end, and show it ([`tls::keep_known`](crate::tls::keep_known)).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::names::SpiffeId;

/// The clock may be set, and the machine may sleep: it is looked at no less often.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

type Table = Mutex<HashMap<(SpiffeId, IpAddr), Weak<Proven>>>;

/// The clients whose connections are open.
#[derive(Debug, Default)]
pub struct Peers(Arc<Table>);

/// That a client has proved who it is; held by each of its connections.
#[derive(Debug, Clone)]
pub struct Proof(Arc<Proven>);

#[derive(Debug)]
struct Proven {
    key: (SpiffeId, IpAddr),
    until: watch::Sender<SystemTime>,
    table: Weak<Table>,
}

impl Peers {
    /// A client has shown a certificate that is valid until then.
    pub fn shown(&self, peer: &SpiffeId, address: IpAddr, until: SystemTime) -> Proof {
        let key = (peer.clone(), address);
        let mut known = self.0.lock();
        if let Some(proven) = known.get(&key).and_then(Weak::upgrade) {
            proven.until.send_if_modified(|known| {
                let later = until > *known;
                *known = until.max(*known);
                later
            });
            return Proof(proven);
        }
        let (until, table) = (watch::Sender::new(until), Arc::downgrade(&self.0));
        let proven = Arc::new(Proven { key: key.clone(), until, table });
        known.insert(key, Arc::downgrade(&proven));
        Proof(proven)
    }
}

impl Proof {
    /// Ends when what the client has shown has been expired for this long.
    pub async fn outlived(&self, grace: Duration) {
        let mut until = self.0.until.subscribe();
        loop {
            let end = *until.borrow_and_update();
            let now = SystemTime::now();
            let left = end.checked_add(grace).and_then(|end| end.duration_since(now).ok()).unwrap_or_default();
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = sleep(left.min(LONGEST_SLEEP)) => {}
                // The sender lives as long as this does.
                _ = until.changed() => {}
            }
        }
    }
}

impl Drop for Proven {
    fn drop(&mut self) {
        let Some(table) = self.table.upgrade() else { return };
        let mut known = table.lock();
        // Another may have come in its place by now.
        if known.get(&self.key).is_some_and(|proven| proven.strong_count() == 0) {
            known.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn web() -> SpiffeId {
        SpiffeId::parse("spiffe://mesh/ns/shop/sa/web").expect("valid")
    }

    fn in_ms(milliseconds: u64) -> SystemTime {
        SystemTime::now() + Duration::from_millis(milliseconds)
    }

    #[tokio::test]
    async fn a_proof_lasts_as_long_as_the_newest_certificate_that_was_shown() {
        let peers = Peers::default();
        let proof = peers.shown(&web(), HERE, in_ms(20));
        timeout(Duration::from_secs(20), proof.outlived(Duration::ZERO)).await.expect("it ends");
        assert!(timeout(Duration::from_millis(20), proof.outlived(Duration::from_secs(3600))).await.is_err());
        let later = peers.shown(&web(), HERE, in_ms(3_600_000));
        // An older one shown again takes nothing back.
        drop(peers.shown(&web(), HERE, in_ms(0)));
        drop(later);
        assert!(timeout(Duration::from_millis(20), proof.outlived(Duration::ZERO)).await.is_err());
    }

    #[tokio::test]
    async fn a_proof_is_of_one_identity_at_one_address() {
        let peers = Peers::default();
        let proof = peers.shown(&web(), HERE, in_ms(0));
        let cart = SpiffeId::parse("spiffe://mesh/ns/shop/sa/cart").expect("valid");
        let others =
            [peers.shown(&cart, HERE, in_ms(3_600_000)), peers.shown(&web(), [10, 0, 0, 1].into(), in_ms(3_600_000))];
        timeout(Duration::from_secs(20), proof.outlived(Duration::ZERO)).await.expect("nobody else's counts");
        drop((proof, others));
        assert!(peers.0.lock().is_empty(), "who has no connection is forgotten");
    }
}
