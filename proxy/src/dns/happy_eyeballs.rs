//! Happy eyeballs (RFC 8305): several addresses of one name are tried in turn, each a little after the one before, and the
//! first connection wins.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{sleep, timeout};

use crate::dial::Dialer;
use crate::reason::Reason;
use crate::stream::Replay;
use crate::tls::ConnectError;

/// RFC 8305 §5, "Connection Attempt Delay".
const DELAY: Duration = Duration::from_millis(250);

/// Addresses that are tried at most.
const MOST: usize = 8;

/// Connects to the first of the addresses that answers, within `limit` for all of them.
pub(super) async fn connect(
    dialer: &Dialer,
    addresses: &[SocketAddr],
    limit: Duration,
) -> Result<Replay, ConnectError> {
    let order = interleave(addresses);
    let Some(first) = order.first().copied() else {
        let to = SocketAddr::from(([0, 0, 0, 0], 0));
        return Err(ConnectError::Timeout { to, after: Duration::ZERO });
    };
    let race = async {
        let mut left = order.into_iter().take(MOST);
        let mut attempts: FuturesUnordered<_> = left.next().map(|to| dialer.open(to)).into_iter().collect();
        let mut error = None;
        loop {
            tokio::select! {
                biased;
                Some(result) = attempts.next(), if !attempts.is_empty() => match result {
                    Ok(connected) => return Ok(connected),
                    Err(cause) => {
                        error = Some(further(error, cause));
                        attempts.extend(left.next().map(|to| dialer.open(to)));
                    }
                },
                () = sleep(DELAY), if left.len() > 0 => attempts.extend(left.next().map(|to| dialer.open(to))),
                else => break,
            }
            if attempts.is_empty() && left.len() == 0 {
                break;
            }
        }
        Err(error.unwrap_or(ConnectError::Timeout { to: first, after: limit }))
    };
    timeout(limit, race).await.unwrap_or(Err(ConnectError::Timeout { to: first, after: limit }))
}

/// Families in turn, IPv6 first (RFC 8305 §4), each in the order of the answer.
fn interleave(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut six = addresses.iter().filter(|address| address.is_ipv6()).copied();
    let mut four = addresses.iter().filter(|address| address.is_ipv4()).copied();
    let mut order = Vec::with_capacity(addresses.len());
    loop {
        match (six.next(), four.next()) {
            (None, None) => return order,
            (first, second) => order.extend(first.into_iter().chain(second)),
        }
    }
}

/// The error that tells more: of a machine without IPv6, "network unreachable" tells nothing about the destination.
fn further(before: Option<ConnectError>, now: ConnectError) -> ConnectError {
    match before {
        Some(before) if now.reason() == Reason::ConnectFailed => before,
        _ => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let parse =
            |list: &[&str]| -> Vec<SocketAddr> { list.iter().map(|text| text.parse().expect("address")).collect() };
        let addresses = parse(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "[fd00::1]:1"]);
        assert_eq!(interleave(&addresses), parse(&["[fd00::1]:1", "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]));
        assert!(interleave(&[]).is_empty());
    }
}
