//! The checks of an orchestrator that a sidecar makes in its place, as the admission webhook writes them into the environment of the
//! sidecar: JSON, the path that is asked → what the application is to be asked. Fields that are not known are refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Paths, such as `/probe/cart/livez`, and what each of them asks.
pub type Probes = BTreeMap<String, Probe>;

/// What the application is asked, at the address at which the sidecar was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Probe {
    /// Port of the application.
    pub port: u16,
    /// How it is asked.
    pub ask: Ask,
    /// Seconds that it may take, as Kubernetes counts them. Default 1.
    #[serde(default = "one_second")]
    pub timeout_seconds: u16,
}

/// How an application is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum Ask {
    /// `GET`: a status from 200 to 399 is good.
    Http {
        /// Path and query.
        path: String,
        /// Over TLS, whose certificate is not verified (as the kubelet does).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        tls: bool,
        /// Headers to send; `host` replaces the address.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        headers: Vec<(String, String)>,
    },
    /// A connection: that it is accepted is good.
    Tcp,
    /// `grpc.health.v1.Health/Check`: `SERVING` is good.
    Grpc {
        /// The service that is asked for; empty for the server as a whole.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        service: String,
    },
}

fn one_second() -> u16 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let text = r#"{"/probe/c/livez":{"port":80,"ask":{"http":{"path":"/"}},"timeoutSeconds":2},"/probe/c/readyz":{"port":81,"ask":"tcp"}}"#;
        let probes: Probes = serde_json::from_str(text).expect("is read");
        let http = Probe {
            port: 80,
            ask: Ask::Http { path: "/".into(), tls: false, headers: Vec::new() },
            timeout_seconds: 2,
        };
        assert_eq!(probes["/probe/c/livez"], http);
        assert_eq!(probes["/probe/c/readyz"], Probe { port: 81, ask: Ask::Tcp, timeout_seconds: 1 });
        assert!(serde_json::from_str::<Probes>(r#"{"/x":{"port":80,"ask":"tcp","host":"elsewhere"}}"#).is_err());
        assert!(serde_json::from_str::<Probes>(r#"{"/x":{"port":80,"ask":"exec"}}"#).is_err());
    }
}
