//! `HTTPRoute.retry`, and how it goes together with a `RetryPolicy` and time-outs.

use std::time::Duration;

use gateway_api::apis::experimental::httproutes::HttpRouteRulesRetry;

use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::extension::MAX_ATTEMPTS;
use crate::mesh::{Hedging, HttpRule, Retry, RetryOn, RouteKind};
use crate::names;
use crate::suggest::shown;

/// The retries of a rule and the time of each try, from its fields and the `RetryPolicy` that it names.
pub(crate) fn of_rule(
    rule: Cursor<'_>,
    written: Option<HttpRouteRulesRetry>,
    policy: Option<(Retry, Option<Duration>)>,
    each_try: Option<Duration>,
    diagnostics: &mut Diagnostics,
) -> (Option<Retry>, Option<Duration>) {
    let own = written.map(|written| ready(rule.field("retry"), written, diagnostics));
    match (own, policy) {
        (own, None) => (own, each_try),
        (None, Some((retry, per_try))) => {
            if per_try.is_some() && each_try.is_some() {
                let message = "the `RetryPolicy` of the rule says how long a try may take already";
                let cursor = rule.field("timeouts").field("backendRequest").key();
                cursor.error(diagnostics, Code::Duplicate, message, "remove one of the two");
            }
            (Some(retry), per_try.or(each_try))
        }
        (Some(own), Some(_)) => {
            let message = "the rule names a `RetryPolicy` too";
            rule.field("retry").key().error(diagnostics, Code::Duplicate, message, "remove one of the two");
            (Some(own), each_try)
        }
    }
}

/// Says where a second try beside the first could never come about, or would contradict what the rule says besides.
pub(crate) fn check_hedging(rule: Cursor<'_>, kind: RouteKind, ready: &HttpRule, diagnostics: &mut Diagnostics) {
    let Some(Retry { hedging: Some(Hedging { minimum_delay, .. }), on, .. }) = &ready.retry else { return };
    let mut refuse = |code: Code, message: &str, help: &str| {
        rule.field("filters").key().error(diagnostics, code, message, help);
    };
    let idempotent = |method: &str| matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE");
    let never = ready.matches.iter().all(|matched| matched.method.as_deref().is_some_and(|method| !idempotent(method)));
    if !on.any_method && (kind == RouteKind::Grpc || never) {
        let message = "the `RetryPolicy` hedges idempotent methods, and every request of this rule is of another (gRPC calls are `POST`)";
        let help = "write `methods: any` in the policy if the service recognizes repetitions, or remove its `hedging`";
        refuse(Code::NoEffect, message, help);
    }
    if ready.filters.session.is_some() {
        let message = "`sessionPersistence` keeps a client at one endpoint, and the `RetryPolicy` sends its requests to a second one";
        refuse(Code::InvalidValue, message, "remove the one, or the policy's `hedging`");
    }
    if ready.filters.redirect.is_some() {
        refuse(
            Code::NoEffect,
            "a rule that redirects sends nothing that could be hedged",
            "remove the one or the other",
        );
    }
    for (field, limit) in [("request", ready.request_timeout), ("backendRequest", ready.backend_request_timeout)] {
        if limit.is_some_and(|limit| !limit.is_zero() && limit <= *minimum_delay) {
            let message = format!(
                "`{field}` is over before the `RetryPolicy` could send a second try, {minimum_delay:?} after the first"
            );
            let help = "write a longer time, or a shorter `hedging.minimumDelay`";
            rule.field("timeouts").field(field).key().error(diagnostics, Code::NoEffect, message, help);
        }
    }
}

/// Gateway API (GEP-1731) asks to retry lost connections and time-outs too wherever `retry` is written. Like `codes`, that is for
/// idempotent methods: a request that may have been processed is not processed twice by default.
fn ready(cursor: Cursor<'_>, written: HttpRouteRulesRetry, diagnostics: &mut Diagnostics) -> Retry {
    let HttpRouteRulesRetry { attempts, backoff, codes } = written;
    let attempts = attempts.unwrap_or(1);
    if !(0..=i64::from(MAX_ATTEMPTS)).contains(&attempts) {
        let message = format!("{attempts} is not a number of further tries");
        let help = format!("write a number from 0 to {MAX_ATTEMPTS}");
        cursor.field("attempts").error(diagnostics, Code::InvalidValue, message, help);
    }
    let mut statuses = Vec::new();
    for (at, code) in codes.unwrap_or_default().into_iter().enumerate() {
        match u16::try_from(code).ok().filter(|code| (400..=599).contains(code)) {
            Some(code) => statuses.push(code),
            None => {
                let message = format!("{code} is not the status of a failure");
                let help = "write statuses from 400 to 599";
                cursor.field("codes").item(at).error(diagnostics, Code::InvalidValue, message, help);
            }
        }
    }
    let base = backoff.and_then(|text| {
        let duration = names::duration(&text).filter(|duration| !duration.is_zero());
        if duration.is_none() {
            let message = format!("`{}` is not a duration greater than zero", shown(&text));
            cursor.field("backoff").error(diagnostics, Code::InvalidValue, message, names::DURATION_HELP);
        }
        duration
    });
    let on = RetryOn { resets: true, statuses, grpc_statuses: Vec::new(), any_method: false };
    Retry { attempts: u8::try_from(attempts).unwrap_or(1), on, base, max: None, hedging: None }
}
