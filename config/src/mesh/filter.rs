//! What a rule does to requests and answers besides leading them to a backend.

use std::sync::Arc;

use std::time::Duration;

use super::{Fault, RateLimit, ServiceName, Share};

/// The filters of a rule. [`Filters::default`] does nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Filters {
    /// `RequestHeaderModifier`.
    pub request_headers: HeaderChanges,
    /// `ResponseHeaderModifier`: of the answers of backends.
    pub response_headers: HeaderChanges,
    /// `URLRewrite`.
    pub rewrite: Rewrite,
    /// `RequestRedirect`: answers instead of forwarding. Such a rule has no backends and no rewrite.
    pub redirect: Option<Redirect>,
    /// `FaultInjection`.
    pub fault: Option<Fault>,
    /// `RateLimit`.
    pub rate_limit: Option<RateLimit>,
    /// `TraceSampling`: of the traces that begin here, those that are followed. Absent: as each sidecar is told.
    pub sampling: Option<Share>,
    /// `RequestMirror`, each to a backend of its own.
    pub mirrors: Vec<Mirror>,
    /// `CORS`.
    pub cors: Option<Cors>,
    /// `sessionPersistence`.
    pub session: Option<Session>,
}

/// `sessionPersistence`: a client comes back to the endpoint that answered it first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// What carries the token.
    pub carrier: SessionCarrier,
    /// `absoluteTimeout`: how long it lasts, a second or more; `None` is for as long as the client has the token.
    pub lifetime: Option<Duration>,
    /// `idleTimeout`: how long it lasts without a request, a second or more; `None` is for ever.
    pub idle: Option<Duration>,
}

/// What carries the token of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionCarrier {
    /// A cookie.
    Cookie {
        /// Its name.
        name: Arc<str>,
        /// `lifetimeType: Permanent`: the client keeps it until the session's end, which there is; else as long as it runs.
        permanent: bool,
    },
    /// A header, its name in lower case.
    Header(Arc<str>),
}

/// `RequestMirror`: a copy of some requests, whose answer nobody sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The service that gets it.
    pub service: ServiceName,
    /// Its port.
    pub port: u16,
    /// A part of its endpoints, which its policy has; `None` for all.
    pub subset: Option<Arc<str>>,
    /// Of how many requests.
    pub share: Share,
}

/// `CORS`: which pages of other origins may call, as browsers ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// `scheme://host` or `scheme://host:port`, a `*` in the host stands for any characters; `*` alone for all.
    pub allow_origins: Vec<Arc<str>>,
    /// Whether requests may carry credentials.
    pub allow_credentials: bool,
    /// Methods, or `*` alone.
    pub allow_methods: Vec<Arc<str>>,
    /// Request headers, or `*` alone.
    pub allow_headers: Vec<Arc<str>>,
    /// Response headers that pages may read, or `*` alone.
    pub expose_headers: Vec<Arc<str>>,
    /// How long browsers may remember the answer. Default 5 s.
    pub max_age: Duration,
}

/// The filters of one backend. They come after those of its rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackendFilters {
    /// `RequestHeaderModifier`.
    pub request_headers: HeaderChanges,
    /// `ResponseHeaderModifier`.
    pub response_headers: HeaderChanges,
}

/// Changes of headers: `set`, then `add`, then `remove`; no header is in more than one of them. Names are in lower case, none
/// of them concerns one connection, frames the message or is Malla's own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderChanges {
    /// Replaces all values.
    pub set: Vec<(Arc<str>, Arc<str>)>,
    /// Comes after the values that are there.
    pub add: Vec<(Arc<str>, Arc<str>)>,
    /// Removes all values.
    pub remove: Vec<Arc<str>>,
}

impl HeaderChanges {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// `URLRewrite`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rewrite {
    /// The host that the backend sees.
    pub hostname: Option<Arc<str>>,
    /// The path that the backend sees.
    pub path: Option<PathRewrite>,
}

/// Another path instead of the request's; the query stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathRewrite {
    /// Instead of the whole path.
    Full(Arc<str>),
    /// Instead of the prefix that the match names; every match of such a rule is a prefix. Without trailing slash, except `/`.
    Prefix(Arc<str>),
}

/// `RequestRedirect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// Another scheme than the request's.
    pub scheme: Option<Scheme>,
    /// Another host than the request's.
    pub hostname: Option<Arc<str>>,
    /// Another port; without one, that of the scheme if the scheme is given, else the service's.
    pub port: Option<u16>,
    /// Another path than the request's.
    pub path: Option<PathRewrite>,
    /// 301, 302 (default), 303, 307 or 308.
    pub status: u16,
}

/// The schemes of a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

impl Scheme {
    /// As written in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// The port that a URL need not name.
    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}
