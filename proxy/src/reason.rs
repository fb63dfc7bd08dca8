//! Words for failures: one word and one sentence for each, the same in the response header `malla-reason`, the metric label
//! `reason`, the access log and the documentation.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $word:literal, $status:literal, $sentence:literal;)+) => {
        /// Why a request or connection failed or was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $(#[doc = $sentence] $(#[$doc])* $variant,)+ }

        impl Reason {
            /// All of them, in the order of the documentation.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)+];

            /// The word: header, label, log.
            pub const fn word(self) -> &'static str {
                match self { $(Reason::$variant => $word,)+ }
            }

            /// The sentence for people.
            pub const fn sentence(self) -> &'static str {
                match self { $(Reason::$variant => $sentence,)+ }
            }

            /// The HTTP status that a client sees when the sidecar answers in the upstream's place.
            pub const fn status(self) -> u16 {
                match self { $(Reason::$variant => $status,)+ }
            }
        }
    };
}

reasons! {
    NoRoute = "no_route", 404, "no route matches this request";
    NoEndpoints = "no_endpoints", 503, "the service has no endpoint that can be used";
    NoConfiguration = "no_configuration", 503, "the control server has not told this sidecar about the destination yet";
    NoInboundPort = "no_inbound_port", 503, "the workload has no such port in the mesh's configuration";
    ConnectRefused = "connect_refused", 503, "the endpoint refused the connection";
    ConnectTimeout = "connect_timeout", 503, "connecting to the endpoint took too long";
    ConnectFailed = "connect_failed", 503, "the endpoint could not be reached";
    ResolveFailed = "resolve_failed", 503, "the destination's name could not be resolved";
    TlsUntrusted = "tls_untrusted", 503, "the peer's certificate is not signed by a trust anchor of the mesh";
    TlsWrongIdentity = "tls_wrong_identity", 503, "the peer presented another identity than expected";
    TlsFailed = "tls_failed", 503, "the TLS handshake failed";
    IdentityMissing = "identity_missing", 503, "this sidecar has no certificate yet";
    IdentityExpired = "identity_expired", 503, "this sidecar's certificate has expired";
    PeerExpired = "peer_expired", 503, "the client's certificate has expired, and it has shown no newer one";
    PlaintextRefused = "plaintext_refused", 403, "the workload takes only mesh mTLS and the peer spoke plaintext";
    Denied = "denied", 403, "the caller may not do this by the mesh's authorization policies";
    UpstreamReset = "upstream_reset", 502, "the endpoint closed the connection before it had answered";
    UpstreamProtocol = "upstream_protocol", 502, "the endpoint's answer was not valid HTTP";
    RequestTimeout = "request_timeout", 504, "the request took longer than its time-out";
    TryTimeout = "try_timeout", 504, "the try took longer than its time-out";
    IdleTimeout = "idle_timeout", 504, "nothing was sent or received for too long";
    RetriableStatus = "retriable_status", 502, "the endpoint answered with a status that the route retries";
    RetriesExhausted = "retries_exhausted", 503, "every permitted try failed";
    RetryBudgetSpent = "retry_budget_spent", 503, "the try failed and the service's retry budget is spent";
    CircuitOpen = "circuit_open", 503, "the service has reached its limit of connections, waiting or concurrent requests";
    RateLimited = "rate_limited", 429, "the route's rate limit is reached";
    FaultInjected = "fault_injected", 503, "the route makes this request fail on purpose";
    ProtocolError = "protocol_error", 400, "the client's bytes are not a valid request";
    HeadersTooLarge = "headers_too_large", 431, "the request's headers are larger than allowed";
    HeaderTimeout = "header_timeout", 408, "the client took too long to send the request's headers";
    ClientReset = "client_reset", 499, "the client went away before the answer was complete";
    Draining = "draining", 503, "the sidecar is shutting down";
    Overloaded = "overloaded", 503, "the sidecar sheds load";
    Loop = "loop", 508, "the connection would lead back to the sidecar itself";
    Internal = "internal", 500, "the sidecar met a defect of its own while it handled the request";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_fit_a_metric_label() {
        let mut words: Vec<_> = Reason::ALL.iter().map(|reason| reason.word()).collect();
        assert!(words.iter().all(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Reason::ALL.len());
    }
}
