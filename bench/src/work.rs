//! The work, in order, and the rounds in which contenders take turns at it.

mod control;
mod handshakes;
mod large;
mod latency;
mod memory;
mod startup;
mod traces;
mod workers;

use std::io::{IsTerminal, Write};
use std::panic::AssertUnwindSafe;

use anyhow::{Result, bail};
use bench::sample::Sample;

use crate::arguments::Arguments;
use crate::contender::{Contender, Running};
use crate::figures::{Figures, Metric};
use crate::stage::{Carried, Place, Stage, Way};

/// A piece of work.
pub(crate) struct Work {
    /// As it is typed.
    pub(crate) name: &'static str,
    /// What is measured.
    pub(crate) title: &'static str,
    /// Done with `--quick` too.
    quick: bool,
    kind: Kind,
}

/// What is done.
enum Kind {
    /// A load on a way, with these arguments, and what is told of its samples.
    Load(Way, &'static [&'static str], &'static [Column]),
    /// Something of its own.
    Own(fn(&Bench<'_>, &'static str, &mut Figures) -> Result<()>),
}

/// A metric and how it comes from a sample.
type Column = (Metric, fn(&Sample) -> f64);

/// What all work needs.
pub(crate) struct Bench<'a> {
    pub(crate) arguments: &'a Arguments,
    pub(crate) stage: &'a Stage,
    pub(crate) contenders: &'a [Contender],
}

const PAIR: Way = Way { place: Place::Pair, carried: Carried::Http1 };
const HOP: Way = Way { place: Place::Hop, carried: Carried::Http1 };

const fn pair(carried: Carried) -> Way {
    Way { place: Place::Pair, carried }
}

/// Of requests and messages.
const REQUESTS: &[Column] = &[
    (Metric::PROCESSOR, Sample::processor_each),
    (Metric::RATE, Sample::rate),
    (Metric::P50, |sample| sample.latency.p50),
    (Metric::P99, |sample| sample.latency.p99),
    (Metric::MEMORY, |sample| sample.memory() as f64 / 1e6),
];

/// Of connections.
const CONNECTIONS: &[Column] = &[
    (Metric::PROCESSOR, Sample::processor_each),
    (Metric::RATE, Sample::rate),
    (Metric::P50, |sample| sample.latency.p50),
    (Metric::P99, |sample| sample.latency.p99),
];

/// Of bytes.
const BYTES: &[Column] = &[
    (Metric::THROUGHPUT, Sample::gigabytes),
    (Metric::PER_GIGABYTE, |sample| sample.processor.iter().sum::<f64>() * 1e9 / sample.bytes as f64),
    (Metric::MEMORY, |sample| sample.memory() as f64 / 1e6),
];

/// All work, in order.
pub(crate) fn all() -> Vec<Work> {
    let load = |quick, name, title, way, arguments, columns| Work {
        name,
        title,
        quick,
        kind: Kind::Load(way, arguments, columns),
    };
    let own = |quick, name, title, run| Work { name, title, quick, kind: Kind::Own(run) };
    vec![
        load(
            true,
            "hop-64",
            "HTTP/1.1, one hop in plaintext, 64 connections, 64 B",
            HOP,
            &["http1", "--connections", "64"],
            REQUESTS,
        ),
        load(true, "pair-1", "pair with mTLS, 1 connection, 64 B", PAIR, &["http1"], REQUESTS),
        load(
            true,
            "pair-64",
            "pair with mTLS, 64 connections, 64 B",
            PAIR,
            &["http1", "--connections", "64"],
            REQUESTS,
        ),
        load(
            true,
            "pair-512",
            "pair with mTLS, 512 connections, 64 B",
            PAIR,
            &["http1", "--connections", "512"],
            REQUESTS,
        ),
        load(false, "pair-1-1k", "pair with mTLS, 1 connection, 1 KiB", PAIR, &["http1", "--size", "1024"], REQUESTS),
        load(
            false,
            "pair-64-1k",
            "pair with mTLS, 64 connections, 1 KiB",
            PAIR,
            &["http1", "--connections", "64", "--size", "1024"],
            REQUESTS,
        ),
        load(
            false,
            "pair-512-1k",
            "pair with mTLS, 512 connections, 1 KiB",
            PAIR,
            &["http1", "--connections", "512", "--size", "1024"],
            REQUESTS,
        ),
        load(
            false,
            "pair-1-64k",
            "pair with mTLS, 1 connection, 64 KiB",
            PAIR,
            &["http1", "--size", "65536"],
            REQUESTS,
        ),
        load(
            false,
            "pair-64-64k",
            "pair with mTLS, 64 connections, 64 KiB",
            PAIR,
            &["http1", "--connections", "64", "--size", "65536"],
            REQUESTS,
        ),
        load(
            false,
            "pair-512-64k",
            "pair with mTLS, 512 connections, 64 KiB",
            PAIR,
            &["http1", "--connections", "512", "--size", "65536"],
            REQUESTS,
        ),
        load(
            false,
            "connections",
            "new connections with one request each, 16 at a time",
            PAIR,
            &["http1-new", "--connections", "16"],
            CONNECTIONS,
        ),
        own(
            true,
            "latency",
            "latency at half of Envoy's load, 64 connections, requests due at a constant rate",
            latency::run,
        ),
        load(
            false,
            "grpc-unary",
            "gRPC, unary calls, 4 connections with 16 calls each",
            pair(Carried::Grpc),
            &["grpc-unary", "--connections", "4", "--streams", "16"],
            REQUESTS,
        ),
        load(
            false,
            "grpc-stream",
            "gRPC, messages on 64 streams of 4 connections",
            pair(Carried::Grpc),
            &["grpc-stream", "--connections", "4", "--streams", "16"],
            REQUESTS,
        ),
        load(
            false,
            "websocket",
            "WebSocket, echo of 64 B frames on 64 connections",
            pair(Carried::Websocket),
            &["websocket", "--connections", "64"],
            REQUESTS,
        ),
        load(true, "tcp", "raw TCP, one connection, as many bytes as come", pair(Carried::Source), &["source"], BYTES),
        load(
            false,
            "tcp-hop",
            "raw TCP, one hop without TLS, one connection, as many bytes as come",
            Way { carried: Carried::Source, ..HOP },
            &["source"],
            BYTES,
        ),
        load(
            true,
            "tcp-byte",
            "raw TCP, one byte there and back",
            pair(Carried::Echo),
            &["echo", "--size", "1"],
            CONNECTIONS,
        ),
        load(
            false,
            "connections-tcp",
            "new raw connections with one byte each, 16 at a time",
            pair(Carried::Echo),
            &["echo-new", "--connections", "16"],
            CONNECTIONS,
        ),
        own(false, "handshakes", "new mTLS connections with full handshakes to the inbound side", handshakes::full),
        own(
            false,
            "handshakes-resumed",
            "new mTLS connections with resumed handshakes to the inbound side",
            handshakes::resumed,
        ),
        own(true, "memory", "memory of the pair: idle, under load of 64 connections, ten seconds after", memory::run),
        own(false, "idle", "10,000 idle connections: memory of the pair for each", memory::idle),
        own(
            false,
            "large",
            "1,000 services with 10 endpoints each, one sidecar that talks to 50 of them, one hop",
            large::run,
        ),
        own(
            false,
            "control",
            "one change to 1,000 simulated sidecars, and what each costs the control server",
            control::run,
        ),
        own(
            false,
            "traces",
            "pair with mTLS, 64 connections: spans of 1 % and of all requests, over OTLP, beside none",
            traces::run,
        ),
        own(false, "workers", "two workers beside one", workers::run),
        own(false, "startup", "from the start of the process to the first answer, one hop", startup::run),
    ]
}

/// Does all work that was asked for.
pub(crate) fn run(arguments: &Arguments, stage: &Stage, contenders: &[Contender], figures: &mut Figures) {
    let bench = Bench { arguments, stage, contenders };
    // Proxies stay while the way stays.
    let mut kept: Option<(Way, Vec<Running>)> = None;
    for work in all().into_iter().filter(|work| arguments.wants(work.name, work.quick)) {
        eprintln!("{}: {}", work.name, work.title);
        figures.begin(work.name, work.title);
        match work.kind {
            Kind::Load(way, arguments, columns) => {
                if kept.as_ref().is_none_or(|(of, _)| *of != way) {
                    drop(kept.take());
                    kept = Some((way, bench.start(work.name, way, figures)));
                }
                let running = kept.as_ref().map_or(&[][..], |(_, running)| running);
                let arguments = arguments.iter().map(ToString::to_string).collect::<Vec<_>>();
                bench.rounds(work.name, running, &arguments, columns, figures);
            }
            Kind::Own(own) => {
                drop(kept.take());
                if let Err(error) = guarded(|| own(&bench, work.name, figures)) {
                    figures.note(work.name, format!("not to its end: {error:#}"));
                }
            }
        }
    }
}

/// Does something that may panic, as the tests' tools do where something does not come about: one contender that does not start,
/// or one piece of work that fails, does not end a run of half an hour.
pub(crate) fn guarded<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    match std::panic::catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
            bail!("{}", text.lines().next().unwrap_or_default())
        }
    }
}

impl Bench<'_> {
    /// Starts all contenders that take a way; one that does not start is left out, and said.
    pub(crate) fn start(&self, work: &'static str, way: Way, figures: &mut Figures) -> Vec<Running> {
        let takes = self.contenders.iter().copied().filter(|contender| contender.takes(way));
        takes.filter_map(|contender| self.start_one(work, contender, way, figures)).collect()
    }

    /// Starts one; nothing if it does not start, which is said.
    pub(crate) fn start_one(
        &self,
        work: &'static str,
        contender: Contender,
        way: Way,
        figures: &mut Figures,
    ) -> Option<Running> {
        let started = guarded(|| contender.start(self.stage, way));
        started.map_err(|error| figures.note(work, format!("{} did not start: {error:#}", contender.title()))).ok()
    }

    /// All rounds of a load: in each, every contender once. One that fails is left out of the later rounds.
    pub(crate) fn rounds(
        &self,
        work: &'static str,
        running: &[Running],
        arguments: &[String],
        columns: &[Column],
        figures: &mut Figures,
    ) {
        let mut running: Vec<_> = running.iter().collect();
        for round in 1..=self.arguments.rounds() {
            running.retain(|running| {
                progress(&format!(
                    "{work}: round {round} of {}, {}",
                    self.arguments.rounds(),
                    running.contender.title()
                ));
                let sample = self.sample(work, running, arguments.to_vec(), figures);
                sample.map(|sample| record(work, running.contender, &sample, columns, figures)).is_some()
            });
        }
        progress("");
    }

    /// The windows of a load, warming up first.
    fn windows(&self) -> Vec<String> {
        let (warmup, window) = (self.arguments.warmup().as_secs_f64(), self.arguments.window().as_secs_f64());
        vec!["--warmup".to_owned(), warmup.to_string(), "--seconds".to_owned(), window.to_string()]
    }

    /// One measurement; nothing if it fails, which is said.
    pub(crate) fn sample(
        &self,
        work: &'static str,
        running: &Running,
        arguments: Vec<String>,
        figures: &mut Figures,
    ) -> Option<Sample> {
        let sample = guarded(|| self.measure(running, arguments));
        sample
            .map_err(|error| figures.note(work, format!("{} gave no figures: {error:#}", running.contender.title())))
            .ok()
    }

    /// One measurement.
    pub(crate) fn measure(&self, running: &Running, mut arguments: Vec<String>) -> Result<Sample> {
        // What the work has said already, goes.
        let own = arguments.iter().any(|argument| argument == "--seconds");
        arguments.extend(self.windows().into_iter().take(if own { 2 } else { 4 }));
        let client = running.client(self.stage)?;
        self.stage.load(client, running.target, &running.ids(), &arguments)
    }
}

/// Takes the figures of a sample, if it is one: more than a failure in a thousand is not what was asked for.
pub(crate) fn record(
    work: &'static str,
    contender: Contender,
    sample: &Sample,
    columns: &[Column],
    figures: &mut Figures,
) {
    if sample.failed > 0 {
        let failure = sample.failure.as_deref().unwrap_or("unknown");
        figures.note(
            work,
            format!(
                "{}: {} failed beside {} that succeeded: {failure}",
                contender.title(),
                sample.failed,
                sample.completed
            ),
        );
    }
    if sample.failed * 1000 > sample.completed + sample.bytes {
        return;
    }
    for (metric, value) in columns {
        // No proxy uses no processor time and no memory: nothing to tell.
        let value = value(sample);
        if contender != Contender::Direct
            || !matches!(*metric, Metric::PROCESSOR | Metric::MEMORY | Metric::PER_GIGABYTE)
        {
            figures.add(work, contender, *metric, value);
        }
    }
}

/// Tells where the run is: in place on a terminal, else not at all.
pub(crate) fn progress(text: &str) {
    let mut error = std::io::stderr();
    if error.is_terminal() {
        let _ = write!(error, "\r\x1b[K{text}");
        let _ = error.flush();
    }
}
