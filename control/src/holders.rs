//! Who holds a certificate, and who of them is connected. Right after the start of a control server nobody is: whoever holds a certificate
//! is waited for then, for he would be cut off by a root that he has not heard of. Who has not come back after a minute has gone, as jobs
//! do and pods that are scaled down, and is waited for no longer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::status::TrustStatus;

/// Within this time after a control server has started, its clients come back to it, in seconds: they wait half a minute at most.
const COMES_BACK: u64 = 60;

/// An identity that holds certificates, or is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HolderStatus {
    /// Certificates of its in use that were not renewed.
    pub certificates: usize,
    /// Its clients that follow the trust bundle.
    pub connected: usize,
}

/// Holders of certificates who are still to come back to the control servers, by name; nobody once all of them run for a minute.
pub fn to_come_back(servers: &[TrustStatus]) -> Vec<String> {
    if servers.iter().all(|server| server.up >= COMES_BACK) {
        return Vec::new();
    }
    let mut all: BTreeMap<&str, HolderStatus> = BTreeMap::new();
    for (identity, one) in servers.iter().flat_map(|server| &server.holders) {
        let known = all.entry(identity).or_default();
        // Each counts its own clients; certificates are written down where all may read them.
        known.connected += one.connected;
        known.certificates = known.certificates.max(one.certificates);
    }
    let missing = all.into_iter().filter(|(_, HolderStatus { certificates, connected })| connected < certificates);
    missing
        .map(|(identity, HolderStatus { certificates, connected })| {
            format!("{identity} ({connected} of {certificates} are back)")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(up: u64, holders: &[(&str, usize, usize)]) -> TrustStatus {
        let holders = holders.iter().map(|(identity, certificates, connected)| {
            ((*identity).to_owned(), HolderStatus { certificates: *certificates, connected: *connected })
        });
        TrustStatus { up, holders: holders.collect(), ..TrustStatus::default() }
    }

    #[test]
    fn nobody_is_forgotten_right_after_a_restart() {
        let none: [&str; 0] = [];
        assert_eq!(to_come_back(&[]), none);
        assert_eq!(to_come_back(&[server(0, &[("web", 1, 0)])]), ["web (0 of 1 are back)"]);
        assert_eq!(to_come_back(&[server(5, &[("web", 3, 1)])]), ["web (1 of 3 are back)"]);
        assert_eq!(to_come_back(&[server(5, &[("web", 1, 1), ("new", 0, 1)])]), none);
        // Later, who is away has gone.
        assert_eq!(to_come_back(&[server(60, &[("web", 3, 0)])]), none);
    }

    #[test]
    fn several_servers_know_together() {
        let none: [&str; 0] = [];
        let one = server(500, &[("web", 2, 1), ("cart", 0, 1)]);
        let other = server(5, &[("web", 1, 1), ("cart", 1, 0)]);
        assert_eq!(to_come_back(&[one.clone(), other.clone()]), none);
        assert_eq!(to_come_back(&[other]), ["cart (0 of 1 are back)"]);
    }
}
