//! HAProxy, with HTTP/2 over mTLS between the two sides.

use anyhow::Result;
use malla_tests::Process;

use super::{Contender, INBOUND, OUTBOUND, configure, launch, upstream};
use crate::stage::{Carried, Place, Stage, Way};

pub(super) fn start(stage: &Stage, way: Way) -> Result<Vec<Process>> {
    let pods = stage.pods(Contender::Haproxy)?;
    let certificates = stage.certificates.display();
    let (_, port) = way.carried.ports();
    let mut processes = Vec::new();
    let tcp = matches!(way.carried, Carried::Echo | Carried::Source);
    // Towards applications: what they speak. Between the sides: HTTP/2, or bytes.
    let application = if way.carried == Carried::Grpc { " proto h2" } else { "" };
    let alpn = if tcp { "" } else { " alpn h2" };
    let tls =
        format!("ssl crt {certificates}/both.pem ca-file {certificates}/ca_certificates.pem verify required{alpn}");
    let sides = [
        (&pods.client, OUTBOUND, upstream(Contender::Haproxy, stage, way)?.to_string()),
        (&pods.server, INBOUND, format!("127.0.0.1:{port}")),
    ];
    for (pod, listen, to) in sides {
        let inbound = listen == INBOUND;
        if way.place == Place::Hop && inbound {
            break;
        }
        let (bind, server) = match (way.place, inbound) {
            (Place::Hop, _) => (application.to_owned(), application.to_owned()),
            (Place::Pair, false) => (application.to_owned(), format!(" {tls} sni str(bench.mesh)")),
            (Place::Pair, true) => (format!(" {tls}"), application.to_owned()),
        };
        let mode = if tcp { "tcp" } else { "http" };
        let reuse = if tcp { "" } else { "http-reuse always" };
        let text = format!(
            "global
                nbthread 1
                ssl-default-bind-options ssl-min-ver TLSv1.3
                ssl-default-server-options ssl-min-ver TLSv1.3
                tune.h2.max-concurrent-streams 1024
             defaults
                mode {mode}
                timeout connect 5s
                timeout client 1h
                timeout server 1h
                timeout tunnel 1h
                {reuse}
             frontend metrics
                mode http
                bind 127.0.0.1:15020
                http-request use-service prometheus-exporter if {{ path /metrics }}
             listen main
                bind :{listen}{bind}
                server next {to}{server}\n"
        );
        let file = configure(pod, "haproxy.cfg", &text)?;
        processes.push(launch(stage, pod, listen, &["haproxy", "-db", "-f", &file]));
    }
    Ok(processes)
}
