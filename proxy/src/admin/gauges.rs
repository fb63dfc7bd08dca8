//! Metrics of the sidecar itself: control server, certificate, configuration. Made when they are asked for.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::shared::Shared;
use crate::subscribe::status::Connection;

/// Ends an exposition (OpenMetrics 1.0).
const EOF: &str = "# EOF\n";

/// Adds the metrics of the sidecar to those of its traffic.
pub(super) fn with_sidecar(shared: &Shared, traffic: String) -> String {
    let mut text = traffic.strip_suffix(EOF).map_or(traffic.clone(), str::to_owned);
    let state = shared.directory.status().state();
    let connected = u64::from(matches!(state.connection, Connection::Connected(_)));
    let expiry = shared.identity.last().and_then(|identity| identity.not_after.duration_since(UNIX_EPOCH).ok());
    let left = shared.identity.last().and_then(|identity| identity.not_after.duration_since(SystemTime::now()).ok());

    gauge(&mut text, "malla_control_connected", "Whether a stream to the control server is open", connected);
    counter(&mut text, "malla_control_streams", "Streams to the control server that were opened", state.streams);
    counter(&mut text, "malla_control_responses", "Responses of the control server", state.responses);
    counter(
        &mut text,
        "malla_control_rejections",
        "Responses of the control server that were rejected",
        state.rejections,
    );
    let problems = u64::try_from(state.problems.len()).unwrap_or(u64::MAX);
    gauge(&mut text, "malla_config_problems", "Resources of which the newest cannot be used", problems);
    header(&mut text, "malla_config_subscriptions", "gauge", "Resources subscribed to, by type");
    for (kind, number) in &state.subscriptions {
        let _ = writeln!(text, "malla_config_subscriptions{{type=\"{kind}\"}} {number}");
    }
    let seconds = expiry.map_or(0, |expiry| expiry.as_secs());
    gauge(&mut text, "malla_identity_expiry_timestamp_seconds", "End of the certificate, 0 if there is none", seconds);
    gauge(&mut text, "malla_identity_valid", "Whether the certificate is valid now", u64::from(left.is_some()));
    let failing = u64::from(shared.identity.failure().is_some());
    gauge(
        &mut text,
        "malla_identity_renewal_failing",
        "Whether the last attempt to obtain a certificate failed",
        failing,
    );
    let in_flight = u64::try_from(shared.drain.in_flight()).unwrap_or(u64::MAX);
    gauge(&mut text, "malla_connections_in_flight", "Connections that are being served", in_flight);
    let draining = u64::from(shared.drain.is_draining());
    gauge(&mut text, "malla_draining", "Whether the sidecar is shutting down", draining);
    text + EOF
}

fn header(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}");
}

fn gauge(text: &mut String, name: &str, help: &str, value: u64) {
    header(text, name, "gauge", help);
    let _ = writeln!(text, "{name} {value}");
}

fn counter(text: &mut String, name: &str, help: &str, value: u64) {
    header(text, name, "counter", help);
    let _ = writeln!(text, "{name}_total {value}");
}
