//! A pod: a network namespace on the sandbox's bridge, with addresses of its own, and the programs in it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{Output, Process, enter};
use crate::sandbox::{SHARED, Sandbox, first_child};

/// How long a program run by [`Pod::exec`] may take.
const EXEC_LIMIT: Duration = Duration::from_secs(60);

/// The user and group that a sidecar runs as.
pub const SIDECAR_USER: u32 = 1337;

/// A network namespace, alive as long as this value.
#[derive(Debug)]
pub struct Pod {
    name: String,
    holder: Child,
    /// A process inside the pod's namespaces, as the test sees it.
    id: u32,
    sandbox: u32,
    directory: PathBuf,
    number: u8,
}

impl Pod {
    pub(crate) fn make(sandbox: &Sandbox, name: &str, number: u8) -> Result<Pod> {
        let directory = sandbox.directory().join(name);
        fs::create_dir_all(&directory)?;
        let script = format!(
            "set -e
             echo $$
             read -r connected
             mount --bind {0}/hosts /etc/hosts
             mount --bind {0}/resolv.conf \"$(realpath /etc/resolv.conf)\"
             ip link set lo up
             ip addr add 10.77.0.{number}/16 dev eth0
             ip addr add fd77::{number}/64 dev eth0 nodad
             ip link set eth0 up
             ip route add default via 10.77.0.1
             ip route add default via fd77::1
             echo ready
             exec sleep infinity",
            sandbox.directory().display()
        );
        let mut command = enter(sandbox.id(), &["--user", "--net", "--mount", "--pid"]);
        command.args(["unshare", "--net", "--mount", "--", "sh", "-c", &script]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn()?;
        let mut lines = BufReader::new(holder.stdout.take().context("stdout is piped")?);
        let mut inside = String::new();
        lines.read_line(&mut inside)?;
        let connect = format!(
            "ip link add pod{number} type veth peer name eth0 netns {} &&
             ip link set pod{number} master bridge up",
            inside.trim()
        );
        let status = enter(sandbox.id(), &["--user", "--net", "--mount", "--pid"])
            .args(["sh", "-c", &connect])
            .stdin(Stdio::null())
            .status()?;
        ensure!(status.success(), "connecting the pod to the bridge failed");
        holder.stdin.as_mut().context("stdin is piped")?.write_all(b"connected\n")?;
        let mut answer = String::new();
        lines.read_line(&mut answer)?;
        ensure!(answer.trim() == "ready", "giving the pod addresses failed");
        let id = first_child(holder.id())?;
        Ok(Pod { name: name.to_owned(), holder, id, sandbox: sandbox.id(), directory, number })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address.
    pub fn ipv4(&self) -> IpAddr {
        Ipv4Addr::new(10, 77, 0, self.number).into()
    }

    /// Its IPv6 address. The last group has the digits of the last part of the IPv4 address.
    pub fn ipv6(&self) -> IpAddr {
        let digits = u16::from_str_radix(&self.number.to_string(), 16).unwrap_or_default();
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, digits).into()
    }

    /// A directory of the pod, in which its output and files are kept.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Runs a program to its end, as the pod's root.
    #[track_caller]
    pub fn exec(&self, command: &[&str]) -> Output {
        self.spawn(command).end(EXEC_LIMIT)
    }

    /// As [`Pod::exec`], with a shell's command line.
    #[track_caller]
    pub fn shell(&self, line: &str) -> Output {
        self.exec(&["sh", "-c", line])
    }

    /// Starts a program as the pod's root.
    #[track_caller]
    pub fn spawn(&self, command: &[&str]) -> Process {
        self.spawn_as(0, command, &[])
    }

    /// As [`Pod::spawn`], with a shell's command line.
    #[track_caller]
    pub fn shell_spawn(&self, line: &str) -> Process {
        self.spawn(&["sh", "-c", line])
    }

    /// Starts a program as a user (and the group of the same number), with additions to its environment.
    #[track_caller]
    pub fn spawn_as(&self, user: u32, command: &[&str], environment: &[(&str, &str)]) -> Process {
        let mut enter = enter(self.id, &["--user", "--net", "--mount", "--pid"]);
        if user != 0 {
            let user = user.to_string();
            enter.args(["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups", "--inh-caps=-all"]);
        }
        enter.args(command).envs(environment.iter().copied()).stdin(Stdio::null());
        let process = Process::start(enter, command.join(" "), self.sandbox, &self.directory);
        process.unwrap_or_else(|error| panic!("in pod {}: {error:#}", self.name))
    }

    /// Redirects the pod's connections to a sidecar, as `malla-proxy init` does.
    #[track_caller]
    pub fn redirect(&self) {
        self.exec(&[&inside("malla-proxy"), "init"]).success();
    }

    /// Whether something listens on a TCP port.
    pub fn listens(&self, port: u16) -> bool {
        // Read from the kernel's table: connecting would be counted by the program, or redirected.
        let wanted = format!(":{port:04X}");
        ["tcp", "tcp6"].iter().any(|table| {
            let text = fs::read_to_string(format!("/proc/{}/net/{table}", self.id)).unwrap_or_default();
            text.lines().skip(1).any(|line| {
                let mut fields = line.split_ascii_whitespace().skip(1);
                fields.next().is_some_and(|local| local.ends_with(&wanted)) && fields.nth(1) == Some("0A")
            })
        })
    }

    /// Waits until `process` listens on a TCP port.
    ///
    /// # Panics
    ///
    /// When it ends instead, or takes too long.
    #[track_caller]
    pub fn wait_listening(&self, process: &mut Process, port: u16) {
        let what = format!("pod {} to listen on port {port}", self.name);
        crate::wait::until(&what, Duration::from_secs(60), || {
            assert!(!process.has_ended(), "ended instead of listening on port {port}:\n{}", process.tail());
            self.listens(port).then_some(())
        });
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // `sleep` ends with the sandbox at the latest; ending it now frees the namespace when a test has many.
        drop(self.holder.stdin.take());
        let _ = enter(self.sandbox, &["--user"])
            .args(["sh", "-c", &format!("kill -KILL {}", self.id)])
            .stderr(Stdio::null())
            .status();
        let _ = self.holder.wait();
    }
}

/// The path of one of our binaries, as seen from inside a pod.
pub fn inside(binary: &str) -> String {
    format!("{SHARED}/{binary}")
}
