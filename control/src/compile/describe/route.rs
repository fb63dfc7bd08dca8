//! Route configurations as short text.

use malla_xds::envoy::core::HeaderValueOption;
use malla_xds::envoy::core::header_value_option::HeaderAppendAction;
use malla_xds::envoy::cors::CorsPolicy;
use malla_xds::envoy::fault::HttpFault;
use malla_xds::envoy::fault_common::fault_delay::FaultDelaySecifier;
use malla_xds::envoy::local_ratelimit::LocalRateLimit;
use malla_xds::envoy::protobuf;
use malla_xds::envoy::route::header_matcher::HeaderMatchSpecifier;
use malla_xds::envoy::route::query_parameter_matcher::QueryParameterMatchSpecifier;
use malla_xds::envoy::route::redirect_action::{PathRewriteSpecifier, SchemeRewriteSpecifier};
use malla_xds::envoy::route::route::Action;
use malla_xds::envoy::route::route_action::{ClusterSpecifier, HostRewriteSpecifier};
use malla_xds::envoy::route::route_match::PathSpecifier;
use malla_xds::envoy::route::weighted_cluster::ClusterWeight;
use malla_xds::envoy::route::{FilterConfig, RedirectAction, RetryPolicy, Route, RouteConfiguration};
use malla_xds::envoy::types::TokenBucket;
use malla_xds::names;
use malla_xds::policy::Hedging;
use prost::Message;

use super::{seconds, string, unpack};

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
            for mirror in &action.request_mirror_policies {
                let share = mirror.runtime_fraction.as_ref().and_then(|fraction| fraction.default_value);
                text += &format!(" mirror {} of {}", mirror.cluster, share.expect("is set").numerator);
            }
            if let Some(retry) = &action.retry_policy {
                text += &retry_text(retry);
            }
        }
        Some(Action::Redirect(redirect)) => text += &redirect_text(redirect),
        other => panic!("{other:?}"),
    }
    text += &changes("req", &route.request_headers_to_add, &route.request_headers_to_remove);
    text += &changes("resp", &route.response_headers_to_add, &route.response_headers_to_remove);
    let mut overrides: Vec<_> = route.typed_per_filter_config.iter().collect();
    overrides.sort_by_key(|(name, _)| *name);
    overrides.into_iter().for_each(|(name, any)| text += &override_text(name, any));
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

fn retry_text(retry: &RetryPolicy) -> String {
    let mut text = String::new();
    if !retry.retry_on.is_empty() {
        let idempotent = if retry.retriable_request_headers.is_empty() { "" } else { " idempotent" };
        let codes: String = retry.retriable_status_codes.iter().map(|code| format!(" {code}")).collect();
        let number = retry.num_retries.as_ref().map_or(0, |number| number.value);
        text += &format!(" retry[{number} {}{codes}{idempotent}]", retry.retry_on.replace(SAFE, "safe"));
    }
    if let Some(back_off) = &retry.retry_back_off {
        let max = back_off.max_interval.as_ref().map(seconds).unwrap_or_default();
        text += &format!(" after {}..{max}", back_off.base_interval.as_ref().map(seconds).expect("is set"));
    }
    text + &retry.per_try_timeout.as_ref().map(|timeout| format!(" try {}", seconds(timeout))).unwrap_or_default()
}

const SAFE: &str = "connect-failure,refused-stream,reset-before-request";

fn override_text(name: &str, any: &protobuf::Any) -> String {
    if name == names::FAULT_FILTER {
        let fault: HttpFault = unpack(any);
        let delay = fault.delay.map(|delay| {
            let Some(FaultDelaySecifier::FixedDelay(time)) = &delay.fault_delay_secifier else { panic!("is fixed") };
            format!(" delay {} of {}", seconds(time), delay.percentage.expect("is set").numerator)
        });
        let abort = fault.abort.map(|abort| {
            format!(" abort {:?} of {}", abort.error_type.expect("is set"), abort.percentage.expect("is set").numerator)
        });
        return format!(" fault[{}{}]", delay.unwrap_or_default(), abort.unwrap_or_default());
    }
    let optional: FilterConfig = unpack(any);
    assert!(optional.is_optional, "gRPC does not know {name}");
    if name == names::CORS_FILTER {
        let cors: CorsPolicy = unpack(&optional.config.expect("is set"));
        let origins: Vec<String> = cors.allow_origin_string_match.iter().map(string).collect();
        let credentials = if cors.allow_credentials.is_some_and(|allow| allow.value) { " credentials" } else { "" };
        let CorsPolicy { allow_methods, allow_headers, expose_headers, max_age, .. } = cors;
        let origins = origins.join(" ");
        return format!(
            " cors[{origins} | {allow_methods} | {allow_headers} | {expose_headers} | {max_age}{credentials}]"
        );
    }
    if name == names::HEDGING_FILTER {
        let own = Hedging::decode(&optional.config.expect("is set").value[..]).expect("valid");
        return format!(" hedge[{} ppm, {} ms, {}]", own.quantile, own.minimum_delay, own.minimum_samples);
    }
    assert_eq!(name, names::RATE_LIMIT_FILTER);
    let limit: LocalRateLimit = unpack(&optional.config.expect("is set"));
    let bucket = |bucket: &Option<TokenBucket>| {
        let bucket = bucket.as_ref().expect("is set");
        let fill = bucket.tokens_per_fill.as_ref().expect("is set").value;
        format!("{}+{fill}/{}", bucket.max_tokens, bucket.fill_interval.as_ref().map(seconds).expect("is set"))
    };
    let own: String = limit
        .descriptors
        .iter()
        .map(|descriptor| {
            let [entry] = &descriptor.entries[..] else { panic!("one entry") };
            format!(" {}={}:{}", entry.key, entry.value, bucket(&descriptor.token_bucket))
        })
        .collect();
    format!(" limit[{} {}{own}]", limit.stat_prefix, bucket(&limit.token_bucket))
}
