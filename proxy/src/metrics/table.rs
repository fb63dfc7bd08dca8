//! The documentation of the metrics, which a test compares with what is exposed.

/// A metric family.
#[derive(Debug, Clone, Copy)]
pub struct Documented {
    /// Name; counters are exposed with the suffix `_total`.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Label names.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// Labels of what is counted for each request, without those that differ between its answers.
pub(super) const EDGE_LABELS: [&str; 6] = ["direction", "service", "route", "protocol", "source", "mtls"];

/// Labels of the sizes of bodies.
pub(super) const SIZE_LABELS: [&str; 3] = ["direction", "service", "source"];

const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Documented {
    Documented { name, kind: "histogram", labels, help }
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Documented {
    Documented { name, kind: "counter", labels, help }
}

/// Every metric of the data plane, in the order of the exposition.
pub const TABLE: &[Documented] = &[
    counter(
        "malla_requests",
        &[
            "direction",
            "service",
            "route",
            "protocol",
            "source",
            "mtls",
            "destination",
            "status",
            "grpc_status",
            "reason",
        ],
        "HTTP requests that ended",
    ),
    histogram(
        "malla_request_duration_seconds",
        &EDGE_LABELS,
        "From the complete head of a request to the end of its response",
    ),
    histogram(
        "malla_request_first_byte_seconds",
        &EDGE_LABELS,
        "From the complete head of a request to the beginning of its response, if it had one",
    ),
    histogram("malla_request_size_bytes", &SIZE_LABELS, "Bodies of requests, as far as they were read"),
    histogram("malla_response_size_bytes", &SIZE_LABELS, "Bodies of responses, as far as they were taken"),
    counter("malla_connections_accepted", &["direction"], "Connections accepted"),
    counter("malla_connections_refused", &["direction", "reason"], "Connections refused, or ended for a reason"),
    counter("malla_protocol_detected", &["direction", "protocol"], "What the first bytes of connections were"),
    counter("malla_tls_handshakes", &["direction", "handshake"], "Mesh TLS handshakes that succeeded: full or resumed"),
    counter("malla_tls_handshakes_failed", &["direction", "reason"], "Mesh TLS handshakes that failed"),
    counter("malla_plaintext_accepted", &["service"], "Plaintext connections taken because the mode is permissive"),
    counter(
        "malla_authorization_allowed",
        &["service", "policy"],
        "Requests and raw streams that were judged and let through",
    ),
    counter("malla_authorization_denied", &["service", "policy"], "Requests and raw streams that a policy refused"),
    counter("malla_authorization_audited", &["service", "policy"], "What a policy that is only audited would refuse"),
    counter("malla_upstream_connections_opened", &["cluster"], "HTTP connections to upstreams made"),
    counter("malla_upstream_connections_closed", &["cluster"], "HTTP connections to upstreams that ended"),
    counter("malla_upstream_connections_failed", &["cluster", "reason"], "HTTP connections to upstreams not made"),
    counter("malla_retries", &["cluster", "reason"], "Requests tried once more, by what had failed"),
    counter(
        "malla_hedges",
        &["cluster", "result"],
        "Second tries beside first ones that took long, by what came of them",
    ),
    counter(
        "malla_tcp_connections",
        &["direction", "service", "identity", "destination"],
        "Raw TCP connections that were begun",
    ),
    counter(
        "malla_tcp_connections_failed",
        &["direction", "service", "identity", "destination", "reason"],
        "Raw TCP connections that ended for a reason",
    ),
    counter(
        "malla_tcp_sent_bytes",
        &["direction", "service", "identity", "destination"],
        "Bytes of raw TCP towards the destination",
    ),
    counter(
        "malla_tcp_received_bytes",
        &["direction", "service", "identity", "destination"],
        "Bytes of raw TCP from the destination",
    ),
];

/// The help text of a metric, by its name without the prefix.
pub(super) fn help(name: &str) -> &'static str {
    TABLE.iter().find(|row| row.name.strip_prefix("malla_") == Some(name)).map_or("", |row| row.help)
}
