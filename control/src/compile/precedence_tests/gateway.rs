//! Random routes and requests, and a plain reading of Gateway API of which rule takes which request. Shared, as a file, by the
//! tests of the rendering and of the whole way to the sidecar.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use malla_config::mesh::{
    Backend, HttpMatch, HttpRoute, HttpRule, ParentRef, PathMatch, RouteKind, RouteName, ServiceName, ValueMatch,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use regex::Regex;

/// What routes look at.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) host: &'static str,
    pub(crate) path: &'static str,
    pub(crate) method: &'static str,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) query: Vec<(&'static str, &'static str)>,
}

/// `kind/namespace/name/rule` of the rule that takes a request: of all matches that hold, the best in pairwise comparison.
pub(crate) fn chosen_by_gateway_api(routes: &[HttpRoute], request: &Request) -> Option<String> {
    let mut holding = Vec::new();
    for (age, route) in routes.iter().enumerate() {
        let hostnames = route.hostnames.iter().map(|hostname| &**hostname);
        let matching_hostnames = hostnames.filter(|hostname| match hostname.strip_prefix("*.") {
            Some(parent) => request.host.strip_suffix(parent).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            None => *hostname == request.host,
        });
        let hostname = matching_hostnames.max_by(|one, other| by_hostname(Some(other), Some(one)));
        if hostname.is_none() && !route.hostnames.is_empty() {
            continue;
        }
        for (rule, written) in route.rules.iter().enumerate() {
            for matching in written.matches.iter().filter(|matching| holds(matching, request)) {
                holding.push(Holding { hostname, kind: route.kind, matching, age, rule });
            }
        }
    }
    let best = holding.into_iter().min_by(compare)?;
    let route = &routes[best.age];
    let kind = if route.kind == RouteKind::Http { "HTTPRoute" } else { "GRPCRoute" };
    Some(format!("{kind}/{}/{}/{}", route.name.namespace, route.name.name, best.rule))
}

struct Holding<'a> {
    hostname: Option<&'a str>,
    kind: RouteKind,
    matching: &'a HttpMatch,
    age: usize,
    rule: usize,
}

fn holds(matching: &HttpMatch, request: &Request) -> bool {
    let path = match &matching.path {
        PathMatch::Exact(path) => **path == *request.path,
        PathMatch::Prefix(prefix) => {
            let segments =
                |path: &str| path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>();
            // Compared by characters too: `/a` does not hold for `//a`.
            **prefix == *"/"
                || segments(request.path).starts_with(&segments(prefix)) && request.path.starts_with(&**prefix)
        }
        PathMatch::Regex(pattern) => whole(pattern, request.path),
    };
    let values = |expected: &[(Arc<str>, ValueMatch)], pairs: &[(&str, &str)]| {
        expected.iter().all(|(name, expected)| match (expected, value_of(pairs, name)) {
            (ValueMatch::Exact(text), Some(value)) => **text == *value,
            (ValueMatch::Regex(pattern), Some(value)) => whole(pattern, value),
            (_, None) => false,
        })
    };
    path && matching.method.as_ref().is_none_or(|method| **method == *request.method)
        && values(&matching.headers, &request.headers)
        && values(&matching.query, &request.query)
}

/// Who is less wins.
fn compare(one: &Holding<'_>, other: &Holding<'_>) -> Ordering {
    by_hostname(one.hostname, other.hostname)
        .then_with(|| by_path(one, other))
        .then_with(|| other.matching.method.is_some().cmp(&one.matching.method.is_some()))
        .then_with(|| other.matching.headers.len().cmp(&one.matching.headers.len()))
        .then_with(|| other.matching.query.len().cmp(&one.matching.query.len()))
        .then_with(|| one.age.cmp(&other.age))
        .then_with(|| one.rule.cmp(&other.rule))
}

fn by_hostname(one: Option<&str>, other: Option<&str>) -> Ordering {
    let exact = |name: Option<&str>| name.filter(|name| !name.starts_with('*')).map_or(0, str::len);
    let any = |name: Option<&str>| name.map_or(0, str::len);
    exact(other).cmp(&exact(one)).then_with(|| any(other).cmp(&any(one)))
}

fn by_path(one: &Holding<'_>, other: &Holding<'_>) -> Ordering {
    use PathMatch::{Exact, Prefix, Regex};
    let everything = |path: &PathMatch| matches!(path, Prefix(prefix) if **prefix == *"/");
    match (&one.matching.path, &other.matching.path) {
        (Exact(_), Exact(_)) => Ordering::Equal,
        (Exact(_), _) => Ordering::Less,
        (_, Exact(_)) => Ordering::Greater,
        (one, other) if everything(one) && everything(other) => Ordering::Equal,
        (one, _) if everything(one) => Ordering::Greater,
        (_, other) if everything(other) => Ordering::Less,
        (Prefix(one), Prefix(other)) => other.len().cmp(&one.len()),
        (Regex(left), Regex(right)) if one.kind == other.kind => right.len().cmp(&left.len()),
        // An expression over paths before prefixes, one over any gRPC service after them.
        (Regex(_), _) if one.kind == RouteKind::Http => Ordering::Less,
        (_, Regex(_)) if other.kind == RouteKind::Http => Ordering::Greater,
        (Regex(_), _) => Ordering::Greater,
        (_, Regex(_)) => Ordering::Less,
    }
}

/// The first value of a name.
pub(crate) fn value_of<'a>(pairs: &[(&str, &'a str)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
}

/// Whether an expression matches all of a text.
pub(crate) fn whole(pattern: &str, text: &str) -> bool {
    thread_local!(static COMPILED: RefCell<HashMap<String, Regex>> = RefCell::default());
    COMPILED.with_borrow_mut(|compiled| {
        let anchored = || Regex::new(&format!("^(?:{pattern})$")).expect("is valid");
        compiled.entry(pattern.to_owned()).or_insert_with(anchored).is_match(text)
    })
}

const HOSTS: [&str; 6] = ["a.example.com", "b.a.example.com", "example.com", "other.org", "cart", "x.other.org"];
const HOSTNAMES: [&str; 6] = ["a.example.com", "*.example.com", "*.a.example.com", "*.com", "other.org", "*.other.org"];
const PATHS: [&str; 8] = ["/", "/a", "/a/b", "/a/b/c", "/ab", "/shop.Cart/Get", "/shop.Cart/Put", "//a"];
const PATTERNS: [&str; 5] = ["/a.*", "/.*", "/a/[a-z]+", "/[^/]+/Get", "/(a|ab)"];

fn value() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        select(vec!["1", "2"]).prop_map(|text| ValueMatch::Exact(text.into())),
        Just(ValueMatch::Regex("[12]".into())),
    ]
}

fn conditions(names: &'static [&'static str]) -> impl Strategy<Value = Vec<(Arc<str>, ValueMatch)>> {
    subsequence(names, 0..=names.len())
        .prop_flat_map(|names| names.into_iter().map(|name| (Just(Arc::from(name)), value())).collect::<Vec<_>>())
}

fn matching() -> impl Strategy<Value = HttpMatch> {
    let path = prop_oneof![
        select(PATHS.to_vec()).prop_map(|path| PathMatch::Exact(path.into())),
        select(vec!["/", "/a", "/a/b", "/shop.Cart", "/ab"]).prop_map(|path| PathMatch::Prefix(path.into())),
        select(PATTERNS.to_vec()).prop_map(|pattern| PathMatch::Regex(pattern.into())),
    ];
    let method = option::of(select(vec!["GET", "POST"]).prop_map(Arc::from));
    (path, conditions(&["x", "y"]), conditions(&["q", "r"]), method)
        .prop_map(|(path, headers, query, method)| HttpMatch { path, headers, query, method })
}

fn route() -> impl Strategy<Value = HttpRoute> {
    let kind = prop_oneof![Just(RouteKind::Http), Just(RouteKind::Grpc)];
    let hostnames = subsequence(HOSTNAMES.to_vec(), 0..=2);
    (kind, hostnames, vec(vec(matching(), 1..4), 1..4)).prop_map(|(kind, hostnames, rules)| HttpRoute {
        kind,
        name: RouteName::new("shop", "unnamed"),
        parents: vec![ParentRef { service: ServiceName::new("shop", "cart"), port: None }],
        hostnames: hostnames.into_iter().map(Arc::from).collect(),
        rules: rules.into_iter().map(rule).collect(),
    })
}

/// Routes of the service `cart`, from the oldest.
pub(crate) fn routes() -> impl Strategy<Value = Vec<HttpRoute>> {
    vec(route(), 1..5).prop_map(|mut routes| {
        for (index, route) in routes.iter_mut().enumerate() {
            route.name = RouteName::new("shop", format!("r{index}"));
        }
        routes
    })
}

fn rule(matches: Vec<HttpMatch>) -> HttpRule {
    let service = ServiceName::new("shop", "cart");
    let backend = Backend { service, port: 80, subset: None, weight: 1, filters: Default::default() };
    HttpRule {
        name: None,
        matches,
        filters: Default::default(),
        backends: vec![backend],
        request_timeout: None,
        backend_request_timeout: None,
        retry: None,
    }
}

/// A request that they may be for.
pub(crate) fn request() -> impl Strategy<Value = Request> {
    let pairs = |names: &'static [&'static str]| {
        subsequence(names, 0..=names.len()).prop_flat_map(|names| {
            names.into_iter().map(|name| (Just(name), select(vec!["1", "2", "3"]))).collect::<Vec<_>>()
        })
    };
    (
        select(HOSTS.to_vec()),
        select(PATHS.to_vec()),
        select(vec!["GET", "POST"]),
        pairs(&["x", "y"]),
        pairs(&["q", "r"]),
    )
        .prop_map(|(host, path, method, headers, query)| Request { host, path, method, headers, query })
}
