//! `HTTPRoute` → [`mesh::HttpRoute`](HttpRoute).

use std::collections::HashSet;
use std::time::Duration;

use gateway_api::apis::experimental::httproutes as gateway;

use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::filter;
use crate::http_match::{self, How};
use crate::mesh::{Backend, HttpMatch, HttpRoute, HttpRule, PathMatch, RouteKind};
use crate::names;
use crate::retry;
use crate::route::{Checked, Context, RawBackend, at_most};
use crate::session;
use crate::suggest::shown;

/// The route of an object; nothing if it has not the shape of one.
pub(crate) fn ready(context: Context<'_>, diagnostics: &mut Diagnostics) -> Option<Checked<HttpRoute>> {
    let errors = diagnostics.count();
    let object = context.object;
    let gateway::HttpRouteSpec { hostnames, parent_refs, rules, use_default_gateways } = object.typed(diagnostics)?;
    let asks = matches!(use_default_gateways, Some(gateway::HttpRouteUseDefaultGateways::All));
    context.no_default_gateways(asks, diagnostics);
    let parents = context.parents(parent_refs, diagnostics);
    let hostnames = context.hostnames(hostnames.unwrap_or_default(), diagnostics);

    let list = object.cursor().field("rules");
    let rules = rules.unwrap_or_default();
    if rules.is_empty() {
        let message = "a route without rules answers every request with 500";
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
    let route = HttpRoute { kind: RouteKind::Http, name: context.name(), parents, hostnames, rules };
    Some(Checked { route, whole })
}

fn ready_rule(
    context: Context<'_>,
    cursor: Cursor<'_>,
    at: usize,
    rule: gateway::HttpRouteRules,
    rule_names: &mut HashSet<String>,
    diagnostics: &mut Diagnostics,
) -> HttpRule {
    let gateway::HttpRouteRules { backend_refs, filters, matches, name, retry, session_persistence, timeouts } = rule;
    let name = context.rule_name(cursor, name, rule_names, diagnostics);
    let backends = backends(context, cursor.field("backendRefs"), backend_refs.unwrap_or_default(), diagnostics);
    let list = cursor.field("matches");
    let matches = matches.unwrap_or_default();
    at_most(list, "matches", matches.len(), 64, diagnostics);
    let mut matches: Vec<HttpMatch> =
        matches.into_iter().enumerate().map(|(at, written)| ready_match(list.item(at), written, diagnostics)).collect();
    if matches.is_empty() {
        matches.push(HttpMatch {
            path: PathMatch::Prefix("/".into()),
            headers: Vec::new(),
            query: Vec::new(),
            method: None,
        });
    }
    let filter::OfRule { mut filters, retry: policy } =
        filter::of_rule(context, cursor.field("filters"), filters, &matches, diagnostics);
    filters.session = session::of_rule(context.object, cursor, at, session_persistence, diagnostics);
    if filters.redirect.is_some() && !backends.is_empty() {
        let message = "a rule that redirects forwards nothing to its backends";
        cursor.field("backendRefs").key().error(diagnostics, Code::NoEffect, message, "remove the one or the other");
    }
    if filters.redirect.is_some() && filters.session.is_some() {
        let message = "a rule that redirects has no backend that a client could come back to";
        let place = cursor.field("sessionPersistence").key();
        place.error(diagnostics, Code::NoEffect, message, "remove the one or the other");
    }
    let (request_timeout, backend_request_timeout) = ready_timeouts(cursor.field("timeouts"), timeouts, diagnostics);
    let (retry, backend_request_timeout) = retry::of_rule(cursor, retry, policy, backend_request_timeout, diagnostics);
    let rule = HttpRule { name, matches, filters, backends, request_timeout, backend_request_timeout, retry };
    retry::check_hedging(cursor, RouteKind::Http, &rule, diagnostics);
    rule
}

fn backends(
    context: Context<'_>,
    list: Cursor<'_>,
    written: Vec<gateway::HttpRouteRulesBackendRefs>,
    diagnostics: &mut Diagnostics,
) -> Vec<Backend> {
    let mut raw = Vec::with_capacity(written.len());
    for (at, written) in written.into_iter().enumerate() {
        let gateway::HttpRouteRulesBackendRefs { filters, group, kind, name, namespace, port, weight } = written;
        let filters = filter::of_backend(list.item(at).field("filters"), filters, diagnostics);
        raw.push(RawBackend { group, kind, name, namespace, port, weight, filters });
    }
    context.backends(list, raw, diagnostics)
}

fn ready_match(
    cursor: Cursor<'_>,
    written: gateway::HttpRouteRulesMatches,
    diagnostics: &mut Diagnostics,
) -> HttpMatch {
    let gateway::HttpRouteRulesMatches { headers, method, path, query_params } = written;
    let path = match path {
        None => PathMatch::Prefix("/".into()),
        Some(gateway::HttpRouteRulesMatchesPath { r#type, value }) => {
            use gateway::HttpRouteRulesMatchesPathType as Type;
            let how = match r#type {
                None | Some(Type::PathPrefix) => How::Prefix,
                Some(Type::Exact) => How::Exact,
                Some(Type::RegularExpression) => How::Regex,
            };
            http_match::path(cursor.field("path"), how, value.as_deref().unwrap_or("/"), diagnostics)
        }
    };
    let list = cursor.field("headers");
    let headers = headers.unwrap_or_default();
    at_most(list, "headers", headers.len(), 16, diagnostics);
    let mut seen = HashSet::new();
    let headers = headers
        .into_iter()
        .enumerate()
        .map(|(at, gateway::HttpRouteRulesMatchesHeaders { name, r#type, value })| {
            use gateway::HttpRouteRulesMatchesHeadersType as Type;
            let how = if r#type == Some(Type::RegularExpression) { How::Regex } else { How::Exact };
            let header = list.item(at);
            let name = http_match::header_name(header, &name, &mut seen, diagnostics);
            (name, http_match::value(header, how, &value, diagnostics))
        })
        .collect();
    let list = cursor.field("queryParams");
    let query = query_params.unwrap_or_default();
    at_most(list, "queryParams", query.len(), 16, diagnostics);
    let mut seen = HashSet::new();
    let query = query
        .into_iter()
        .enumerate()
        .map(|(at, gateway::HttpRouteRulesMatchesQueryParams { name, r#type, value })| {
            use gateway::HttpRouteRulesMatchesQueryParamsType as Type;
            let how = if r#type == Some(Type::RegularExpression) { How::Regex } else { How::Exact };
            let parameter = list.item(at);
            if let Err(fault) = names::http_token(&name) {
                let message = format!("`{}` is not the name of a query parameter: {fault}", shown(&name));
                parameter.field("name").error(diagnostics, Code::InvalidValue, message, "write a name as in `animal`");
            } else if !seen.insert(name.clone()) {
                let message = format!("the query parameter `{name}` is written twice; only the first would count");
                parameter.field("name").error(diagnostics, Code::NoEffect, message, "remove one of them");
            }
            (name.into(), http_match::value(parameter, how, &value, diagnostics))
        })
        .collect();
    let method = method.and_then(|_| cursor.field("method").text()).map(Into::into);
    HttpMatch { path, headers, query, method }
}

fn ready_timeouts(
    cursor: Cursor<'_>,
    written: Option<gateway::HttpRouteRulesTimeouts>,
    diagnostics: &mut Diagnostics,
) -> (Option<Duration>, Option<Duration>) {
    let Some(gateway::HttpRouteRulesTimeouts { backend_request, request }) = written else { return (None, None) };
    let mut read = |field: &str, written: Option<String>| {
        let text = written?;
        let duration = names::duration(&text);
        if duration.is_none() {
            let message = format!("`{}` is not a duration", shown(&text));
            cursor.field(field).error(diagnostics, Code::InvalidValue, message, names::DURATION_HELP);
        }
        duration
    };
    let request = read("request", request);
    let backend_request = read("backendRequest", backend_request);
    if let (Some(whole), Some(part)) = (request, backend_request)
        && !whole.is_zero()
        && part > whole
    {
        let message = "`backendRequest` is longer than `request`, which ends before it";
        let help = "write a shorter `backendRequest`: it is the time of one try within the request";
        cursor.field("backendRequest").error(diagnostics, Code::InvalidValue, message, help);
    }
    (request, backend_request)
}
