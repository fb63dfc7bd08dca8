//! Route configurations as short text.

use malla_xds::envoy::core::HeaderValueOption;
use malla_xds::envoy::core::header_value_option::HeaderAppendAction;
use malla_xds::envoy::protobuf;
use malla_xds::envoy::route::header_matcher::HeaderMatchSpecifier;
use malla_xds::envoy::route::query_parameter_matcher::QueryParameterMatchSpecifier;
use malla_xds::envoy::route::redirect_action::{PathRewriteSpecifier, SchemeRewriteSpecifier};
use malla_xds::envoy::route::route::Action;
use malla_xds::envoy::route::route_action::{ClusterSpecifier, HostRewriteSpecifier};
use malla_xds::envoy::route::route_match::PathSpecifier;
use malla_xds::envoy::route::weighted_cluster::ClusterWeight;
use malla_xds::envoy::route::{RedirectAction, Route, RouteConfiguration};
use malla_xds::names;

use super::{seconds, string};

pub(super) fn routes(configuration: &RouteConfiguration) -> String {
    let mut text = String::new();
    for host in &configuration.virtual_hosts {
        text += &format!("[{}]\n", host.domains.join(" "));
        host.routes.iter().for_each(|route| text += &route_text(route));
    }
    text
}

fn route_text(route: &Route) -> String {
    let matched = route.r#match.clone().unwrap_or_default();
    let mut text = match matched.path_specifier {
        Some(PathSpecifier::Path(path)) => format!("={path}"),
        Some(PathSpecifier::Prefix(prefix)) => format!("{prefix}*"),
        Some(PathSpecifier::SafeRegex(regex)) => format!("~{}", regex.regex),
        other => panic!("{other:?}"),
    };
    for header in &matched.headers {
        let Some(HeaderMatchSpecifier::StringMatch(value)) = &header.header_match_specifier else { panic!("a string") };
        text += &format!(" {}{}", header.name, string(value));
    }
    for query in &matched.query_parameters {
        let Some(QueryParameterMatchSpecifier::StringMatch(value)) = &query.query_parameter_match_specifier else {
            panic!("a string")
        };
        text += &format!(" ?{}{}", query.name, string(value));
    }
    text += " -> ";
    match &route.action {
        Some(Action::DirectResponse(response)) => text += &response.status.to_string(),
        Some(Action::Route(action)) => {
            text += &match &action.cluster_specifier {
                Some(ClusterSpecifier::Cluster(cluster)) => cluster.clone(),
                Some(ClusterSpecifier::WeightedClusters(weighted)) => {
                    let weight = |weight: &Option<protobuf::UInt32Value>| weight.as_ref().map_or(0, |w| w.value);
                    let part = |c: &ClusterWeight| {
                        let request = changes("req", &c.request_headers_to_add, &c.request_headers_to_remove);
                        let response = changes("resp", &c.response_headers_to_add, &c.response_headers_to_remove);
                        format!("{}*{}{request}{response}", c.name, weight(&c.weight))
                    };
                    weighted.clusters.iter().map(part).collect::<Vec<_>>().join(" ")
                }
                other => panic!("{other:?}"),
            };
            let timeout = action.timeout.as_ref().expect("is always set: Envoy's default is 15 s");
            if *timeout != Default::default() {
                text += &format!(" timeout {}", seconds(timeout));
            }
            if let Some(longest) = action.max_stream_duration.as_ref().and_then(|d| d.max_stream_duration.as_ref()) {
                text += &format!(" max {}", seconds(longest));
            }
            if !action.prefix_rewrite.is_empty() {
                text += &format!(" as {}…", action.prefix_rewrite);
            }
            if let Some(rewrite) = &action.regex_rewrite {
                assert_eq!(rewrite.pattern.as_ref().map(|pattern| pattern.regex.as_str()), Some(names::WHOLE_PATH));
                text += &format!(" as {}", rewrite.substitution);
            }
            if let Some(HostRewriteSpecifier::HostRewriteLiteral(host)) = &action.host_rewrite_specifier {
                text += &format!(" at {host}");
            }
            if let Some(retry) = &action.retry_policy {
                assert_eq!((retry.retry_on.as_str(), retry.num_retries.as_ref().map(|n| n.value)), ("", Some(1)));
                text += &format!(" try {}", retry.per_try_timeout.as_ref().map(seconds).unwrap_or_default());
            }
        }
        Some(Action::Redirect(redirect)) => text += &redirect_text(redirect),
        other => panic!("{other:?}"),
    }
    text += &changes("req", &route.request_headers_to_add, &route.request_headers_to_remove);
    text += &changes("resp", &route.response_headers_to_add, &route.response_headers_to_remove);
    format!("{text} ({})\n", route.name)
}

fn redirect_text(redirect: &RedirectAction) -> String {
    let scheme = match &redirect.scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => scheme,
        None => "",
        other => panic!("{other:?}"),
    };
    let path = match &redirect.path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRedirect(path)) => path.clone(),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => format!("{prefix}…"),
        None => String::new(),
        other => panic!("{other:?}"),
    };
    let status = redirect.response_code().as_str_name();
    format!("{status} {scheme}//{}:{}{path}", redirect.host_redirect, redirect.port_redirect)
}

/// ` req[a:=1 b+=2 -c]`.
fn changes(whose: &str, add: &[HeaderValueOption], remove: &[String]) -> String {
    let add = add.iter().map(|option| {
        let header = option.header.as_ref().expect("is set");
        let sign = match option.append_action() {
            HeaderAppendAction::OverwriteIfExistsOrAdd => ":=",
            HeaderAppendAction::AppendIfExistsOrAdd => "+=",
            other => panic!("{other:?}"),
        };
        format!("{}{sign}{}", header.key, header.value)
    });
    let all: Vec<String> = add.chain(remove.iter().map(|name| format!("-{name}"))).collect();
    if all.is_empty() { String::new() } else { format!(" {whose}[{}]", all.join(" ")) }
}
