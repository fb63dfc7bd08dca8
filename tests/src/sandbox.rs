//! A test's own corner of the machine: process, mount and network namespaces, with a bridge for the pods.
//!
//! As root the namespaces are made directly. Otherwise they are made inside a user namespace, in which the user's
//! subordinate ids stand for the pods' users (0, the sidecar's 1337 and others): rules by uid need them. A machine on
//! which neither works is told so by a failing test.
//!
//! The first process of the process namespace reads from a pipe that only the test holds. When the test is gone,
//! however it went, that process ends, and with it everything in the sandbox.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::pod::Pod;
use crate::process::{Process, enter};
use crate::tools;

/// How long a test may take before its sandbox, and with it every program it waits for, is taken away.
const LIMIT: Duration = Duration::from_secs(240);

/// The programs of this workspace that every sandbox has.
const OURS: [&str; 4] = ["malla", "malla-proxy", "malla-load", "malla-peer"];

/// Where the sandbox keeps what every user of a pod may read, whatever the permissions of the user's home are.
pub(crate) const SHARED: &str = "/mnt";

/// Namespaces with a bridge, alive as long as this value.
#[derive(Debug)]
pub struct Sandbox {
    holder: Child,
    /// First process of the process namespace, as the test sees it.
    id: u32,
    directory: tempfile::TempDir,
    pods: AtomicU8,
}

impl Sandbox {
    /// Makes the namespaces and the bridge.
    ///
    /// # Panics
    ///
    /// When the machine permits it neither as root nor without: with a sentence that says what to do.
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "namespaces are nothing to make by default")]
    pub fn new() -> Sandbox {
        Sandbox::lasting(LIMIT, &[])
    }

    /// As [`Sandbox::new`], for longer, and with further programs that its pods find by name as they find ours
    /// ([`crate::pod::inside`]).
    #[track_caller]
    pub fn lasting(limit: Duration, programs: &[(&str, &Path)]) -> Sandbox {
        Sandbox::make(limit, programs).unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn make(limit: Duration, programs: &[(&str, &Path)]) -> Result<Sandbox> {
        let root = rustix::process::geteuid().is_root();
        let user = if root { None } else { Some(UserNamespace::new()?) };
        let made = start(user, limit, programs);
        let holder = made.context(
            "this machine lets the tests make network namespaces neither as root nor in a user namespace: \
             run tests/setup, then the tests as root or as a user with subordinate ids (/etc/subuid, newuidmap)",
        )?;
        let directory = tempfile::Builder::new().prefix("malla-test-").tempdir()?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        fs::write(directory.path().join("hosts"), "127.0.0.1 localhost\n::1 localhost\n")?;
        fs::write(directory.path().join("resolv.conf"), "nameserver 10.77.0.1\noptions timeout:1 attempts:1\n")?;
        let id = first_child(holder.id())?;
        Ok(Sandbox { holder, id, directory, pods: AtomicU8::new(2) })
    }

    /// Makes a pod: a network namespace on the bridge. Addresses are given in order: the first is `10.77.0.2` and
    /// `fd77::2`.
    #[track_caller]
    pub fn pod(&self, name: &str) -> Pod {
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        Pod::make(self, name, number).unwrap_or_else(|error| panic!("making pod {name}: {error:#}"))
    }

    /// Adds lines to the `/etc/hosts` of all pods.
    #[track_caller]
    pub fn add_hosts(&self, lines: &str) {
        // Appended in place: the pods have this very file mounted.
        let file = fs::OpenOptions::new().append(true).open(self.directory().join("hosts"));
        file.and_then(|mut file| file.write_all(lines.as_bytes())).expect("the hosts file is writable");
    }

    /// A directory that lives as long as the sandbox, readable for every user of the pods.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A new directory inside [`Sandbox::directory`] in which every user of the pods may write.
    #[track_caller]
    pub fn writable_directory(&self, name: &str) -> PathBuf {
        let path = self.directory().join(name);
        fs::create_dir_all(&path).expect("the sandbox's directory is writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("the test owns the directory");
        path
    }

    /// Runs a program on the bridge, outside all pods, where it sees what travels between them.
    #[track_caller]
    pub fn spawn(&self, command: &[&str]) -> Process {
        let mut enter = enter(self.id, &["--user", "--net", "--mount", "--pid"]);
        enter.args(command).stdin(Stdio::null());
        Process::start(enter, command.join(" "), self.id, self.directory()).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// The sandbox's first process.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// The ranges of subordinate ids that stand for the pods' users.
struct UserNamespace {
    uid: (u32, u32, u32),
    gid: (u32, u32, u32),
}

impl UserNamespace {
    fn new() -> Result<UserNamespace> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let passwd = fs::read_to_string("/etc/passwd")?;
        let name = passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
        });
        let name = name.unwrap_or_default();
        let (first_uid, uids) = subordinate("/etc/subuid", name, uid)?;
        let (first_gid, gids) = subordinate("/etc/subgid", name, uid)?;
        Ok(UserNamespace { uid: (uid, first_uid, uids), gid: (gid, first_gid, gids) })
    }

    /// Gives the namespace of process `id` its users: 0 is the user of the tests, 1 and up the subordinate ids.
    fn map(&self, id: u32) -> Result<()> {
        for (tool, (own, first, count)) in [("newuidmap", self.uid), ("newgidmap", self.gid)] {
            let arguments = [id, 0, own, 1, 1, first, count].map(|number| number.to_string());
            let output = Command::new(tool)
                .args(arguments)
                .output()
                .with_context(|| format!("running {tool}, which the package uidmap brings: run tests/setup"))?;
            ensure!(output.status.success(), "{tool} refused: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

/// The first range in `file` that belongs to the user.
fn subordinate(file: &str, name: &str, uid: u32) -> Result<(u32, u32)> {
    let text = fs::read_to_string(file).unwrap_or_default();
    for line in text.lines() {
        let mut fields = line.split(':');
        let owner = fields.next().unwrap_or_default();
        if (owner == name && !name.is_empty()) || owner == uid.to_string() {
            let mut number = || fields.next()?.parse::<u32>().ok();
            if let (Some(first), Some(count)) = (number(), number()) {
                ensure!(count > 1337, "{file} gives {owner} {count} ids: the tests need at least 1400");
                return Ok((first, count));
            }
        }
    }
    bail!("{file} gives user {uid} no subordinate ids, and the tests do not run as root: run tests/setup, or be root")
}

/// Starts the process that holds the namespaces; returns when the bridge is up.
fn start(user: Option<UserNamespace>, limit: Duration, programs: &[(&str, &Path)]) -> Result<Child> {
    let inside = format!(
        "set -e
         mount -t tmpfs -o mode=755 malla {SHARED}
         while [ $# -gt 0 ]; do
             : >{SHARED}/$1
             if [ -e \"$2\" ]; then mount --bind \"$2\" {SHARED}/$1; fi
             shift 2
         done
         ip link set lo up
         ip link add bridge type bridge
         ip addr add 10.77.0.1/16 dev bridge
         ip addr add fd77::1/64 dev bridge nodad
         ip link set bridge up
         echo ready
         exec timeout --foreground --signal=KILL {} cat",
        limit.as_secs()
    );
    let outside = "echo waiting; read -r answer; exec \"$@\"";
    let mut command = Command::new("unshare");
    if user.is_some() {
        command.args(["--user", "--", "sh", "-c", outside, "sh", "unshare"]);
    }
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--", "sh", "-c", &inside, "sh"]);
    let built = tools::binary("malla-proxy");
    let directory = built.parent().context("a binary is in a directory")?;
    let ours = OURS.map(|name| (name, directory.join(name)));
    for (name, path) in ours.iter().map(|(name, path)| (*name, path.as_path())).chain(programs.iter().copied()) {
        command.arg(name).arg(path);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut holder = command.spawn().context("running unshare, which util-linux brings")?;
    match introduce(&mut holder, user) {
        Ok(()) => Ok(holder),
        Err(error) => {
            let _ = holder.kill();
            let mut said = String::new();
            if let Some(mut stderr) = holder.stderr.take() {
                let _ = stderr.read_to_string(&mut said);
            }
            let _ = holder.wait();
            Err(error.context(said.trim().to_owned()))
        }
    }
}

/// The conversation with a holder until it is ready.
fn introduce(holder: &mut Child, user: Option<UserNamespace>) -> Result<()> {
    let mut lines = BufReader::new(holder.stdout.take().context("stdout is piped")?);
    let mut line = String::new();
    if let Some(user) = user {
        lines.read_line(&mut line)?;
        ensure!(line.trim() == "waiting", "unshare --user failed");
        user.map(holder.id())?;
        holder.stdin.as_mut().context("stdin is piped")?.write_all(b"mapped\n")?;
        line.clear();
    }
    lines.read_line(&mut line)?;
    ensure!(line.trim() == "ready", "making the namespaces failed");
    Ok(())
}

/// The only child of a process.
pub(crate) fn first_child(id: u32) -> Result<u32> {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
    let first = children.split(' ').next().and_then(|child| child.parse().ok());
    first.with_context(|| format!("process {id} has no child"))
}
