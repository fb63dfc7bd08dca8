//! Instructions per proxied request: the pair of sidecars as people run them, under valgrind, with one request after another on
//! one connection; without traces, with the usual share of them, and with all.
//!
//! Starting up is left out, because it is never the same twice (gathering entropy takes as long as it takes): valgrind writes what
//! it has counted whenever the sidecar is asked for its metrics, before the requests and after them.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, bail};
use malla_tests::pod::SIDECAR_USER;

use super::total;
use crate::contender::Contender;
use crate::machine::Machine;
use crate::stage::{Carried, Place, Pods, Site, Stage, Way};

/// Names of the stored figures, and the share of the traces that is followed.
const KINDS: [(&str, Option<&str>); 3] =
    [("proxied-request", None), ("proxied-request-traced-1%", Some("1%")), ("proxied-request-traced", Some("100%"))];

/// Requests that warm up, and those that count.
const FEW: u64 = 200;
const MANY: u64 = 1000;

/// What a sidecar calls once for each `/metrics`.
const ASKED: &str = "--dump-before=*SidecarMetrics*encode*";

/// Longer than spans wait for others before they are sent: what is counted shall be whole.
const UNTIL_SENT: Duration = Duration::from_secs(3);

/// Whether a figure is of this.
pub(super) fn counts(name: &str) -> bool {
    KINDS.iter().any(|(kind, _)| *kind == name)
}

/// User-space instructions of both sidecars for one request, by the names of figures.
pub(super) fn instructions() -> Result<BTreeMap<String, u64>> {
    let contenders = [Contender::Malla];
    let stage = Stage::set(&contenders, &Machine::look(&contenders)?)?;
    KINDS.iter().map(|(name, share)| Ok(((*name).to_owned(), of_kind(&stage, name, *share)?))).collect()
}

fn of_kind(stage: &Stage, name: &str, share: Option<&str>) -> Result<u64> {
    let pods = stage.pods(Contender::Malla)?;
    let directory = stage.mesh.sandbox().writable_directory(&format!("callgrind-{}", name.replace('%', "")));
    let collector = stage.collector();
    let traced = share.map(|share| ["--otlp", &collector, "--trace-sampling", share, "--trace-limit", "1000000"]);
    let mut sidecars = Vec::new();
    for site in [&pods.client, &pods.server] {
        let Site::Member(member) = site else { bail!("{} is no member of the mesh", site.name()) };
        let out = directory.join(site.name());
        let file = format!("--callgrind-out-file={}", out.display());
        let valgrind = ["valgrind", "--tool=callgrind", "--quiet", ASKED, &file];
        let more = traced.as_ref().map_or(&[][..], |traced| &traced[..]);
        sidecars.push((member, out, member.spawn_sidecar(SIDECAR_USER, &valgrind, &stage.mesh, more)));
    }
    sidecars.iter_mut().for_each(|(member, _, sidecar)| member.wait_sidecar_ready(sidecar));
    for count in [FEW, MANY] {
        requests(stage, pods, count)?;
        if traced.is_some() {
            sleep(UNTIL_SENT);
        }
        sidecars.iter().for_each(|(member, ..)| drop(member.admin("/metrics")));
    }
    // The first part is everything before the first question, the second what came until the second.
    let counted = sidecars.iter().map(|(_, out, _)| total(&out.with_extension("2")));
    Ok(counted.sum::<Result<u64>>()? / MANY)
}

fn requests(stage: &Stage, pods: &Pods, count: u64) -> Result<()> {
    let way = Way { place: Place::Pair, carried: Carried::Http1 };
    let arguments = ["http1", "--requests", &count.to_string(), "--warmup", "0"].map(str::to_owned);
    let to = stage.target(Contender::Malla, way);
    let sample = stage.load(&pods.client, to, &[], &arguments)?;
    anyhow::ensure!(sample.failed == 0, "{} requests failed: {:?}", sample.failed, sample.failure);
    Ok(())
}
