//! Ours: two members of a mesh with a control server, the sidecars as people run them.

use anyhow::{Result, bail};
use malla_tests::Process;
use malla_tests::pod::SIDECAR_USER;

use crate::contender::Contender;
use crate::stage::{Place, Site, Stage, Way};

/// The sidecars of a way. One configuration serves all of them: what a connection carries, the service's port says.
pub(super) fn start(stage: &Stage, way: Way, more: &[&str]) -> Result<Vec<Process>> {
    start_on(stage, way, &stage.proxies_on, more)
}

/// The same, on these processors.
pub(crate) fn start_on(stage: &Stage, way: Way, processors: &str, more: &[&str]) -> Result<Vec<Process>> {
    let pods = stage.pods(Contender::Malla)?;
    let sites = match way.place {
        Place::Hop => vec![&pods.client],
        Place::Pair => vec![&pods.client, &pods.server],
    };
    let mut started = Vec::new();
    for site in sites {
        let Site::Member(member) = site else { bail!("{} is no member of the mesh", site.name()) };
        started.push((member, member.spawn_sidecar(SIDECAR_USER, &["taskset", "-c", processors], &stage.mesh, more)));
    }
    started.iter_mut().for_each(|(member, sidecar)| member.wait_sidecar_ready(sidecar));
    Ok(started.into_iter().map(|(_, sidecar)| sidecar).collect())
}
