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
    standing: Vec<Standing>,
}

#[derive(Debug)]
struct Outstanding {
    nonce: u64,
    version: Name,
    names: Vec<SentName>,
    extent: Extent,
}

/// What a response says about names that it does not contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Nothing.
    Partial,
    /// That they do not exist.
    Complete,
}

/// A name in a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SentName {
    /// As the client asked for it: what comes later under this name replaces this.
    pub(crate) asked: Name,
    /// Canonical name of the resource.
    pub(crate) resource: Name,
}

#[derive(Debug)]
struct Standing {
    rejection: Rejection,
    /// What the client asked for and did not accept.
    asked: Vec<Name>,
}

impl Progress {
    /// A response went out.
    pub(crate) fn sent(&mut self, nonce: u64, version: &str, names: Vec<SentName>, extent: Extent) {
        self.outstanding.push_back(Outstanding { nonce, version: version.into(), names, extent });
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
        let Some(status) = error else {
            // Sent anew while the rejection of an earlier state was on its way, and accepted.
            match last.extent {
                Extent::Partial => self.forget(last.names.iter().map(|name| &name.asked)),
                Extent::Complete => self.standing.clear(),
            }
            self.settle();
            return None;
        };
        Some(self.reject(last, &status.message))
    }

    fn reject(&mut self, response: Outstanding, message: &str) -> Rejection {
        let message = message.get(..message.floor_char_boundary(MESSAGE_LIMIT)).unwrap_or_default().to_owned();
        // Whatever was rejected under these names before: it has been replaced by what this response held.
        self.forget(response.names.iter().map(|name| &name.asked));
        let mut rejected: Vec<SentName> = response.names;
        if rejected.iter().any(|name| name.is_mentioned(&message)) {
            rejected.retain(|name| name.is_mentioned(&message));
        }
        if self.standing.len() >= REJECTION_LIMIT {
            self.standing.remove(0);
        }
        let asked = rejected.iter().map(|name| name.asked.clone()).collect();
        let mut resources: Vec<Name> = rejected.into_iter().map(|name| name.resource).collect();
        resources.sort();
        resources.dedup();
        let rejection = Rejection { resources, message, version: response.version };
        self.standing.push(Standing { rejection: rejection.clone(), asked });
        rejection
    }

    /// What was asked for under these names is no longer what the client rejected: sent anew, or not wanted any more.
    pub(crate) fn forget(&mut self, asked: impl IntoIterator<Item = impl AsRef<str>>) {
        if self.standing.is_empty() {
            return;
        }
        for name in asked {
            self.standing.iter_mut().for_each(|standing| standing.asked.retain(|asked| **asked != *name.as_ref()));
        }
        self.standing.retain(|standing| !standing.asked.is_empty());
        self.settle();
    }

    /// Drops rejections of what no longer exists: its last good state is not worth keeping anything for.
    pub(crate) fn forget_unless(&mut self, exists: impl Fn(&str) -> bool) {
        let gone = |name: &&Name| !exists(name);
        let names: Vec<Name> =
            self.standing.iter().flat_map(|standing| &standing.asked).filter(gone).cloned().collect();
        self.forget(names);
    }

    fn settle(&mut self) {
        if self.is_settled() {
            self.applied.clone_from(&self.current);
        }
    }

    /// Whether the client has accepted all that was sent.
    pub(crate) fn is_settled(&self) -> bool {
        self.outstanding.is_empty() && self.standing.is_empty()
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
    pub(crate) fn rejections(&self) -> Vec<Rejection> {
        self.standing.iter().map(|standing| standing.rejection.clone()).collect()
    }
}

impl SentName {
    fn is_mentioned(&self, message: &str) -> bool {
        mentions(message, &self.resource) || mentions(message, &self.asked)
    }
}

/// Whether a text names a resource, and not merely one whose name begins or ends like it.
fn mentions(message: &str, name: &str) -> bool {
    message.match_indices(name).any(|(start, found)| {
        let before = message.get(..start).and_then(|text| text.chars().next_back());
        let after = message.get(start.saturating_add(found.len())..).and_then(|text| text.chars().next());
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
    /// The names, of listeners and routes: they tell who uses a route. Empty for other types.
    pub names: Vec<Name>,
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

    fn sent(name: &str) -> SentName {
        SentName { asked: name.into(), resource: name.into() }
    }

    #[test]
    fn a_rejection_is_about_the_resources_that_its_message_names() {
        let mut progress = Progress::default();
        progress.sent(1, "v1", ["cart.shop:80", "cart.shop:8080", "a.shop:1"].map(sent).into(), Extent::Partial);
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
        progress.sent(1, "v1", vec![sent("a")], Extent::Partial);
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
