//! Loopback addresses and ports for every process of the demo. It owns the choice and refuses to fight for a port: what is
//! taken is left alone.
//!
//! Linux answers on all of 127.0.0.0/8 without any set-up, so each process gets an address of its own there, as if it were a
//! machine, and listens on the ports that the documentation names. Two demos beside each other choose different addresses.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use anyhow::Context;

use super::topology::{INSTANCES, Instance};

/// Where one process and its sidecar listen.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The process's own address.
    pub(crate) ip: IpAddr,
    /// The application itself; portals do not listen there.
    pub(crate) application: SocketAddr,
    /// Sidecar, traffic that leaves.
    pub(crate) outbound: SocketAddr,
    /// Sidecar, traffic that arrives.
    pub(crate) inbound: SocketAddr,
    /// Sidecar, admin and metrics.
    pub(crate) admin: SocketAddr,
    /// Sidecar, health.
    pub(crate) health: SocketAddr,
    /// Sidecar, local port that leads to the database.
    pub(crate) database: SocketAddr,
}

/// Where everything listens.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    /// Control server: xDS and certificates.
    pub(crate) control: SocketAddr,
    /// Control server: status and health.
    pub(crate) control_admin: SocketAddr,
    /// The demo's own switchboard, which breaks and mends instances.
    pub(crate) switchboard: SocketAddr,
    places: BTreeMap<&'static str, Place>,
}

impl Addresses {
    /// Chooses addresses on which every usual port is free; where there are none (something listens on the usual ports of all
    /// addresses), free ports take the place of those that are taken.
    ///
    /// # Errors
    /// 127.0.0.0/8 cannot be bound at all, as on systems other than Linux.
    pub(crate) fn choose() -> anyhow::Result<Addresses> {
        let usual = (1..=200).find_map(|block| Addresses::in_block(block, exactly).ok());
        match usual {
            Some(addresses) => Ok(addresses),
            None => Addresses::in_block(1, exactly_or_any).context(
                "cannot listen on loopback addresses like 127.77.1.1; the demo needs Linux, which answers on all of 127.0.0.0/8",
            ),
        }
    }

    /// Where `instance` listens.
    pub(crate) fn place(&self, instance: &Instance) -> &Place {
        &self.places[instance.name]
    }

    /// All of them in 127.77.`block`.0/24, each port as `reserve` grants it.
    fn in_block(block: u8, reserve: fn(SocketAddr) -> io::Result<TcpListener>) -> io::Result<Addresses> {
        let ip = |host: u8| IpAddr::V4(Ipv4Addr::new(127, 77, block, host));
        // Held until all are chosen, so that no port is given twice.
        let mut held = Vec::new();
        let mut port = |ip: IpAddr, port: u16| -> io::Result<SocketAddr> {
            let listener = reserve(SocketAddr::new(ip, port))?;
            let address = listener.local_addr()?;
            held.push(listener);
            Ok(address)
        };
        let control = port(ip(1), 15012)?;
        let control_admin = port(ip(1), 15014)?;
        let switchboard = port(ip(1), 15080)?;
        let mut places = BTreeMap::new();
        for (instance, host) in INSTANCES.iter().zip(11..) {
            let ip = ip(host);
            let place = Place {
                ip,
                application: port(ip, instance.port())?,
                outbound: port(ip, 15001)?,
                inbound: port(ip, 15006)?,
                admin: port(ip, 15020)?,
                health: port(ip, 15021)?,
                database: port(ip, if instance.port() == 3306 { 3307 } else { 3306 })?,
            };
            places.insert(instance.name, place);
        }
        Ok(Addresses { control, control_admin, switchboard, places })
    }
}

fn exactly(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
}

fn exactly_or_any(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).or_else(|_| TcpListener::bind(SocketAddr::new(address.ip(), 0)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_process_has_an_address_of_its_own() {
        let addresses = Addresses::choose().expect("loopback addresses");
        let distinct: BTreeSet<IpAddr> = INSTANCES.iter().map(|one| addresses.place(one).ip).collect();
        assert_eq!(distinct.len(), INSTANCES.len());
    }

    #[test]
    fn a_taken_port_is_replaced_and_never_shared() {
        // Unlike the demo's own range, so that the tests do not meet.
        let taken = TcpListener::bind("127.78.1.1:0").expect("a port");
        let address = taken.local_addr().expect("its address");
        assert!(exactly(address).is_err());
        let other = exactly_or_any(address).expect("another port").local_addr().expect("its address");
        assert_eq!(other.ip(), address.ip());
        assert_ne!(other.port(), address.port());
    }
}
