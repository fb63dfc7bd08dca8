//! Running the commands that install or remove rules, and saying what is missing where they fail.

use std::fs;
use std::io::{self, Write};
use std::process::{Command, Stdio};

use super::iptables::Family;
use super::{Backend, Rules, iptables, nftables};

/// Why the rules could not be installed or removed.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Neither backend is here.
    #[error("neither nft nor iptables is installed: install the package `nftables` (or `iptables`) and try again")]
    NoBackend,
    /// The backend that was asked for is not here.
    #[error("{0} is not installed: install it, or choose another --backend")]
    Missing(&'static str),
    /// No permission.
    #[error(
        "changing the redirection needs CAP_NET_ADMIN in this network namespace, which this process does not have: run it as \
         root, or in a container with the capability NET_ADMIN"
    )]
    NotPermitted,
    /// The user or group means nothing here.
    #[error(
        "{kind} {id} is not mapped in this user namespace, so the sidecar's traffic could not be told from the application's: \
         map it (newuidmap, newgidmap), choose another with --{flag}, or use --mark here and at the sidecar"
    )]
    NotMapped {
        /// `user` or `group`.
        kind: &'static str,
        /// Number.
        id: u32,
        /// Flag that changes it.
        flag: &'static str,
    },
    /// The command could not be run.
    #[error("running {command}")]
    Run {
        /// Command line.
        command: String,
        /// Cause.
        #[source]
        cause: io::Error,
    },
    /// The command refused.
    #[error("{command} failed: {message}")]
    Failed {
        /// Command line.
        command: String,
        /// What it printed.
        message: String,
    },
}

/// A command and what it reads.
#[derive(Debug)]
pub(super) struct Step {
    command: &'static str,
    arguments: &'static [&'static str],
    pub(super) input: String,
}

impl Step {
    pub(super) fn command_line(&self) -> String {
        format!("{} {}", self.command, self.arguments.join(" "))
    }

    pub(super) fn run(&self) -> Result<(), InitError> {
        let failed = |cause| InitError::Run { command: self.command_line(), cause };
        let mut child = Command::new(self.command)
            .args(self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read its input to the end says why below.
            let _ = stdin.write_all(self.input.as_bytes());
        }
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            return Ok(());
        }
        if !has_net_admin() {
            return Err(InitError::NotPermitted);
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(InitError::Failed { command: self.command_line(), message })
    }
}

/// The commands to run, in this order.
pub(super) fn plan(backend: Backend, undo: bool, rules: &Rules) -> Result<Vec<Step>, InitError> {
    let (nft, iptables) = (exists("nft"), exists("iptables-restore"));
    match (backend, undo) {
        (Backend::Nftables, _) if !nft => Err(InitError::Missing("nft")),
        (Backend::Iptables, _) if !iptables => Err(InitError::Missing("iptables-restore")),
        (Backend::Auto, _) if !nft && !iptables => Err(InitError::NoBackend),
        (Backend::Nftables, true) => Ok(undo_nftables()),
        (Backend::Iptables, true) => undo_iptables(),
        (Backend::Auto, true) => {
            let mut steps = if nft { undo_nftables() } else { Vec::new() };
            if iptables {
                steps.extend(undo_iptables()?);
            }
            Ok(steps)
        }
        (Backend::Nftables, false) => Ok(vec![nft_step(nftables::script(rules))]),
        // The program may be here and the kernel know nothing of it.
        (Backend::Auto, false) if nft && (!iptables || nft_works()) => Ok(vec![nft_step(nftables::script(rules))]),
        (_, false) => families()
            .into_iter()
            .map(|family| Ok(restore_step(family, iptables::script(rules, family, &saved(family)?))))
            .collect(),
    }
}

fn nft_works() -> bool {
    Command::new("nft").args(["list", "tables"]).output().is_ok_and(|output| output.status.success())
}

fn nft_step(input: String) -> Step {
    Step { command: "nft", arguments: &["-f", "-"], input }
}

fn undo_nftables() -> Vec<Step> {
    let list = Command::new("nft").args(["list", "table", "inet", "malla"]).output();
    let absent = list.is_ok_and(|output| !output.status.success() && has_net_admin());
    if absent { Vec::new() } else { vec![nft_step(nftables::UNDO.to_owned())] }
}

fn undo_iptables() -> Result<Vec<Step>, InitError> {
    let mut steps = Vec::new();
    for family in families() {
        steps.extend(iptables::undo(&saved(family)?).map(|input| restore_step(family, input)));
    }
    Ok(steps)
}

fn restore_step(family: Family, input: String) -> Step {
    let command = match family {
        Family::V4 => "iptables-restore",
        Family::V6 => "ip6tables-restore",
    };
    Step { command, arguments: &["--wait", "--noflush"], input }
}

/// The nat table as it is.
fn saved(family: Family) -> Result<String, InitError> {
    let command = match family {
        Family::V4 => "iptables-save",
        Family::V6 => "ip6tables-save",
    };
    let failed = |cause| InitError::Run { command: format!("{command} -t nat"), cause };
    let output = Command::new(command).args(["-t", "nat"]).output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    if !has_net_admin() {
        return Err(InitError::NotPermitted);
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(InitError::Failed { command: format!("{command} -t nat"), message })
}

/// IPv6 only where the kernel has it.
fn families() -> Vec<Family> {
    if fs::exists("/proc/net/if_inet6").unwrap_or(false) { vec![Family::V4, Family::V6] } else { vec![Family::V4] }
}

fn exists(command: &str) -> bool {
    Command::new(command).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Refuses owners that the user namespace does not know: no process could have them.
pub(super) fn check_owner(rules: &Rules) -> Result<(), InitError> {
    for (id, map, kind, flag) in
        [(rules.uid, "/proc/self/uid_map", "user", "uid"), (rules.gid, "/proc/self/gid_map", "group", "gid")]
    {
        if let (Some(id), Ok(map)) = (id, fs::read_to_string(map))
            && !is_mapped(&map, id)
        {
            return Err(InitError::NotMapped { kind, id, flag });
        }
    }
    Ok(())
}

/// Lines of `first-inside first-outside length` (user_namespaces(7)).
fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        matches!(numbers[..], [first, _, length] if (first..first + length).contains(&u64::from(id)))
    })
}

/// Whether this process may change rules: bit 12 of the effective capabilities (capabilities(7)).
fn has_net_admin() -> bool {
    const CAP_NET_ADMIN: u32 = 12;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|set| set >> CAP_NET_ADMIN & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_maps_of_user_namespaces() {
        assert!(is_mapped("         0          0 4294967295\n", 1337));
        assert!(!is_mapped("         0       1000          1\n", 1337));
        assert!(is_mapped("0 1000 1\n1 100000 65536\n", 1337));
        assert!(!is_mapped("garbage\n0 0\n", 0));
    }
}
