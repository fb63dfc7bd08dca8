//! What a token says about its bearer, read without verifying it: a hint for names, never a decision. The control server
//! verifies; the identity comes from the certificate that it issues.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The namespace in a join token (`namespace`) or in a Kubernetes service-account token (`kubernetes.io`, else `sub`).
pub fn namespace(token: &str) -> Option<String> {
    let payload = token.trim().split('.').nth(1)?;
    let claims: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    let text = |pointer: &str| claims.pointer(pointer).and_then(serde_json::Value::as_str);
    text("/namespace").or_else(|| text("/kubernetes.io/namespace")).map(str::to_owned).or_else(|| {
        let account = text("/sub")?.strip_prefix("system:serviceaccount:")?;
        account.split_once(':').map(|(namespace, _)| namespace.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_namespace_of_either_kind_of_token() {
        let token = |claims: &str| format!("e30.{}.signature\n", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(namespace(&token(r#"{"namespace":"shop"}"#)).as_deref(), Some("shop"));
        assert_eq!(namespace(&token(r#"{"kubernetes.io":{"namespace":"a"}}"#)).as_deref(), Some("a"));
        assert_eq!(namespace(&token(r#"{"sub":"system:serviceaccount:b:default"}"#)).as_deref(), Some("b"));
        for bad in ["", "a.b.c", "a", &token("[]"), &token(r#"{"sub":"x"}"#)] {
            assert_eq!(namespace(bad), None, "{bad}");
        }
    }
}
