//! The rules for `iptables-restore --noflush` and `ip6tables-restore --noflush`, where nft is missing.
//!
//! Our chains are declared, which empties them if they exist; the jumps to them are deleted as often as `iptables-save`
//! shows them and added once. All in one COMMIT.

use std::fmt::Write;

use ipnet::IpNet;

use super::Rules;

/// Which of the two commands a script is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

const CHAINS: [&str; 2] = ["MALLA_OUTPUT", "MALLA_INBOUND"];
const JUMPS: [&str; 2] = ["OUTPUT -p tcp -j MALLA_OUTPUT", "PREROUTING -p tcp -j MALLA_INBOUND"];

/// Installs the rules over what `saved` (the output of `iptables-save -t nat`) shows of ours.
pub(super) fn script(rules: &Rules, family: Family, saved: &str) -> String {
    let mut script = String::from("*nat\n");
    for chain in CHAINS {
        let _ = writeln!(script, ":{chain} - [0:0]");
    }
    script += &delete_jumps(saved);

    script += "-A MALLA_OUTPUT -o lo -j RETURN\n";
    for (what, value) in
        [("owner --uid-owner", rules.uid), ("owner --gid-owner", rules.gid), ("mark --mark", rules.mark)]
    {
        if let Some(value) = value {
            let _ = writeln!(script, "-A MALLA_OUTPUT -m {what} {value} -j RETURN");
        }
    }
    for matched in by_destination(family, &rules.exclude_outbound_cidrs, &rules.exclude_outbound_ports) {
        let _ = writeln!(script, "-A MALLA_OUTPUT{matched} -j RETURN");
    }
    let restricted = !(rules.include_outbound_cidrs.is_empty() && rules.include_outbound_ports.is_empty());
    let include = by_destination(family, &rules.include_outbound_cidrs, &rules.include_outbound_ports);
    for matched in if restricted { include } else { vec![String::new()] } {
        let _ = writeln!(script, "-A MALLA_OUTPUT -p tcp{matched} -j REDIRECT --to-ports {}", rules.outbound_port);
    }

    script += "-A MALLA_INBOUND -i lo -j RETURN\n";
    for port in &rules.direct_inbound_ports {
        let _ = writeln!(script, "-A MALLA_INBOUND -p tcp -m tcp --dport {port} -j RETURN");
    }
    let include: Vec<String> =
        rules.include_inbound_ports.iter().map(|port| format!(" -m tcp --dport {port}")).collect();
    for matched in if include.is_empty() { vec![String::new()] } else { include } {
        let _ = writeln!(script, "-A MALLA_INBOUND -p tcp{matched} -j REDIRECT --to-ports {}", rules.inbound_port);
    }

    for jump in JUMPS {
        let _ = writeln!(script, "-A {jump}");
    }
    script += "COMMIT\n";
    script
}

/// Removes what `saved` shows of ours; `None` if there is nothing.
pub(super) fn undo(saved: &str) -> Option<String> {
    let chains: Vec<&str> =
        CHAINS.into_iter().filter(|chain| saved.lines().any(|line| line.starts_with(&format!(":{chain} ")))).collect();
    if chains.is_empty() {
        return None;
    }
    let mut script = format!("*nat\n{}", delete_jumps(saved));
    for command in ["-F", "-X"] {
        for chain in &chains {
            let _ = writeln!(script, "{command} {chain}");
        }
    }
    script += "COMMIT\n";
    Some(script)
}

fn delete_jumps(saved: &str) -> String {
    let ours = saved.lines().filter_map(|line| line.strip_prefix("-A ")).filter(|rule| JUMPS.contains(rule));
    ours.fold(String::new(), |mut script, rule| {
        let _ = writeln!(script, "-D {rule}");
        script
    })
}

fn by_destination(family: Family, networks: &[IpNet], ports: &[u16]) -> Vec<String> {
    let of_family =
        |network: &&IpNet| matches!((family, network), (Family::V4, IpNet::V4(_)) | (Family::V6, IpNet::V6(_)));
    let networks = networks.iter().filter(of_family).map(|network| format!(" -d {network}"));
    networks.chain(ports.iter().map(|port| format!(" -p tcp -m tcp --dport {port}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::rules;
    use super::*;

    #[test]
    fn default_script_on_a_clean_table() {
        assert_eq!(
            script(&rules(&[]), Family::V4, ""),
            "*nat
:MALLA_OUTPUT - [0:0]
:MALLA_INBOUND - [0:0]
-A MALLA_OUTPUT -o lo -j RETURN
-A MALLA_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A MALLA_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A MALLA_OUTPUT -p tcp -j REDIRECT --to-ports 15001
-A MALLA_INBOUND -i lo -j RETURN
-A MALLA_INBOUND -p tcp -m tcp --dport 15001 -j RETURN
-A MALLA_INBOUND -p tcp -m tcp --dport 15006 -j RETURN
-A MALLA_INBOUND -p tcp -m tcp --dport 15020 -j RETURN
-A MALLA_INBOUND -p tcp -m tcp --dport 15021 -j RETURN
-A MALLA_INBOUND -p tcp -j REDIRECT --to-ports 15006
-A OUTPUT -p tcp -j MALLA_OUTPUT
-A PREROUTING -p tcp -j MALLA_INBOUND
COMMIT
"
        );
    }

    #[test]
    fn jumps_that_exist_are_replaced_and_undone_and_others_are_left() {
        let saved = "*nat\n:OUTPUT ACCEPT [0:0]\n:MALLA_OUTPUT - [0:0]\n:MALLA_INBOUND - [0:0]\n:MALLA_OTHER - [0:0]\n\
                     -A OUTPUT -p tcp -j OTHER\n-A OUTPUT -p tcp -j MALLA_OUTPUT\n-A PREROUTING -p tcp -j MALLA_INBOUND\nCOMMIT\n";
        let again = script(&rules(&[]), Family::V4, saved);
        assert_eq!(again.matches("-D OUTPUT -p tcp -j MALLA_OUTPUT\n").count(), 1);
        assert_eq!(again.matches("-A OUTPUT -p tcp -j MALLA_OUTPUT\n").count(), 1);
        assert_eq!(
            undo(saved).as_deref(),
            Some(
                "*nat\n-D OUTPUT -p tcp -j MALLA_OUTPUT\n-D PREROUTING -p tcp -j MALLA_INBOUND\n-F MALLA_OUTPUT\n\
                 -F MALLA_INBOUND\n-X MALLA_OUTPUT\n-X MALLA_INBOUND\nCOMMIT\n"
            )
        );
        assert_eq!(undo("*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"), None);
    }

    #[test]
    fn each_family_gets_its_networks() {
        let rules = rules(&["--include-outbound-cidrs=10.0.0.0/8,fd00::/8"]);
        let lines = |family| {
            let script = script(&rules, family, "");
            script
                .lines()
                .filter(|line| line.contains("15001") && line.contains("REDIRECT"))
                .map(str::to_owned)
                .collect()
        };
        let four: Vec<String> = lines(Family::V4);
        let six: Vec<String> = lines(Family::V6);
        assert_eq!(four, ["-A MALLA_OUTPUT -p tcp -d 10.0.0.0/8 -j REDIRECT --to-ports 15001"]);
        assert_eq!(six, ["-A MALLA_OUTPUT -p tcp -d fd00::/8 -j REDIRECT --to-ports 15001"]);
    }
}
