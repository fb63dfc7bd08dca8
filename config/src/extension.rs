//! What a filter `ExtensionRef` names: Malla's own kinds `FaultInjection`, `RateLimit`, `RetryPolicy` and `TraceSampling`, made ready.

use std::sync::Arc;
use std::time::Duration;

use crate::api::{
    self, FaultAbort, FaultDelay, FaultInjectionSpec, HeaderLimits, RateLimitSpec, RetryBackoff, RetryMethods,
    RetryPolicySpec, TraceSamplingSpec,
};
use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::filter::may_change;
use crate::kinds::Kind;
use crate::mesh::{
    Abort, AbortStatus, Delay, Fault, HeaderBuckets, Hedging, RateLimit, Retry, RetryOn, Share, TokenBucket,
};
use crate::names;
use crate::object::Object;
use crate::suggest::shown;

/// The kinds that a rule may name.
pub(crate) const KINDS: [Kind; 4] = [Kind::FaultInjection, Kind::RateLimit, Kind::RetryPolicy, Kind::TraceSampling];

/// Parts per million in a percent.
const PPM_PER_PERCENT: f64 = 10_000.0;
/// The longest delay of a fault, and the longest interval of a rate limit.
const HOUR: Duration = Duration::from_secs(3600);
/// The shortest interval of a rate limit.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
/// Tries beyond these help nobody.
pub(crate) const MAX_ATTEMPTS: u32 = 10;

/// What was named.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Extension {
    Fault(Fault),
    RateLimit(RateLimit),
    /// With the time-out of each try.
    Retry(Retry, Option<Duration>),
    Sampling(Share),
}

/// The extension of an object; nothing if something is wrong with it.
pub(crate) fn ready(object: &Object, diagnostics: &mut Diagnostics) -> Option<Extension> {
    let errors = diagnostics.count();
    let spec = object.cursor();
    let extension = match object.kind {
        Kind::FaultInjection => Extension::Fault(fault(spec, object.typed(diagnostics)?, diagnostics)),
        Kind::RateLimit => Extension::RateLimit(rate_limit(object, object.typed(diagnostics)?, diagnostics)),
        Kind::TraceSampling => {
            let TraceSamplingSpec { percent } = object.typed(diagnostics)?;
            Extension::Sampling(share(spec, Some(percent), diagnostics))
        }
        _ => {
            let (retry, per_try) = retry(spec, object.typed(diagnostics)?, diagnostics);
            Extension::Retry(retry, per_try)
        }
    };
    (diagnostics.count() == errors && !object.is_damaged()).then_some(extension)
}

fn fault(spec: Cursor<'_>, written: FaultInjectionSpec, diagnostics: &mut Diagnostics) -> Fault {
    let FaultInjectionSpec { delay, abort, only_with_header } = written;
    if delay.is_none() && abort.is_none() {
        spec.error(diagnostics, Code::MissingField, "the fault does nothing", "write `delay:` or `abort:`");
    }
    let delay = delay.map(|FaultDelay { duration, percent }| {
        let cursor = spec.field("delay");
        let time = between(cursor.field("duration"), &duration, Duration::from_millis(1), HOUR, diagnostics);
        Delay { time, share: share(cursor, percent, diagnostics) }
    });
    let abort = abort.map(|FaultAbort { http_status, grpc_status, percent }| {
        let cursor = spec.field("abort");
        let status = match (http_status, grpc_status) {
            (Some(status), None) => AbortStatus::Http(status),
            (None, Some(status)) => AbortStatus::Grpc(status.code()),
            _ => {
                let help = "write one of `httpStatus` and `grpcStatus`";
                cursor.error(diagnostics, Code::InvalidValue, "an abort has exactly one status", help);
                AbortStatus::Http(503)
            }
        };
        Abort { status, share: share(cursor, percent, diagnostics) }
    });
    let only_with_header = only_with_header.map(|header| {
        let cursor = spec.field("onlyWithHeader");
        let name = header_name(cursor.field("name"), &header.name, diagnostics);
        (name, header_value(cursor.field("value"), &header.value, diagnostics))
    });
    Fault { delay, abort, only_with_header }
}

fn rate_limit(object: &Object, written: RateLimitSpec, diagnostics: &mut Diagnostics) -> RateLimit {
    let spec = object.cursor();
    let RateLimitSpec { requests, interval, burst, clients, header } = written;
    let bucket = bucket(spec, requests, interval, burst, diagnostics);
    let mut ready_clients: Vec<(Arc<str>, TokenBucket)> = Vec::new();
    for (at, client) in clients.into_iter().enumerate() {
        let cursor = spec.field("clients").item(at);
        let account = client.service_account;
        let valid = account
            .split_once('/')
            .is_some_and(|(namespace, name)| names::dns_label(namespace).is_ok() && names::dns_subdomain(name).is_ok());
        let field = cursor.field("serviceAccount");
        if !valid {
            let message = format!("`{}` is not a service account", shown(&account));
            field.error(diagnostics, Code::InvalidValue, message, "write `namespace/name`");
        } else if ready_clients.iter().any(|(known, _)| **known == *account) {
            let message = format!("the service account `{account}` is written twice");
            field.error(diagnostics, Code::Duplicate, message, "remove one of them");
        }
        let bucket = self::bucket(cursor, client.requests, client.interval, client.burst, diagnostics);
        ready_clients.push((account.into(), bucket));
    }
    let header = header.map(|HeaderLimits { name, values }| {
        let cursor = spec.field("header");
        if values.is_empty() {
            let help = "write the values that have a limit of their own";
            cursor.error(diagnostics, Code::NoEffect, "the header has no values with a limit", help);
        }
        let mut buckets: Vec<(Arc<str>, TokenBucket)> = Vec::new();
        for (at, value) in values.into_iter().enumerate() {
            let cursor = cursor.field("values").item(at);
            let text = header_value(cursor.field("value"), &value.value, diagnostics);
            if buckets.iter().any(|(known, _)| *known == text) {
                let message = format!("the value `{}` is written twice", shown(&text));
                cursor.field("value").error(diagnostics, Code::Duplicate, message, "remove one of them");
            }
            buckets.push((text, self::bucket(cursor, value.requests, value.interval, value.burst, diagnostics)));
        }
        HeaderBuckets { name: header_name(cursor.field("name"), &name, diagnostics), buckets }
    });
    let name = format!("{}/{}", object.namespace, object.name).into();
    RateLimit { name, bucket, clients: ready_clients, header }
}

fn bucket(
    cursor: Cursor<'_>,
    requests: u32,
    interval: Option<String>,
    burst: Option<u32>,
    diagnostics: &mut Diagnostics,
) -> TokenBucket {
    let interval = interval.map_or(Duration::from_secs(1), |text| {
        between(cursor.field("interval"), &text, SHORTEST_INTERVAL, HOUR, diagnostics)
    });
    TokenBucket { requests, interval, burst: burst.unwrap_or(requests) }
}

fn retry(spec: Cursor<'_>, written: RetryPolicySpec, diagnostics: &mut Diagnostics) -> (Retry, Option<Duration>) {
    let RetryPolicySpec { attempts, codes, grpc_statuses, resets, methods, per_try_timeout, backoff, hedging } =
        written;
    let statuses = codes.into_iter().enumerate().map(|(at, code)| {
        if !(400..=599).contains(&code) {
            let message = format!("{code} is not the status of a failure");
            let help = "write statuses from 400 to 599";
            spec.field("codes").item(at).error(diagnostics, Code::InvalidValue, message, help);
        }
        code
    });
    let statuses = statuses.collect();
    const RETRIABLE: [u8; 5] = [1, 4, 8, 13, 14];
    let mut grpc_codes = Vec::new();
    for (at, status) in grpc_statuses.into_iter().enumerate() {
        if !RETRIABLE.contains(&status.code()) {
            let message = format!("calls that end with {status:?} are not tried again");
            let help = "write of Cancelled, DeadlineExceeded, Internal, ResourceExhausted and Unavailable";
            spec.field("grpcStatuses").item(at).error(diagnostics, Code::InvalidValue, message, help);
        }
        grpc_codes.push(status.code());
    }
    let RetryBackoff { base, max } = backoff.unwrap_or(RetryBackoff { base: None, max: None });
    let cursor = spec.field("backoff");
    let mut read = |field: &str, text: Option<String>| {
        text.map(|text| between(cursor.field(field), &text, Duration::from_millis(1), HOUR, diagnostics))
    };
    let (base, max) = (read("base", base), read("max", max));
    let per_try = per_try_timeout
        .map(|text| between(spec.field("perTryTimeout"), &text, Duration::from_millis(1), HOUR * 24, diagnostics));
    let on = RetryOn {
        resets: resets.unwrap_or(false),
        statuses,
        grpc_statuses: grpc_codes,
        any_method: methods == Some(RetryMethods::Any),
    };
    let attempts = attempts.unwrap_or(1);
    if attempts > MAX_ATTEMPTS {
        let message = format!("{attempts} further tries are too many");
        let help = format!("write a number from 0 to {MAX_ATTEMPTS}");
        spec.field("attempts").error(diagnostics, Code::InvalidValue, message, help);
    }
    let hedging = hedging.map(|written| {
        let cursor = spec.field("hedging");
        if attempts == 0 {
            let message = "a second try is a further try, of which the policy permits none";
            let help = "write `attempts: 1` or more, or remove `hedging`";
            cursor.key().error(diagnostics, Code::InvalidValue, message, help);
        }
        self::hedging(cursor, &written, per_try, diagnostics)
    });
    (Retry { attempts: attempts.min(MAX_ATTEMPTS) as u8, on, base, max, hedging }, per_try)
}

fn hedging(
    cursor: Cursor<'_>,
    written: &api::Hedging,
    per_try: Option<Duration>,
    diagnostics: &mut Diagnostics,
) -> Hedging {
    let api::Hedging { quantile, minimum_delay, minimum_samples } = written;
    let default = Hedging::default();
    let minimum_delay = minimum_delay.as_ref().map_or(default.minimum_delay, |text| {
        let (shortest, longest) = (Duration::from_millis(1), Duration::from_secs(60));
        between(cursor.field("minimumDelay"), text, shortest, longest, diagnostics)
    });
    if per_try.is_some_and(|limit| limit <= minimum_delay) {
        let message = "a try is over before a second one could go beside it";
        let help =
            format!("write a `perTryTimeout` longer than the `minimumDelay` of {minimum_delay:?}, or a shorter delay");
        cursor.key().error(diagnostics, Code::NoEffect, message, help);
    }
    let quantile = quantile.map_or(default.quantile, |percent| {
        if !(50.0..=99.9).contains(&percent) {
            let message = format!("{percent} is out of bounds");
            cursor.field("quantile").error(diagnostics, Code::InvalidValue, message, "write a number from 50 to 99.9");
        }
        Share::per_million((percent.clamp(50.0, 99.9) * PPM_PER_PERCENT).round() as u32)
    });
    Hedging { quantile, minimum_delay, minimum_samples: minimum_samples.unwrap_or(default.minimum_samples) }
}

fn between(
    cursor: Cursor<'_>,
    text: &str,
    shortest: Duration,
    longest: Duration,
    diagnostics: &mut Diagnostics,
) -> Duration {
    match names::duration(text) {
        None => {
            let message = format!("`{}` is not a duration", shown(text));
            cursor.error(diagnostics, Code::InvalidValue, message, names::DURATION_HELP);
            shortest
        }
        Some(duration) if duration < shortest || duration > longest => {
            let message = format!("`{}` is out of bounds", shown(text));
            let help = format!("write a duration from {shortest:?} to {longest:?}");
            cursor.error(diagnostics, Code::InvalidValue, message, help);
            shortest
        }
        Some(duration) => duration,
    }
}

fn share(cursor: Cursor<'_>, percent: Option<f64>, diagnostics: &mut Diagnostics) -> Share {
    let percent = percent.unwrap_or(100.0);
    let parts = percent * PPM_PER_PERCENT;
    let whole = (parts - parts.round()).abs() < 1e-6;
    if !(0.0..=100.0).contains(&percent) || !whole {
        let message = format!("{percent} is not a percentage");
        let help = "write a number from 0 to 100, with at most four decimal places";
        cursor.field("percent").error(diagnostics, Code::InvalidValue, message, help);
    }
    Share::per_million(parts.round().clamp(0.0, 1e6) as u32)
}

fn header_name(cursor: Cursor<'_>, name: &str, diagnostics: &mut Diagnostics) -> Arc<str> {
    let lower = name.to_ascii_lowercase();
    if let Err((fault, help)) = may_change(&lower) {
        cursor.error(diagnostics, Code::InvalidValue, format!("`{}` {fault}", shown(name)), help);
    }
    lower.into()
}

fn header_value(cursor: Cursor<'_>, value: &str, diagnostics: &mut Diagnostics) -> Arc<str> {
    if value.is_empty() || value.chars().any(|character| !matches!(character, ' '..='~')) {
        let message = format!("`{}` is not the value of a header", shown(value));
        cursor.error(diagnostics, Code::InvalidValue, message, "write printable ASCII");
    }
    value.into()
}
