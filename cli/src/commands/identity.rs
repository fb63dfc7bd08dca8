//! `malla identity`: who a sidecar is, until when, and whom it trusts.

use std::process::ExitCode;

use anyhow::Context;
use serde_json::Value;

use crate::arguments::{IdentityArguments, OutputFormat};
use crate::http;
use crate::output::{self, Paint};

/// Prints a sidecar's certificate chain, its end and the trust anchors; exit code 1 if it has no certificate that is valid now.
///
/// # Errors
/// No sidecar answers there.
pub(crate) async fn run(arguments: IdentityArguments, paint: Paint) -> anyhow::Result<ExitCode> {
    let body = http::get(&arguments.sidecar.into(), "/config?format=json")
        .await
        .context("no sidecar answers; is it running, and is --sidecar its admin address?")?;
    let config: Value = serde_json::from_slice(&body).context("the answer is not a sidecar's configuration")?;
    let identity = config.get("identity").context("the answer is not a sidecar's configuration")?;
    let left = identity["seconds_left"].as_u64();
    match arguments.output.format {
        OutputFormat::Json => output::print_json(identity)?,
        OutputFormat::Table => lines(identity, left, paint).iter().try_for_each(output::print)?,
    }
    Ok(if left.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn lines(identity: &Value, left: Option<u64>, paint: Paint) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut lines = vec![format!("identity  {}", identity["spiffe_id"].as_str().unwrap_or("none yet"))];
    if identity["spiffe_id"].is_string() {
        let until = text(&identity["not_after"]);
        lines.push(match left {
            Some(left) => format!("expires   {until}, in {} h {} min {} s", left / 3600, left / 60 % 60, left % 60),
            None => paint.bad(format!("EXPIRED   {until}: mesh connections fail with identity_expired")),
        });
    }
    if let Some(failure) = identity["last_failure"].as_object() {
        lines.push(paint.bad(format!("FAILING   {}: {}", text(&failure["at"]), text(&failure["text"]))));
    }
    for (heading, list) in [("chain", "chain"), ("trusts", "anchors")] {
        for certificate in identity[list].as_array().into_iter().flatten() {
            lines.push(format!("{heading:<9} {}", text(&certificate["subject"])));
            lines.push(format!(
                "          by {}, serial {}",
                text(&certificate["issuer"]),
                text(&certificate["serial"])
            ));
            lines.push(format!(
                "          from {} until {}",
                text(&certificate["not_before"]),
                text(&certificate["not_after"])
            ));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn says_when_it_ends_or_has_ended() {
        let certificate =
            json!({"subject": "CN=root", "issuer": "CN=root", "serial": "4a", "not_before": "a", "not_after": "b"});
        let identity = json!({"spiffe_id": "spiffe://a", "not_after": "then", "chain": [], "anchors": [certificate]});
        let shown = lines(&identity, Some(3725), Paint::none());
        assert_eq!(shown[..2], ["identity  spiffe://a", "expires   then, in 1 h 2 min 5 s"]);
        assert_eq!(shown[2], "trusts    CN=root");
        assert!(lines(&identity, None, Paint::none())[1].starts_with("EXPIRED   then"));
    }
}
