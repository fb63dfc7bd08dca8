//! Route configurations: one virtual host per hostname, the one for all others last, its routes in Gateway API's order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use malla_config::mesh::{HttpMatch, HttpRoute, HttpRule, PathMatch, RouteKind, ValueMatch};
use malla_xds::envoy::matcher::{RegexMatcher, StringMatcher, string_matcher};
use malla_xds::envoy::route::header_matcher::HeaderMatchSpecifier;
use malla_xds::envoy::route::query_parameter_matcher::QueryParameterMatchSpecifier;
use malla_xds::envoy::route::route::Action;
use malla_xds::envoy::route::route_action::{ClusterSpecifier, MaxStreamDuration};
use malla_xds::envoy::route::route_match::PathSpecifier;
use malla_xds::envoy::route::weighted_cluster::ClusterWeight;
use malla_xds::envoy::route::{
    DirectResponseAction, HeaderMatcher, QueryParameterMatcher, Route, RouteAction, RouteConfiguration, RouteMatch,
    VirtualHost, WeightedCluster,
};
use malla_xds::{Resource, ResourceType};

use super::filters::{duration, number};
use super::policy::Hashing;
use super::precedence::{self, Candidate};
use super::split::{Share, Split};
use super::{overrides, retries, route_filters};

/// The routes of a destination: those that are attached, or all to the destination itself where none is. `hashing` are the clusters
/// that hash.
pub(super) fn configuration(name: &str, attached: &[&HttpRoute], hashing: &Hashing) -> Resource {
    let mut message = if attached.is_empty() {
        to_cluster(name, name)
    } else {
        RouteConfiguration {
            name: name.to_owned(),
            virtual_hosts: virtual_hosts(name, attached),
            // Filters of a backend come after those of its rule.
            most_specific_header_mutations_wins: true,
            ..Default::default()
        }
    };
    hashing.tell(&mut message);
    Resource::new(ResourceType::Route, name, [], &message)
}

/// Every request to one cluster.
pub(super) fn to_cluster(name: &str, cluster: &str) -> RouteConfiguration {
    let all = Route {
        name: "default".into(),
        r#match: Some(path_match(PathSpecifier::Prefix("/".into()))),
        action: Some(Action::Route(forward(ClusterSpecifier::Cluster(cluster.to_owned()), None))),
        ..Default::default()
    };
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![virtual_host(name, None, vec![all])],
        ..Default::default()
    }
}

/// One per hostname, then the one for all other hosts. A client tries only the virtual host that fits best, so each holds
/// all routes that apply to its host.
fn virtual_hosts(name: &str, attached: &[&HttpRoute]) -> Vec<VirtualHost> {
    let hostnames: BTreeSet<&str> =
        attached.iter().flat_map(|route| &route.hostnames).map(|hostname| &**hostname).collect();
    let hosts = hostnames.into_iter().map(Some).chain([None]);
    hosts
        .map(|host| {
            let applicable: Vec<(&HttpRoute, Option<&str>)> =
                attached.iter().filter_map(|route| Some((*route, applies_by(route, host)?))).collect();
            virtual_host(name, host, routes(&applicable, port(name)))
        })
        .collect()
}

fn routes<'a>(applicable: &[(&'a HttpRoute, Option<&'a str>)], service_port: u16) -> Vec<Route> {
    precedence::sorted(applicable).into_iter().flat_map(|candidate| entries(candidate, service_port)).collect()
}

/// The port of a destination (`cart.shop:80`).
fn port(destination: &str) -> u16 {
    destination.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(80)
}

/// gRPC compares domains with the whole authority of its target, `host:port`; the port is that of the destination.
fn virtual_host(destination: &str, host: Option<&str>, routes: Vec<Route>) -> VirtualHost {
    let port = port(destination);
    let domains = host.map_or_else(|| vec!["*".to_owned()], |host| vec![host.to_owned(), format!("{host}:{port}")]);
    VirtualHost { name: host.unwrap_or("*").to_owned(), domains, routes, ..Default::default() }
}

/// The most specific hostname by which a route applies to all requests for `host`; `Some(None)` if it names none.
fn applies_by<'a>(route: &'a HttpRoute, host: Option<&str>) -> Option<Option<&'a str>> {
    if route.hostnames.is_empty() {
        return Some(None);
    }
    let covering = route.hostnames.iter().map(|hostname| &**hostname).filter(|hostname| covers(hostname, host));
    covering.min_by_key(|hostname| precedence::specificity(Some(hostname))).map(Some)
}

/// Whether every request that `host` stands for has a host that `hostname` matches.
fn covers(hostname: &str, host: Option<&str>) -> bool {
    let Some(host) = host else { return false };
    match hostname.strip_prefix('*') {
        Some(suffix) => hostname == host || host.strip_prefix('*').unwrap_or(host).ends_with(suffix) && host != suffix,
        None => hostname == host,
    }
}

/// A prefix becomes two: the path itself, and all below it.
fn entries(candidate: Candidate<'_>, service_port: u16) -> Vec<Route> {
    let paths = match &candidate.matching.path {
        PathMatch::Exact(path) => vec![PathSpecifier::Path(path.to_string())],
        PathMatch::Regex(pattern) => vec![PathSpecifier::SafeRegex(regex(pattern))],
        PathMatch::Prefix(prefix) if prefix.len() <= 1 => vec![PathSpecifier::Prefix("/".into())],
        PathMatch::Prefix(prefix) => {
            vec![PathSpecifier::Path(prefix.to_string()), PathSpecifier::Prefix(format!("{prefix}/"))]
        }
    };
    let name = name(candidate);
    let entry = |path| {
        let action = action(candidate.rule, &path, service_port);
        let route = Route {
            name: name.clone(),
            r#match: Some(route_match(candidate.matching, path)),
            action: Some(action),
            ..Default::default()
        };
        overrides::of_rule(route_filters::change_headers(route, &candidate.rule.filters), candidate.rule)
    };
    paths.into_iter().flat_map(entry).collect()
}

fn name(candidate: Candidate<'_>) -> String {
    let kind = match candidate.route.kind {
        RouteKind::Http => "HTTPRoute",
        RouteKind::Grpc => "GRPCRoute",
    };
    let route = &candidate.route.name;
    match &candidate.rule.name {
        Some(rule) => format!("{kind}/{}/{}/{rule}", route.namespace, route.name),
        None => format!("{kind}/{}/{}/{}", route.namespace, route.name, candidate.rule_index),
    }
}

fn path_match(path: PathSpecifier) -> RouteMatch {
    RouteMatch { path_specifier: Some(path), ..Default::default() }
}

/// A header whose whole value is known.
pub(super) fn exact_header(name: &str, value: &Arc<str>) -> HeaderMatcher {
    header(name, &ValueMatch::Exact(value.clone()))
}

fn header(name: &str, value: &ValueMatch) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(string_match(value))),
        ..Default::default()
    }
}

fn route_match(matching: &HttpMatch, path: PathSpecifier) -> RouteMatch {
    let method = matching.method.iter().map(|method| header(":method", &ValueMatch::Exact(method.clone())));
    let query = |(name, value): &(_, ValueMatch)| QueryParameterMatcher {
        name: ToString::to_string(name),
        query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(string_match(value))),
    };
    RouteMatch {
        headers: method.chain(matching.headers.iter().map(|(name, value)| header(name, value))).collect(),
        query_parameters: matching.query.iter().map(query).collect(),
        ..path_match(path)
    }
}

pub(super) fn string_match(value: &ValueMatch) -> StringMatcher {
    let pattern = match value {
        ValueMatch::Exact(text) => string_matcher::MatchPattern::Exact(text.to_string()),
        ValueMatch::Regex(pattern) => string_matcher::MatchPattern::SafeRegex(regex(pattern)),
    };
    StringMatcher { match_pattern: Some(pattern), ..Default::default() }
}

pub(super) fn regex(pattern: &str) -> RegexMatcher {
    RegexMatcher { regex: pattern.to_owned(), ..Default::default() }
}

fn action(rule: &HttpRule, path: &PathSpecifier, service_port: u16) -> Action {
    if let Some(redirect) = &rule.filters.redirect {
        return Action::Redirect(route_filters::redirect(redirect, path, service_port));
    }
    let clusters = match Split::new(&rule.backends) {
        Split::Nowhere => {
            return Action::DirectResponse(DirectResponseAction { status: 500, ..Default::default() });
        }
        Split::One(cluster) => ClusterSpecifier::Cluster(cluster),
        Split::Weighted(shares) => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: shares.into_iter().map(share).collect(),
            ..Default::default()
        }),
    };
    let action = RouteAction {
        retry_policy: retries::policy(rule),
        request_mirror_policies: overrides::mirrors(&rule.filters.mirrors),
        ..forward(clusters, rule.request_timeout)
    };
    Action::Route(route_filters::rewrite(action, &rule.filters.rewrite, path))
}

fn share(Share { cluster, weight, filters }: Share<'_>) -> ClusterWeight {
    let cluster = ClusterWeight { name: cluster, weight: number(weight), ..Default::default() };
    route_filters::change_backend_headers(cluster, &filters.request_headers, &filters.response_headers)
}

/// Zero means no timeout, which is also what Gateway API says. The request timeout is said twice: gRPC knows only the
/// second.
fn forward(clusters: ClusterSpecifier, request: Option<Duration>) -> RouteAction {
    let timeout = request.filter(|timeout| !timeout.is_zero()).map(duration);
    RouteAction {
        cluster_specifier: Some(clusters),
        timeout: Some(timeout.unwrap_or_default()),
        max_stream_duration: timeout
            .map(|longest| MaxStreamDuration { max_stream_duration: Some(longest), ..Default::default() }),
        ..Default::default()
    }
}
