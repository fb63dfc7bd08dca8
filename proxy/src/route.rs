//! Which route a request takes: a pure function of the applied routes and the request's head.
//!
//! The control server has sorted the routes by precedence, so the first match wins. Regular expressions come anchored at
//! both ends from `decode`. Here is no I/O, no state, and no allocation but for percent-encoded query values and repeated
//! headers.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method};

use crate::snapshot::{HttpRoutes, PathMatch, Route, RouteMatch, ValueMatch};

/// The part of a request that routes look at, canonical: the same that is forwarded.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Method.
    pub method: &'a Method,
    /// Host in lower case, without port; empty if the client named none (HTTP/1.0).
    pub host: &'a str,
    /// Path without query.
    pub path: &'a str,
    /// Query without `?`.
    pub query: Option<&'a str>,
    /// Headers.
    pub headers: &'a HeaderMap,
}

/// The first route that matches, in the most specific virtual host that matches; `None` is `no_route`.
pub fn choose<'a>(routes: &'a HttpRoutes, head: &Head<'_>) -> Option<&'a Route> {
    let host = best_host(&routes.virtual_hosts, |host| &host.domains, head.host)?;
    host.routes.first(head.path, |route| matches(&route.matcher, head))
}

/// Of routes by server name, the one with the most specific: the SNI itself, else the longest wildcard over it.
pub fn by_server_name<'a, R>(routes: &'a [(Vec<Arc<str>>, R)], sni: &str) -> Option<&'a R> {
    let rank = |name: &Arc<str>| match name.strip_prefix('*') {
        Some(suffix) => (sni.len() > suffix.len() && sni.ends_with(suffix)).then_some(suffix.len()),
        None => (**name == *sni).then_some(usize::MAX),
    };
    let ranked = routes.iter().filter_map(|(names, route)| Some((names.iter().filter_map(rank).max()?, route)));
    ranked.max_by_key(|(rank, _)| *rank).map(|(_, route)| route)
}

/// What is for a host, by its domains: exact name before longest wildcard before `*`.
pub(crate) fn best_host<'a, H>(hosts: &'a [H], domains: impl Fn(&H) -> &[Arc<str>], host: &str) -> Option<&'a H> {
    let mut best: Option<(usize, &H)> = None;
    for candidate in hosts {
        for domain in domains(candidate) {
            let Some(rank) = domain_rank(domain, host) else { continue };
            if best.is_none_or(|(highest, _)| rank > highest) {
                best = Some((rank, candidate));
            }
        }
    }
    best.map(|(_, host)| host)
}

/// How specifically a domain matches; `None` if it does not.
fn domain_rank(domain: &str, host: &str) -> Option<usize> {
    match domain.strip_prefix('*') {
        None => (domain == host).then_some(usize::MAX),
        Some("") => Some(0),
        // `*.shop.example` needs at least one label in front.
        Some(suffix) => (host.len() > suffix.len() && host.ends_with(suffix)).then_some(suffix.len()),
    }
}

fn matches(matcher: &RouteMatch, head: &Head<'_>) -> bool {
    mismatch(matcher, head).is_none()
}

/// The first condition of a route that does not hold.
#[derive(Debug)]
pub(crate) enum Mismatch<'a> {
    /// That on the path.
    Path,
    /// That on the method.
    Method(&'a Method),
    /// One on a header.
    Header(&'a HeaderName, &'a ValueMatch),
    /// One on a query parameter.
    Query(&'a str, &'a ValueMatch),
}

/// The first condition that does not hold; nothing if all do.
#[inline]
pub(crate) fn mismatch<'a>(matcher: &'a RouteMatch, head: &Head<'_>) -> Option<Mismatch<'a>> {
    if !matches_path(&matcher.path, head.path) {
        return Some(Mismatch::Path);
    }
    if let Some(method) = matcher.method.as_ref().filter(|method| *method != head.method) {
        return Some(Mismatch::Method(method));
    }
    for (name, value) in &matcher.headers {
        if !matches_header(name, value, head.headers) {
            return Some(Mismatch::Header(name, value));
        }
    }
    let missed = matcher.query.iter().find(|(name, value)| !matches_query(name, value, head.query));
    missed.map(|(name, value)| Mismatch::Query(name, value))
}

fn matches_path(matcher: &PathMatch, path: &str) -> bool {
    match matcher {
        PathMatch::Any => true,
        PathMatch::Exact(exact) => path == &**exact,
        PathMatch::Prefix(prefix) => path.starts_with(&**prefix),
        PathMatch::Regex(regex) => regex.is_match(path),
    }
}

/// Whether a condition holds for a value.
pub(crate) fn matches_value(matcher: &ValueMatch, value: &str) -> bool {
    match matcher {
        ValueMatch::Exact(exact) => value == &**exact,
        ValueMatch::Regex(regex) => regex.is_match(value),
        ValueMatch::Present => true,
    }
}

/// Several lines of a header are one value, joined by commas (RFC 9110 §5.3).
pub(crate) fn matches_header(name: &HeaderName, matcher: &ValueMatch, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return false };
    if matches!(matcher, ValueMatch::Present) {
        return true;
    }
    let mut whole = String::from_utf8_lossy(first.as_bytes());
    for value in values {
        let joined = whole.to_mut();
        joined.push(',');
        joined.push_str(&String::from_utf8_lossy(value.as_bytes()));
    }
    matches_value(matcher, &whole)
}

/// The first parameter of that name decides.
fn matches_query(name: &str, matcher: &ValueMatch, query: Option<&str>) -> bool {
    let parameters = query.unwrap_or_default().split('&').filter(|part| !part.is_empty());
    for parameter in parameters {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if decoded(key) == name {
            return matches_value(matcher, &decoded(value));
        }
    }
    false
}

/// Resolves `%41` and `+`; what is not valid stays as it is.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|b| matches!(b, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match (first, after) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    match String::from_utf8(bytes) {
        Ok(text) => Cow::Owned(text),
        Err(_) => Cow::Borrowed(text),
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit.wrapping_sub(b'0'),
        b'a'..=b'f' => digit.wrapping_sub(b'a').wrapping_add(10),
        _ => digit.wrapping_sub(b'A').wrapping_add(10),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::{Retry, RouteAction, VirtualHost};

    fn route(name: &str, matcher: RouteMatch) -> Route {
        Route {
            name: name.into(),
            matcher,
            action: RouteAction::NoBackend,
            timeout: None,
            try_timeout: None,
            retry: Retry::default(),
            filters: None,
            mirrors: Vec::new(),
            limits: Vec::new(),
        }
    }

    fn any() -> RouteMatch {
        RouteMatch { path: PathMatch::Any, method: None, headers: Vec::new(), query: Vec::new() }
    }

    fn path(path: PathMatch) -> RouteMatch {
        RouteMatch { path, ..any() }
    }

    fn regex(text: &str) -> regex::Regex {
        regex::Regex::new(&format!("^(?:{text})$")).expect("a valid expression")
    }

    fn chosen<'a>(routes: &'a HttpRoutes, method: &str, url: &str, headers: &[(&str, &str)]) -> Option<&'a str> {
        let uri: http::Uri = url.parse().expect("a valid URI");
        let method = Method::from_bytes(method.as_bytes()).expect("a valid method");
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).expect("name"), value.parse().expect("value"));
        }
        let head = Head {
            method: &method,
            host: uri.host().unwrap_or_default(),
            path: uri.path(),
            query: uri.query(),
            headers: &map,
        };
        choose(routes, &head).map(|route| &*route.name)
    }

    fn one_host(routes: Vec<Route>) -> HttpRoutes {
        HttpRoutes {
            name: "x".into(),
            virtual_hosts: vec![VirtualHost { domains: vec!["*".into()], routes: routes.into() }],
        }
    }

    #[test]
    fn the_most_specific_host_wins() {
        let host = |domains: &[&str], name: &str| VirtualHost {
            domains: domains.iter().map(|domain| (*domain).into()).collect(),
            routes: vec![route(name, any())].into(),
        };
        let routes = HttpRoutes {
            name: "x".into(),
            virtual_hosts: vec![
                host(&["*"], "rest"),
                host(&["*.example"], "wide"),
                host(&["*.a.example"], "narrow"),
                host(&["b.a.example", "other"], "exact"),
            ],
        };
        for (url, expected) in [
            ("http://b.a.example/", "exact"),
            ("http://other/", "exact"),
            ("http://c.a.example/", "narrow"),
            ("http://x.c.a.example/", "narrow"),
            ("http://a.example/", "wide"),
            ("http://example/", "rest"),
            ("http://xexample/", "rest"),
            ("/", "rest"),
        ] {
            assert_eq!(chosen(&routes, "GET", url, &[]), Some(expected), "{url}");
        }
    }

    #[test]
    fn no_virtual_host_and_no_match_are_no_route() {
        let empty = HttpRoutes { name: "x".into(), virtual_hosts: Vec::new() };
        assert_eq!(chosen(&empty, "GET", "http://a/", &[]), None);
        let routes = one_host(vec![route("only", path(PathMatch::Exact("/x".into())))]);
        assert_eq!(chosen(&routes, "GET", "http://a/y", &[]), None);
    }

    #[test]
    fn paths_match_whole_by_prefix_and_by_expression() {
        let routes = one_host(vec![
            route("exact", path(PathMatch::Exact("/x".into()))),
            route("prefix", path(PathMatch::Prefix("/x/".into()))),
            route("regex", path(PathMatch::Regex(regex("/a|/a[0-9]+")))),
            route("rest", any()),
        ]);
        for (url, expected) in [
            ("/x", "exact"),
            ("/x?q=1", "exact"),
            ("/x/", "prefix"),
            ("/x/y", "prefix"),
            ("/xy", "rest"),
            ("/a12", "regex"),
            ("/a12b", "rest"),
        ] {
            assert_eq!(chosen(&routes, "GET", url, &[]), Some(expected), "{url}");
        }
    }

    #[test]
    fn method_headers_and_query_must_all_hold() {
        let matcher = RouteMatch {
            path: PathMatch::Any,
            method: Some(Method::POST),
            headers: vec![
                ("x-a".parse().expect("name"), ValueMatch::Exact("1,2".into())),
                ("x-b".parse().expect("name"), ValueMatch::Regex(regex("v[0-9]"))),
                ("x-c".parse().expect("name"), ValueMatch::Present),
            ],
            query: vec![("q".into(), ValueMatch::Exact("a b".into()))],
        };
        let routes = one_host(vec![route("all", matcher)]);
        let headers = [("x-a", "1"), ("x-a", "2"), ("x-b", "v7"), ("x-c", "")];
        let query = "/?p=1&q=a%20b&q=other";
        assert_eq!(chosen(&routes, "POST", query, &headers), Some("all"));
        assert_eq!(chosen(&routes, "POST", "/?q=a+b", &headers), Some("all"));
        assert_eq!(chosen(&routes, "GET", query, &headers), None, "method");
        assert_eq!(chosen(&routes, "POST", "/?q=other&q=a+b", &headers), None, "the first parameter decides");
        assert_eq!(chosen(&routes, "POST", "/", &headers), None, "no query");
        for missing in 0..headers.len() {
            let mut fewer = headers.to_vec();
            fewer.remove(missing);
            assert_eq!(chosen(&routes, "POST", query, &fewer), None, "without {:?}", headers[missing]);
        }
    }

    #[test]
    fn encoded_text_is_resolved_once_and_broken_text_is_left() {
        for (text, expected) in
            [("a%41", "aA"), ("%2541", "%41"), ("%4", "%4"), ("%zz", "%zz"), ("%ff", "%ff"), ("a+b", "a b")]
        {
            assert_eq!(decoded(text), expected);
        }
    }

    /// Few characters, so that paths and conditions meet; one of them of two bytes.
    fn some_path() -> impl Strategy<Value = String> {
        "/[aä]{0,2}(/[aä]{0,2}){0,2}"
    }

    fn some_matcher() -> impl Strategy<Value = RouteMatch> {
        let paths = prop_oneof![
            1 => Just(PathMatch::Any),
            4 => some_path().prop_map(|path| PathMatch::Exact(path.into())),
            4 => some_path().prop_map(|prefix| PathMatch::Prefix(prefix.into())),
            1 => some_path().prop_map(|path| PathMatch::Regex(regex(&format!("{path}.*")))),
        ];
        let methods = prop_oneof![3 => Just(None), 1 => Just(Some(Method::POST))];
        (paths, methods).prop_map(|(path, method)| RouteMatch { path, method, ..any() })
    }

    proptest! {
        #[test]
        fn many_routes_are_chosen_from_as_if_each_was_looked_at(
            matchers in vec(some_matcher(), 0..40),
            paths in vec(some_path(), 20),
        ) {
            let named = matchers.iter().enumerate().map(|(place, matcher)| route(&place.to_string(), matcher.clone()));
            let routes = one_host(named.collect());
            for path in &paths {
                let head = Head { method: &Method::GET, host: "", path, query: None, headers: &HeaderMap::new() };
                let first = matchers.iter().position(|matcher| matches(matcher, &head)).map(|place| place.to_string());
                prop_assert_eq!(choose(&routes, &head).map(|route| route.name.to_string()), first, "{}", path);
            }
        }
    }

    #[test]
    fn a_server_name_takes_the_route_that_names_it_best() {
        let names = [&["*.example"][..], &["a.one.example", "b.example"], &["*.one.example"]];
        let routes = names.map(|names| (names.iter().map(|name| Arc::from(*name)).collect(), names[0]));
        for (name, expected) in [
            ("a.one.example", Some("a.one.example")),
            ("b.example", Some("a.one.example")),
            ("c.one.example", Some("*.one.example")),
            ("d.c.one.example", Some("*.one.example")),
            ("one.example", Some("*.example")),
            // A wildcard stands for at least one label, and for whole ones.
            ("example", None),
            (".example", None),
            ("anexample", None),
            ("example.org", None),
            ("", None),
        ] {
            assert_eq!(by_server_name(&routes, name).copied(), expected, "{name:?}");
        }
        assert_eq!(by_server_name::<()>(&[], "a.example"), None, "then the service itself answers");
    }
}
