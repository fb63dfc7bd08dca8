//! Not written yet.

use std::sync::Arc;

use crate::run::StartError;
use crate::settings::Settings;
use crate::shared::{Shared, Worker};
use crate::worker::{Accepted, Workers};

/// Bound sockets, not accepting yet.
#[derive(Debug)]
pub struct Listeners {}

impl Listeners {
    /// Binds the outbound, inbound and local listeners of the settings.
    ///
    /// # Errors
    /// [`StartError::Listen`] names the address and the flag that changes it.
    pub fn bind(_settings: &Settings) -> Result<Listeners, StartError> {
        Ok(Listeners {})
    }

    /// Accepts on all of them and dispatches to the workers until the drain begins, then closes them.
    pub async fn accept(self, _shared: Arc<Shared>, _workers: Arc<Workers>) {}
}

/// Serves one connection on the worker's own runtime, from its first byte to its last.
pub async fn serve(_worker: Arc<Worker>, _accepted: Accepted) {}
