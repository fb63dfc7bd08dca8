//! Retry policies.

use std::ops::RangeInclusive;
use std::time::Duration;

use malla_xds::envoy::matcher::string_matcher::MatchPattern;
use malla_xds::envoy::route::header_matcher::HeaderMatchSpecifier;
use malla_xds::envoy::route::{HeaderMatcher, HedgePolicy, RetryPolicy};
use malla_xds::names::{IDEMPOTENT_METHODS, NO_RETRIES};

use super::fault::{At, Fault, each};
use super::{duration, optional_duration, unsupported};
use crate::snapshot::{Hedge, Retry, RetryOn};

/// What a retry policy says.
#[derive(Debug, Clone, Default)]
pub(super) struct Retries {
    pub(super) retry: Retry,
    pub(super) try_timeout: Option<Duration>,
}

/// What certainly was not processed is retried in any case. Conditions that are not known here ask for more retries: fewer
/// are safe.
pub(super) fn retry(written: &RetryPolicy) -> Result<Retries, Fault> {
    unsupported("per_try_idle_timeout", written.per_try_idle_timeout.is_some())?;
    unsupported("retriable_headers", !written.retriable_headers.is_empty())?;
    let default = Retry::default();
    let back_off = written.retry_back_off.as_ref();
    let base = back_off.and_then(|back_off| back_off.base_interval.as_ref()).map(duration).transpose();
    let base = base.at("retry_back_off.base_interval")?;
    let max = back_off.and_then(|back_off| back_off.max_interval.as_ref()).map(duration).transpose();
    let max = max.at("retry_back_off.max_interval")?;
    let base_interval = base.filter(|base| !base.is_zero()).unwrap_or(default.base_interval);
    // Envoy's default: ten times the base interval.
    let max_interval = max.unwrap_or_else(|| base.map_or(default.max_interval, |base| base.saturating_mul(10)));
    let conditions: Vec<&str> = written.retry_on.split(',').map(str::trim).collect();
    let attempts = match written.num_retries.as_ref() {
        _ if conditions.contains(&NO_RETRIES) => 0,
        Some(number) => number.value,
        None => default.attempts.into(),
    };
    Ok(Retries {
        retry: Retry {
            attempts: u8::try_from(attempts).unwrap_or(u8::MAX),
            on: RetryOn {
                idempotent_only: idempotent_only(&written.retriable_request_headers)?,
                ..conditions_of(&conditions, &written.retriable_status_codes)?
            },
            base_interval,
            max_interval: max_interval.max(base_interval),
            hedge: None,
        },
        try_timeout: optional_duration(written.per_try_timeout.as_ref()).at("per_try_timeout")?,
    })
}

/// The retries of a route with what is said about second tries beside the first: by our own filter, or by Envoy's policy, for which
/// the time of a try is when the second begins, not when the first ends. Both belong to retries, whose methods they are for.
pub(super) fn hedged(
    retries: Option<Retries>,
    policy: Option<&HedgePolicy>,
    own: Option<Hedge>,
) -> Result<Retries, Fault> {
    let asks = policy.is_some_and(|policy| policy.hedge_on_per_try_timeout);
    if let Some(policy) = policy {
        unsupported("initial_requests", policy.initial_requests.is_some_and(|number| number.value > 1))?;
        unsupported("additional_request_chance", policy.additional_request_chance.is_some())?;
    }
    let Some(mut retries) = retries else {
        let without = || Fault::new("is supported only beside a retry_policy");
        return if asks || own.is_some() { Err(without()) } else { Ok(Retries::default()) };
    };
    retries.retry.hedge = own;
    if asks && own.is_none() {
        retries.retry.hedge = retries.try_timeout.take().map(Hedge::After);
    }
    Ok(retries)
}

/// The conditions of Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`.
fn conditions_of(conditions: &[&str], codes: &[u32]) -> Result<RetryOn, Fault> {
    let mut on = RetryOn::default();
    let mut status = |range: RangeInclusive<u16>| on.statuses.push(range);
    for condition in conditions {
        match *condition {
            "5xx" => status(500..=599),
            "gateway-error" => status(502..=504),
            "retriable-4xx" => status(409..=409),
            "retriable-status-codes" => {
                let codes = each("retriable_status_codes", codes, |code| {
                    let code = u16::try_from(*code).ok().filter(|code| (100..=599).contains(code));
                    code.ok_or_else(|| Fault::new("is not a status"))
                })?;
                codes.into_iter().for_each(|code| status(code..=code));
            }
            _ => {}
        }
    }
    let has = |condition: &str| conditions.contains(&condition);
    on.resets = has("reset") || has("5xx") || has("gateway-error");
    let grpc = [
        ("cancelled", 1),
        ("deadline-exceeded", 4),
        ("resource-exhausted", 8),
        ("internal", 13),
        ("unavailable", 14_u32),
    ];
    on.grpc_statuses = grpc.into_iter().filter(|(word, _)| has(word)).map(|(_, status)| 1 << status).sum();
    Ok(on)
}

/// The only condition on requests that is known: that their method is idempotent.
fn idempotent_only(headers: &[HeaderMatcher]) -> Result<bool, Fault> {
    let known = |header: &HeaderMatcher| {
        let Some(HeaderMatchSpecifier::StringMatch(matcher)) = &header.header_match_specifier else { return false };
        let pattern =
            matches!(&matcher.match_pattern, Some(MatchPattern::SafeRegex(regex)) if regex.regex == IDEMPOTENT_METHODS);
        pattern && header.name == ":method" && !header.invert_match && !matcher.ignore_case
    };
    match headers {
        [] => Ok(false),
        [only] if known(only) => Ok(true),
        _ => {
            Err(Fault::new(format!("only :method ~ {IDEMPOTENT_METHODS} is supported"))
                .within("retriable_request_headers"))
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use malla_xds::envoy::matcher::{RegexMatcher, StringMatcher};
    use malla_xds::envoy::protobuf;

    use super::*;
    use crate::filter::Share;

    fn number(value: u32) -> Option<protobuf::UInt32Value> {
        Some(protobuf::UInt32Value { value })
    }

    #[test]
    fn a_retry_policy_changes_only_what_it_says() {
        let written = RetryPolicy {
            num_retries: number(3),
            per_try_timeout: Some(protobuf::Duration { seconds: 1, nanos: 0 }),
            ..Default::default()
        };
        let retries = retry(&written).expect("valid");
        assert_eq!(retries.retry, Retry { attempts: 3, ..Retry::default() });
        assert_eq!(retries.try_timeout, Some(Duration::from_secs(1)));
    }

    #[test]
    fn conditions_are_those_of_envoy_and_of_grpc() {
        let written = RetryPolicy {
            retry_on: "reset,retriable-status-codes, unavailable,connect-failure".into(),
            retriable_status_codes: vec![503, 429],
            ..Default::default()
        };
        let on = retry(&written).expect("valid").retry.on;
        assert!(on.reset(&Method::POST));
        for (status, grpc, expected) in [
            (503, None, true),
            (429, None, true),
            (500, None, false),
            (200, Some(14), true),
            (200, Some(13), false),
            (200, Some(99), false),
        ] {
            assert_eq!(on.answer(&Method::POST, status, grpc), expected, "{status} {grpc:?}");
        }
        let gateway = RetryPolicy { retry_on: "gateway-error".into(), ..Default::default() };
        let on = retry(&gateway).expect("valid").retry.on;
        assert!(on.answer(&Method::GET, 502, None) && on.reset(&Method::GET) && !on.answer(&Method::GET, 500, None));
    }

    #[test]
    fn methods_may_be_restricted_to_the_idempotent_ones() {
        let matcher = |pattern: &str| HeaderMatcher {
            name: ":method".into(),
            header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
                match_pattern: Some(MatchPattern::SafeRegex(RegexMatcher {
                    regex: pattern.into(),
                    ..Default::default()
                })),
                ..Default::default()
            })),
            ..Default::default()
        };
        let written = |pattern: &str| RetryPolicy {
            retry_on: "5xx,unavailable".into(),
            retriable_request_headers: vec![matcher(pattern)],
            ..Default::default()
        };
        let on = retry(&written(IDEMPOTENT_METHODS)).expect("valid").retry.on;
        assert!(on.answer(&Method::GET, 500, None) && on.reset(&Method::PUT));
        assert!(!on.answer(&Method::POST, 500, None) && !on.reset(&Method::POST));
        assert!(on.answer(&Method::POST, 200, Some(14)), "a gRPC status was asked for by name");
        assert!(retry(&written("GET")).is_err());
    }

    #[test]
    fn a_second_try_begins_when_the_first_takes_too_long() {
        let written = RetryPolicy {
            num_retries: number(1),
            per_try_timeout: Some(protobuf::Duration { seconds: 1, nanos: 0 }),
            ..Default::default()
        };
        let retries = || retry(&written).ok();
        let asks = HedgePolicy { hedge_on_per_try_timeout: true, ..Default::default() };
        let found = hedged(retries(), Some(&asks), None).expect("valid");
        assert_eq!((found.retry.hedge, found.try_timeout), (Some(Hedge::After(Duration::from_secs(1))), None));
        let own = Hedge::Quantile { share: Share(950_000), least: Duration::from_millis(10), samples: 100 };
        let found = hedged(retries(), None, Some(own)).expect("valid");
        assert_eq!((found.retry.hedge, found.try_timeout), (Some(own), Some(Duration::from_secs(1))));
        assert!(hedged(None, Some(&asks), None).is_err() && hedged(None, None, Some(own)).is_err());
        assert!(hedged(None, None, None).is_ok());
        let more = HedgePolicy { initial_requests: number(2), ..Default::default() };
        assert!(hedged(retries(), Some(&more), None).is_err());
    }

    #[test]
    fn no_retries_can_be_said() {
        let written = RetryPolicy { retry_on: NO_RETRIES.into(), num_retries: number(1), ..Default::default() };
        assert_eq!(retry(&written).expect("valid").retry.attempts, 0);
    }
}
