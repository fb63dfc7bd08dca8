//! Instructions per proxied request: the pair of sidecars as people run them, under valgrind, with one request after another on one
//! connection. Starting up and the connections' beginnings are in both of two runs; the difference is the requests'.

use anyhow::{Result, bail};
use malla_tests::Process;
use malla_tests::pod::SIDECAR_USER;

use super::total;
use crate::contender::Contender;
use crate::machine::Machine;
use crate::stage::{Carried, Place, Site, Stage, Way};

/// Of the stored figure.
pub(super) const NAME: &str = "proxied-request";

const FEW: u64 = 200;
const MANY: u64 = 1200;

/// User-space instructions of both sidecars for one request.
pub(super) fn instructions() -> Result<u64> {
    let contenders = [Contender::Malla];
    let stage = Stage::set(&contenders, &Machine::look(&contenders)?)?;
    let (few, many) = (requests(&stage, FEW)?, requests(&stage, MANY)?);
    Ok(many.saturating_sub(few) / (MANY - FEW))
}

/// All instructions of two sidecars that carry so many requests.
fn requests(stage: &Stage, count: u64) -> Result<u64> {
    let pods = stage.pods(Contender::Malla)?;
    let mut sidecars = Vec::new();
    for site in [&pods.client, &pods.server] {
        let Site::Member(member) = site else { bail!("{} is no member of the mesh", site.name()) };
        let out = stage.mesh.sandbox().writable_directory("callgrind").join(format!("{}-{count}", site.name()));
        let file = format!("--callgrind-out-file={}", out.display());
        let valgrind = ["valgrind", "--tool=callgrind", "--quiet", &file];
        sidecars.push((member, out, member.spawn_sidecar(SIDECAR_USER, &valgrind, &stage.mesh, &["--drain", "0s"])));
    }
    sidecars.iter_mut().for_each(|(member, _, sidecar)| member.wait_sidecar_ready(sidecar));
    let way = Way { place: Place::Pair, carried: Carried::Http1 };
    let arguments = ["http1", "--requests", &count.to_string(), "--warmup", "0"].map(str::to_owned);
    let sample = stage.load(
        &pods.client,
        stage.target(Contender::Malla, way),
        &[],
        &arguments,
        std::time::Duration::from_secs(120),
    )?;
    anyhow::ensure!(sample.failed == 0, "{} requests failed: {:?}", sample.failed, sample.failure);
    let mut instructions = 0;
    for (_, out, sidecar) in sidecars {
        Process::terminate(sidecar, std::time::Duration::from_secs(60));
        instructions += total(&out)?;
    }
    Ok(instructions)
}
