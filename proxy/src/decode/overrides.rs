//! Mirrors, and configurations of HTTP filters in routes: faults, rate limits, CORS, sessions, hedging. Others may be skipped only if they say so (gRFC A39).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use malla_xds::envoy::cors::CorsPolicy;
use malla_xds::envoy::fault::HttpFault;
use malla_xds::envoy::fault::fault_abort::ErrorType;
use malla_xds::envoy::fault_common::fault_delay::FaultDelaySecifier;
use malla_xds::envoy::local_ratelimit::LocalRateLimit;
use malla_xds::envoy::protobuf::Any;
use malla_xds::envoy::route::rate_limit::action::ActionSpecifier;
use malla_xds::envoy::route::route_action::RequestMirrorPolicy;
use malla_xds::envoy::route::{self, FilterConfig};
use malla_xds::envoy::session_cookie::CookieBasedSessionState;
use malla_xds::envoy::session_header::HeaderBasedSessionState;
use malla_xds::envoy::stateful_session::StatefulSessionPerRoute;
use malla_xds::envoy::stateful_session::stateful_session_per_route::Override;
use malla_xds::envoy::types::fractional_percent::DenominatorType;
use malla_xds::envoy::types::{FractionalPercent, TokenBucket as WrittenBucket};
use malla_xds::names::RATE_LIMIT_CLIENT;
use malla_xds::policy;

use super::fault::{At, Fault, each};
use super::{duration, message, optional_duration, type_name, unsupported};
use crate::filter::{self, Abort, Bucket, Carrier, Cors, HeaderLimits, RateLimit, Session, Share, TokenBucket};
use crate::names::Name;
use crate::snapshot::Hedge;

const FILTER_CONFIG: &str = "envoy.config.route.v3.FilterConfig";
const FAULT: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";
const CORS: &str = "envoy.extensions.filters.http.cors.v3.CorsPolicy";
const SESSION: &str = "envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute";
const OWN_SESSION: &str = "malla.session.v1.Session";
const HEDGING: &str = "malla.hedging.v1.Hedging";
const COOKIE_STATE: &str = "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState";
const HEADER_STATE: &str = "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState";
const RATE_LIMIT: &str = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";

/// What a route asks of filters.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    pub(super) fault: Option<filter::Fault>,
    pub(super) limits: Vec<Arc<RateLimit>>,
    pub(super) cors: Option<Cors>,
    pub(super) session: Option<Session>,
    pub(super) hedge: Option<Hedge>,
}

/// Those of a route.
pub(super) fn of_route(written: &HashMap<String, Any>) -> Result<Overrides, Fault> {
    let mut overrides = Overrides::default();
    // In order of names: what is refused first does not depend on chance.
    let mut filters: Vec<_> = written.iter().collect();
    filters.sort_by_key(|(filter, _)| *filter);
    for (filter, any) in filters {
        let field = || format!("typed_per_filter_config[{filter:?}]");
        let Some((config, optional)) = unwrapped(any).at(field())? else { continue };
        match type_name(&config.type_url) {
            FAULT => overrides.fault = fault(&message(&config.value).at(field())?).at(field())?,
            RATE_LIMIT => {
                let limit = rate_limit(&message(&config.value).at(field())?).at(field())?;
                overrides.limits.extend(limit.map(Arc::new));
            }
            SESSION => overrides.session = session(&message(&config.value).at(field())?).at(field())?,
            OWN_SESSION => overrides.session = Some(own_session(&message(&config.value).at(field())?).at(field())?),
            HEDGING => overrides.hedge = Some(hedge(message(&config.value).at(field())?).at(field())?),
            CORS => overrides.cors = cors(&message(&config.value).at(field())?).at(field())?,
            _ if optional => {}
            _ => return Err(not_optional().within(field())),
        }
    }
    Ok(overrides)
}

/// Those of a place where no filter is configured here: all must be optional.
pub(super) fn only_optional(written: &HashMap<String, Any>) -> Result<(), Fault> {
    for (filter, any) in written {
        let field = || format!("typed_per_filter_config[{filter:?}]");
        if let Some((_, false)) = unwrapped(any).at(field())? {
            return Err(not_optional().within(field()));
        }
    }
    Ok(())
}

fn not_optional() -> Fault {
    Fault::new("the filter is not supported and the override is not optional")
}

/// The configuration, and whether it may be skipped; nothing if it is disabled.
fn unwrapped(any: &Any) -> Result<Option<(Any, bool)>, Fault> {
    if type_name(&any.type_url) != FILTER_CONFIG {
        return Ok(Some((any.clone(), false)));
    }
    let FilterConfig { config, is_optional, disabled } = message(&any.value)?;
    if disabled {
        return Ok(None);
    }
    Ok(Some((config.unwrap_or_default(), is_optional)))
}

fn fault(written: &HttpFault) -> Result<Option<filter::Fault>, Fault> {
    unsupported("upstream_cluster", !written.upstream_cluster.is_empty())?;
    unsupported("headers", !written.headers.is_empty())?;
    unsupported("downstream_nodes", !written.downstream_nodes.is_empty())?;
    unsupported("max_active_faults", written.max_active_faults.is_some())?;
    unsupported("response_rate_limit", written.response_rate_limit.is_some())?;
    let delay = match &written.delay {
        None => None,
        Some(delay) => {
            let Some(FaultDelaySecifier::FixedDelay(time)) = &delay.fault_delay_secifier else {
                return Err(Fault::new("only fixed_delay is supported").within("delay"));
            };
            let time = duration(time).at("delay.fixed_delay")?;
            Some((time, share(delay.percentage.as_ref()).at("delay.percentage")?))
        }
    };
    let abort = match &written.abort {
        None => None,
        Some(abort) => {
            let status = match abort.error_type {
                Some(ErrorType::HttpStatus(status)) => {
                    u16::try_from(status).ok().filter(|s| (200..=599).contains(s)).map(Abort::Http)
                }
                Some(ErrorType::GrpcStatus(status)) => u8::try_from(status).ok().filter(|s| *s <= 16).map(Abort::Grpc),
                _ => None,
            };
            let status = status.ok_or_else(|| {
                Fault::new("only http_status from 200 to 599 and grpc_status are supported").within("abort")
            })?;
            Some((status, share(abort.percentage.as_ref()).at("abort.percentage")?))
        }
    };
    Ok((delay.is_some() || abort.is_some()).then_some(filter::Fault { delay, abort }))
}

fn session(written: &StatefulSessionPerRoute) -> Result<Option<Session>, Fault> {
    let session = match &written.r#override {
        None => return Err(Fault::new("is missing").within("override")),
        Some(Override::Disabled(true)) => return Ok(None),
        Some(Override::Disabled(false)) => return Err(Fault::new("must be true").within("disabled")),
        Some(Override::StatefulSession(session)) => session,
    };
    unsupported("stateful_session.strict", session.strict)?;
    let Some(state) = &session.session_state else { return Ok(None) };
    let within = "stateful_session.session_state.typed_config";
    let config = state.typed_config.clone().unwrap_or_default();
    match type_name(&config.type_url) {
        COOKIE_STATE => {
            let CookieBasedSessionState { cookie } = message(&config.value).at(within)?;
            let cookie = cookie.ok_or_else(|| Fault::new("is missing").within("cookie")).at(within)?;
            unsupported("cookie.attributes", !cookie.attributes.is_empty()).at(within)?;
            let lifetime = optional_duration(cookie.ttl.as_ref()).at("cookie.ttl").at(within)?;
            let path = if cookie.path.is_empty() { "/" } else { &cookie.path };
            if !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';') {
                return Err(Fault::new(format!("{path:?} cannot be told to a client"))
                    .within("cookie.path")
                    .within(within));
            }
            let name = cookie_name(&cookie.name).at("cookie.name").at(within)?;
            let carrier = Carrier::Cookie { name, path: path.into(), permanent: lifetime.is_some() };
            Ok(Some(Session { carrier, lifetime, idle: None }))
        }
        HEADER_STATE => {
            let HeaderBasedSessionState { name } = message(&config.value).at(within)?;
            let carrier = Carrier::Header(header_name(&name).at("name").at(within)?);
            Ok(Some(Session { carrier, lifetime: None, idle: None }))
        }
        other => Err(Fault::new(format!("{other:?} is not supported")).within(within)),
    }
}

fn own_session(written: &policy::Session) -> Result<Session, Fault> {
    let carrier = match (written.header.as_str(), written.cookie.as_str()) {
        (header, "") => Carrier::Header(header_name(header).at("header")?),
        ("", cookie) => {
            let name = cookie_name(cookie).at("cookie")?;
            Carrier::Cookie { name, path: "/".into(), permanent: written.permanent }
        }
        _ => return Err(Fault::new("is set together with header").within("cookie")),
    };
    let time = |milliseconds| (milliseconds > 0).then(|| Duration::from_millis(milliseconds));
    Ok(Session { carrier, lifetime: time(written.lifetime), idle: time(written.idle) })
}

fn hedge(written: policy::Hedging) -> Result<Hedge, Fault> {
    let policy::Hedging { quantile, minimum_delay, minimum_samples } = written;
    if !(1..1_000_000).contains(&quantile) {
        return Err(Fault::new(format!("{quantile} parts per million are no quantile")).within("quantile"));
    }
    let least = Duration::from_millis(minimum_delay);
    Ok(Hedge::Quantile { share: Share(quantile), least, samples: minimum_samples })
}

/// Names of cookies are tokens, as those of headers, but not in lower case.
fn cookie_name(name: &str) -> Result<Arc<str>, Fault> {
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(_) => Ok(name.into()),
        Err(_) => Err(Fault::new(format!("{name:?} is not the name of a cookie"))),
    }
}

fn header_name(name: &str) -> Result<HeaderName, Fault> {
    let known = HeaderName::from_bytes(name.as_bytes()).ok().filter(filter::may_change);
    known.ok_or_else(|| Fault::new(format!("{name:?} is not the name of a header that can carry a session")))
}

/// Absent is none, as in Envoy; beyond the whole is the whole.
/// A share of requests; nothing written is none of them.
pub(super) fn share(written: Option<&FractionalPercent>) -> Result<Share, Fault> {
    let Some(written) = written else { return Ok(Share(0)) };
    let scale = match DenominatorType::try_from(written.denominator) {
        Ok(DenominatorType::Hundred) => 10_000,
        Ok(DenominatorType::TenThousand) => 100,
        Ok(DenominatorType::Million) => 1,
        Err(_) => return Err(Fault::new(format!("{} is not known", written.denominator)).within("denominator")),
    };
    Ok(Share(written.numerator.saturating_mul(scale).min(1_000_000)))
}

fn cors(written: &CorsPolicy) -> Result<Option<Cors>, Fault> {
    let enabled = written.filter_enabled.as_ref().map(|enabled| share(enabled.default_value.as_ref())).transpose();
    match enabled.at("filter_enabled")? {
        Some(Share(0)) => return Ok(None),
        None | Some(Share(1_000_000)) => {}
        Some(_) => return Err(Fault::new("a part of the requests is not supported").within("filter_enabled")),
    }
    let private = written.allow_private_network_access.as_ref().is_some_and(|allow| allow.value);
    unsupported("allow_private_network_access", private)?;
    let value = |field: &'static str, text: &str| {
        let value =
            HeaderValue::from_str(text).map_err(|_| Fault::new("is not the value of a header").within(field))?;
        Ok::<_, Fault>(Some(value).filter(|value| !value.is_empty()))
    };
    Ok(Some(Cors {
        origins: each("allow_origin_string_match", &written.allow_origin_string_match, super::matcher::string)?,
        methods: value("allow_methods", &written.allow_methods)?,
        headers: value("allow_headers", &written.allow_headers)?,
        expose: value("expose_headers", &written.expose_headers)?,
        max_age: value("max_age", &written.max_age)?,
        credentials: written.allow_credentials.as_ref().is_some_and(|allow| allow.value),
        forward_others: written.forward_not_matching_preflights.as_ref().is_none_or(|forward| forward.value),
    }))
}

/// The mirrors of a route: clusters and how many requests.
pub(super) fn mirrors(written: &[RequestMirrorPolicy]) -> Result<Vec<(Name, Share)>, Fault> {
    each("request_mirror_policies", written, |mirror| {
        unsupported("cluster_header", !mirror.cluster_header.is_empty())?;
        unsupported("request_headers_mutations", !mirror.request_headers_mutations.is_empty())?;
        unsupported("host_rewrite_literal", !mirror.host_rewrite_literal.is_empty())?;
        if mirror.cluster.is_empty() {
            return Err(Fault::new("is empty").within("cluster"));
        }
        let share = match &mirror.runtime_fraction {
            None => Share(1_000_000),
            Some(fraction) => share(fraction.default_value.as_ref()).at("runtime_fraction.default_value")?,
        };
        Ok((mirror.cluster.as_str().into(), share))
    })
}

fn rate_limit(written: &LocalRateLimit) -> Result<Option<RateLimit>, Fault> {
    unsupported("local_rate_limit_per_downstream_connection", written.local_rate_limit_per_downstream_connection)?;
    unsupported("local_cluster_rate_limit", written.local_cluster_rate_limit.is_some())?;
    unsupported("response_headers_to_add", !written.response_headers_to_add.is_empty())?;
    unsupported("stage", written.stage != 0)?;
    let status = written.status.as_ref().map_or(0, |status| status.code);
    unsupported("status", !matches!(status, 0 | 429))?;
    for (field, fraction) in
        [("filter_enabled", &written.filter_enabled), ("filter_enforced", &written.filter_enforced)]
    {
        let share = fraction.as_ref().map(|fraction| share(fraction.default_value.as_ref())).transpose().at(field)?;
        match share {
            // Absent is zero: counted only, or not even that.
            None | Some(Share(0)) => return Ok(None),
            Some(Share(1_000_000)) => {}
            Some(_) => return Err(Fault::new("a part of the requests is not supported").within(field)),
        }
    }
    let always = written.always_consume_default_token_bucket.as_ref().is_none_or(|always| always.value);
    if always && !written.descriptors.is_empty() {
        return Err(
            Fault::new("must be false where there are descriptors").within("always_consume_default_token_bucket")
        );
    }
    let header = header_key(&written.rate_limits).at("rate_limits")?;
    let mut limit = RateLimit {
        name: written.stat_prefix.as_str().into(),
        bucket: bucket(written.token_bucket.as_ref()).at("token_bucket")?,
        clients: Vec::new(),
        header: header.as_ref().map(|(name, _)| HeaderLimits { name: name.clone(), values: Vec::new() }),
    };
    for (index, descriptor) in written.descriptors.iter().enumerate() {
        let field = || format!("descriptors[{index}]");
        unsupported("shadow_mode", descriptor.shadow_mode).at(field())?;
        let [entry] = &descriptor.entries[..] else {
            return Err(Fault::new("must be one entry").within("entries").within(field()));
        };
        let bucket = bucket(descriptor.token_bucket.as_ref()).at("token_bucket").at(field())?;
        match (&header, &mut limit.header) {
            _ if entry.key == RATE_LIMIT_CLIENT => limit.clients.push((entry.value.as_str().into(), bucket)),
            (Some((_, key)), Some(limits)) if entry.key == *key => {
                let value = HeaderValue::from_str(&entry.value).map_err(|_| {
                    Fault::new("is not the value of a header").within("entries[0].value").within(field())
                })?;
                limits.values.push((value, bucket));
            }
            _ => {
                let problem = format!("{:?} is neither {RATE_LIMIT_CLIENT:?} nor the key of a header", entry.key);
                return Err(Fault::new(problem).within("entries[0].key").within(field()));
            }
        }
    }
    Ok(Some(limit))
}

/// The header whose values have buckets, and the key under which descriptors name it.
fn header_key(actions: &[route::RateLimit]) -> Result<Option<(HeaderName, String)>, Fault> {
    let mut header = None;
    let actions = each("", actions, |limit| match &limit.actions[..] {
        [only] => Ok(only.action_specifier.clone()),
        _ => Err(Fault::new("must be one action").within("actions")),
    })?;
    for action in actions {
        match action {
            Some(ActionSpecifier::SourceCluster(_)) => {}
            Some(ActionSpecifier::RequestHeaders(by)) if header.is_none() => {
                let name = HeaderName::from_bytes(by.header_name.as_bytes())
                    .map_err(|_| Fault::new(format!("{:?} is not the name of a header", by.header_name)))?;
                header = Some((name, by.descriptor_key));
            }
            _ => return Err(Fault::new("only source_cluster and one request_headers are supported")),
        }
    }
    Ok(header)
}

fn bucket(written: Option<&WrittenBucket>) -> Result<Bucket, Fault> {
    let written = written.ok_or_else(|| Fault::new("is missing"))?;
    let interval = written.fill_interval.as_ref().map(duration).transpose().at("fill_interval")?;
    let interval = interval.filter(|interval| !interval.is_zero());
    let interval = interval.ok_or_else(|| Fault::new("must be above zero").within("fill_interval"))?;
    let tokens = written.tokens_per_fill.as_ref().map_or(1, |tokens| tokens.value);
    if tokens == 0 || written.max_tokens == 0 {
        return Err(Fault::new("a bucket without tokens is not supported"));
    }
    Ok(Bucket::new(TokenBucket { tokens, interval, burst: written.max_tokens }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use malla_xds::envoy::fault::FaultAbort;
    use malla_xds::envoy::fault_common::FaultDelay;
    use malla_xds::envoy::{pack_any, protobuf};

    use super::*;

    fn of(any: Any) -> Result<Overrides, Fault> {
        of_route(&[("f".to_owned(), any)].into())
    }

    fn percent(numerator: u32) -> Option<FractionalPercent> {
        Some(FractionalPercent { numerator, denominator: DenominatorType::Hundred.into() })
    }

    #[test]
    fn faults_are_read_as_grpc_reads_them() {
        let written = HttpFault {
            delay: Some(FaultDelay {
                percentage: percent(10),
                fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(protobuf::Duration { seconds: 2, nanos: 0 })),
            }),
            abort: Some(FaultAbort {
                percentage: percent(200),
                error_type: Some(ErrorType::GrpcStatus(14)),
                ..Default::default()
            }),
            ..Default::default()
        };
        let fault = of(pack_any(written.clone())).expect("valid").fault.expect("a fault");
        assert_eq!(fault.delay, Some((Duration::from_secs(2), Share(100_000))));
        assert_eq!(fault.abort, Some((Abort::Grpc(14), Share(1_000_000))));
        assert!(of(pack_any(HttpFault::default())).expect("valid").fault.is_none());
        let bad = HttpFault { upstream_cluster: "x".into(), ..written };
        let fault = of(pack_any(bad)).expect_err("refused");
        let expected = "typed_per_filter_config[\"f\"].upstream_cluster: is not supported by this sidecar";
        assert_eq!(fault.to_string(), expected);
    }

    #[test]
    fn a_rate_limit_that_is_not_enforced_is_none() {
        let written = LocalRateLimit {
            token_bucket: Some(WrittenBucket {
                max_tokens: 1,
                tokens_per_fill: None,
                fill_interval: Some(protobuf::Duration { seconds: 1, nanos: 0 }),
            }),
            ..Default::default()
        };
        assert!(of(pack_any(written)).expect("valid").limits.is_empty());
    }

    #[test]
    fn what_is_disabled_or_optional_is_skipped() {
        let other = Any { type_url: "x/envoy.Rbac".into(), value: Vec::new() };
        assert!(of(other.clone()).is_err());
        let wrapped =
            |is_optional, disabled| pack_any(FilterConfig { config: Some(other.clone()), is_optional, disabled });
        assert!(
            of(wrapped(true, false)).is_ok() && of(wrapped(false, true)).is_ok() && of(wrapped(false, false)).is_err()
        );
    }
}
