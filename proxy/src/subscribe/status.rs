//! What people are told about the control server: the connection, what was refused, what is missing.

use std::collections::BTreeMap;
use std::time::SystemTime;

use malla_xds::ResourceType;
use parking_lot::Mutex;

use crate::names::Name;

/// State of the connection and of the last rejections; shared by the directory and the admin page.
#[derive(Debug, Default)]
pub struct Status {
    state: Mutex<State>,
}

/// A copy of the state at one moment.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The connection.
    pub connection: Connection,
    /// Streams that were opened since the start.
    pub streams: u64,
    /// Responses received since the start.
    pub responses: u64,
    /// Rejections sent since the start.
    pub rejections: u64,
    /// The last rejection: when and what.
    pub last_rejection: Option<(SystemTime, String)>,
    /// Resources of which the newest cannot be used, and why: refused by this sidecar or by the server.
    pub problems: BTreeMap<(ResourceType, Name), String>,
    /// Names subscribed to, by type.
    pub subscriptions: BTreeMap<ResourceType, usize>,
}

/// The connection to the control server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Connection {
    /// Not tried yet: there is no certificate.
    #[default]
    WaitingForCertificate,
    /// Connecting.
    Connecting,
    /// A stream is open since then.
    Connected(SystemTime),
    /// The last attempt or stream failed: when, and why.
    Failed(SystemTime, String),
}

/// Problems that are kept.
const PROBLEMS: usize = 100;

impl Status {
    /// A copy.
    pub fn state(&self) -> State {
        self.state.lock().clone()
    }

    /// Whether a stream is open.
    pub fn is_connected(&self) -> bool {
        matches!(self.state.lock().connection, Connection::Connected(_))
    }

    pub(super) fn connection(&self, connection: Connection) {
        let mut state = self.state.lock();
        state.streams += u64::from(matches!(connection, Connection::Connected(_)));
        state.connection = connection;
    }

    pub(super) fn response(&self, rejection: Option<&str>) {
        let mut state = self.state.lock();
        state.responses += 1;
        if let Some(rejection) = rejection {
            state.rejections += 1;
            state.last_rejection = Some((SystemTime::now(), rejection.to_owned()));
        }
    }

    pub(super) fn problem(&self, kind: ResourceType, name: &Name, problem: String) {
        let mut state = self.state.lock();
        if state.problems.len() < PROBLEMS || state.problems.contains_key(&(kind, name.clone())) {
            state.problems.insert((kind, name.clone()), problem);
        }
    }

    pub(super) fn solved(&self, kind: ResourceType, name: &Name) {
        let mut state = self.state.lock();
        if !state.problems.is_empty() {
            state.problems.remove(&(kind, name.clone()));
        }
    }

    pub(super) fn subscriptions(&self, numbers: BTreeMap<ResourceType, usize>) {
        self.state.lock().subscriptions = numbers;
    }
}
