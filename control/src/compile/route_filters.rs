//! Filters of rules and backends → fields of routes: header changes, rewrites, redirects.

use malla_config::mesh::{Filters, HeaderChanges, PathRewrite, Redirect, Rewrite, Scheme};
use malla_xds::envoy::core::header_value_option::HeaderAppendAction;
use malla_xds::envoy::core::{HeaderValue, HeaderValueOption};
use malla_xds::envoy::matcher::{RegexMatchAndSubstitute, RegexMatcher};
use malla_xds::envoy::route::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
use malla_xds::envoy::route::route_action::HostRewriteSpecifier;
use malla_xds::envoy::route::route_match::PathSpecifier;
use malla_xds::envoy::route::weighted_cluster::ClusterWeight;
use malla_xds::envoy::route::{RedirectAction, Route, RouteAction};
use malla_xds::names;

/// The header changes of a rule, in its route.
pub(super) fn change_headers(route: Route, filters: &Filters) -> Route {
    Route {
        request_headers_to_add: to_add(&filters.request_headers),
        request_headers_to_remove: to_remove(&filters.request_headers),
        response_headers_to_add: to_add(&filters.response_headers),
        response_headers_to_remove: to_remove(&filters.response_headers),
        ..route
    }
}

/// The header changes of a backend, in its share of the split.
pub(super) fn change_backend_headers(
    cluster: ClusterWeight,
    request: &HeaderChanges,
    response: &HeaderChanges,
) -> ClusterWeight {
    ClusterWeight {
        request_headers_to_add: to_add(request),
        request_headers_to_remove: to_remove(request),
        response_headers_to_add: to_add(response),
        response_headers_to_remove: to_remove(response),
        ..cluster
    }
}

fn to_add(changes: &HeaderChanges) -> Vec<HeaderValueOption> {
    let option = |action: HeaderAppendAction| {
        move |(name, value): &(std::sync::Arc<str>, std::sync::Arc<str>)| HeaderValueOption {
            // A percent sign begins a command of Envoy's format strings; two are one.
            header: Some(HeaderValue { key: name.to_string(), value: value.replace('%', "%%"), ..Default::default() }),
            append_action: action.into(),
            ..Default::default()
        }
    };
    let set = changes.set.iter().map(option(HeaderAppendAction::OverwriteIfExistsOrAdd));
    set.chain(changes.add.iter().map(option(HeaderAppendAction::AppendIfExistsOrAdd))).collect()
}

fn to_remove(changes: &HeaderChanges) -> Vec<String> {
    changes.remove.iter().map(ToString::to_string).collect()
}

/// The rewrite of a rule, in the action for one of its paths.
pub(super) fn rewrite(action: RouteAction, rewrite: &Rewrite, matched: &PathSpecifier) -> RouteAction {
    let (prefix_rewrite, regex_rewrite) = match &rewrite.path {
        None => (String::new(), None),
        Some(PathRewrite::Prefix(prefix)) => (replacement(prefix, matched), None),
        Some(PathRewrite::Full(path)) => {
            let pattern = RegexMatcher { regex: names::WHOLE_PATH.to_owned(), ..Default::default() };
            (String::new(), Some(RegexMatchAndSubstitute { pattern: Some(pattern), substitution: path.to_string() }))
        }
    };
    RouteAction {
        prefix_rewrite,
        regex_rewrite,
        host_rewrite_specifier: rewrite
            .hostname
            .as_ref()
            .map(|hostname| HostRewriteSpecifier::HostRewriteLiteral(hostname.to_string())),
        ..action
    }
}

/// What stands instead of the matched part: `/x` is matched as a whole, `/x/` and `/` as prefixes that end with a slash.
fn replacement(prefix: &str, matched: &PathSpecifier) -> String {
    match matched {
        PathSpecifier::Prefix(_) if prefix != "/" => format!("{prefix}/"),
        _ => prefix.to_owned(),
    }
}

/// A redirect for one of its rule's paths. `service_port` is where the request was sent.
pub(super) fn redirect(redirect: &Redirect, matched: &PathSpecifier, service_port: u16) -> RedirectAction {
    let port = redirect.port.unwrap_or_else(|| redirect.scheme.map_or(service_port, Scheme::default_port));
    // A port that the scheme implies is not named. Without a scheme the request's own stays, which is `http` in a mesh.
    let implied = redirect.scheme.unwrap_or(Scheme::Http).default_port();
    RedirectAction {
        scheme_rewrite_specifier: redirect
            .scheme
            .map(|scheme| SchemeRewriteSpecifier::SchemeRedirect(scheme.as_str().to_owned())),
        host_redirect: redirect.hostname.as_deref().unwrap_or_default().to_owned(),
        port_redirect: if port == implied { 0 } else { port.into() },
        path_rewrite_specifier: redirect.path.as_ref().map(|path| match path {
            PathRewrite::Full(path) => PathRewriteSpecifier::PathRedirect(path.to_string()),
            PathRewrite::Prefix(prefix) => PathRewriteSpecifier::PrefixRewrite(replacement(prefix, matched)),
        }),
        response_code: match redirect.status {
            301 => RedirectResponseCode::MovedPermanently,
            303 => RedirectResponseCode::SeeOther,
            307 => RedirectResponseCode::TemporaryRedirect,
            308 => RedirectResponseCode::PermanentRedirect,
            _ => RedirectResponseCode::Found,
        }
        .into(),
        ..Default::default()
    }
}
