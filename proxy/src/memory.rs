//! The memory that the sidecar may use, and when it sheds load so that the kernel does not end it.
//!
//! Owns the limit (told by a flag, else by the control group that the process runs in), the measuring, and the decision. It acts
//! nowhere: whoever accepts connections asks [`Memory::connections`], whoever serves requests asks [`Memory::requests`].
//!
//! It looks from time to time, and whenever those who take memory on behalf of clients have said so often enough
//! ([`Memory::takes`]): many connections at once would take more between two looks than there is.
//!
//! What counts is what the process holds, and what the kernel holds in sockets of its group. Files in the page cache do not: the
//! kernel takes them back before it ends anybody.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::sleep;

use crate::settings::MemoryLimit;

/// Where control groups are found.
const GROUPS: &str = "/sys/fs/cgroup";
/// What the kernel says where there is no limit is a number of pages that no machine has.
const NO_LIMIT: u64 = 1 << 60;

/// Shares of the limit, in percent: from where requests are shed, from where connections are, and below which neither is any more.
const REQUESTS: u64 = 85;
const CONNECTIONS: u64 = 92;
const RELIEVED: u64 = 75;

/// Time between two looks while less than half of the limit is used, and while it is more.
const CALM: Duration = Duration::from_millis(200);
const TENSE: Duration = Duration::from_millis(20);
/// Bytes that may be taken without another look.
const UNSEEN: u64 = 1 << 20;

/// How much there is, and what is done about it; clones share it.
#[derive(Debug, Clone)]
pub struct Memory(Arc<State>);

#[derive(Debug)]
struct State {
    limit: Option<Limit>,
    used: AtomicU64,
    /// Bytes that were taken since the last look, as those say who took them.
    unseen: AtomicU64,
    level: AtomicU8,
}

/// A limit in bytes, and the file that tells what the kernel holds in sockets, if it is a control group's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Limit {
    bytes: u64,
    sockets: Option<Sockets>,
}

/// Where the kernel says what sockets hold: a line of `memory.stat` (version 2), or a file of its own (version 1).
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sockets {
    Line(PathBuf),
    File(PathBuf),
}

/// What is shed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Nothing,
    Requests,
    Connections,
}

impl Memory {
    /// Finds the limit; nothing is measured yet.
    pub fn new(limit: MemoryLimit) -> Self {
        let limit = match limit {
            MemoryLimit::None => None,
            MemoryLimit::Bytes(bytes) => Some(Limit { bytes, sockets: None }),
            MemoryLimit::Group => {
                let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
                limit_of_group(&groups, Path::new(GROUPS))
            }
        };
        let level = AtomicU8::new(Level::Nothing as u8);
        Memory(Arc::new(State { limit, used: AtomicU64::new(0), unseen: AtomicU64::new(0), level }))
    }

    /// The limit in bytes, if there is one.
    pub fn limit(&self) -> Option<u64> {
        self.0.limit.as_ref().map(|limit| limit.bytes)
    }

    /// Bytes in use at the last look; 0 without a limit.
    pub fn used(&self) -> u64 {
        self.0.used.load(Relaxed)
    }

    /// Whether requests are shed at this moment.
    pub fn requests(&self) -> bool {
        self.0.level.load(Relaxed) >= Level::Requests as u8
    }

    /// Whether new connections are shed at this moment.
    pub fn connections(&self) -> bool {
        self.0.level.load(Relaxed) >= Level::Connections as u8
    }

    /// About so many bytes are being taken because a client wants it.
    pub fn takes(&self, bytes: u64) {
        let Some(limit) = &self.0.limit else { return };
        if self.0.unseen.fetch_add(bytes, Relaxed).saturating_add(bytes) >= UNSEEN {
            self.look(limit);
        }
    }

    /// Looks again and again; never returns. Without a limit it does nothing.
    pub async fn watch(self) {
        let Some(limit) = &self.0.limit else { return std::future::pending().await };
        tracing::info!(limit = limit.bytes, "the limit of memory");
        loop {
            let used = self.look(limit);
            sleep(if used < limit.bytes / 2 { CALM } else { TENSE }).await;
        }
    }

    fn look(&self, limit: &Limit) -> u64 {
        self.0.unseen.store(0, Relaxed);
        let used = resident().saturating_add(limit.sockets.as_ref().map_or(0, Sockets::bytes));
        self.measured(used, limit.bytes);
        used
    }

    fn measured(&self, used: u64, limit: u64) {
        self.0.used.store(used, Relaxed);
        let before = self.0.level.load(Relaxed);
        let level = level(used, limit, before > Level::Nothing as u8);
        // Of two that look at once, one tells it.
        if level as u8 == before || self.0.level.swap(level as u8, Relaxed) == level as u8 {
            return;
        }
        match level {
            Level::Nothing => tracing::info!(used, limit, "there is memory again, nothing is shed"),
            Level::Requests => tracing::warn!(used, limit, "memory runs out, requests are shed"),
            Level::Connections => tracing::warn!(used, limit, "memory runs out, requests and connections are shed"),
        }
    }
}

/// What is to be shed; once something is, until there is room for what comes back.
fn level(used: u64, limit: u64, sheds: bool) -> Level {
    let share = |percent: u64| limit / 100 * percent;
    if used >= share(CONNECTIONS) {
        Level::Connections
    } else if used >= share(if sheds { RELIEVED } else { REQUESTS }) {
        Level::Requests
    } else {
        Level::Nothing
    }
}

/// Bytes that this process holds in memory (proc_pid_status(5)).
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes: u64 = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0);
    kibibytes.saturating_mul(1024)
}

impl Sockets {
    fn bytes(&self) -> u64 {
        let found = match self {
            Sockets::Line(path) => fs::read_to_string(path)
                .ok()
                .and_then(|text| text.lines().find_map(|line| line.strip_prefix("sock ")?.trim().parse().ok())),
            Sockets::File(path) => number(path),
        };
        found.unwrap_or(0)
    }
}

/// The smallest limit of a process's groups (cgroups(7)): its own and those around it, of either version.
fn limit_of_group(groups: &str, root: &Path) -> Option<Limit> {
    let mut found: Option<Limit> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // In a container its own group is mounted at the root, whatever the path says.
        let own = root.join(path.trim_start_matches('/'));
        let around = own.ancestors().take_while(|group| group.starts_with(&root));
        for group in around {
            let Some(bytes) = number(&group.join(file)).filter(|bytes| *bytes < NO_LIMIT) else { continue };
            if found.as_ref().is_none_or(|found| bytes < found.bytes) {
                let sockets = match controllers {
                    "" => Sockets::Line(group.join("memory.stat")),
                    _ => Sockets::File(group.join("memory.kmem.tcp.usage_in_bytes")),
                };
                found = Some(Limit { bytes, sockets: Some(sockets) });
            }
        }
    }
    found
}

/// A file that holds one number.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sheds_requests_first_then_connections_and_stops_with_room_to_spare() {
        for (used, sheds, expected) in [
            (0, false, Level::Nothing),
            (84, false, Level::Nothing),
            (85, false, Level::Requests),
            (92, false, Level::Connections),
            (200, true, Level::Connections),
            (91, true, Level::Requests),
            (75, true, Level::Requests),
            (74, true, Level::Nothing),
        ] {
            assert_eq!(level(used << 20, 100 << 20, sheds), expected, "{used} %");
        }
        let memory = Memory::new(MemoryLimit::Bytes(100 << 20));
        for (used, requests, connections) in
            [(90, true, false), (99, true, true), (80, true, false), (10, false, false)]
        {
            memory.measured(used << 20, 100 << 20);
            assert_eq!((memory.requests(), memory.connections()), (requests, connections), "{used} %");
        }
    }

    #[test]
    fn the_smallest_limit_of_either_version_holds() {
        let root = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        };
        let limit = |groups: &str| limit_of_group(groups, root.path());
        assert_eq!(limit("0::/pod/sidecar\n"), None, "no such files");
        write("pod/sidecar/memory.max", "max\n");
        write("pod/memory.max", "1000000\n");
        write("pod/memory.stat", "anon 5\nsock 4096\n");
        let found = limit("0::/pod/sidecar\n").expect("the pod's");
        assert_eq!((found.bytes, found.sockets.expect("a group's").bytes()), (1_000_000, 4096));
        write("memory/box/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit("5:cpu,cpuacct:/box\n4:memory:/box\n"), None, "that is none");
        write("memory/memory.limit_in_bytes", "500000\n");
        write("memory/memory.kmem.tcp.usage_in_bytes", "77\n");
        let found = limit("4:memory:/box\n0::/pod/sidecar\n").expect("of version 1");
        assert_eq!((found.bytes, found.sockets.expect("a group's").bytes()), (500_000, 77));
    }

    #[test]
    fn what_is_taken_is_looked_at_before_it_is_much() {
        let memory = Memory::new(MemoryLimit::Bytes(1 << 16));
        for _ in 1..UNSEEN / (16 << 10) {
            memory.takes(16 << 10);
        }
        assert!(!memory.connections(), "nobody has looked yet");
        memory.takes(16 << 10);
        assert!(memory.connections(), "this process is larger");
        assert!(memory.used() > 1 << 16);
    }

    #[test]
    fn what_the_process_holds_is_known() {
        assert!(resident() > 1 << 20);
        assert_eq!(Memory::new(MemoryLimit::None).limit(), None);
    }
}
