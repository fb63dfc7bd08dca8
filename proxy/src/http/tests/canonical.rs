//! What is judged is what is forwarded, however a path is written: the next reader of the forwarded request judges it alike.

use std::net::IpAddr;

use http::header::HOST;
use http::{HeaderValue, Request};
use proptest::prelude::*;

use crate::authorize::{Action, Authorization, Condition, Enforcement, Policy, RuleSet, Subject, Verdict, authorize};
use crate::http::Head;
use crate::snapshot::ValueMatch;

/// Pieces of which attackers make paths.
const PIECES: &[&str] = &[
    "/",
    "//",
    "/.",
    "/..",
    "/./",
    "/../",
    "/%2e",
    "/%2E%2e/",
    "/.%2e/",
    "admin",
    "%61dmin",
    "ADMIN",
    "a",
    "%2F",
    "%2f..%2f",
    "%5C",
    "%5c..",
    ";x",
    "/..;/",
    "%00",
    "%",
    "%zz",
    "?",
    "?/../admin",
    "%3f",
    "%23",
    "=",
    "&",
];

fn parse(path: &str) -> Option<Head> {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.uri = path.parse().ok()?;
    parts.headers.insert(HOST, HeaderValue::from_static("cart.shop"));
    Head::from_http1(parts).ok()
}

/// Denies `/admin` and below; allows `/a` and below.
fn rules() -> Authorization {
    let below = |path: &str| {
        let expression = format!("^(?:{path}|{path}/.*)$");
        vec![Condition::Path(ValueMatch::Regex(regex::Regex::new(&expression).expect("compiles")))]
    };
    let set = |action, path: &str| RuleSet {
        action,
        enforcement: Enforcement::Enforced,
        policies: vec![Policy { name: path.into(), permissions: below(path), principals: vec![Condition::Any] }],
    };
    Authorization { sets: vec![set(Action::Deny, "/admin"), set(Action::Allow, "/a")] }
}

fn judge<'a>(rules: &'a Authorization, head: &Head) -> Verdict<'a> {
    let source = IpAddr::from([10, 1, 2, 3]);
    authorize(rules, &Subject { peer: None, source, port: 8080, head: Some(head.seen()) })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_judged_is_what_is_forwarded(pieces in prop::collection::vec(prop::sample::select(PIECES), 1..8)) {
        let path = format!("/{}", pieces.concat());
        let Some(head) = parse(&path) else { return Ok(()) };
        let rules = rules();
        let seen = head.seen().path.to_owned();
        let verdict = judge(&rules, &head);
        for forwarded in [head.clone().into_http1("cart.shop", ()).uri().clone(), head.clone().into_http2(false).uri().clone()] {
            let next = parse(forwarded.path_and_query().map_or("/", |path| path.as_str())).expect("what is forwarded is valid");
            prop_assert_eq!(next.seen().path, &*seen, "{} is read in two ways", path);
            prop_assert_eq!(judge(&rules, &next), Verdict { ..judge(&rules, &head) });
        }
        // However a server decodes it once: below /admin it was not let through.
        let decoded = decode(&seen);
        if decoded.split('/').any(|segment| segment == "..") || decoded.starts_with("/admin/") || decoded == "/admin" {
            prop_assert!(verdict.denied.is_some(), "{} passes as {}", path, seen);
        }
    }
}

/// As a careless server decodes a path.
fn decode(path: &str) -> String {
    let mut decoded = String::new();
    let mut rest = path;
    while let Some(c) = rest.chars().next() {
        let byte = rest.get(1..3).filter(|_| c == '%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(byte.map_or(c, char::from));
        rest = &rest[if byte.is_some() { 3 } else { c.len_utf8() }..];
    }
    decoded.replace('\\', "/")
}
