//! What a client has acknowledged and what it rejected, per stream and type. For people, and to know when it is safe to
//! delete what an earlier configuration still refers to.

use std::collections::VecDeque;

use crate::envoy::rpc;
use crate::names::Name;

/// Longest text of a rejection that is kept, in bytes.
const MESSAGE_LIMIT: usize = 2048;
/// Rejections of a type that are kept; of more, the newest.
const REJECTION_LIMIT: usize = 16;

/// A rejection that stands: nothing sent since has replaced what it was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// What was rejected: the resources that the message names, or all of the response if it names none.
    pub resources: Vec<Name>,
    /// The client's words.
    pub message: String,
    /// Version of the configuration in which they were sent.
    pub version: Name,
}

/// Progress of one type on one stream.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    outstanding: VecDeque<Outstanding>,
    current: Option<Name>,
    applied: Option<Name>,
    rejections: Vec<Rejection>,
}

#[derive(Debug)]
struct Outstanding {
    nonce: u64,
    version: Name,
    names: Vec<Name>,
}

impl Progress {
    /// A response went out.
    pub(crate) fn sent(&mut self, nonce: u64, version: &str, names: Vec<Name>) {
        self.outstanding.push_back(Outstanding { nonce, version: version.into(), names });
    }

    /// Everything of a configuration's version has been sent.
    pub(crate) fn reached(&mut self, version: &str) {
        if self.current.as_deref() != Some(version) {
            self.current = Some(version.into());
        }
        self.settle();
    }

    /// The client answered. A nonce that is not outstanding is stale and says nothing. Returns a rejection if this is one.
    pub(crate) fn answered(&mut self, nonce: &str, error: Option<&rpc::Status>) -> Option<Rejection> {
        let nonce: u64 = nonce.parse().ok()?;
        let position = self.outstanding.iter().position(|response| response.nonce == nonce)?;
        // Whoever answers a response has seen those before it.
        let answered: Vec<Outstanding> = self.outstanding.drain(..=position).collect();
        let last = answered.into_iter().next_back()?;
        let rejected = error.map(|status| self.reject(last, &status.message));
        self.settle();
        rejected
    }

    fn reject(&mut self, response: Outstanding, message: &str) -> Rejection {
        let mut end = message.len().min(MESSAGE_LIMIT);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        let message = message.get(..end).unwrap_or_default().to_owned();
        let named: Vec<Name> = response.names.iter().filter(|name| mentions(&message, name)).cloned().collect();
        let resources = if named.is_empty() { response.names } else { named };
        self.forget(&resources);
        if self.rejections.len() >= REJECTION_LIMIT {
            self.rejections.remove(0);
        }
        let rejection = Rejection { resources, message, version: response.version };
        self.rejections.push(rejection.clone());
        rejection
    }

    /// These resources are no longer what the client rejected: sent anew, or no longer wanted.
    pub(crate) fn forget(&mut self, names: impl IntoIterator<Item = impl AsRef<str>>) {
        if self.rejections.is_empty() {
            return;
        }
        for name in names {
            for rejection in &mut self.rejections {
                rejection.resources.retain(|rejected| **rejected != *name.as_ref());
            }
        }
        self.rejections.retain(|rejection| !rejection.resources.is_empty());
        self.settle();
    }

    fn settle(&mut self) {
        if self.is_settled() {
            self.applied.clone_from(&self.current);
        }
    }

    /// Whether the client has accepted all that was sent.
    pub(crate) fn is_settled(&self) -> bool {
        self.outstanding.is_empty() && self.rejections.is_empty()
    }

    /// Responses without an answer.
    pub(crate) fn unanswered(&self) -> usize {
        self.outstanding.len()
    }

    /// Newest version of the configuration that the client applied completely.
    pub(crate) fn applied(&self) -> Option<&Name> {
        self.applied.as_ref()
    }

    /// The rejections that stand, oldest first.
    pub(crate) fn rejections(&self) -> &[Rejection] {
        &self.rejections
    }
}

/// Whether a text names a resource, and not merely one whose name begins or ends like it.
fn mentions(message: &str, name: &str) -> bool {
    message.match_indices(name).any(|(start, _)| {
        let before = message.get(..start).and_then(|text| text.chars().next_back());
        let after = message.get(start + name.len()..).and_then(|text| text.chars().next());
        let joins = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/');
        !before.is_some_and(|c| joins(c) || c == '.') && !after.is_some_and(joins)
    })
}

/// What is shown of one type on one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeProgress {
    /// The type.
    pub kind: crate::ResourceType,
    /// Names subscribed to (under a wildcard: resources sent).
    pub subscriptions: usize,
    /// Newest version of the configuration that the client applied completely; none before its first acknowledgement.
    pub applied: Option<Name>,
    /// Responses without an answer.
    pub unanswered: usize,
    /// The rejections that stand, oldest first.
    pub rejections: Vec<Rejection>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_is_about_the_resources_that_its_message_names() {
        let mut progress = Progress::default();
        progress.sent(1, "v1", ["cart.shop:80".into(), "cart.shop:8080".into(), "a.shop:1".into()].into());
        let status = rpc::Status { message: "cart.shop:8080: no endpoints field".into(), ..Default::default() };
        let rejection = progress.answered("1", Some(&status)).expect("a rejection");
        assert_eq!(rejection.resources, ["cart.shop:8080".into()]);
        assert!(!progress.is_settled());
        progress.forget(["cart.shop:8080"]);
        assert!(progress.is_settled());
    }

    #[test]
    fn a_version_is_applied_when_everything_sent_was_accepted() {
        let mut progress = Progress::default();
        progress.sent(1, "v1", vec!["a".into()]);
        progress.reached("v1");
        assert_eq!(progress.applied(), None);
        assert_eq!(progress.answered("7", None), None);
        assert_eq!(progress.applied(), None, "a stale nonce says nothing");
        progress.answered("1", None);
        assert_eq!(progress.applied().map(|name| &**name), Some("v1"));
        progress.reached("v2");
        assert_eq!(progress.applied().map(|name| &**name), Some("v2"), "nothing of this type changed");
    }
}
