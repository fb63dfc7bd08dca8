//! `GRPCRoute` → [`mesh::HttpRoute`](HttpRoute): a gRPC call is a request for `/<service>/<method>`.

use std::collections::HashSet;

use gateway_api::apis::experimental::grpcroutes as gateway;

use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::filter;
use crate::http_match::{self, How};
use crate::mesh::{Backend, HttpMatch, HttpRoute, HttpRule, PathMatch, RouteKind};
use crate::retry;
use crate::route::{Checked, Context, RawBackend, at_most};
use crate::session;
use crate::suggest::shown;

/// Gateway API's limit of the name of a service or method.
const MAX_NAME: usize = 1024;

/// The route of an object; nothing if it has not the shape of one.
pub(crate) fn ready(context: Context<'_>, diagnostics: &mut Diagnostics) -> Option<Checked<HttpRoute>> {
    let errors = diagnostics.count();
    let object = context.object;
    let gateway::GrpcRouteSpec { hostnames, parent_refs, rules, use_default_gateways } = object.typed(diagnostics)?;
    let asks = matches!(use_default_gateways, Some(gateway::GrpcRouteUseDefaultGateways::All));
    context.no_default_gateways(asks, diagnostics);
    let parents = context.parents(parent_refs, diagnostics);
    let hostnames = context.hostnames(hostnames.unwrap_or_default(), diagnostics);

    let list = object.cursor().field("rules");
    let rules = rules.unwrap_or_default();
    if rules.is_empty() {
        let message = "a route without rules fails every call";
        list.error(diagnostics, Code::MissingField, message, "write `rules:` with `- backendRefs:`");
    }
    at_most(list, "rules", rules.len(), 16, diagnostics);
    let mut rule_names = HashSet::new();
    let rules = rules
        .into_iter()
        .enumerate()
        .map(|(at, rule)| ready_rule(context, list.item(at), at, rule, &mut rule_names, diagnostics))
        .collect();
    let whole = diagnostics.count() == errors && !object.is_damaged();
    let route = HttpRoute { kind: RouteKind::Grpc, name: context.name(), parents, hostnames, rules };
    Some(Checked { route, whole })
}

fn ready_rule(
    context: Context<'_>,
    cursor: Cursor<'_>,
    at: usize,
    rule: gateway::GrpcRouteRules,
    rule_names: &mut HashSet<String>,
    diagnostics: &mut Diagnostics,
) -> HttpRule {
    let gateway::GrpcRouteRules { backend_refs, filters, matches, name, session_persistence } = rule;
    let name = context.rule_name(cursor, name, rule_names, diagnostics);
    let backends = backends(context, cursor.field("backendRefs"), backend_refs.unwrap_or_default(), diagnostics);
    let list = cursor.field("matches");
    let matches = matches.unwrap_or_default();
    at_most(list, "matches", matches.len(), 64, diagnostics);
    let mut matches: Vec<HttpMatch> =
        matches.into_iter().enumerate().map(|(at, written)| ready_match(list.item(at), written, diagnostics)).collect();
    if matches.is_empty() {
        let path = PathMatch::Prefix("/".into());
        matches.push(HttpMatch { path, headers: Vec::new(), query: Vec::new(), method: None });
    }
    let filter::OfRule { mut filters, retry: policy } =
        filter::of_rule(context, cursor.field("filters"), filters, &matches, diagnostics);
    filters.session = session::of_rule(context.object, cursor, at, session_persistence, diagnostics);
    let (retry, backend_request_timeout) = retry::of_rule(cursor, None, policy, None, diagnostics);
    let request_timeout = None;
    let rule = HttpRule { name, matches, filters, backends, request_timeout, backend_request_timeout, retry };
    retry::check_hedging(cursor, RouteKind::Grpc, &rule, diagnostics);
    rule
}

fn backends(
    context: Context<'_>,
    list: Cursor<'_>,
    written: Vec<gateway::GrpcRouteRulesBackendRefs>,
    diagnostics: &mut Diagnostics,
) -> Vec<Backend> {
    let mut raw = Vec::with_capacity(written.len());
    for (at, written) in written.into_iter().enumerate() {
        let gateway::GrpcRouteRulesBackendRefs { filters, group, kind, name, namespace, port, weight } = written;
        let filters = filter::of_backend(list.item(at).field("filters"), filters, diagnostics);
        raw.push(RawBackend { group, kind, name, namespace, port, weight, filters });
    }
    context.backends(list, raw, diagnostics)
}

fn ready_match(
    cursor: Cursor<'_>,
    written: gateway::GrpcRouteRulesMatches,
    diagnostics: &mut Diagnostics,
) -> HttpMatch {
    let gateway::GrpcRouteRulesMatches { headers, method } = written;
    let path = match method {
        None => PathMatch::Prefix("/".into()),
        Some(method) => method_path(cursor.field("method"), method, diagnostics),
    };
    let list = cursor.field("headers");
    let headers = headers.unwrap_or_default();
    at_most(list, "headers", headers.len(), 16, diagnostics);
    let mut seen = HashSet::new();
    let headers = headers
        .into_iter()
        .enumerate()
        .map(|(at, gateway::GrpcRouteRulesMatchesHeaders { name, r#type, value })| {
            use gateway::GrpcRouteRulesMatchesHeadersType as Type;
            let how = if r#type == Some(Type::RegularExpression) { How::Regex } else { How::Exact };
            let header = list.item(at);
            let name = http_match::header_name(header, &name, &mut seen, diagnostics);
            (name, http_match::value(header, how, &value, diagnostics))
        })
        .collect();
    HttpMatch { path, headers, query: Vec::new(), method: None }
}

fn method_path(
    cursor: Cursor<'_>,
    written: gateway::GrpcRouteRulesMatchesMethod,
    diagnostics: &mut Diagnostics,
) -> PathMatch {
    use gateway::GrpcRouteRulesMatchesMethodType as Type;
    let gateway::GrpcRouteRulesMatchesMethod { method, service, r#type } = written;
    if method.is_none() && service.is_none() {
        let help = "write `service:`, `method:` or both; leave `method` out to match every call";
        cursor.error(diagnostics, Code::MissingField, "a match of the method names nothing", help);
    }
    if r#type == Some(Type::RegularExpression) {
        for (field, pattern) in [("service", &service), ("method", &method)] {
            if let Some(pattern) = pattern {
                http_match::regex(cursor.field(field), pattern, MAX_NAME, diagnostics);
            }
        }
        let part = |pattern: Option<String>| pattern.map_or("[^/]+".to_owned(), |pattern| format!("(?:{pattern})"));
        return PathMatch::Regex(format!("/{}/{}", part(service), part(method)).into());
    }
    for (field, name, dots) in [("service", &service, true), ("method", &method, false)] {
        if let Some(name) = name
            && !is_identifier(name, dots)
        {
            let message = format!("`{}` is not the name of a gRPC {field}", shown(name));
            let help = if dots { "write it in full, as in `shop.v1.Cart`" } else { "write it as in `AddItem`" };
            cursor.field(field).error(diagnostics, Code::InvalidValue, message, help);
        }
    }
    match (service, method) {
        (Some(service), Some(method)) => PathMatch::Exact(format!("/{service}/{method}").into()),
        (Some(service), None) => PathMatch::Prefix(format!("/{service}").into()),
        // Identifiers have no characters that mean something in an expression.
        (None, Some(method)) => PathMatch::Regex(format!("/[^/]+/{method}").into()),
        (None, None) => PathMatch::Prefix("/".into()),
    }
}

/// Protobuf's identifiers, joined by dots if `dots`.
fn is_identifier(text: &str, dots: bool) -> bool {
    let identifier = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && part.chars().all(|character| character.is_ascii_alphanumeric() || character == '_')
    };
    text.len() <= MAX_NAME && if dots { text.split('.').all(identifier) } else { identifier(text) }
}
