//! The protocol of a service port: declared, or known from its number, or left to detection.

use crate::mesh::AppProtocol;

/// What may be written in `appProtocol`, and as a port's name or its prefix before the first `-`.
const DECLARED: [(&str, AppProtocol); 24] = [
    ("http", AppProtocol::Http1),
    ("http1", AppProtocol::Http1),
    ("grpc-web", AppProtocol::Http1),
    ("kubernetes.io/ws", AppProtocol::Http1),
    ("http2", AppProtocol::Http2),
    ("h2c", AppProtocol::Http2),
    ("kubernetes.io/h2c", AppProtocol::Http2),
    ("grpc", AppProtocol::Grpc),
    ("https", AppProtocol::Tls),
    ("tls", AppProtocol::Tls),
    ("kubernetes.io/wss", AppProtocol::Tls),
    ("tcp", AppProtocol::Tcp),
    ("amqp", AppProtocol::Tcp),
    ("cassandra", AppProtocol::Tcp),
    ("kafka", AppProtocol::Tcp),
    ("ldap", AppProtocol::Tcp),
    ("memcached", AppProtocol::Tcp),
    ("mongo", AppProtocol::Tcp),
    ("mssql", AppProtocol::Tcp),
    ("mysql", AppProtocol::Tcp),
    ("nats", AppProtocol::Tcp),
    ("postgres", AppProtocol::Tcp),
    ("redis", AppProtocol::Tcp),
    ("smtp", AppProtocol::Tcp),
];

/// Ports of protocols in which the server speaks first, or which peeking would only delay.
const KNOWN_TCP_PORTS: [u16; 24] = [
    21, 22, 25, 110, 143, 389, 587, 1433, 1521, 3306, 4222, 5222, 5432, 5672, 6379, 9042, 9092, 9093, 9094, 11211,
    27017, 27018, 27019, 33060,
];

/// The protocol that `appProtocol` declares; nothing if it is not known.
pub(crate) fn declared(app_protocol: &str) -> Option<AppProtocol> {
    DECLARED.iter().find(|(word, _)| word.eq_ignore_ascii_case(app_protocol)).map(|(_, protocol)| *protocol)
}

/// Whether `appProtocol` may be this word. A cluster's services may have others, which say nothing to the mesh.
pub fn is_declarable(app_protocol: &str) -> bool {
    declared(app_protocol).is_some()
}

/// The words that [`declared`] knows.
pub(crate) fn words() -> impl Iterator<Item = &'static str> + Clone {
    DECLARED.iter().map(|(word, _)| *word)
}

/// The protocol of a port without `appProtocol`.
pub(crate) fn implied(name: &str, port: u16) -> AppProtocol {
    if name.starts_with("grpc-web") {
        return AppProtocol::Http1;
    }
    let prefix = name.split('-').next().unwrap_or_default();
    match declared(prefix) {
        Some(protocol) => protocol,
        None if KNOWN_TCP_PORTS.contains(&port) => AppProtocol::Tcp,
        None => AppProtocol::Detect,
    }
}

/// For sentences: "the port carries TCP".
pub(crate) fn describe(protocol: AppProtocol) -> &'static str {
    match protocol {
        AppProtocol::Http1 => "HTTP/1",
        AppProtocol::Http2 => "HTTP/2",
        AppProtocol::Grpc => "gRPC",
        AppProtocol::Tcp => "TCP",
        AppProtocol::Tls => "TLS",
        AppProtocol::Detect => "a protocol that is detected",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn infers_protocols() {
        for (name, port, expected) in [
            ("http", 80, AppProtocol::Http1),
            ("http-web", 3306, AppProtocol::Http1),
            ("http2-api", 80, AppProtocol::Http2),
            ("grpc", 80, AppProtocol::Grpc),
            ("grpc-web", 80, AppProtocol::Http1),
            ("grpc-web-x", 80, AppProtocol::Http1),
            ("tls-api", 443, AppProtocol::Tls),
            ("mysql", 80, AppProtocol::Tcp),
            ("tcp", 80, AppProtocol::Tcp),
            ("", 3306, AppProtocol::Tcp),
            ("db", 5432, AppProtocol::Tcp),
            ("", 80, AppProtocol::Detect),
            ("httpbin", 80, AppProtocol::Detect),
        ] {
            assert_eq!(implied(name, port), expected, "{name}:{port}");
        }
        assert_eq!(declared("HTTP"), Some(AppProtocol::Http1));
        assert_eq!(declared("kubernetes.io/h2c"), Some(AppProtocol::Http2));
        assert_eq!(declared("quic"), None);
    }
}
