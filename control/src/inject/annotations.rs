//! What the owner of a pod wishes of its sidecar, in annotations `malla.dev/…`. What cannot be honoured is refused by name: a misspelt
//! annotation that is ignored would be found when it is needed.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use ipnet::IpNet;

use super::pod::Pod;
use super::telling::{self, Telling};
use super::{INJECT, INJECTED, ORIGINALS, TRUST, quantity};

const PREFIX: &str = "malla.dev/";
/// How traffic reaches the sidecar.
pub(super) const MODE: &str = "malla.dev/mode";
/// How long connections may take to finish.
pub(super) const DRAIN_TIME: &str = "malla.dev/drain-time";
/// Local ports that lead to services, in explicit mode.
pub(super) const LISTEN: &str = "malla.dev/listen";
const OPAQUE_PORTS: &str = "malla.dev/opaque-ports";
const HTTP_PORTS: &str = "malla.dev/http-ports";
/// What a log level looks like.
pub(super) const LOG: &str = "is no log level: write error, warn, info, debug or off";
/// What a drain time looks like.
pub(super) const DRAIN: &str = "is no time: write a whole number with its unit, for example 30s or 2m";

/// How traffic reaches the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The kernel redirects it; an init container with NET_ADMIN installs that.
    Transparent,
    /// Programs address the sidecar: no init container, no privilege, but what does not know of it passes by.
    Explicit,
}

/// What a pod asks for. Lists are as they were written, checked and without blanks: they become flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) mode: Mode,
    /// Flags of `malla-proxy init` with their values.
    pub(super) redirection: Vec<(&'static str, String)>,
    pub(super) opaque_ports: Option<String>,
    pub(super) http_ports: Option<String>,
    pub(super) listen: Option<String>,
    pub(super) cpu_request: Option<String>,
    pub(super) cpu_limit: Option<String>,
    pub(super) memory_request: Option<String>,
    pub(super) memory_limit: Option<String>,
    pub(super) log: Option<String>,
    pub(super) workers: Option<String>,
    pub(super) drain: Option<String>,
    pub(super) telling: Telling,
}

/// Annotations about the redirection, the flag of `malla-proxy init` that honours each, and what it takes.
const REDIRECTION: [(&str, &str, Check); 6] = [
    ("malla.dev/inbound-ports", "--include-inbound-ports", ports),
    ("malla.dev/skip-inbound-ports", "--exclude-inbound-ports", ports),
    ("malla.dev/outbound-ports", "--include-outbound-ports", ports),
    ("malla.dev/skip-outbound-ports", "--exclude-outbound-ports", ports),
    ("malla.dev/outbound-cidrs", "--include-outbound-cidrs", cidrs),
    ("malla.dev/skip-outbound-cidrs", "--exclude-outbound-cidrs", cidrs),
];

/// All others that a person may write.
const OTHERS: [&str; 12] = [
    INJECT,
    MODE,
    LISTEN,
    OPAQUE_PORTS,
    HTTP_PORTS,
    "malla.dev/cpu-request",
    "malla.dev/cpu-limit",
    "malla.dev/memory-request",
    "malla.dev/memory-limit",
    "malla.dev/log",
    "malla.dev/workers",
    DRAIN_TIME,
];

/// The value as a flag takes it, or what is wrong with it.
type Check = fn(&str) -> Result<String, &'static str>;

impl Wishes {
    /// What a pod asks for, in a mesh that tells this of requests.
    ///
    /// # Errors
    /// A sentence that names the annotation and what to write.
    pub(super) fn of(pod: &Pod, mesh: &Telling) -> Result<Wishes, String> {
        for (name, _) in pod.annotations().filter(|(name, _)| name.starts_with(PREFIX)) {
            let known = REDIRECTION.iter().map(|(known, ..)| *known).chain(OTHERS).chain(telling::annotations());
            if ![INJECTED, ORIGINALS, TRUST].contains(&name) && !known.clone().any(|known| known == name) {
                let known: Vec<&str> = known.collect();
                return Err(format!("the annotation {name} is not supported; these are: {}", known.join(", ")));
            }
        }
        let checked = |name: &str, check: Check| match pod.annotation(name) {
            None => Ok(None),
            Some(text) => match check(text.trim()) {
                Ok(value) => Ok(Some(value)),
                Err(advice) => Err(format!("{name}: {text:?} {advice}")),
            },
        };
        let mut redirection = Vec::new();
        for (name, flag, check) in REDIRECTION {
            redirection.extend(checked(name, check)?.map(|value| (flag, value)));
        }
        let mode = match checked(MODE, mode)?.as_deref() {
            Some("explicit") => Mode::Explicit,
            _ => Mode::Transparent,
        };
        if let (Mode::Explicit, Some((flag, _))) = (mode, redirection.first()) {
            let name = REDIRECTION.iter().find(|(_, known, _)| known == flag).map_or(*flag, |(name, ..)| *name);
            return Err(format!(
                "{name} has no meaning with {MODE}: explicit, in which nothing is redirected: remove one of them"
            ));
        }
        let listen = checked(LISTEN, listen)?;
        if mode == Mode::Transparent && listen.is_some() {
            return Err(format!(
                "{LISTEN} has no meaning without {MODE}: explicit, because services are reached by their own names: remove it"
            ));
        }
        let (opaque_ports, http_ports) = (checked(OPAQUE_PORTS, ports)?, checked(HTTP_PORTS, ports)?);
        let mut http = http_ports.iter().flat_map(|ports| ports.split(','));
        if let Some(both) = http.find(|port| opaque_ports.iter().any(|ports| ports.split(',').any(|one| one == *port)))
        {
            return Err(format!(
                "{OPAQUE_PORTS} and {HTTP_PORTS} both name the port {both}: remove it from one of them"
            ));
        }
        Ok(Wishes {
            mode,
            redirection,
            opaque_ports,
            http_ports,
            listen,
            cpu_request: checked("malla.dev/cpu-request", cpu)?,
            cpu_limit: checked("malla.dev/cpu-limit", cpu)?,
            memory_request: checked("malla.dev/memory-request", memory)?,
            memory_limit: checked("malla.dev/memory-limit", memory)?,
            log: checked("malla.dev/log", log)?,
            workers: checked("malla.dev/workers", workers)?,
            drain: checked(DRAIN_TIME, drain)?,
            telling: mesh.of_pod(|name| pod.annotation(name).map(String::as_str))?,
        })
    }
}

fn mode(text: &str) -> Result<String, &'static str> {
    match text {
        "transparent" | "explicit" => Ok(text.to_owned()),
        _ => Err("is neither `transparent` nor `explicit`"),
    }
}

fn ports(text: &str) -> Result<String, &'static str> {
    let port = |text: &str| text.parse().ok().filter(|port: &u16| *port > 0);
    list(text, port, "is no list of ports: write 8080 or 8080,9090; every port of a range by itself")
}

fn cidrs(text: &str) -> Result<String, &'static str> {
    let network =
        |text: &str| text.parse().ok().or_else(|| text.parse().ok().map(|address: IpAddr| IpNet::from(address)));
    list(text, network, "is no list of networks: write 10.0.0.0/8 or 10.0.0.0/8,fd00::/8")
}

/// As `malla-proxy --listen` takes it, several separated by commas; on loopback alone, because whoever connects there has the pod's identity.
fn listen(text: &str) -> Result<String, &'static str> {
    let entry = |text: &str| {
        let (local, destination) = text.split_once('=')?;
        let local: SocketAddr = local.trim().parse().ok().filter(|local: &SocketAddr| local.ip().is_loopback())?;
        let (name, port) = destination.trim().rsplit_once(':')?;
        let (to, _) = (port.parse::<NonZeroU16>().ok()?, NonZeroU16::new(local.port())?);
        let label = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        name.split('.').all(label).then(|| format!("{local}={name}:{to}"))
    };
    list(text, entry, "is no list of local ports: write 127.0.0.1:3306=mysql.db:3306, several separated by commas")
}

/// The local ports of what [`LISTEN`] says.
pub(super) fn local_ports(listen: &str) -> impl Iterator<Item = u16> {
    let local = |entry: &str| entry.split_once('=')?.0.parse::<SocketAddr>().ok();
    listen.split(',').filter_map(local).map(|local| local.port()).collect::<Vec<_>>().into_iter()
}

fn list<T: ToString>(
    text: &str,
    parse: impl Fn(&str) -> Option<T>,
    advice: &'static str,
) -> Result<String, &'static str> {
    let members: Option<Vec<String>> =
        text.split(',').map(|member| parse(member.trim()).map(|member| member.to_string())).collect();
    members.map(|members| members.join(",")).ok_or(advice)
}

fn cpu(text: &str) -> Result<String, &'static str> {
    quantity::is_cpu(text).then(|| text.to_owned()).ok_or(quantity::CPU)
}

fn memory(text: &str) -> Result<String, &'static str> {
    quantity::is_memory(text).then(|| text.to_owned()).ok_or(quantity::MEMORY)
}

fn log(text: &str) -> Result<String, &'static str> {
    is_log_level(text).then(|| text.to_owned()).ok_or(LOG)
}

fn workers(text: &str) -> Result<String, &'static str> {
    let number = text.parse().ok().filter(|number| (1..=64).contains(number));
    number.map(|number: u8| number.to_string()).ok_or("is no number of threads from 1 to 64")
}

fn drain(text: &str) -> Result<String, &'static str> {
    seconds(text).map(|_| text.to_owned()).ok_or(DRAIN)
}

/// Whether a sidecar understands it as its log level.
pub(super) fn is_log_level(text: &str) -> bool {
    ["error", "warn", "info", "debug", "off"].contains(&text)
}

/// Whole seconds, rounded up, of a duration as `malla-proxy` takes it.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let number: u64 = number.parse().ok().filter(|number| *number <= 86_400_000)?;
    match unit {
        "ms" => Some(number.div_ceil(1000)),
        "s" => Some(number),
        "m" => Some(number * 60),
        "h" => Some(number * 3600),
        _ => None,
    }
}
