//! The rules as an nftables script: one table of our own, replaced as a whole by one transaction.

use std::fmt::Write;

use ipnet::IpNet;

use super::Rules;

/// Removes the table, whether or not it exists.
pub(super) const UNDO: &str = "add table inet malla\ndelete table inet malla\n";

/// A script for `nft -f -`.
pub(super) fn script(rules: &Rules) -> String {
    // A number, because older nft takes the names of priorities only in some hooks. -100 is where others translate, too.
    let mut script = format!("{UNDO}table inet malla {{\n");
    script += "  chain output {\n    type nat hook output priority -100; policy accept;\n";
    script += "    meta l4proto != tcp return\n    oif \"lo\" return\n";
    for (what, value) in [("meta skuid", rules.uid), ("meta skgid", rules.gid), ("meta mark", rules.mark)] {
        if let Some(value) = value {
            let _ = writeln!(script, "    {what} {value} return");
        }
    }
    for line in by_destination(&rules.exclude_outbound_cidrs, &rules.exclude_outbound_ports) {
        let _ = writeln!(script, "    {line} return");
    }
    let include = by_destination(&rules.include_outbound_cidrs, &rules.include_outbound_ports);
    for line in &include {
        let _ = writeln!(script, "    {line} redirect to :{}", rules.outbound_port);
    }
    if include.is_empty() {
        let _ = writeln!(script, "    meta l4proto tcp redirect to :{}", rules.outbound_port);
    }
    script += "  }\n  chain prerouting {\n    type nat hook prerouting priority -100; policy accept;\n";
    script += "    meta l4proto != tcp return\n    iif \"lo\" return\n";
    let _ = writeln!(script, "    tcp dport {} return", set(&rules.direct_inbound_ports));
    let matched = match rules.include_inbound_ports.as_slice() {
        [] => "meta l4proto tcp".to_owned(),
        ports => format!("tcp dport {}", set(ports)),
    };
    let _ = writeln!(script, "    {matched} redirect to :{}\n  }}\n}}", rules.inbound_port);
    script
}

fn by_destination(networks: &[IpNet], ports: &[u16]) -> Vec<String> {
    let (four, six): (Vec<&IpNet>, Vec<&IpNet>) = networks.iter().partition(|network| matches!(network, IpNet::V4(_)));
    let mut lines = Vec::new();
    if !four.is_empty() {
        lines.push(format!("ip daddr {}", set(&four)));
    }
    if !six.is_empty() {
        lines.push(format!("ip6 daddr {}", set(&six)));
    }
    if !ports.is_empty() {
        lines.push(format!("tcp dport {}", set(ports)));
    }
    lines
}

fn set(members: &[impl ToString]) -> String {
    let members: Vec<String> = members.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", members.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::tests::rules;
    use super::*;

    #[test]
    fn default_script() {
        assert_eq!(
            script(&rules(&[])),
            r#"add table inet malla
delete table inet malla
table inet malla {
  chain output {
    type nat hook output priority -100; policy accept;
    meta l4proto != tcp return
    oif "lo" return
    meta skuid 1337 return
    meta skgid 1337 return
    meta l4proto tcp redirect to :15001
  }
  chain prerouting {
    type nat hook prerouting priority -100; policy accept;
    meta l4proto != tcp return
    iif "lo" return
    tcp dport { 15001, 15006, 15020, 15021 } return
    meta l4proto tcp redirect to :15006
  }
}
"#
        );
    }

    #[test]
    fn exclusions_come_before_inclusions() {
        let script = script(&rules(&[
            "--mark=7",
            "--exclude-outbound-cidrs=10.0.0.0/8,fd00::/8",
            "--exclude-outbound-ports=25",
            "--include-outbound-ports=80,443",
            "--include-outbound-cidrs=192.0.2.0/24",
            "--include-inbound-ports=8080",
        ]));
        let lines: Vec<&str> = script.lines().map(str::trim).skip(7).collect();
        assert_eq!(
            lines[..6],
            [
                "meta mark 7 return",
                "ip daddr { 10.0.0.0/8 } return",
                "ip6 daddr { fd00::/8 } return",
                "tcp dport { 25 } return",
                "ip daddr { 192.0.2.0/24 } redirect to :15001",
                "tcp dport { 80, 443 } redirect to :15001",
            ]
        );
        assert!(lines.contains(&"tcp dport { 8080 } redirect to :15006"));
        assert!(!script.contains("skuid"));
    }
}
