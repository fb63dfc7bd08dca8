//! Which requests are a route's, told where they arrive: those that fit one of its matches, and no match of a route beside it that
//! goes before.
//!
//! Everybody's routes to a service go by one order, and so a request is one route's. What cannot be told of a request — the path of a
//! raw stream, or one that servers read in two ways — leaves open whose it is, and opens no door (see the sidecar's `authorize`).

use malla_config::mesh::{HttpMatch, HttpRoute, Mesh, PathMatch, RouteKind, RouteName};
use malla_xds::envoy::matcher::StringMatcher;
use malla_xds::envoy::matcher::string_matcher::MatchPattern;
use malla_xds::envoy::rbac::Permission;
use malla_xds::envoy::rbac::permission::Rule;

use super::{header, path, rules_of};
use crate::compile::precedence::{self, Candidate};
use crate::compile::route::{regex, string_match};

/// A port at the end of a host, which no route looks at.
const ANY_PORT: &str = "(:[0-9]+)?";

/// The route of a kind and name.
pub(super) fn find<'a>(mesh: &'a Mesh, (kind, name): &(RouteKind, RouteName)) -> Option<&'a HttpRoute> {
    mesh.http_routes.iter().find(|route| route.kind == *kind && route.name == *name)
}

/// The condition that a request is the route's.
pub(super) fn requests(mesh: &Mesh, route: &HttpRoute) -> Rule {
    let shares = |other: &&HttpRoute| {
        let same = |parent| route.parents.iter().any(|own| attaches_alike(own, parent));
        other.name.namespace == route.name.namespace && other.parents.iter().any(same)
    };
    let beside = mesh.http_routes.iter().filter(shares);
    let by_host: Vec<(&HttpRoute, Option<&str>)> = beside
        .flat_map(|route| {
            let hosts = route.hostnames.iter().map(|host| Some(&**host));
            hosts.chain(route.hostnames.is_empty().then_some(None)).map(move |host| (route, host))
        })
        .collect();
    let sorted = precedence::sorted(&by_host);
    let is_own = |candidate: &Candidate<'_>| std::ptr::eq(candidate.route, route);
    let mut fits = Vec::new();
    for (place, own) in sorted.iter().enumerate().filter(|(_, candidate)| is_own(candidate)) {
        let mut all = conditions(own);
        let before = sorted.iter().take(place).filter(|other| !is_own(other) && overlap(own, other));
        let others: Vec<Rule> = before.map(|other| all_of(conditions(other))).collect();
        if !others.is_empty() {
            all.push(not(any_of(others)));
        }
        fits.push(all_of(all));
    }
    any_of(fits)
}

fn attaches_alike(one: &malla_config::mesh::ParentRef, other: &malla_config::mesh::ParentRef) -> bool {
    let same_port = one.port.is_none() || other.port.is_none() || one.port == other.port;
    one.service == other.service && same_port
}

/// What a request must be to fit a match.
fn conditions(candidate: &Candidate<'_>) -> Vec<Rule> {
    let HttpMatch { path: wanted, headers, query: _, method } = candidate.matching;
    let mut all = Vec::new();
    all.extend(candidate.hostname.map(host));
    let whole = matches!(wanted, PathMatch::Prefix(prefix) if prefix.len() <= 1);
    if !whole {
        all.push(any_of(path(wanted)));
    }
    let exact =
        |text: &str| StringMatcher { match_pattern: Some(MatchPattern::Exact(text.to_owned())), ..Default::default() };
    all.extend(method.iter().map(|method| header(":method", exact(method))));
    all.extend(headers.iter().map(|(name, value)| header(name, string_match(value))));
    all
}

fn host(hostname: &str) -> Rule {
    let pattern = match hostname.strip_prefix('*') {
        Some(suffix) => format!("[^:]+{}{ANY_PORT}", suffix.replace('.', "\\.")),
        None => format!("{}{ANY_PORT}", hostname.replace('.', "\\.")),
    };
    let pattern = Some(MatchPattern::SafeRegex(regex(&pattern)));
    header(":authority", StringMatcher { match_pattern: pattern, ..Default::default() })
}

/// Whether a request may fit both. A condition that excludes the other's needs not be written.
fn overlap(one: &Candidate<'_>, other: &Candidate<'_>) -> bool {
    let hosts = match (one.hostname, other.hostname) {
        (Some(one), Some(other)) if !one.starts_with('*') && !other.starts_with('*') => one == other,
        _ => true,
    };
    let methods = match (&one.matching.method, &other.matching.method) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    };
    let below = |path: &str, prefix: &str| {
        prefix.len() <= 1 || path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let paths = match (&one.matching.path, &other.matching.path) {
        (PathMatch::Exact(one), PathMatch::Exact(other)) => one == other,
        (PathMatch::Exact(path), PathMatch::Prefix(prefix)) | (PathMatch::Prefix(prefix), PathMatch::Exact(path)) => {
            below(path, prefix)
        }
        (PathMatch::Prefix(one), PathMatch::Prefix(other)) => below(one, other) || below(other, one),
        (PathMatch::Regex(_), _) | (_, PathMatch::Regex(_)) => true,
    };
    hosts && methods && paths
}

pub(super) fn all_of(rules: Vec<Rule>) -> Rule {
    match <[Rule; 1]>::try_from(rules) {
        Ok([only]) => only,
        Err(none) if none.is_empty() => Rule::Any(true),
        Err(several) => Rule::AndRules(rules_of(several)),
    }
}

pub(super) fn any_of(rules: Vec<Rule>) -> Rule {
    match <[Rule; 1]>::try_from(rules) {
        Ok([only]) => only,
        Err(several) => Rule::OrRules(rules_of(several)),
    }
}

pub(super) fn not(rule: Rule) -> Rule {
    Rule::NotRule(Box::new(Permission { rule: Some(rule) }))
}
