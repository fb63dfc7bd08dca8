//! The order in which matches are tried: Gateway API's precedence as a pure sort.
//!
//! Of `HTTPRouteRule.matches`: the exact path first, then the longest prefix; then a method, more headers, more query
//! parameters; then the older route; then the earlier rule. `HTTPRoute.hostnames` come before all of these: the longest
//! exact hostname, then the longest wildcard. Gateway API leaves the place of regular expressions open: here they come
//! between exact paths and prefixes, the longer pattern first, because a catch-all prefix would hide them otherwise.
//!
//! `GRPCRouteRule.matches` ask for the most characters of the service, then of the method. An exact service and method is an
//! exact path, a service alone is a prefix; what matches any service (`/[^/]+/Get`) must come after every prefix but `/`.

use std::cmp::Reverse;

use malla_config::mesh::{HttpMatch, HttpRoute, HttpRule, PathMatch, RouteKind};

/// One match of one rule: what becomes an entry of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) route: &'a HttpRoute,
    /// The hostname by which the route applies; nothing if it names none.
    pub(super) hostname: Option<&'a str>,
    /// The rule's place in its route.
    pub(super) rule_index: usize,
    pub(super) rule: &'a HttpRule,
    pub(super) matching: &'a HttpMatch,
}

/// The matches of all routes that apply to a host, first to be tried first. `routes` are the oldest first, each with the
/// hostname by which it applies (`None`: it names none).
pub(super) fn sorted<'a>(routes: &[(&'a HttpRoute, Option<&'a str>)]) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    for (age, (route, hostname)) in routes.iter().enumerate() {
        for (rule_index, rule) in route.rules.iter().enumerate() {
            for matching in &rule.matches {
                let key = (specificity(*hostname), rank(route.kind, matching), age, rule_index);
                candidates.push((key, Candidate { route, hostname: *hostname, rule_index, rule, matching }));
            }
        }
    }
    // Stable: matches of one rule that are equal in all else keep their order.
    candidates.sort_by_key(|(key, _)| *key);
    candidates.into_iter().map(|(_, candidate)| candidate).collect()
}

/// "Characters in a matching non-wildcard hostname", then "characters in a matching hostname".
pub(super) fn specificity(hostname: Option<&str>) -> (Reverse<usize>, Reverse<usize>) {
    let length = hostname.map_or(0, str::len);
    let exact = hostname.is_some_and(|hostname| !hostname.starts_with("*."));
    (Reverse(if exact { length } else { 0 }), Reverse(length))
}

type Rank = (u8, Reverse<usize>, Reverse<bool>, Reverse<usize>, Reverse<usize>);

fn rank(kind: RouteKind, matching: &HttpMatch) -> Rank {
    let (class, characters) = match (&matching.path, kind) {
        (PathMatch::Exact(_), _) => (0, 0),
        (PathMatch::Regex(pattern), RouteKind::Http) => (1, pattern.chars().count()),
        (PathMatch::Prefix(prefix), _) if prefix.len() > 1 => (2, prefix.chars().count()),
        (PathMatch::Regex(pattern), RouteKind::Grpc) => (3, pattern.chars().count()),
        (PathMatch::Prefix(_), _) => (4, 0),
    };
    (
        class,
        Reverse(characters),
        Reverse(matching.method.is_some()),
        Reverse(matching.headers.len()),
        Reverse(matching.query.len()),
    )
}
