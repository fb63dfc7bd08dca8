//! What the system says about names: `/etc/hosts` and `/etc/resolv.conf`, read again when they change.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;
use parking_lot::Mutex;

/// Longest wait for one server, whatever `/etc/resolv.conf` says.
const SERVER_LIMIT: Duration = Duration::from_secs(2);

/// Bounds for what is kept.
const NEGATIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
const LONGEST_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Names that are kept.
const CACHE: u64 = 1024;

/// Both files.
pub(super) struct System {
    hosts: Watched<Hosts>,
    servers: Watched<Option<TokioResolver>>,
}

impl std::fmt::Debug for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("System").field("hosts", &self.hosts.path).field("servers", &self.servers.path).finish()
    }
}

impl System {
    pub(super) fn new(hosts: impl Into<PathBuf>, resolv_conf: impl Into<PathBuf>) -> Self {
        System { hosts: Watched::new(hosts, Hosts::parse), servers: Watched::new(resolv_conf, resolver) }
    }

    pub(super) fn hosts(&self) -> Arc<Hosts> {
        self.hosts.current()
    }

    /// `None` if there are no servers.
    pub(super) fn resolver(&self) -> Arc<Option<TokioResolver>> {
        self.servers.current()
    }
}

/// A file and what was made of it.
struct Watched<T> {
    path: PathBuf,
    parse: fn(&str) -> T,
    current: Mutex<(Stamp, Arc<T>)>,
}

/// Tells that a file has changed: time and size.
type Stamp = Option<(SystemTime, u64)>;

impl<T> Watched<T> {
    fn new(path: impl Into<PathBuf>, parse: fn(&str) -> T) -> Self {
        let path = path.into();
        let current = Mutex::new((stamp(&path), Arc::new(parse(&fs::read_to_string(&path).unwrap_or_default()))));
        Watched { path, parse, current }
    }

    fn current(&self) -> Arc<T> {
        let mut current = self.current.lock();
        let now = stamp(&self.path);
        if now != current.0 {
            *current = (now, Arc::new((self.parse)(&fs::read_to_string(&self.path).unwrap_or_default())));
        }
        current.1.clone()
    }
}

fn stamp(path: &Path) -> Stamp {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// `/etc/hosts` (hosts(5)).
#[derive(Debug, Default)]
pub(super) struct Hosts(HashMap<String, Vec<IpAddr>>);

impl Hosts {
    fn parse(text: &str) -> Self {
        let mut names: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for line in text.lines() {
            let line = line.split_once('#').map_or(line, |(line, _)| line);
            let mut words = line.split_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
            for name in words {
                names.entry(key(name)).or_default().push(address);
            }
        }
        // RFC 6761 §6.3: whoever asks for it means this machine.
        names
            .entry("localhost".to_owned())
            .or_insert_with(|| vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        Hosts(names)
    }

    pub(super) fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        self.0.get(&key(name)).cloned()
    }
}

fn key(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// A resolver for `/etc/resolv.conf` (resolv.conf(5)).
fn resolver(text: &str) -> Option<TokioResolver> {
    let (config, options) = parse_resolv_conf(text).ok()?;
    build(config, options)
}

fn build(config: ResolverConfig, mut options: ResolverOpts) -> Option<TokioResolver> {
    options.timeout = options.timeout.min(SERVER_LIMIT);
    options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    options.use_hosts_file = ResolveHosts::Never; // read here
    options.cache_size = CACHE;
    options.positive_max_ttl = Some(LONGEST_TTL);
    options.negative_min_ttl = Some(NEGATIVE.0);
    options.negative_max_ttl = Some(NEGATIVE.1);
    let resolver =
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build();
    resolver.inspect_err(|cause| tracing::error!(%cause, "names cannot be resolved")).ok()
}

#[cfg(test)]
impl System {
    /// One server on a port of loopback.
    pub(super) fn with_server(hosts: &Path, port: u16) -> Self {
        use hickory_resolver::config::NameServerConfig;

        let mut server = NameServerConfig::udp(Ipv4Addr::LOCALHOST.into());
        for connection in &mut server.connections {
            connection.port = port;
        }
        let resolver = build(ResolverConfig::from_name_servers(vec![server]), ResolverOpts::default());
        let system = System::new(hosts, "/nonexistent");
        *system.servers.current.lock() = (None, Arc::new(resolver));
        system
    }
}
