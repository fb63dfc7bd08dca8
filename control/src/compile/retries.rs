//! Retries and the time of each try → `RetryPolicy`.

use std::time::Duration;

use malla_config::mesh::{HttpRule, Retry, RetryOn};
use malla_xds::envoy::matcher::{RegexMatcher, StringMatcher, string_matcher};
use malla_xds::envoy::route::header_matcher::HeaderMatchSpecifier;
use malla_xds::envoy::route::retry_policy::{RetryBackOff, RetryHostPredicate};
use malla_xds::envoy::route::{HeaderMatcher, RetryPolicy};
use malla_xds::names;

use super::filters::{duration, number};

/// What certainly was not processed, in Envoy's words.
const SAFE: [&str; 3] = ["connect-failure", "refused-stream", "reset-before-request"];
/// How often another endpoint than those tried is looked for.
const OTHER_ENDPOINTS: i64 = 3;

/// The policy of a rule; nothing where it says nothing: clients then have their own safe default.
pub(super) fn policy(rule: &HttpRule) -> Option<RetryPolicy> {
    let per_try_timeout = rule.backend_request_timeout.filter(|timeout| !timeout.is_zero()).map(duration);
    // Hedging is said beside it: `HedgePolicy` knows no quantile, and gRPC no hedging over xDS.
    let Some(Retry { attempts, on, base, max, hedging: _ }) = &rule.retry else {
        return per_try_timeout.map(|timeout| RetryPolicy {
            per_try_timeout: Some(timeout),
            num_retries: number(1),
            ..Default::default()
        });
    };
    let previous = RetryHostPredicate { name: "envoy.retry_host_predicates.previous_hosts".into(), config_type: None };
    Some(RetryPolicy {
        retry_on: if *attempts == 0 { names::NO_RETRIES.to_owned() } else { conditions(on).join(",") },
        // gRPC refuses zero.
        num_retries: number(u32::from(*attempts).max(1)),
        per_try_timeout,
        retriable_status_codes: on.statuses.iter().map(|status| u32::from(*status)).collect(),
        retry_back_off: back_off(*base, *max),
        retry_host_predicate: vec![previous],
        host_selection_retry_max_attempts: OTHER_ENDPOINTS,
        retriable_request_headers: if on.any_method { Vec::new() } else { vec![idempotent()] },
        ..Default::default()
    })
}

fn conditions(on: &RetryOn) -> Vec<&'static str> {
    let mut conditions = SAFE.to_vec();
    if on.resets {
        conditions.push("reset");
    }
    if !on.statuses.is_empty() {
        conditions.push("retriable-status-codes");
    }
    conditions.extend(on.grpc_statuses.iter().filter_map(|status| match status {
        1 => Some("cancelled"),
        4 => Some("deadline-exceeded"),
        8 => Some("resource-exhausted"),
        13 => Some("internal"),
        14 => Some("unavailable"),
        _ => None,
    }));
    conditions
}

fn back_off(base: Option<Duration>, max: Option<Duration>) -> Option<RetryBackOff> {
    let base = base.or(max.map(|max| max / 10))?;
    Some(RetryBackOff { base_interval: Some(duration(base)), max_interval: max.map(|max| duration(max.max(base))) })
}

fn idempotent() -> HeaderMatcher {
    let regex = RegexMatcher { regex: names::IDEMPOTENT_METHODS.to_owned(), ..Default::default() };
    let pattern = string_matcher::MatchPattern::SafeRegex(regex);
    HeaderMatcher {
        name: ":method".into(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(pattern),
            ..Default::default()
        })),
        ..Default::default()
    }
}
