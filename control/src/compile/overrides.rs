//! Mirrors and the sampling of traces; and faults, rate limits, CORS, sessions and hedging: configurations of HTTP filters, each in the routes that ask for it, and the filters themselves in the
//! listeners of those routes.

use std::time::Duration;

use malla_config::mesh::{
    Abort, AbortStatus, Cors, Delay, Fault, HttpRoute, HttpRule, Mirror, RateLimit, Session, SessionCarrier, Share,
    TokenBucket,
};
use malla_xds::envoy::core::{RuntimeFractionalPercent, TypedExtensionConfig};
use malla_xds::envoy::cors::{self, CorsPolicy};
use malla_xds::envoy::fault::fault_abort::ErrorType;
use malla_xds::envoy::fault::{FaultAbort, HttpFault};
use malla_xds::envoy::fault_common::FaultDelay;
use malla_xds::envoy::fault_common::fault_delay::FaultDelaySecifier;
use malla_xds::envoy::http_types::Cookie;
use malla_xds::envoy::local_ratelimit::LocalRateLimit;
use malla_xds::envoy::matcher::string_matcher::MatchPattern;
use malla_xds::envoy::matcher::{RegexMatcher, StringMatcher};
use malla_xds::envoy::protobuf::{Any, BoolValue};
use malla_xds::envoy::ratelimit::LocalRateLimitDescriptor;
use malla_xds::envoy::ratelimit::rate_limit_descriptor::Entry;
use malla_xds::envoy::route::rate_limit::Action;
use malla_xds::envoy::route::rate_limit::action::{ActionSpecifier, RequestHeaders, SourceCluster};
use malla_xds::envoy::route::route_action::RequestMirrorPolicy;
use malla_xds::envoy::route::{FilterConfig, Route};
use malla_xds::envoy::session_cookie::CookieBasedSessionState;
use malla_xds::envoy::stateful_session::stateful_session_per_route::Override;
use malla_xds::envoy::stateful_session::{StatefulSession, StatefulSessionPerRoute};
use malla_xds::envoy::types::fractional_percent::DenominatorType;
use malla_xds::envoy::types::{FractionalPercent, TokenBucket as Bucket};
use malla_xds::envoy::{pack_any, route};
use malla_xds::{names, policy};

use super::filters::{duration, number};
use super::split;

/// The HTTP filters that some rule of these routes asks for, in the order in which they act: name and empty configuration.
pub(super) fn filters(routes: &[&HttpRoute]) -> Vec<(&'static str, Any)> {
    let rules = || routes.iter().flat_map(|route| &route.rules).map(|rule| &rule.filters);
    let mut filters = Vec::new();
    if rules().any(|filters| filters.cors.is_some()) {
        filters.push((names::CORS_FILTER, pack_any(cors::Cors::default())));
    }
    if rules().any(|filters| filters.rate_limit.is_some()) {
        let idle = LocalRateLimit { stat_prefix: "malla".into(), ..Default::default() };
        filters.push((names::RATE_LIMIT_FILTER, pack_any(idle)));
    }
    if rules()
        .filter_map(|filters| filters.session.as_ref())
        .any(|session| session_filter(session).0 == names::SESSION_FILTER)
    {
        filters.push((names::SESSION_FILTER, pack_any(StatefulSession::default())));
    }
    if rules().any(|filters| filters.fault.is_some()) {
        filters.push((names::FAULT_FILTER, pack_any(HttpFault::default())));
    }
    filters
}

/// The routes of one match, with what its rule asks for. A fault for requests with a header becomes a route of its own
/// before the other: clients that know no such condition follow it all the same.
pub(super) fn of_rule(route: Route, rule: &HttpRule) -> Vec<Route> {
    let filters = &rule.filters;
    let mut route = route;
    if let Some(hedging) = rule.retry.as_ref().and_then(|retry| retry.hedging) {
        let own = policy::Hedging {
            quantile: hedging.quantile.parts(),
            minimum_delay: u64::try_from(hedging.minimum_delay.as_millis()).unwrap_or(u64::MAX),
            minimum_samples: hedging.minimum_samples,
        };
        route.typed_per_filter_config.insert(names::HEDGING_FILTER.into(), optional(own.pack()));
    }
    route.tracing =
        filters.sampling.map(|share| route::Tracing { random_sampling: Some(fraction(share)), ..Default::default() });
    if let Some(cors) = &filters.cors {
        route.typed_per_filter_config.insert(names::CORS_FILTER.into(), optional(pack_any(cors_policy(cors))));
    }
    if let Some(limit) = &filters.rate_limit {
        let config = optional(pack_any(rate_limit(limit)));
        route.typed_per_filter_config.insert(names::RATE_LIMIT_FILTER.into(), config);
    }
    if let Some((name, config)) = filters.session.as_ref().map(session_filter) {
        route.typed_per_filter_config.insert(name.into(), optional(config));
    }
    let Some(fault) = &filters.fault else { return vec![route] };
    let mut faulty = route.clone();
    faulty.typed_per_filter_config.insert(names::FAULT_FILTER.into(), pack_any(http_fault(fault)));
    let Some((name, value)) = &fault.only_with_header else { return vec![faulty] };
    let condition = super::route::exact_header(name, value);
    if let Some(matching) = &mut faulty.r#match {
        matching.headers.push(condition);
    }
    vec![faulty, route]
}

/// In Envoy's words where it has some that gRPC takes; else in ours, which gRPC skips. (A session that a header carries would make it
/// refuse all routes.)
fn session_filter(session: &Session) -> (&'static str, Any) {
    let time = |time: Option<Duration>| time.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let mut own = policy::Session { lifetime: time(session.lifetime), idle: time(session.idle), ..Default::default() };
    match &session.carrier {
        SessionCarrier::Cookie { name, permanent }
            if session.idle.is_none() && (*permanent || session.lifetime.is_none()) =>
        {
            let ttl = session.lifetime.map(duration);
            let cookie = Cookie { name: name.to_string(), path: "/".into(), ttl, ..Default::default() };
            let state = TypedExtensionConfig {
                name: "envoy.http.stateful_session.cookie".into(),
                typed_config: Some(pack_any(CookieBasedSessionState { cookie: Some(cookie) })),
            };
            let session = StatefulSession { session_state: Some(state), ..Default::default() };
            let each = StatefulSessionPerRoute { r#override: Some(Override::StatefulSession(session)) };
            (names::SESSION_FILTER, pack_any(each))
        }
        SessionCarrier::Cookie { name, permanent } => {
            (own.cookie, own.permanent) = (name.to_string(), *permanent);
            (names::OWN_SESSION_FILTER, own.pack())
        }
        SessionCarrier::Header(name) => {
            own.header = name.to_string();
            (names::OWN_SESSION_FILTER, own.pack())
        }
    }
}

/// For clients that do not have the filter.
fn optional(config: Any) -> Any {
    pack_any(FilterConfig { config: Some(config), is_optional: true, ..Default::default() })
}

fn cors_policy(cors: &Cors) -> CorsPolicy {
    let origin = |origin: &std::sync::Arc<str>| {
        let pattern = match origin.contains('*') {
            false => MatchPattern::Exact(origin.to_string()),
            true => {
                // Gateway API: the wildcard stands for any characters, dots too. Origins have no others that mean something.
                let regex = origin.replace('.', "\\.").replace('*', ".*");
                MatchPattern::SafeRegex(RegexMatcher { regex, ..Default::default() })
            }
        };
        StringMatcher { match_pattern: Some(pattern), ..Default::default() }
    };
    let list = |items: &[std::sync::Arc<str>]| items.join(", ");
    CorsPolicy {
        allow_origin_string_match: cors.allow_origins.iter().map(origin).collect(),
        allow_methods: list(&cors.allow_methods),
        allow_headers: list(&cors.allow_headers),
        expose_headers: list(&cors.expose_headers),
        max_age: cors.max_age.as_secs().to_string(),
        allow_credentials: Some(BoolValue { value: cors.allow_credentials }),
        forward_not_matching_preflights: Some(BoolValue { value: false }),
        ..Default::default()
    }
}

/// Copies of requests.
pub(super) fn mirrors(mirrors: &[Mirror]) -> Vec<RequestMirrorPolicy> {
    let policy = |mirror: &Mirror| RequestMirrorPolicy {
        cluster: split::cluster(&mirror.service, mirror.port, mirror.subset.as_deref()),
        runtime_fraction: Some(RuntimeFractionalPercent {
            default_value: Some(fraction(mirror.share)),
            runtime_key: String::new(),
        }),
        disable_shadow_host_suffix_append: true,
        ..Default::default()
    };
    mirrors.iter().map(policy).collect()
}

fn http_fault(fault: &Fault) -> HttpFault {
    HttpFault {
        delay: fault.delay.map(|Delay { time, share }| FaultDelay {
            percentage: Some(fraction(share)),
            fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(duration(time))),
        }),
        abort: fault.abort.map(|Abort { status, share }| FaultAbort {
            percentage: Some(fraction(share)),
            error_type: Some(match status {
                AbortStatus::Http(status) => ErrorType::HttpStatus(status.into()),
                AbortStatus::Grpc(status) => ErrorType::GrpcStatus(status.into()),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn rate_limit(limit: &RateLimit) -> LocalRateLimit {
    let all =
        || Some(RuntimeFractionalPercent { default_value: Some(fraction(Share::ALL)), runtime_key: "malla".into() });
    let descriptor = |key: &str, (value, limit): &(std::sync::Arc<str>, TokenBucket)| LocalRateLimitDescriptor {
        entries: vec![Entry { key: key.to_owned(), value: value.to_string() }],
        token_bucket: Some(bucket(limit)),
        ..Default::default()
    };
    let action = |specifier| route::RateLimit {
        actions: vec![Action { action_specifier: Some(specifier) }],
        ..Default::default()
    };
    let mut descriptors = Vec::new();
    let mut actions = Vec::new();
    if let Some(header) = &limit.header {
        descriptors.extend(header.buckets.iter().map(|bucket| descriptor(&header.name, bucket)));
        actions.push(action(ActionSpecifier::RequestHeaders(RequestHeaders {
            header_name: header.name.to_string(),
            descriptor_key: header.name.to_string(),
            skip_if_absent: true,
        })));
    }
    if !limit.clients.is_empty() {
        descriptors.extend(limit.clients.iter().map(|bucket| descriptor(names::RATE_LIMIT_CLIENT, bucket)));
        actions.push(action(ActionSpecifier::SourceCluster(SourceCluster::default())));
    }
    LocalRateLimit {
        stat_prefix: limit.name.to_string(),
        token_bucket: Some(bucket(&limit.bucket)),
        filter_enabled: all(),
        filter_enforced: all(),
        descriptors,
        rate_limits: actions,
        always_consume_default_token_bucket: Some(BoolValue { value: false }),
        rate_limited_as_resource_exhausted: true,
        enable_retry_after_header: true,
        ..Default::default()
    }
}

fn bucket(limit: &TokenBucket) -> Bucket {
    Bucket {
        max_tokens: limit.burst,
        tokens_per_fill: number(limit.requests),
        fill_interval: Some(duration(limit.interval)),
    }
}

fn fraction(share: Share) -> FractionalPercent {
    FractionalPercent { numerator: share.parts(), denominator: DenominatorType::Million.into() }
}
