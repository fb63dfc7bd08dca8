//! Fates in words.

use malla_proxy::decode::route::RouteSpec;
use malla_proxy::filter::Filters;
use malla_proxy::snapshot::Hedge;

use super::{Admission, Backend, Fate, StreamBackend, What};
use crate::output::{self, Paint};

/// Routes that came close and are shown.
const SHOWN: usize = 8;

/// One line: what happens.
pub(crate) fn describe(fate: &Fate) -> String {
    let route = fate.route.as_deref().map_or_else(String::new, |route| format!(" by {route}"));
    match &fate.what {
        What::Forward { backends } => {
            let backends: Vec<String> = backends.iter().map(share).collect();
            format!("to {}{route}", backends.join(", "))
        }
        What::Answer { status, location: Some(location), .. } => format!("{status} to {location}{route}"),
        What::Answer { status, reason, .. } => format!("{status} {}{route}", reason.unwrap_or_default()),
        What::PassThrough => "out of the mesh, untouched".to_owned(),
        What::Stream { server_name, backends } => {
            let name = server_name.as_ref().map_or_else(String::new, |name| format!(", by the server name {name},"));
            let backends: Vec<String> = backends.iter().map(stream_share).collect();
            match &backends[..] {
                [] => format!("as a stream{name} to nowhere: no_endpoints"),
                some => format!("as a stream{name} to {}", some.join(", ")),
            }
        }
    }
}

fn share(backend: &Backend) -> String {
    let refused = match backend.admissions.iter().filter(|admission| !admission.allowed).count() {
        0 => "",
        number if number == backend.admissions.len() => " (refused there)",
        _ => " (refused by some)",
    };
    match backend.percent {
        100.0 => format!("{}{refused}", backend.cluster),
        percent => format!("{} {percent} %{refused}", backend.cluster),
    }
}

fn stream_share(backend: &StreamBackend) -> String {
    match backend.percent {
        100.0 => backend.cluster.clone(),
        percent => format!("{} {percent} %", backend.cluster),
    }
}

/// Workloads that are named.
const NAMED: usize = 3;

/// What the sidecars of some workloads say to the caller.
fn let_in(admission: &Admission) -> String {
    let Admission { allowed: _, refused_by, audited_by, asked, sidecar, workloads } = admission;
    let named: Vec<&str> = workloads.iter().take(NAMED).map(String::as_str).collect();
    let more = match workloads.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let at = format!("{}{more}", named.join(", "));
    let mut words = match refused_by.as_deref() {
        Some("none") => format!("refused by {at} with 403 denied: none of {} allows it", asked.join(", ")),
        Some(policy) => format!("refused by {at} with 403 denied: {policy} denies it"),
        None if !sidecar => format!("not asked by {at}, which has no sidecar"),
        None if asked.is_empty() => format!("let in by {at}: no policy is about it"),
        None => format!("let in by {at}, as {} say", asked.join(", ")),
    };
    if let Some(policy) = audited_by {
        words.push_str(&match policy.as_str() {
            "none" => "; only audited: no policy allows it".to_owned(),
            policy => format!("; only audited: {policy} denies it"),
        });
    }
    words
}

/// Everything that is known of a fate.
///
/// # Errors
/// Standard output is gone.
pub(crate) fn print(fate: &Fate, paint: Paint) -> anyhow::Result<()> {
    let line = |what: &str, text: &str| format!("{} {text}", paint.faint(format!("{what:<12}")));
    let mut lines = vec![line("destination", &fate.destination)];
    let passed = fate.passed.len();
    for nearer in fate.passed.iter().skip(passed.saturating_sub(SHOWN)) {
        lines.push(line("not by", &format!("{}: {}", nearer.route, nearer.why)));
    }
    match (&fate.route, &fate.when) {
        (Some(route), Some(when)) => lines.push(line("route", &format!("{} ({when})", paint.strong(route)))),
        _ if passed > 0 => lines.push(line("route", "none matches")),
        _ => {}
    }
    match &fate.what {
        What::Forward { backends } => {
            for backend in backends {
                let seen = format!("{}, which sees {}{}", share(backend), backend.host, backend.path);
                lines.push(line("to", &seen));
                lines.extend(backend.policy.iter().map(|policy| line("service", policy)));
                lines.extend(backend.admissions.iter().map(|admission| line("caller", &let_in(admission))));
            }
        }
        What::Stream { backends, .. } => {
            lines.push(line("carried", &describe(fate)));
            for backend in backends {
                lines.push(line("to", &stream_share(backend)));
                lines.extend(backend.policy.iter().map(|policy| line("service", policy)));
            }
        }
        _ => lines.push(line("answer", &describe(&Fate { route: None, ..fate.clone() }))),
    }
    lines.extend(fate.policies.iter().map(|policy| line("with", policy)));
    output::print(lines.join("\n"))
}

/// What applies to the requests of a route, besides where they go.
pub(super) fn policies(route: &RouteSpec) -> Vec<String> {
    let mut policies = Vec::new();
    if let Some(timeout) = route.timeout {
        policies.push(format!("time-out {timeout:?} for the request"));
    }
    if let Some(timeout) = route.try_timeout {
        policies.push(format!("time-out {timeout:?} for each try"));
    }
    policies.push(retries(route));
    policies.extend(route.retry.hedge.map(|hedge| hedging(hedge, route.retry.on.idempotent_only)));
    policies
        .extend(route.mirrors.iter().map(|(cluster, share)| format!("copies of {} to {cluster}", percent(share.0))));
    policies.extend(route.limits.iter().map(|limit| format!("rate limit {}", limit.name)));
    if let Some(Filters { fault, cors, headers, session, sampling, .. }) = route.filters.as_deref() {
        if let Some(fault) = fault {
            policies.extend(fault.delay.map(|(time, share)| format!("fault: {} wait for {time:?}", percent(share.0))));
            policies
                .extend(fault.abort.map(|(abort, share)| format!("fault: {} fail with {abort:?}", percent(share.0))));
        }
        policies.extend(session.as_ref().map(|session| {
            let until = session.lifetime.map_or_else(String::new, |lifetime| format!(" for {lifetime:?}"));
            let idle = session.idle.map_or_else(String::new, |idle| format!(", until {idle:?} without a request"));
            format!("clients keep to their endpoint by the {}{until}{idle}", session.word())
        }));
        policies.extend(
            sampling.map(|share| format!("traces: {} of those that begin with it are followed", percent(share.0))),
        );
        policies.extend(cors.as_ref().map(|_| "answers for pages of other origins (CORS)".to_owned()));
        if !headers.response.is_empty() {
            policies.push("changes of response headers".to_owned());
        }
    }
    policies
}

fn retries(route: &RouteSpec) -> String {
    let on = &route.retry.on;
    if route.retry.attempts == 0 {
        return "no retries".to_owned();
    }
    let mut causes = vec!["what was certainly not processed".to_owned()];
    if on.resets {
        causes.push("lost and slow tries".to_owned());
    }
    causes.extend(on.statuses.iter().map(|range| match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}–{last}"),
    }));
    let grpc =
        (0..32).filter(|status| on.grpc_statuses >> status & 1 == 1).map(|status| format!("gRPC status {status}"));
    causes.extend(grpc);
    let methods = if on.idempotent_only && !on.is_nothing() { " (idempotent methods)" } else { "" };
    let tries = if route.retry.attempts == 1 { "try" } else { "tries" };
    format!("at most {} more {tries} after {}{methods}", route.retry.attempts, causes.join(", "))
}

fn hedging(hedge: Hedge, idempotent_only: bool) -> String {
    let when = match hedge {
        Hedge::After(delay) => format!("{delay:?}"),
        Hedge::Quantile { share, least, samples } => {
            format!("the time of {} of {samples} answers or more, at least {least:?}", percent(share.0))
        }
    };
    let methods = if idempotent_only { " (idempotent methods)" } else { "" };
    format!("hedged: a second try elsewhere, beside the first, after {when}{methods}")
}

fn percent(parts: u32) -> String {
    format!("{} %", f64::from(parts) / 10_000.0)
}
