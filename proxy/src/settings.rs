//! What an operator wrote, made ready: flags and `MALLA_…` variables in, [`Settings`] out.
//!
//! The only place of the sidecar that reads the environment. Nothing downstream meets an invalid value. It opens no socket
//! and reads no file but the gRPC bootstrap file, the token (for its namespace) and the trust file (whether it is one).

mod telling;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use malla_xds::probes::Probes;

use self::telling::TellingArgs;
use crate::access_log::AccessLogSettings;
use crate::control::{self, ConnectError};
use crate::names::{self, Name};
use crate::snapshot::Protocol;
use crate::token;
use crate::trace::Tracing;

/// Connections that may be open at once, unless told otherwise.
const MAX_CONNECTIONS: usize = 20_000;

/// What an operator may write to run a sidecar. Raw: [`Args::ready`] makes [`Settings`] of it.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    join: JoinArgs,

    /// How traffic reaches the sidecar
    #[arg(long, env = "MALLA_MODE", value_enum, default_value_t = Mode::Explicit)]
    mode: Mode,

    /// Address to listen on [default: 127.0.0.1 in explicit mode, every address in transparent mode]
    #[arg(long, env = "MALLA_ADDRESS", value_name = "IP")]
    address: Option<IpAddr>,

    /// Address of the outbound listener alone [default: --address in transparent mode or if that is a loopback address,
    /// else 127.0.0.1, so that no other machine can use the sidecar as a proxy]
    #[arg(long, env = "MALLA_OUTBOUND_ADDRESS", value_name = "IP")]
    outbound_address: Option<IpAddr>,

    /// Port for what leaves the application: redirected connections, or the HTTP proxy of explicit mode
    #[arg(long, env = "MALLA_OUTBOUND_PORT", value_name = "PORT", default_value_t = 15001)]
    outbound_port: u16,

    /// Port for what other sidecars send
    #[arg(long, env = "MALLA_INBOUND_PORT", value_name = "PORT", default_value_t = 15006)]
    inbound_port: u16,

    /// Port for /ready, /live, /metrics and /config
    #[arg(long, env = "MALLA_ADMIN_PORT", value_name = "PORT", default_value_t = 15020)]
    admin_port: u16,

    /// Port for /ready and /live alone
    #[arg(long, env = "MALLA_HEALTH_PORT", value_name = "PORT", default_value_t = 15021)]
    health_port: u16,

    /// A local port that leads to one service, for TCP in explicit mode: 127.0.0.1:3306=mysql.db:3306 (repeatable)
    #[arg(long, env = "MALLA_LOCAL", value_name = "LOCAL=SERVICE:PORT", value_delimiter = ',')]
    listen: Vec<RawListen>,

    /// Worker threads
    #[arg(long, env = "MALLA_WORKERS", value_name = "N", default_value = "1")]
    workers: NonZeroUsize,

    /// How long connections may take to finish when the sidecar stops, for example 30s
    #[arg(long, env = "MALLA_DRAIN", value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    drain: Duration,

    /// Connections that may be open at once; more are refused
    #[arg(long, env = "MALLA_MAX_CONNECTIONS", value_name = "N", default_value_t = MAX_CONNECTIONS)]
    max_connections: usize,

    /// Memory from which the sidecar sheds load with `overloaded`, for example 256Mi, or none [default: the limit of its control
    /// group]
    #[arg(long, env = "MALLA_MEMORY_LIMIT", value_name = "SIZE")]
    memory_limit: Option<MemoryLimit>,

    /// Ports whose connections are raw TCP where nothing declares what is spoken: nothing is peeked, comma-separated
    #[arg(long, env = "MALLA_OPAQUE_PORTS", value_name = "PORTS", value_delimiter = ',')]
    opaque_ports: Vec<u16>,

    /// Ports that speak HTTP where nothing declares what is spoken: a client may be silent before its first request, comma-separated
    #[arg(long, env = "MALLA_HTTP_PORTS", value_name = "PORTS", value_delimiter = ',')]
    http_ports: Vec<u16>,

    /// Checks to make for an orchestrator, at paths of the health port: JSON, as the admission webhook writes it
    #[arg(long, env = "MALLA_PROBES", value_name = "JSON", value_parser = parse_probes)]
    probes: Option<Probes>,

    /// Where the application has metrics, to be served with the sidecar's own at /metrics/merged of the admin port: 9090/metrics
    #[arg(long, env = "MALLA_SCRAPE", value_name = "PORT/PATH")]
    scrape: Option<Scrape>,

    /// Mark (SO_MARK) for all connections that the sidecar opens, so that `malla-proxy init --mark` can tell them
    #[arg(long, env = "MALLA_MARK", value_name = "N")]
    mark: Option<u32>,

    #[command(flatten)]
    telling: TellingArgs,
}

/// What every subcommand that joins the mesh needs to know.
#[derive(Debug, Clone, clap::Args)]
pub struct JoinArgs {
    /// Control server [default: the server of the gRPC bootstrap file, else 127.0.0.1:15012]
    #[arg(long, env = "MALLA_CONTROL", value_name = "HOST:PORT")]
    control: Option<HostPort>,

    /// Bootstrap file of a proxyless gRPC client; its first server is used when --control is absent
    #[arg(long, env = "GRPC_XDS_BOOTSTRAP", value_name = "FILE")]
    bootstrap: Option<PathBuf>,

    /// Root certificate (PEM) that the control server's certificate is verified against
    #[arg(long, env = "MALLA_TRUST", value_name = "FILE")]
    trust: Option<PathBuf>,

    /// Token that proves the workload's identity: of `malla token create`, or of a Kubernetes service account
    #[arg(long, env = "MALLA_TOKEN", value_name = "FILE")]
    token: Option<PathBuf>,

    /// Name of this workload [default: the host name]
    #[arg(long, env = "MALLA_WORKLOAD", value_name = "NAME")]
    workload: Option<String>,

    /// Namespace of this workload [default: the token's]
    #[arg(long, env = "MALLA_NAMESPACE", value_name = "NAMESPACE")]
    namespace: Option<String>,
}

/// What cannot be made ready, and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A flag without a default is absent.
    #[error("{flag} is missing: {advice}")]
    Missing {
        /// Flag.
        flag: &'static str,
        /// What to write.
        advice: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read {} ({flag})", path.display())]
    File {
        /// Flag that names it.
        flag: &'static str,
        /// Path.
        path: PathBuf,
        /// Cause.
        #[source]
        cause: io::Error,
    },
    /// The trust file holds no certificates.
    #[error("--trust must name the control server's root certificate, root.pem in its state directory")]
    Trust(#[source] ConnectError),
    /// The bootstrap file says nothing usable.
    #[error("{} is not a usable gRPC bootstrap file: {problem}; or give --control HOST:PORT", path.display())]
    Bootstrap {
        /// Path.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The token does not tell a namespace.
    #[error("the token in {} names no namespace: give --namespace NAMESPACE", path.display())]
    NoNamespace {
        /// Path.
        path: PathBuf,
    },
    /// A name that cannot be part of a DNS or SPIFFE name.
    #[error("{flag} {value:?} is not a name: use lower-case letters, digits, dashes and dots")]
    Name {
        /// Flag.
        flag: &'static str,
        /// What was written.
        value: String,
    },
    /// The destination of `--listen` is no service.
    #[error("--listen: {0:?} is not a destination: write name.namespace:port, for example mysql.db:3306")]
    Destination(String),
}

/// All that a sidecar must be told. Ready: `Proxy::start` takes it as it is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Control server: xDS and certificates.
    pub control: HostPort,
    /// PEM file with the trust anchors for the control server's own certificate.
    pub trust: PathBuf,
    /// File with the join token or service-account token; read again each time it is needed.
    pub token: PathBuf,
    /// This workload's name.
    pub workload: Arc<str>,
    /// Namespace of this workload; names without a namespace are completed with it.
    pub namespace: Arc<str>,
    /// How traffic reaches the sidecar.
    pub mode: Mode,
    /// Listener for traffic that leaves the application: redirected connections, or an HTTP proxy in explicit mode.
    pub outbound: SocketAddr,
    /// Listener for traffic from other sidecars.
    pub inbound: SocketAddr,
    /// Listener for `/ready`, `/live`, `/metrics`, `/config`.
    pub admin: SocketAddr,
    /// Listener for `/ready` and `/live` alone, for the orchestrator.
    pub health: SocketAddr,
    /// Local ports that lead to one destination each, for TCP in explicit mode.
    pub listen: Vec<LocalListen>,
    /// Worker threads. Default 1.
    pub workers: NonZeroUsize,
    /// How long a drain may take before connections are cut. Default 30 s.
    pub drain: Duration,
    /// Connections that may be open at once. Default 20,000.
    pub max_connections: usize,
    /// Memory that it may use. Default that of its control group.
    pub memory_limit: MemoryLimit,
    /// Mark of all connections that the sidecar opens.
    pub mark: Option<u32>,
    /// Which requests a trace collector is told of. Default none.
    pub tracing: Option<Tracing>,
    /// Which requests have a line on standard output, and what it says. Default none.
    pub access_log: Option<AccessLogSettings>,
    /// Ports that are raw TCP where nothing declares what is spoken.
    pub opaque_ports: Vec<u16>,
    /// Ports that speak HTTP there.
    pub http_ports: Vec<u16>,
    /// Checks that are made for an orchestrator, by path of the health port.
    pub probes: Probes,
    /// Where the application has metrics.
    pub scrape: Option<Scrape>,
}

/// Memory that a sidecar may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MemoryLimit {
    /// What the control group of the process allows, if that has a limit.
    #[default]
    Group,
    /// This many bytes.
    Bytes(u64),
    /// As much as there is.
    None,
}

/// Where the application has metrics: `9090/metrics`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrape {
    /// Port of the application.
    pub port: u16,
    /// Path and query, from the first slash.
    pub path: Arc<str>,
}

/// How traffic reaches the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// The kernel redirects it; original destinations are looked up.
    Transparent,
    /// Programs address the sidecar themselves.
    Explicit,
}

/// A host, by name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Name or address, without brackets.
    pub host: Arc<str>,
    /// Port.
    pub port: u16,
}

/// A local port that leads to one destination: `127.0.0.1:3306=mysql.db:3306`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalListen {
    /// Where the sidecar listens.
    pub local: SocketAddr,
    /// Name that is looked up: `mysql.db:3306`.
    pub destination: Name,
}

impl Args {
    /// Completes and checks what was written.
    ///
    /// # Errors
    /// A [`SettingsError`] that says what to write.
    pub fn ready(self) -> Result<Settings, SettingsError> {
        let everywhere = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let address = self.address.unwrap_or(match self.mode {
            Mode::Transparent => everywhere,
            Mode::Explicit => local,
        });
        let outbound_address = self.outbound_address.unwrap_or(match self.mode {
            Mode::Transparent => address,
            Mode::Explicit if address.is_loopback() => address,
            Mode::Explicit => local,
        });
        let joined = self.join.ready()?;
        let (access_log, tracing) = self.telling.ready();
        let listen = self
            .listen
            .into_iter()
            .map(|RawListen { local, destination }| match names::destination(&destination, 0, &joined.namespace) {
                Some(name) if !name.ends_with(":0") => Ok(LocalListen { local, destination: name.as_ref().into() }),
                _ => Err(SettingsError::Destination(destination)),
            })
            .collect::<Result<_, _>>()?;
        Ok(Settings {
            mode: self.mode,
            outbound: SocketAddr::new(outbound_address, self.outbound_port),
            inbound: SocketAddr::new(address, self.inbound_port),
            admin: SocketAddr::new(address, self.admin_port),
            health: SocketAddr::new(address, self.health_port),
            listen,
            workers: self.workers,
            drain: self.drain,
            max_connections: self.max_connections,
            memory_limit: self.memory_limit.unwrap_or_default(),
            mark: self.mark,
            tracing,
            access_log,
            opaque_ports: self.opaque_ports,
            http_ports: self.http_ports,
            probes: self.probes.unwrap_or_default(),
            scrape: self.scrape,
            ..joined
        })
    }
}

impl JoinArgs {
    /// Completes and checks what was written; what it does not say is at the defaults of [`Settings::embedded`].
    ///
    /// # Errors
    /// A [`SettingsError`] that says what to write.
    pub fn ready(self) -> Result<Settings, SettingsError> {
        let trust = self.trust.ok_or(SettingsError::Missing {
            flag: "--trust",
            advice: "give the control server's root certificate (root.pem in its state directory)",
        })?;
        let token = self.token.ok_or(SettingsError::Missing {
            flag: "--token",
            advice: "give a file with a token, made by `malla token create` on the control server",
        })?;
        readable("--trust", &trust)?;
        // It is read anew for each connection; what holds no certificate now is a mistake, not a file that is being replaced.
        control::trust_anchors(&trust).map_err(SettingsError::Trust)?;
        let written = readable("--token", &token)?;
        let control = match (self.control, self.bootstrap) {
            (Some(control), _) => control,
            (None, Some(path)) => control_of_bootstrap(&path)?,
            (None, None) => HostPort { host: "127.0.0.1".into(), port: 15012 },
        };
        let namespace = match self.namespace {
            Some(namespace) => namespace,
            None => token::namespace(&written).ok_or(SettingsError::NoNamespace { path: token.clone() })?,
        };
        let workload = self.workload.unwrap_or_else(host_name);
        let workload = checked_name("--workload", workload, is_label)?;
        let namespace = checked_name("--namespace", namespace, is_label)?;
        Ok(Settings { control, ..Settings::embedded(&workload, &namespace, any_port(), trust, token) })
    }
}

impl Settings {
    /// Settings with every default, for a workload and a control server. Explicit mode, every listener on an ephemeral port of
    /// 127.0.0.1: what tests and programs that embed sidecars start from.
    pub fn embedded(workload: &str, namespace: &str, control: SocketAddr, trust: PathBuf, token: PathBuf) -> Self {
        Settings {
            control: HostPort { host: control.ip().to_string().into(), port: control.port() },
            trust,
            token,
            workload: workload.into(),
            namespace: namespace.into(),
            mode: Mode::Explicit,
            outbound: any_port(),
            inbound: any_port(),
            admin: any_port(),
            health: any_port(),
            listen: Vec::new(),
            workers: NonZeroUsize::MIN,
            drain: Duration::from_secs(30),
            max_connections: MAX_CONNECTIONS,
            memory_limit: MemoryLimit::default(),
            mark: None,
            tracing: None,
            access_log: None,
            opaque_ports: Vec::new(),
            http_ports: Vec::new(),
            probes: Probes::new(),
            scrape: None,
        }
    }

    /// What is spoken at a port: what is declared; else what this workload was told about it; else it is to be detected.
    pub fn spoken(&self, declared: Protocol, port: u16) -> Protocol {
        match declared {
            Protocol::Detect if self.opaque_ports.contains(&port) => Protocol::Tcp,
            Protocol::Detect if self.http_ports.contains(&port) => Protocol::Http,
            declared => declared,
        }
    }

    /// xDS name of this workload's own listener.
    pub fn inbound_name(&self) -> Name {
        format!("inbound/{}.{}", self.workload, self.namespace).into()
    }

    /// xDS node id.
    pub fn node_id(&self) -> String {
        format!("{}.{}", self.workload, self.namespace)
    }
}

/// An ephemeral port of 127.0.0.1.
fn any_port() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)
}

/// The content of a text file that a flag names.
fn readable(flag: &'static str, path: &Path) -> Result<String, SettingsError> {
    std::fs::read_to_string(path).map_err(|cause| SettingsError::File { flag, path: path.to_owned(), cause })
}

/// `xds_servers[0].server_uri` of a gRPC bootstrap file (gRFC A27), without the resolver's scheme.
fn control_of_bootstrap(path: &Path) -> Result<HostPort, SettingsError> {
    let text = readable("--bootstrap", path)?;
    let problem = |problem: String| SettingsError::Bootstrap { path: path.to_owned(), problem };
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|cause| problem(cause.to_string()))?;
    let uri = json.pointer("/xds_servers/0/server_uri").and_then(serde_json::Value::as_str);
    let uri = uri.ok_or_else(|| problem("xds_servers[0].server_uri is missing".to_owned()))?;
    let target = uri.strip_prefix("dns:///").or_else(|| uri.strip_prefix("dns:")).unwrap_or(uri);
    target.parse().map_err(|cause: InvalidHostPort| problem(cause.to_string()))
}

/// First label of the host name.
fn host_name() -> String {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    name.split('.').next().unwrap_or("localhost").to_ascii_lowercase()
}

fn checked_name(flag: &'static str, value: String, valid: fn(&str) -> bool) -> Result<String, SettingsError> {
    if valid(&value) { Ok(value) } else { Err(SettingsError::Name { flag, value }) }
}

/// RFC 1123 §2.1, in lower case.
fn is_label(text: &str) -> bool {
    let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.len() <= 63 && text.bytes().all(valid) && !text.starts_with('-') && !text.ends_with('-')
}

/// A `--listen` as written.
#[derive(Debug, Clone)]
struct RawListen {
    local: SocketAddr,
    destination: String,
}

impl FromStr for RawListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let example = "write LOCAL=SERVICE:PORT, for example 127.0.0.1:3306=mysql.db:3306";
        let (local, destination) = text.split_once('=').ok_or_else(|| example.to_owned())?;
        let local = local.parse().map_err(|_| format!("{local:?} is not an address and port; {example}"))?;
        Ok(RawListen { local, destination: destination.to_owned() })
    }
}

/// Why a text is not a host and a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not HOST:PORT, for example control.example.org:15012 or [fd00::1]:15012")]
pub struct InvalidHostPort(String);

impl FromStr for HostPort {
    type Err = InvalidHostPort;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(HostPort { host: address.ip().to_string().into(), port: address.port() });
        }
        let invalid = || InvalidHostPort(text.to_owned());
        let (host, port) = text.split_once(':').ok_or_else(invalid)?;
        let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if host.is_empty() || !host.bytes().all(valid) {
            return Err(invalid());
        }
        Ok(HostPort { host: host.into(), port: port.parse().map_err(|_| invalid())? })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for MemoryLimit {
    type Err = String;

    /// `none`, or a whole number of bytes, with a unit of Kubernetes if there is one.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        /// With less a sidecar would shed everything.
        const LEAST: u64 = 16 << 20;
        if text == "none" {
            return Ok(MemoryLimit::None);
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor = match unit {
            "" => 1,
            "Ki" | "KiB" => 1 << 10,
            "Mi" | "MiB" => 1 << 20,
            "Gi" | "GiB" => 1 << 30,
            "k" | "kB" => 1_000,
            "M" | "MB" => 1_000_000,
            "G" | "GB" => 1_000_000_000,
            _ => return Err(format!("{unit:?} is not a unit: use Mi or Gi, for example 256Mi")),
        };
        let bytes: Option<u64> = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        let bytes = bytes.ok_or_else(|| "write a size, for example 256Mi, or none".to_owned())?;
        if bytes < LEAST { Err("a sidecar needs 16Mi at least".to_owned()) } else { Ok(MemoryLimit::Bytes(bytes)) }
    }
}

impl FromStr for Scrape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (port, path) = text.split_once('/').unwrap_or((text, "metrics"));
        let path = format!("/{path}");
        match port.parse() {
            Ok(port) if port > 0 && path.parse::<http::uri::PathAndQuery>().is_ok() => {
                Ok(Scrape { port, path: path.into() })
            }
            _ => Err("write PORT/PATH, for example 9090/metrics".to_owned()),
        }
    }
}

fn parse_probes(text: &str) -> Result<Probes, String> {
    let probes: Probes = serde_json::from_str(text).map_err(|cause| cause.to_string())?;
    match probes.iter().find(|(path, probe)| !path.starts_with("/probe/") || probe.port == 0) {
        Some((path, _)) => Err(format!("{path:?}: a path must begin with /probe/ and its port must not be 0")),
        None => Ok(probes),
    }
}

/// `30s`, `2m`, `500ms`, `1h`; whole numbers of one unit.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "write a number and a unit, for example 30s".to_owned())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        "h" => Ok(Duration::from_secs(number.saturating_mul(3600))),
        _ => Err(format!("{unit:?} is not a unit: use ms, s, m or h, for example 30s")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    /// Files that a sidecar needs, with the token of namespace `shop`.
    struct Files {
        directory: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            let directory = tempfile::tempdir().expect("a directory");
            let key = rcgen::KeyPair::generate().expect("a key");
            let root = rcgen::CertificateParams::default().self_signed(&key).expect("signed");
            std::fs::write(directory.path().join("root.pem"), root.pem()).expect("written");
            // {"namespace":"shop"}
            std::fs::write(directory.path().join("token"), "e30.eyJuYW1lc3BhY2UiOiJzaG9wIn0.x").expect("written");
            Files { directory }
        }

        fn ready(&self, more: &[&str]) -> Result<Settings, SettingsError> {
            let (trust, token) = (self.directory.path().join("root.pem"), self.directory.path().join("token"));
            let mut line = vec!["malla-proxy", "--workload", "cart-1"];
            line.extend(["--trust", trust.to_str().expect("UTF-8"), "--token", token.to_str().expect("UTF-8")]);
            line.extend(more);
            Command::try_parse_from(line).expect("parses").args.ready()
        }
    }

    #[test]
    fn defaults_keep_an_explicit_sidecar_on_this_machine() {
        let settings = Files::new().ready(&[]).expect("ready");
        assert_eq!(&*settings.namespace, "shop");
        assert_eq!(settings.control.to_string(), "127.0.0.1:15012");
        assert_eq!(settings.outbound.to_string(), "127.0.0.1:15001");
        assert_eq!(settings.inbound.to_string(), "127.0.0.1:15006");
        assert_eq!(settings.drain, Duration::from_secs(30));
    }

    #[test]
    fn an_address_of_the_network_does_not_open_the_outbound_proxy_to_it() {
        let settings = Files::new().ready(&["--address", "10.0.0.5"]).expect("ready");
        assert_eq!(settings.inbound.to_string(), "10.0.0.5:15006");
        assert_eq!(settings.outbound.to_string(), "127.0.0.1:15001");
    }

    #[test]
    fn a_transparent_sidecar_listens_on_every_address() {
        let settings = Files::new().ready(&["--mode", "transparent"]).expect("ready");
        assert_eq!(settings.inbound.to_string(), "[::]:15006");
    }

    #[test]
    fn local_listeners_lead_to_normalized_destinations() {
        let files = Files::new();
        let listen = |text: &str| files.ready(&["--listen", text]).map(|settings| settings.listen);
        let local = "127.0.0.1:3306".parse().expect("an address");
        assert_eq!(
            listen("127.0.0.1:3306=mysql:3306").expect("ready"),
            [LocalListen { local, destination: "mysql.shop:3306".into() }]
        );
        assert!(matches!(listen("127.0.0.1:3306=mysql"), Err(SettingsError::Destination(_))));
    }

    #[test]
    fn the_bootstrap_file_names_the_control_server() {
        let files = Files::new();
        let path = files.directory.path().join("bootstrap.json");
        let path = path.to_str().expect("UTF-8");
        std::fs::write(path, r#"{"xds_servers":[{"server_uri":"dns:///control.example.org:15012"}]}"#)
            .expect("written");
        let settings = files.ready(&["--bootstrap", path]).expect("ready");
        assert_eq!(settings.control.to_string(), "control.example.org:15012");
        std::fs::write(path, "{}").expect("written");
        assert!(matches!(files.ready(&["--bootstrap", path]), Err(SettingsError::Bootstrap { .. })));
    }

    #[test]
    fn what_is_missing_is_named() {
        let files = Files::new();
        std::fs::remove_file(files.directory.path().join("token")).expect("removed");
        let error = files.ready(&[]).expect_err("no token");
        assert!(error.to_string().starts_with("cannot read "), "{error}");
        assert!(error.to_string().ends_with("(--token)"), "{error}");
    }

    #[test]
    fn a_trust_file_without_certificate_is_named() {
        let files = Files::new();
        for content in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            std::fs::write(files.directory.path().join("root.pem"), content).expect("written");
            let error = files.ready(&[]).expect_err("no certificate");
            assert!(error.to_string().contains("--trust"), "{error}");
            let cause = std::error::Error::source(&error).expect("a cause").to_string();
            assert!(cause.contains("root.pem"), "{cause}");
        }
    }

    #[test]
    fn a_limit_of_memory_is_a_size_or_none() {
        let files = Files::new();
        let limit = |text: &str| files.ready(&["--memory-limit", text]).map(|settings| settings.memory_limit);
        assert_eq!(files.ready(&[]).expect("ready").memory_limit, MemoryLimit::Group);
        assert_eq!(limit("none").expect("ready"), MemoryLimit::None);
        for (text, bytes) in [("64Mi", 64 << 20), ("1GiB", 1 << 30), ("67108864", 64 << 20), ("100M", 100_000_000)] {
            assert_eq!(limit(text).expect("ready"), MemoryLimit::Bytes(bytes), "{text}");
        }
        for wrong in ["1Mi", "64", "Mi", "-1Gi", "64 MB!", "99999999999Gi"] {
            assert!(wrong.parse::<MemoryLimit>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_flag_is_an_environment_variable() {
        use clap::CommandFactory;
        for argument in Command::command().get_arguments() {
            let Some(flag) = argument.get_long() else { continue };
            let expected = match flag {
                // MALLA_LISTEN is where the control server listens.
                "listen" => "MALLA_LOCAL".to_owned(),
                "bootstrap" => "GRPC_XDS_BOOTSTRAP".to_owned(),
                flag => format!("MALLA_{}", flag.to_uppercase().replace('-', "_")),
            };
            assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(&*expected), "--{flag}");
        }
    }

    #[test]
    fn what_is_asked_of_the_application_is_refused_in_words_if_it_is_none() {
        let files = Files::new();
        let probes = r#"{"/probe/c/livez":{"port":80,"ask":"tcp"}}"#;
        let settings = files.ready(&["--probes", probes, "--scrape", "9100/m?x=1"]).expect("ready");
        assert_eq!(settings.probes.len(), 1);
        assert_eq!(settings.scrape, Some(Scrape { port: 9100, path: "/m?x=1".into() }));
        for bad in ["[]", "{", r#"{"/ready":{"port":80,"ask":"tcp"}}"#, r#"{"/probe/c":{"port":0,"ask":"tcp"}}"#] {
            assert!(parse_probes(bad).is_err(), "{bad}");
        }
        for bad in ["", "m", "0/m", "99999/m", "80/a b"] {
            assert!(bad.parse::<Scrape>().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "30", "s", "3 s", "-1s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
