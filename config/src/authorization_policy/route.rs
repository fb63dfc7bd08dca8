//! Routes as targets of an `AuthorizationPolicy`: which of them can be.
//!
//! Such a policy is enforced beside the workloads that the route leads to, by what a request is when it arrives there. Refused are routes
//! whose requests cannot be told there from others, and those that lead out of the policy's namespace.

use crate::api::PolicyTarget;
use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::index::Index;
use crate::kinds::Kind;
use crate::mesh::{HttpRoute, HttpRule, PathMatch, RouteKind, RouteName};
use crate::object::Object;
use crate::suggest::{self, shown};

/// The group of the kinds of routes.
pub(super) const GROUP: &str = "gateway.networking.k8s.io";

/// The routes that a policy can name.
#[derive(Clone, Copy)]
pub(crate) struct Routes<'a> {
    /// Those without errors.
    pub(crate) whole: &'a [HttpRoute],
    /// All objects, of any kind: a route with errors of its own is not missing.
    pub(crate) objects: &'a [&'a Object],
}

/// The kind of route that a target names.
pub(super) fn kind_of(target: &PolicyTarget) -> Option<(Kind, RouteKind)> {
    match (&*target.group, &*target.kind) {
        (GROUP, "HTTPRoute") => Some((Kind::HttpRoute, RouteKind::Http)),
        (GROUP, "GRPCRoute") => Some((Kind::GrpcRoute, RouteKind::Grpc)),
        _ => None,
    }
}

/// The route that a target of the kind names; nothing if it cannot be one.
pub(super) fn target(
    object: &Object,
    cursor: Cursor<'_>,
    (kind, of_route): (Kind, RouteKind),
    written: &PolicyTarget,
    routes: Routes<'_>,
    index: &Index<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<(RouteKind, RouteName)> {
    if written.section_name.is_some() {
        let message = "a single rule of a route as the target is not supported yet";
        let help = "leave `sectionName` out; write the rule as a route of its own";
        cursor.field("sectionName").key().error(diagnostics, Code::NotSupported, message, help);
        return None;
    }
    let name = RouteName::new(object.namespace.clone(), written.name.as_str());
    let Some(route) = routes.whole.iter().find(|route| route.kind == of_route && route.name == name) else {
        missing(cursor, kind, &name, routes, index, diagnostics);
        return Some((of_route, name));
    };
    if let Some(problem) = leads_elsewhere(route) {
        let message = format!("the {kind} {name} {problem}");
        let help = "a policy protects workloads of its own namespace: write it there, about their services";
        cursor.field("name").error(diagnostics, Code::NotSupported, message, help);
        return None;
    }
    if let Some(problem) = not_to_be_told(route, routes.whole) {
        let message =
            format!("the requests of the {kind} {name} cannot be told from others where they arrive: {problem}");
        let help = "target the services behind it, and write what is meant as conditions of the rules";
        cursor.field("name").error(diagnostics, Code::NotSupported, message, help);
        return None;
    }
    Some((of_route, name))
}

fn missing(
    cursor: Cursor<'_>,
    kind: Kind,
    name: &RouteName,
    routes: Routes<'_>,
    index: &Index<'_>,
    diagnostics: &mut Diagnostics,
) {
    let here = || routes.objects.iter().filter(|other| other.kind == kind && other.namespace == name.namespace);
    if here().any(|other| other.name == name.name) || index.may_exist(&name.name) {
        return;
    }
    let help = match suggest::nearest(&name.name, here().map(|other| &*other.name)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("write {} of this name in the namespace `{}`", kind.with_article(), name.namespace),
    };
    let message = format!("there is no {kind} `{}` in the namespace `{}`", shown(&name.name), shown(&name.namespace));
    index.nothing_to_protect(cursor.field("name"), (message, help), diagnostics);
}

/// What is wrong with where a route comes from and leads to.
fn leads_elsewhere(route: &HttpRoute) -> Option<String> {
    let own = &route.name.namespace;
    if let Some(parent) = route.parents.iter().find(|parent| parent.service.namespace != *own) {
        return Some(format!("is one of a client's namespace, to the service {}", parent.service));
    }
    let mut backends = route.rules.iter().flat_map(|rule| &rule.backends).peekable();
    if backends.peek().is_none() {
        return Some("leads to no workload".to_owned());
    }
    let other = backends.find(|backend| backend.service.namespace != *own)?;
    Some(format!("leads to the service {}, of another namespace", other.service))
}

/// Why a request of a route may arrive as something else than what the route matches.
fn not_to_be_told(route: &HttpRoute, all: &[HttpRoute]) -> Option<String> {
    // Those that stand beside it: a request that is changed may look like one of theirs.
    let shares = |other: &&HttpRoute| {
        other.parents.iter().any(|parent| route.parents.iter().any(|own| own.service == parent.service))
    };
    let beside = || all.iter().filter(shares);
    let with_hosts = beside().any(|other| !other.hostnames.is_empty());
    let compared = |header: &str| {
        let matches = beside().flat_map(|other| &other.rules).flat_map(|rule| &rule.matches);
        matches.flat_map(|matching| &matching.headers).any(|(name, _)| **name == *header)
    };
    route.rules.iter().enumerate().find_map(|(at, rule)| {
        let problem = problem_of(rule, with_hosts, &compared)?;
        Some(format!("rule {at} {problem}"))
    })
}

fn problem_of(rule: &HttpRule, with_hosts: bool, compared: &dyn Fn(&str) -> bool) -> Option<String> {
    if rule.filters.rewrite.path.is_some() {
        return Some("rewrites the path".to_owned());
    }
    if rule.filters.rewrite.hostname.is_some() && with_hosts {
        return Some("rewrites the host".to_owned());
    }
    let of_backends = rule.backends.iter().map(|backend| &backend.filters.request_headers);
    for changes in of_backends.chain([&rule.filters.request_headers]) {
        let names = changes.set.iter().chain(&changes.add).map(|(name, _)| name).chain(&changes.remove);
        if let Some(header) = names.into_iter().find(|name| compared(name)) {
            return Some(format!("changes the header `{header}`, by which routes are told apart"));
        }
    }
    for matching in &rule.matches {
        if !matching.query.is_empty() {
            return Some("matches query parameters".to_owned());
        }
        let (PathMatch::Exact(path) | PathMatch::Prefix(path) | PathMatch::Regex(path)) = &matching.path;
        if path.contains('%') {
            return Some("matches a path that is percent-encoded".to_owned());
        }
    }
    None
}
