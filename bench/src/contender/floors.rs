//! The floors: `bench-peer` as relay or bare proxy.

use anyhow::Result;
use malla_tests::Process;
use malla_tests::pod::inside;

use super::{Contender, INBOUND, OUTBOUND, launch, upstream};
use crate::stage::{Carried, Place, Stage, Way};

pub(super) fn start(contender: Contender, stage: &Stage, way: Way) -> Result<Vec<Process>> {
    let pods = stage.pods(contender)?;
    let (program, certificates) = (inside("bench-peer"), stage.certificates.to_string_lossy());
    let (_, port) = way.carried.ports();
    let (outward, inward) = (upstream(contender, stage, way)?.to_string(), format!("127.0.0.1:{port}"));
    let mut processes = Vec::new();
    for (pod, listen, to, outbound) in [(&pods.client, OUTBOUND, outward, true), (&pods.server, INBOUND, inward, false)]
    {
        if way.place == Place::Hop && !outbound {
            break;
        }
        let listen_text = listen.to_string();
        let common = ["--listen", &listen_text, "--to", &to, "--certificates", &certificates];
        let mut command = vec![&*program];
        match contender {
            Contender::Hyper => {
                let place = match (way.place, outbound) {
                    (Place::Hop, _) => "alone",
                    (Place::Pair, true) => "outbound",
                    (Place::Pair, false) => "inbound",
                };
                command.extend(["floor", "--place", place]);
                if way.carried == Carried::Grpc {
                    command.push("--http2");
                }
            }
            Contender::RelayTls => command.extend(["relay", "--tls", if outbound { "upstream" } else { "downstream" }]),
            _ => command.push("relay"),
        }
        command.extend(common);
        processes.push(launch(stage, pod, listen, &command));
    }
    Ok(processes)
}
