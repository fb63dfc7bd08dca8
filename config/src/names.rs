//! The syntax of names: DNS labels and host names, label keys and values, addresses, ports, durations.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

pub(crate) const DNS_LABEL_HELP: &str =
    "write lower-case letters, digits and `-`, at most 63, beginning and ending with a letter or digit";
pub(crate) const DNS_SUBDOMAIN_HELP: &str =
    "write lower-case letters, digits, `-` and `.`, each part beginning and ending with a letter or digit";
pub(crate) const LABEL_HELP: &str =
    "write letters, digits, `-`, `_` and `.`, at most 63, beginning and ending with a letter or digit";
pub(crate) const DURATION_HELP: &str =
    "write up to four numbers with units h, m, s or ms, as in `1s`, `250ms` or `1m30s`";

/// An RFC 1123 label, as Kubernetes takes it.
pub(crate) fn dns_label(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if text.len() > 63 {
        return Err("it is longer than 63 characters".into());
    }
    let allowed = |character: &char| character.is_ascii_lowercase() || character.is_ascii_digit() || *character == '-';
    if let Some(character) = text.chars().find(|character| !allowed(character)) {
        return Err(match character {
            upper if upper.is_ascii_uppercase() => "it has an upper-case letter".into(),
            other => format!("it has a `{}`", other.escape_debug()),
        });
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err("it begins or ends with `-`".into());
    }
    Ok(())
}

/// An RFC 1123 subdomain: labels joined by dots.
pub(crate) fn dns_subdomain(text: &str) -> Result<(), String> {
    if text.len() > 253 {
        return Err("it is longer than 253 characters".into());
    }
    text.split('.').try_for_each(|label| match label {
        "" if !text.is_empty() => Err("a part of it is empty".to_owned()),
        label => dns_label(label),
    })
}

/// A hostname of a route: a subdomain, or one behind `*.`; no address, no port.
pub(crate) fn route_hostname(text: &str) -> Result<(), String> {
    if text.parse::<IpAddr>().is_ok() {
        return Err("it is an IP address".into());
    }
    let name = text.strip_prefix("*.").unwrap_or(text);
    if name.contains('*') {
        return Err("`*` may only be its whole first part".into());
    }
    if name.contains(':') {
        return Err("it has a port".into());
    }
    dns_subdomain(name)
}

/// A key of a label: an optional DNS prefix and `/`, then a name.
pub(crate) fn label_key(text: &str) -> Result<(), String> {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    if let Some(prefix) = prefix {
        dns_subdomain(prefix).map_err(|fault| format!("of its prefix, {fault}"))?;
    }
    if name.is_empty() {
        return Err("it is empty".into());
    }
    label_value(name)
}

/// A value of a label; may be empty.
pub(crate) fn label_value(text: &str) -> Result<(), String> {
    if text.len() > 63 {
        return Err("it is longer than 63 characters".into());
    }
    let allowed = |character: &char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
    if let Some(character) = text.chars().find(|character| !allowed(character)) {
        return Err(format!("it has a `{}`", character.escape_debug()));
    }
    let edge = |character: Option<char>| character.is_none_or(|character| character.is_ascii_alphanumeric());
    if edge(text.chars().next()) && edge(text.chars().next_back()) {
        return Ok(());
    }
    Err("it begins or ends with a sign".into())
}

/// The name of a port of an endpoint (IANA_SVC_NAME), as Kubernetes takes it in `targetPort`.
pub(crate) fn port_name(text: &str) -> Result<(), String> {
    if text.len() > 15 {
        return Err("it is longer than 15 characters".into());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err("it has no lower-case letter".into());
    }
    if text.contains("--") {
        return Err("it has `--`".into());
    }
    dns_label(text)
}

/// A token of HTTP (RFC 9110, section 5.6.2).
pub(crate) fn http_token(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    let allowed = |character: &char| character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(*character);
    match text.chars().find(|character| !allowed(character)) {
        Some(character) => Err(format!("it has a `{}`", character.escape_debug())),
        None => Ok(()),
    }
}

/// A trust domain of SPIFFE (SPIFFE-ID, section 2.1).
pub(crate) fn trust_domain(text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > 255 {
        return Err("it must have 1 to 255 characters".into());
    }
    let allowed = |character: &char| {
        character.is_ascii_lowercase() || character.is_ascii_digit() || matches!(character, '.' | '-' | '_')
    };
    match text.chars().find(|character| !allowed(character)) {
        Some(character) => Err(format!("it has a `{}`", character.escape_debug())),
        None => Ok(()),
    }
}

/// The address of one host.
pub(crate) fn host_address(text: &str) -> Result<IpAddr, String> {
    let address = IpAddr::from_str(text).map_err(|_| "it is not an IP address".to_owned())?;
    if address.is_unspecified() {
        return Err("it stands for every address".into());
    }
    if address.is_multicast() || matches!(address, IpAddr::V4(address) if address.is_broadcast()) {
        return Err("it is not the address of one host".into());
    }
    if let IpAddr::V6(address) = address
        && let Some(mapped) = address.to_ipv4_mapped()
    {
        return Err(format!("it is IPv4 in the form of IPv6: write `{mapped}`"));
    }
    Ok(address)
}

/// A port number.
pub(crate) fn port(number: i32) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{number} is not a port: write a number from 1 to 65535")),
    }
}

/// A duration of Gateway API (GEP-2257).
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let duration = gateway_api::Duration::from_str(text).ok()?;
    u64::try_from(duration.as_millis()).ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_names() {
        for (check, good, bad) in [
            (
                dns_label as fn(&str) -> Result<(), String>,
                &["a", "cart-1", "0"][..],
                &["", "-a", "a-", "A", "a.b", "ñ", "a_b"][..],
            ),
            (dns_subdomain, &["a", "a.b", "example.com"], &["", ".a", "a.", "a..b", "a.B"]),
            (
                route_hostname,
                &["a", "shop.example.com", "*.example.com"],
                &["", "*", "*.", "*a.com", "a.*.com", "10.0.0.1", "a:80", "fd00::1", "A.com"],
            ),
            (label_key, &["app", "app.kubernetes.io/name", "A_b"], &["", "/a", "a/", "a/b/c", "-a", "a b"]),
            (label_value, &["", "v1", "1.0"], &["-", "a/b", "a b"]),
            (port_name, &["http", "http-web", "h2"], &["", "80", "a--b", "abcdefghijklmnop", "-a"]),
            (http_token, &["X-Canary", "a"], &["", "a b", ":method", "ñ"]),
            (trust_domain, &["cluster.local", "a_b"], &["", "A", "a/b"]),
        ] {
            for text in good {
                assert_eq!(check(text), Ok(()), "{text}");
            }
            for text in bad {
                assert!(check(text).is_err(), "{text}");
            }
        }
        assert!(dns_label(&"a".repeat(64)).is_err());
        assert!(dns_subdomain(&"a.".repeat(130)).is_err());
    }

    #[test]
    fn checks_addresses() {
        for good in ["10.1.2.3", "127.0.0.7", "fd00::7", "::1"] {
            assert!(host_address(good).is_ok(), "{good}");
        }
        for bad in
            ["", "10.1.2", "0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "::ffff:10.1.2.3", "cart", "10.1.2.3:80"]
        {
            assert!(host_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_durations_of_gateway_api() {
        assert_eq!(duration("1s"), Some(Duration::from_secs(1)));
        assert_eq!(duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("0s"), Some(Duration::ZERO));
        for bad in ["", "1", "1.5s", "-1s", "1us", "1d", "100000s", "1h1m1s1ms1s", " 1s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
