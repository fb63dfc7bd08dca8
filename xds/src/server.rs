//! What both flavours of the server's state machine share: limits, errors, what an event leads to.

use crate::names::Name;
use crate::progress::Rejection;
use crate::resource::ResourceType;

/// How much a stream may ask for. Every queue and map of a stream is bounded by these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Names per type. Default 10,000.
    pub subscriptions: usize,
    /// Length of a name in bytes. Default 512.
    pub name_length: usize,
    /// Responses of a type that the client has neither acknowledged nor rejected. Default 1,000.
    pub unanswered: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { subscriptions: 10_000, name_length: 512, unanswered: 1_000 }
    }
}

/// Why a stream must end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// Too many names.
    #[error("more than {limit} subscriptions to {kind}")]
    TooManySubscriptions {
        /// Type of the names.
        kind: ResourceType,
        /// The limit.
        limit: usize,
    },
    /// A name that no resource can have.
    #[error("a name of {kind} is empty or longer than {limit} bytes")]
    InvalidName {
        /// Type of the name.
        kind: ResourceType,
        /// The limit.
        limit: usize,
    },
    /// The client takes responses and never answers.
    #[error("more than {limit} responses of {kind} were neither acknowledged nor rejected")]
    NeverAnswers {
        /// Type of the responses.
        kind: ResourceType,
        /// The limit.
        limit: usize,
    },
}

/// What follows from a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply<Response> {
    /// To be sent, in this order.
    pub responses: Vec<Response>,
    /// The request was a rejection.
    pub rejection: Option<(ResourceType, Rejection)>,
    /// Names that this client may not have, with the reason.
    pub denied: Vec<(ResourceType, Name, String)>,
}

impl<Response> Default for Reply<Response> {
    fn default() -> Self {
        Reply { responses: Vec::new(), rejection: None, denied: Vec::new() }
    }
}

/// What part of a new configuration to push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    /// Everything but endpoints, which follow when they have calmed down (and at once where their cluster changed).
    AllButEndpoints,
    /// Everything.
    All,
}

/// The name that stands for everything (xDS protocol, "wildcard").
pub(crate) const WILDCARD: &str = "*";

/// Types of which a client may ask for everything.
pub(crate) fn has_wildcard(kind: ResourceType) -> bool {
    matches!(kind, ResourceType::Cluster | ResourceType::Listener)
}

/// A rejection or refusal in gRPC's words.
pub(crate) fn denial(name: &Name, reason: &str) -> crate::wire::ResourceError {
    /// `google.rpc.Code.PERMISSION_DENIED`.
    const PERMISSION_DENIED: i32 = 7;
    crate::wire::ResourceError {
        resource_name: Some(crate::wire::ResourceName { name: name.to_string(), ..Default::default() }),
        error_detail: Some(crate::envoy::rpc::Status {
            code: PERMISSION_DENIED,
            message: reason.to_owned(),
            details: Vec::new(),
        }),
    }
}

impl Limits {
    /// Checks one more name.
    pub(crate) fn admit(&self, kind: ResourceType, name: &str, held: usize) -> Result<(), StreamError> {
        if name.is_empty() || name.len() > self.name_length {
            return Err(StreamError::InvalidName { kind, limit: self.name_length });
        }
        if held >= self.subscriptions {
            return Err(StreamError::TooManySubscriptions { kind, limit: self.subscriptions });
        }
        Ok(())
    }
}
