//! Names that travel through the sidecar: xDS names, service authorities, SPIFFE identities.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

use std::borrow::Cow;
use std::net::{Ipv6Addr, SocketAddr};

pub use malla_xds::{Name, SpiffeId};

/// Normalizes an authority (`Host`, `:authority`, CONNECT target) into the name under which the directory knows a destination: lower
/// case, no trailing dot, `cart` completed with the own namespace, `cart.shop.svc[.cluster.local]` shortened to `cart.shop`, the
/// port always written. Addresses stay addresses. Allocates only where something must change.
///
/// `None` for what is no authority: empty or longer than a DNS name, a bad port, userinfo, characters outside of host names.
pub fn destination<'a>(authority: &'a str, default_port: u16, own_namespace: &str) -> Option<Cow<'a, str>> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        let port = if port.is_empty() { default_port } else { parse_port(port.strip_prefix(':')?)? };
        return Some(Cow::Owned(SocketAddr::new(address.into(), port).to_string()));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(parse_port(port)?)),
        None => (authority, None),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if host.is_empty()
        || host.len() > 253
        || !host.bytes().all(valid)
        || host.starts_with('.')
        || host.contains("..")
        || host.ends_with('.')
    {
        return None;
    }
    let lower_case = !host.bytes().any(|b| b.is_ascii_uppercase());
    let dots = host.bytes().filter(|b| *b == b'.').count();
    let authority_is_whole = authority.len() > host.len() && authority.as_bytes().get(host.len()) == Some(&b':');
    if lower_case && dots == 1 && port.is_some() && authority_is_whole {
        return Some(Cow::Borrowed(authority));
    }
    let host = host.to_ascii_lowercase();
    let port = port.unwrap_or(default_port);
    let short = host.strip_suffix(".svc.cluster.local").or_else(|| host.strip_suffix(".svc"));
    Some(Cow::Owned(match short {
        // What is left must not be shortened again: a name that is read twice is the same name.
        Some(service) if service.contains('.') && !is_long(service) => format!("{service}:{port}"),
        _ if dots == 0 => format!("{host}.{own_namespace}:{port}"),
        _ => format!("{host}:{port}"),
    }))
}

/// Whether the domain of services is written out.
fn is_long(host: &str) -> bool {
    host.ends_with(".svc") || host.ends_with(".svc.cluster.local")
}

/// Digits only: no sign, no empty port, no leading zeros (`080` would be a second name for the same port).
fn parse_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_have_one_spelling() {
        for (authority, expected) in [
            ("cart", Some("cart.shop:80")),
            ("Cart.Shop", Some("cart.shop:80")),
            ("cart.shop.svc.svc", Some("cart.shop.svc.svc:80")),
            ("cart.shop.svc.cluster.local.svc", Some("cart.shop.svc.cluster.local.svc:80")),
            ("cart.shop.", Some("cart.shop:80")),
            ("cart.shop.:8080", Some("cart.shop:8080")),
            ("cart:8080", Some("cart.shop:8080")),
            ("cart.other.svc", Some("cart.other:80")),
            ("cart.other.svc.cluster.local:81", Some("cart.other:81")),
            ("example.com:443", Some("example.com:443")),
            ("www.example.com", Some("www.example.com:80")),
            ("10.1.2.3", Some("10.1.2.3:80")),
            ("[FD00::7]:80", Some("[fd00::7]:80")),
            ("[fd00:0::7]", Some("[fd00::7]:80")),
            ("", None),
            (".", None),
            (":80", None),
            ("cart.shop:", None),
            ("cart.shop:080", None),
            ("cart.shop:+80", None),
            ("cart.shop:99999", None),
            ("user@cart.shop", None),
            ("cart..shop", None),
            ("[::1", None),
            ("ca rt", None),
        ] {
            assert_eq!(destination(authority, 80, "shop").as_deref(), expected, "{authority}");
        }
        assert!(matches!(destination("cart.shop:80", 80, "x"), Some(Cow::Borrowed(_))));
    }
}
