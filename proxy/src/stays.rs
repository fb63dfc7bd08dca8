//! Whether what was let in may stay: raw streams and upgraded connections have no next request at which their caller would be judged
//! again, so they are judged again when the rules change.

use tokio::sync::watch;

use crate::authorize::{Subject, authorize};
use crate::names::Name;
use crate::shared::Shared;

/// Ends when the rules of a port would no longer let in whom they have let in, and counts that. `changes` are those of the own
/// ports, from before the rules were asked.
pub(crate) async fn denied_later(
    shared: &Shared,
    service: &Name,
    subject: &Subject<'_>,
    mut changes: watch::Receiver<()>,
) {
    // What was asked may have been older than what is applied by now.
    changes.mark_changed();
    while changes.changed().await.is_ok() {
        let snapshot = shared.directory.snapshot();
        let ports = snapshot.inbound.as_ref().map_or(&[][..], |inbound| &inbound.ports);
        let now = ports.iter().find(|known| known.service == *service && known.port == subject.port);
        let Some(rules) = now.and_then(|port| port.authorization.as_ref()) else { continue };
        if let Some(policy) = authorize(rules, subject).denied {
            return shared.metrics.denied(service, policy);
        }
    }
    std::future::pending().await
}
