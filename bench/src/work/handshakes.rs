//! Full and resumed mTLS handshakes with the inbound side, each with one request. The load does the client's half of each
//! handshake on its own processor.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use malla_tests::pod::inside;

use super::{Bench, CONNECTIONS, PAIR, progress, record};
use crate::contender::Contender;
use crate::figures::Figures;
use crate::stage::Stage;

pub(super) fn full(bench: &Bench<'_>, work: &'static str, figures: &mut Figures) -> Result<()> {
    run(bench, work, "handshake-full", figures)
}

pub(super) fn resumed(bench: &Bench<'_>, work: &'static str, figures: &mut Figures) -> Result<()> {
    run(bench, work, "handshake-resumed", figures)
}

fn run(bench: &Bench<'_>, work: &'static str, kind: &str, figures: &mut Figures) -> Result<()> {
    // The others have no inbound side that takes HTTP/2 over mTLS.
    let takes = [Contender::Malla, Contender::Envoy, Contender::Haproxy, Contender::Hyper];
    let present = bench.contenders.iter().copied().filter(|contender| takes.contains(contender));
    let running: Vec<_> = present.filter_map(|contender| bench.start_one(work, contender, PAIR, figures)).collect();
    let ours = mesh_certificates(bench.stage)?;
    for round in 1..=bench.arguments.rounds() {
        for running in &running {
            progress(&format!("{work}: round {round}, {}", running.contender.title()));
            let server = bench.stage.pods(running.contender)?.server.ipv4();
            let (certificates, name) = match running.contender {
                Contender::Malla => (&ours, "80.web.shop.mesh"),
                _ => (&bench.stage.certificates, "bench.mesh"),
            };
            let mut arguments =
                [kind, "--connections", "8", "--sni", name, "--certificates"].map(str::to_owned).to_vec();
            arguments.push(certificates.to_string_lossy().into_owned());
            arguments.extend(bench.windows());
            let to = SocketAddr::new(server, 8080);
            let sample = bench.stage.load(&bench.stage.outside, to, &running.ids(), &arguments)?;
            record(work, running.contender, &sample, CONNECTIONS, figures);
        }
    }
    progress("");
    Ok(())
}

/// A certificate of the mesh for the load, as PEM files.
pub(super) fn mesh_certificates(stage: &Stage) -> Result<PathBuf> {
    let directory = stage.mesh.sandbox().writable_directory("mesh-certificates");
    if !directory.join("certificates.pem").exists() {
        let (token, trust) = (stage.mesh.token("bench", "1h"), stage.mesh.trust());
        let control = stage.mesh.control_address();
        let command = [
            &*inside("malla-proxy"),
            "certificates",
            "--once",
            "--control",
            &control,
            "--trust",
            &trust.to_string_lossy(),
            "--token",
            &token.to_string_lossy(),
            "--workload",
            "bench",
            "--out",
            &directory.to_string_lossy(),
        ];
        stage.outside.exec(&command).success();
    }
    ensure!(directory.join("certificates.pem").exists(), "no certificate of the mesh");
    Ok(directory)
}
