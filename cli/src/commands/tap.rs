//! `malla tap`: requests of a workload as they end, told by its sidecars.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::Context;
use serde_json::Value;

use crate::arguments::{OutputFormat, TapArguments};
use crate::http;
use crate::output;

/// Prints a line for each request, until it is interrupted.
///
/// # Errors
/// No control server answers there, or no sidecar of the workload is connected to it.
pub(crate) async fn run(arguments: TapArguments) -> anyhow::Result<ExitCode> {
    let TapArguments { workload, server, method, path, status, identity, reason, per_second, output } = arguments;
    let conditions = [
        ("workload", &workload),
        ("method", &method),
        ("path", &path),
        ("status", &status),
        ("identity", &identity),
        ("reason", &reason),
    ];
    let mut query = format!("/tap?per_second={per_second}");
    for (name, value) in conditions.into_iter().filter(|(_, value)| !value.is_empty()) {
        let _ = write!(query, "&{name}={}", escaped(value));
    }
    let each = |line: &str| match output.format {
        OutputFormat::Json => output::print(line),
        OutputFormat::Table => {
            output::print(sentence(&serde_json::from_str(line).context("the answer is not a request")?))
        }
    };
    http::lines(&server.server()?, &query, each).await.context("nothing to see")?;
    Ok(ExitCode::SUCCESS)
}

/// What is not unreserved (RFC 3986 §2.3), escaped.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
            other => drop(write!(escaped, "%{other:02X}")),
        }
        escaped
    })
}

/// `cart-1.shop ← web/sa/front  GET /items  200  1.2 ms`, or `cart-1.shop → db.shop:5432  TCP  10 bytes sent, 20 received  60.0 ms`.
fn sentence(request: &Value) -> String {
    let text = |field: &str| request.get(field).and_then(Value::as_str).unwrap_or_default();
    let short = |identity: &str| identity.split_once("/ns/").map_or(identity, |(_, rest)| rest).to_owned();
    let (arrow, other) = match text("direction") {
        "inbound" => ("←", if text("client").is_empty() { "(no identity)".to_owned() } else { short(text("client")) }),
        _ => ("→", text("service").to_owned()),
    };
    let milliseconds = request.get("duration_ms").and_then(Value::as_f64).unwrap_or_default();
    let number = |field: &str| request.get(field).and_then(Value::as_u64).unwrap_or_default();
    let what = match text("protocol") {
        "tcp" => format!("TCP  {} bytes sent, {} received", number("sent_bytes"), number("received_bytes")),
        _ => format!("{} {}  {}", text("method"), text("path"), number("status")),
    };
    let mut line = format!("{} {arrow} {other}  {what}  {milliseconds:.1} ms", text("sidecar"));
    if let Some(status) = request.get("grpc_status").and_then(Value::as_u64) {
        let _ = write!(line, "  gRPC {status}");
    }
    if !text("reason").is_empty() {
        let _ = write!(line, "  {}: {}", text("reason"), text("sentence"));
    }
    // What a client has chosen shall not steer the terminal.
    line.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_one_too() {
        let connection = serde_json::json!({
            "sidecar": "cart-1.shop", "direction": "outbound", "service": "db.shop:5432", "protocol": "tcp",
            "sent_bytes": 10, "received_bytes": 20, "duration_ms": 60.0,
        });
        assert_eq!(sentence(&connection), "cart-1.shop → db.shop:5432  TCP  10 bytes sent, 20 received  60.0 ms");
    }

    #[test]
    fn a_request_is_a_sentence_that_steers_no_terminal() {
        let request = serde_json::json!({
            "sidecar": "cart-1.shop", "direction": "inbound", "client": "spiffe://cluster.local/ns/web/sa/front",
            "method": "GET", "path": "/a\u{1b}[2J", "status": 503, "duration_ms": 1.25,
            "reason": "no_endpoints", "sentence": "nobody is there",
        });
        assert_eq!(
            sentence(&request),
            "cart-1.shop ← web/sa/front  GET /a\u{fffd}[2J  503  1.2 ms  no_endpoints: nobody is there"
        );
    }

    #[test]
    fn conditions_are_escaped() {
        assert_eq!(escaped("/a b&c=*"), "%2Fa%20b%26c%3D%2A");
    }
}
