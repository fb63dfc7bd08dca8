//! Promises about requests.

use std::sync::Arc;
use std::time::Duration;

use super::{RouteName, ServiceName};

/// `RouteTest`: what must become of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteTest {
    /// Its name.
    pub name: RouteName,
    /// Namespace and service account of the client.
    pub from: (Arc<str>, Arc<str>),
    /// Method of the request.
    pub method: Arc<str>,
    /// Its URL, absolute.
    pub url: Arc<str>,
    /// Its headers.
    pub headers: Vec<(Arc<str>, Arc<str>)>,
    /// What becomes of it; not nothing.
    pub expect: Expectation,
}

/// A backend that is expected.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpectedBackend {
    /// The service.
    pub service: ServiceName,
    /// Its port.
    pub port: u16,
    /// A part of its endpoints; `None` for all.
    pub subset: Option<Arc<str>>,
    /// Its share in percent; `None` for any.
    pub percent: Option<f64>,
}

/// What becomes of a request; what is `None` is not compared.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Expectation {
    /// The route and rule.
    pub route: Option<Arc<str>>,
    /// All backends.
    pub backends: Option<Vec<ExpectedBackend>>,
    /// Status of the sidecar's own answer.
    pub status: Option<u16>,
    /// Where a redirect leads.
    pub location: Option<Arc<str>>,
    /// The host that the backend sees.
    pub host: Option<Arc<str>>,
    /// The path and query that the backend sees.
    pub path: Option<Arc<str>>,
    /// Time-out of the request.
    pub request_timeout: Option<Duration>,
    /// Time-out of each try.
    pub try_timeout: Option<Duration>,
    /// Retries after the first try.
    pub attempts: Option<u32>,
    /// Whether all backends let the caller in, or none.
    pub allowed: Option<bool>,
}
