//! `malla top` and `malla stat`: the edges of the mesh, as sidecars tell the control server.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use comfy_table::{Cell, CellAlignment};
use malla_control::telemetry::Traffic;
use serde::Serialize;

use crate::arguments::{Order, OutputFormat, StatArguments, TopArguments, TrafficArguments};
use crate::edges::cells::{identity, milliseconds, rate, success};
use crate::edges::{self, Edge, EdgeName, Recent, Sample};
use crate::http;
use crate::output::{self, Paint};
use crate::screen::Screen;
use crate::signals::Interruption;

/// Between two looks.
const PACE: Duration = Duration::from_secs(1);
/// Looks that the trend shows.
const TREND: usize = 20;

/// An edge as programs read it.
#[derive(Debug, Serialize)]
struct Line<'a> {
    source: &'a str,
    destination: &'a str,
    protocol: &'a str,
    identity: &'a str,
    requests: u64,
    failures: u64,
    per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_ms: Option<f64>,
    reasons: &'a BTreeMap<String, u64>,
}

/// Shows edges again and again, until it is interrupted.
///
/// # Errors
/// No control server answers there.
pub(crate) async fn top(arguments: TopArguments, paint: Paint) -> anyhow::Result<ExitCode> {
    let TopArguments { traffic } = arguments;
    let mut interruption = Interruption::listen()?;
    let mut recent = Recent::default();
    let server = traffic.server.server()?;
    let (_, first) = look(&server).await?;
    recent.add(Instant::now(), first.clone());
    let (mut before, mut trends) = (first, BTreeMap::<EdgeName, VecDeque<u64>>::new());
    let screen = (traffic.output.format == OutputFormat::Table).then(Screen::open);
    let mut shown: Option<Instant> = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(PACE) => {}
            () = interruption.wait() => return Ok(ExitCode::SUCCESS),
        }
        let (sidecars, now) = look(&server).await?;
        for (name, edge) in &now {
            let trend = trends.entry(name.clone()).or_default();
            trend.push_back(edge.requests.saturating_sub(before.get(name).map_or(0, |edge| edge.requests)));
            if trend.len() > TREND {
                trend.pop_front();
            }
        }
        trends.retain(|name, _| now.contains_key(name));
        recent.add(Instant::now(), now.clone());
        before = now;
        let (length, window) = recent.window();
        match &screen {
            None => output::print(serde_json::to_string(&lines(&traffic, &window, length))?)?,
            Some(screen) if shown.is_none_or(|shown| shown.elapsed() >= screen.pace()) => {
                shown = Some(Instant::now());
                let mut view = vec![heading(sidecars, &traffic), String::new()];
                view.extend(draw(paint, &traffic, &window, length, Some(&trends)));
                screen.show(&view, &[])?;
            }
            Some(_) => {}
        }
    }
}

/// Shows edges once: what passed within the time.
///
/// # Errors
/// No control server answers there.
pub(crate) async fn stat(arguments: StatArguments, paint: Paint) -> anyhow::Result<ExitCode> {
    let StatArguments { traffic, duration } = arguments;
    let server = traffic.server.server()?;
    let (_, first) = look(&server).await?;
    let (begun, end) = (Instant::now(), Instant::now() + duration);
    let (mut sidecars, mut last) = (0, first.clone());
    // Who does not look for some seconds is told old counts.
    while Instant::now() < end {
        tokio::time::sleep(PACE.min(end.saturating_duration_since(Instant::now()))).await;
        (sidecars, last) = look(&server).await?;
    }
    let window = edges::between(&first, &last);
    match traffic.output.format {
        OutputFormat::Json => output::print_json(&lines(&traffic, &window, begun.elapsed()))?,
        OutputFormat::Table => {
            output::print(heading(sidecars, &traffic))?;
            draw(paint, &traffic, &window, begun.elapsed(), None).into_iter().try_for_each(output::print)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Sidecars that tell, and what they have counted since their start.
async fn look(server: &http::Server) -> anyhow::Result<(usize, Sample)> {
    let body = http::get(server, "/traffic.json")
        .await
        .context("no control server answers; is it running, and is --admin (or --control) its address?")?;
    let traffic: Traffic = serde_json::from_slice(&body).context("the answer is not a mesh's traffic")?;
    Ok((traffic.sidecars, edges::sample(traffic.edges)))
}

fn heading(sidecars: usize, traffic: &TrafficArguments) -> String {
    let filter = traffic.filter.as_ref().map(|filter| format!(", with {filter:?}")).unwrap_or_default();
    format!("Traffic told by {sidecars} sidecars{filter}")
}

/// The edges that are wanted, in order.
fn chosen<'a>(traffic: &TrafficArguments, window: &'a Sample) -> Vec<(&'a EdgeName, &'a Edge)> {
    let wanted = |(name, edge): &(&EdgeName, &Edge)| {
        let Some(text) = traffic.filter.as_deref() else { return true };
        let reason = edge.reasons.keys().any(|word| word.contains(text));
        reason || [&name.0, &name.1, &edge.identity].into_iter().any(|field| field.contains(text))
    };
    let mut chosen: Vec<_> = window.iter().filter(wanted).collect();
    match traffic.sort {
        Order::Name => {}
        Order::Rate => chosen.sort_by_key(|(_, edge)| Reverse(edge.requests)),
        Order::Failures => chosen.sort_by_key(|(_, edge)| Reverse(edge.failures)),
        Order::P99 => chosen.sort_by_key(|(_, edge)| Reverse(edge.quantile(0.99))),
    }
    chosen
}

fn lines<'a>(traffic: &TrafficArguments, window: &'a Sample, length: Duration) -> Vec<Line<'a>> {
    let in_milliseconds = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let line = |((source, destination), edge): (&'a EdgeName, &'a Edge)| Line {
        source,
        destination,
        protocol: &edge.protocol,
        identity: &edge.identity,
        requests: edge.requests,
        failures: edge.failures,
        per_second: edge.requests as f64 / length.as_secs_f64().max(f64::MIN_POSITIVE),
        p50_ms: edge.quantile(0.5).map(in_milliseconds),
        p99_ms: edge.quantile(0.99).map(in_milliseconds),
        reasons: &edge.reasons,
    };
    chosen(traffic, window).into_iter().map(line).collect()
}

fn draw(
    paint: Paint,
    traffic: &TrafficArguments,
    window: &Sample,
    length: Duration,
    trends: Option<&BTreeMap<EdgeName, VecDeque<u64>>>,
) -> Vec<String> {
    let all = ["SOURCE", "DESTINATION", "PROTOCOL", "RATE", "SUCCESS", "P50", "P99", "IDENTITY", "REASONS", "TREND"];
    let headings = if trends.is_some() { &all[..] } else { &all[..all.len() - 1] };
    let mut table = output::table(paint, headings);
    for (name @ (source, destination), edge) in chosen(traffic, window) {
        let mut row = vec![
            Cell::new(source),
            Cell::new(destination),
            Cell::new(&edge.protocol),
            Cell::new(rate(edge, length)),
            success(edge),
            Cell::new(edge.quantile(0.5).map_or("-".to_owned(), milliseconds)),
            Cell::new(edge.quantile(0.99).map_or("-".to_owned(), milliseconds)),
            identity(edge),
            Cell::new(reasons(edge)),
        ];
        row.extend(trends.map(|trends| Cell::new(trends.get(name).map(spark).unwrap_or_default())));
        table.add_row(row);
    }
    for column in 3..=6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    output::lines(&table)
}

/// The two most frequent: `no_endpoints 12, denied 1`.
fn reasons(edge: &Edge) -> String {
    let mut reasons: Vec<_> = edge.reasons.iter().collect();
    reasons.sort_by_key(|(_, count)| Reverse(**count));
    let words: Vec<String> = reasons.into_iter().take(2).map(|(word, count)| format!("{word} {count}")).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

/// `▁▂▅█`: each look's requests, against the most of them.
fn spark(trend: &VecDeque<u64>) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = trend.iter().copied().max().unwrap_or_default().max(1);
    let bar = |requests: &u64| BARS[usize::try_from(requests * 7 / most).unwrap_or_default().min(7)];
    trend.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        traffic: TrafficArguments,
    }

    fn window() -> Sample {
        let edge = |requests, failures, slow| Edge {
            requests,
            failures,
            latency: BTreeMap::from([(Duration::from_millis(slow), requests)]),
            reasons: if failures > 0 {
                BTreeMap::from([("no_endpoints".to_owned(), failures), ("denied".to_owned(), 1)])
            } else {
                BTreeMap::new()
            },
            ..Edge::default()
        };
        let name = |source: &str, destination: &str| (source.to_owned(), destination.to_owned());
        Sample::from([
            (name("a.x", "b-1.x:80"), edge(100, 0, 1)),
            (name("a.x", "c-1.x:80"), edge(10, 5, 2)),
            (name("d.y", "b-1.x:80"), edge(50, 1, 30)),
        ])
    }

    fn order(sort: &str, filter: Option<&str>) -> Vec<u64> {
        let typed = Typed::parse_from(["stat", "--sort", sort].into_iter().chain(filter));
        chosen(&typed.traffic, &window()).into_iter().map(|(_, edge)| edge.requests).collect()
    }

    #[test]
    fn edges_are_sorted_and_filtered() {
        assert_eq!(order("rate", None), [100, 50, 10]);
        assert_eq!(order("failures", None), [10, 50, 100]);
        assert_eq!(order("p99", None), [50, 10, 100]);
        assert_eq!(order("name", None), [100, 10, 50]);
        assert_eq!(order("rate", Some("d.y")), [50]);
        assert_eq!(order("rate", Some("no_endpoints")), [50, 10]);
        assert!(order("rate", Some("nowhere")).is_empty());
    }

    #[test]
    fn reasons_are_few_and_a_trend_is_drawn_against_its_most() {
        let edges = window();
        let failing = edges.values().find(|edge| edge.failures == 5).expect("there is one");
        assert_eq!(reasons(failing), "no_endpoints 5, denied 1");
        assert_eq!(spark(&VecDeque::from([0, 5, 10])), "▁▄█");
        assert_eq!(spark(&VecDeque::from([0, 0])), "▁▁");
    }
}
