//! `malla-proxy init`: rules of the kernel that lead a workload's TCP traffic through the sidecar, and their removal.
//!
//! All rules sit in a table (nftables) or in chains (iptables) of our own, are installed in one transaction, and may be
//! installed or removed any number of times. Nothing that others have installed is read into a decision or changed.
//!
//! What leaves the workload is redirected to the outbound port, except: everything over loopback (so a workload that talks
//! to itself, and a sidecar that hands over to its application, are never redirected), and what the sidecar sends, told by
//! its user, its group or a mark. What comes in over a network is redirected to the inbound port, except the sidecar's own
//! ports. UDP and DNS are left alone.

mod apply;
mod iptables;
mod nftables;

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use ipnet::IpNet;

pub use self::apply::InitError;

/// Redirect this machine's (pod's, network namespace's) TCP traffic through the sidecar.
///
/// Needs CAP_NET_ADMIN in the network namespace. The sidecar is told from the application by its user or group (default
/// 1337): run it as `setpriv --reuid 1337 --regid 1337 --clear-groups malla-proxy …`. Where that user cannot exist (a user
/// namespace that maps only root), run `malla-proxy init --mark 1337` and `malla-proxy --mark 1337 …` as root: the sidecar
/// then marks its own packets, for which it needs CAP_NET_ADMIN too.
///
/// Example: malla-proxy init --exclude-inbound-ports 22 --exclude-outbound-cidrs 169.254.169.254/32
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// Remove the rules instead, whichever backend installed them
    #[arg(long)]
    pub undo: bool,

    /// Print the commands and their input, change nothing
    #[arg(long)]
    pub dry_run: bool,

    /// What installs the rules; `auto` takes iptables where nft is missing
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    pub backend: Backend,

    /// Port of the sidecar for traffic that leaves the workload
    #[arg(long, env = "MALLA_OUTBOUND_PORT", default_value_t = 15001)]
    pub outbound_port: u16,

    /// Port of the sidecar for traffic that comes in
    #[arg(long, env = "MALLA_INBOUND_PORT", default_value_t = 15006)]
    pub inbound_port: u16,

    /// Port of the sidecar that is never redirected
    #[arg(long, env = "MALLA_ADMIN_PORT", default_value_t = 15020)]
    pub admin_port: u16,

    /// Port of the sidecar that is never redirected
    #[arg(long, env = "MALLA_HEALTH_PORT", default_value_t = 15021)]
    pub health_port: u16,

    /// User of the sidecar: what it sends is not redirected [default: 1337, none with --mark]
    #[arg(long)]
    pub uid: Option<u32>,

    /// Group of the sidecar: what it sends is not redirected [default: 1337, none with --mark]
    #[arg(long)]
    pub gid: Option<u32>,

    /// Mark (SO_MARK) of the sidecar's packets: they are not redirected
    #[arg(long, env = "MALLA_MARK")]
    pub mark: Option<u32>,

    /// Ports of the application that are reached directly, comma-separated
    #[arg(long, value_delimiter = ',', value_name = "PORTS")]
    pub exclude_inbound_ports: Vec<u16>,

    /// Redirect only these ports of the application, comma-separated
    #[arg(long, value_delimiter = ',', value_name = "PORTS")]
    pub include_inbound_ports: Vec<u16>,

    /// Destination ports that are left alone, comma-separated
    #[arg(long, value_delimiter = ',', value_name = "PORTS")]
    pub exclude_outbound_ports: Vec<u16>,

    /// Redirect only these destination ports (or those of --include-outbound-cidrs), comma-separated
    #[arg(long, value_delimiter = ',', value_name = "PORTS")]
    pub include_outbound_ports: Vec<u16>,

    /// Destination networks that are left alone, comma-separated
    #[arg(long, value_delimiter = ',', value_name = "CIDRS")]
    pub exclude_outbound_cidrs: Vec<IpNet>,

    /// Redirect only these destination networks (or those of --include-outbound-ports), comma-separated
    #[arg(long, value_delimiter = ',', value_name = "CIDRS")]
    pub include_outbound_cidrs: Vec<IpNet>,
}

/// What installs the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// nftables, or iptables where `nft` is missing.
    Auto,
    /// A table `inet malla`, by `nft`.
    Nftables,
    /// Chains `MALLA_OUTPUT` and `MALLA_INBOUND` of the nat table, by `iptables-restore` and `ip6tables-restore`.
    Iptables,
}

/// User and group of the sidecar unless told otherwise: the numbers that service meshes have in common.
const SIDECAR_ID: u32 = 1337;

/// What is to be redirected: the arguments made ready.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rules {
    outbound_port: u16,
    inbound_port: u16,
    /// Never redirected on their way in: the sidecar's own and those excluded. Sorted.
    direct_inbound_ports: Vec<u16>,
    /// If any: redirect these alone.
    include_inbound_ports: Vec<u16>,
    uid: Option<u32>,
    gid: Option<u32>,
    mark: Option<u32>,
    exclude_outbound_ports: Vec<u16>,
    include_outbound_ports: Vec<u16>,
    /// Without overlaps.
    exclude_outbound_cidrs: Vec<IpNet>,
    include_outbound_cidrs: Vec<IpNet>,
}

impl Rules {
    fn new(args: &InitArgs) -> Rules {
        let sorted = |ports: &[u16]| {
            let mut ports = ports.to_vec();
            ports.sort_unstable();
            ports.dedup();
            ports
        };
        let own = [args.outbound_port, args.inbound_port, args.admin_port, args.health_port];
        let by_owner = args.mark.is_none() || args.uid.is_some() || args.gid.is_some();
        Rules {
            outbound_port: args.outbound_port,
            inbound_port: args.inbound_port,
            direct_inbound_ports: sorted(&[&own[..], &args.exclude_inbound_ports].concat()),
            include_inbound_ports: sorted(&args.include_inbound_ports),
            uid: args.uid.or(by_owner.then_some(SIDECAR_ID)),
            gid: args.gid.or(by_owner.then_some(SIDECAR_ID)),
            mark: args.mark,
            exclude_outbound_ports: sorted(&args.exclude_outbound_ports),
            include_outbound_ports: sorted(&args.include_outbound_ports),
            exclude_outbound_cidrs: IpNet::aggregate(&args.exclude_outbound_cidrs),
            include_outbound_cidrs: IpNet::aggregate(&args.include_outbound_cidrs),
        }
    }
}

/// Installs or removes the rules.
///
/// # Errors
/// [`InitError`]: a sentence that says what is missing.
pub fn run(args: &InitArgs) -> Result<(), InitError> {
    let rules = Rules::new(args);
    if !args.undo {
        apply::check_owner(&rules)?;
    }
    let steps = apply::plan(args.backend, args.undo, &rules)?;
    let mut out = io::stdout().lock();
    for step in &steps {
        if args.dry_run {
            let _ = writeln!(out, "# {}\n{}", step.command_line(), step.input);
        } else {
            step.run()?;
        }
    }
    if !args.dry_run {
        let _ = match (args.undo, steps.is_empty()) {
            (true, true) => writeln!(out, "No redirection is installed"),
            (true, false) => writeln!(out, "TCP traffic is no longer redirected"),
            (false, _) => writeln!(
                out,
                "TCP traffic is redirected: outbound to port {}, inbound to port {}",
                rules.outbound_port, rules.inbound_port
            ),
        };
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: InitArgs,
    }

    pub(super) fn rules(flags: &[&str]) -> Rules {
        Rules::new(&Command::parse_from([&["init"], flags].concat()).args)
    }

    #[test]
    fn the_sidecar_is_told_by_user_and_group_unless_a_mark_is_given() {
        let ids = |flags: &[&str]| {
            let rules = rules(flags);
            (rules.uid, rules.gid, rules.mark)
        };
        assert_eq!(ids(&[]), (Some(1337), Some(1337), None));
        assert_eq!(ids(&["--uid", "7"]), (Some(7), Some(1337), None));
        assert_eq!(ids(&["--mark", "9"]), (None, None, Some(9)));
        assert_eq!(ids(&["--mark", "9", "--uid", "7", "--gid", "8"]), (Some(7), Some(8), Some(9)));
    }

    #[test]
    fn own_and_excluded_ports_are_direct_and_networks_do_not_overlap() {
        let rules = rules(&[
            "--exclude-inbound-ports=22,9100,22",
            "--exclude-outbound-cidrs=10.0.0.0/8,10.1.0.0/16,fd00::/8",
            "--outbound-port=16001",
        ]);
        assert_eq!(rules.direct_inbound_ports, [22, 9100, 15006, 15020, 15021, 16001]);
        assert_eq!(rules.exclude_outbound_cidrs.len(), 2);
    }
}
