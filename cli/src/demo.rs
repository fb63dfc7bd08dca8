//! `malla demo`: a whole mesh on this machine. This page is the order of events; what happens in each is a module's.
//!
//! Nothing here is reserved for the demo: the control server and the sidecars are those of `malla control` and `malla-proxy`,
//! started as libraries, and the programs reach each other only through their sidecars.

mod addresses;
mod caller;
mod files;
mod guide;
mod ledger;
mod mesh;
mod mysql;
mod offers;
mod program;
mod prometheus;
mod summary;
mod switchboard;
mod table;
mod topology;
mod visitors;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::addresses::Addresses;
use self::caller::{Caller, Style};
use self::files::MeshDirectory;
use self::guide::Guide;
use self::ledger::Ledger;
use self::mesh::Mesh;
use self::program::Program;
use self::summary::Evidence;
use self::topology::{INSTANCES, Role};
use crate::arguments::{DemoArguments, OutputFormat};
use crate::edges::Recent;
use crate::output::{self, Paint};
use crate::screen::Screen;
use crate::signals::Interruption;

/// Runs the demo until its time is over or somebody interrupts it; exit code 1 if anything was lost.
///
/// # Errors
/// Something cannot be started; the sentence says what and what to do.
pub(crate) async fn run(arguments: DemoArguments, paint: Paint) -> anyhow::Result<ExitCode> {
    let for_people = arguments.output.format == OutputFormat::Table;
    let mut interruption = Interruption::listen()?;

    let addresses = Addresses::choose()?;
    let directory = MeshDirectory::prepare(arguments.config.as_deref(), &addresses)?;
    let starting = Instant::now();
    if for_people {
        output::print(format!("Starting a control server and {} programs, each with its sidecar …", INSTANCES.len()))?;
    }

    // Before anything can be asked: whoever waits for the demo finds it.
    if let Some(directory) = &arguments.prometheus {
        prometheus::write(directory, &addresses)?;
    }

    // Programs first: a sidecar may carry a request as soon as it is ready.
    let ledger = Arc::new(Ledger::default());
    let programs = programs(&addresses, &ledger);
    let mut serving = JoinSet::new();
    for program in programs.iter().filter(|program| program.instance().serves()) {
        let listener = listen(addresses.place(program.instance()).application).await?;
        serving.spawn(Arc::clone(program).serve(listener));
    }
    serving.spawn(switchboard::serve(listen(addresses.switchboard).await?, Arc::clone(&programs)));

    let mesh = Mesh::start(&addresses, directory.path(), arguments.otlp.as_ref())?;
    tokio::select! {
        ready = mesh.ready() => ready?,
        () = interruption.wait() => return Ok(ExitCode::FAILURE),
    }
    let guide = Guide::new(paint, &addresses, directory.path(), &arguments);
    if for_people {
        output::print(format!("All sidecars are ready after {:.1} s.\n", starting.elapsed().as_secs_f64()))?;
        output::print(guide.lines().join("\n"))?;
    }

    // Visitors, and the view of what they cause.
    let stop = CancellationToken::new();
    let mut visits = JoinSet::new();
    let portals: Vec<_> = programs.iter().filter(|program| program.instance().role == Role::Portal).collect();
    for portal in &portals {
        let rate = f64::from(arguments.rate) / portals.len() as f64;
        visits.spawn(visitors::visit(Arc::clone(portal), rate, stop.clone()));
    }
    let started = Instant::now();
    let end = arguments.duration.map(|duration| started + duration);
    let rejections = watch(&mesh, &guide, paint, started, end, for_people, &mut interruption).await?;
    let duration = started.elapsed();

    // What is under way ends well: visitors go first, then the programs' sidecars.
    stop.cancel();
    while visits.join_next().await.is_some() {}
    let edges = mesh.sample();
    mesh.stop().await;
    drop(serving);

    let summary =
        summary::judge(&Evidence { duration, edges: &edges, calls: &ledger.lines(), rejections: &rejections });
    if for_people {
        output::print(format!("{}\n", table::draw(paint, &edges, duration).join("\n")))?;
        output::print(summary.lines().join("\n"))?;
    } else {
        output::print_json(&summary)?;
    }
    Ok(if summary.succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every program, with its way to its own sidecar: the portals use it as an HTTP proxy, the agency by the `Host` header.
fn programs(addresses: &Addresses, ledger: &Arc<Ledger>) -> Arc<[Arc<Program>]> {
    let program = |instance| {
        let place = addresses.place(instance);
        let style = if instance.role == Role::Portal { Style::ProxyUrl } else { Style::HostHeader };
        let caller = Caller::new(instance.full_name(), style, place.outbound, place.database, Arc::clone(ledger));
        Arc::new(Program::new(instance, caller))
    };
    INSTANCES.iter().map(program).collect()
}

async fn listen(address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Shows the mesh until `end` or an interruption. Answers what was rejected on the way.
async fn watch(
    mesh: &Mesh,
    guide: &Guide,
    paint: Paint,
    started: Instant,
    end: Option<Instant>,
    for_people: bool,
    interruption: &mut Interruption,
) -> anyhow::Result<Vec<String>> {
    let screen = for_people.then(Screen::open);
    let mut recent = Recent::default();
    let mut rejections: Vec<String> = Vec::new();
    let mut shown = started;
    recent.add(started, mesh.sample());
    while end.is_none_or(|end| Instant::now() < end) {
        let next = Instant::now() + Duration::from_secs(1);
        tokio::select! {
            () = tokio::time::sleep_until(end.map_or(next, |end| end.min(next)).into()) => {}
            () = interruption.wait() => break,
        }
        let now = Instant::now();
        recent.add(now, mesh.sample());
        let current = mesh.rejections();
        for rejection in &current {
            if !rejections.contains(rejection) {
                rejections.push(rejection.clone());
            }
        }
        if let Some(screen) = screen.as_ref().filter(|screen| now - shown >= screen.pace()) {
            shown = now;
            let (length, edges) = recent.window();
            let mut main = vec![guide.heading(now - started, end.map(|end| end - started)), String::new()];
            main.extend(table::draw(paint, &edges, length));
            main.extend(current.iter().flat_map(|rejection| rejection.lines()).map(|line| paint.bad(line)));
            screen.show(&main, &guide.lines())?;
        }
    }
    Ok(rejections)
}
