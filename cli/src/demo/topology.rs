//! The travel agency: who runs, who calls whom. It owns the shape alone; addresses, files and processes are made from it.
//!
//! The application is the one that the Kiali project demonstrates meshes with: portals sell travels, the agency behind them
//! asks for flights, hotels, cars and insurances, each of which looks into a database and asks for a discount.

/// Namespace of the portals.
pub(crate) const PORTALS: &str = "travel-portal";
/// Namespace of the agency.
pub(crate) const AGENCY: &str = "travel-agency";
/// Port of every HTTP service.
pub(crate) const HTTP_PORT: u16 = 8000;
/// Port of the database.
pub(crate) const DATABASE_PORT: u16 = 3306;

/// One process of the application, with a sidecar of its own.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    /// Workload name: `travels-v1`.
    pub(crate) name: &'static str,
    /// Its namespace.
    pub(crate) namespace: &'static str,
    /// The service it belongs to, which is also its service account and label `app`.
    pub(crate) service: &'static str,
    /// Its version, label `version`.
    pub(crate) version: &'static str,
    /// What it does.
    pub(crate) role: Role,
}

/// What an instance does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Makes requests in the name of visitors.
    Portal,
    /// Puts a travel together from what the others offer.
    Travels,
    /// Offers one part of a travel: asks the database and the discounts.
    Part,
    /// Says how much a customer is let off.
    Discounts,
    /// Raw TCP on which the server speaks first.
    Database,
}

const fn portal(name: &'static str, service: &'static str) -> Instance {
    Instance { name, namespace: PORTALS, service, version: "v1", role: Role::Portal }
}

const fn agency(name: &'static str, service: &'static str, version: &'static str, role: Role) -> Instance {
    Instance { name, namespace: AGENCY, service, version, role }
}

/// Everything that runs, callers first.
pub(crate) const INSTANCES: &[Instance] = &[
    portal("travels-portal", "travels"),
    portal("viaggi-portal", "viaggi"),
    portal("voyages-portal", "voyages"),
    agency("travels-v1", "travels", "v1", Role::Travels),
    agency("travels-v2", "travels", "v2", Role::Travels),
    agency("flights-v1", "flights", "v1", Role::Part),
    agency("hotels-v1", "hotels", "v1", Role::Part),
    agency("cars-v1", "cars", "v1", Role::Part),
    agency("insurances-v1", "insurances", "v1", Role::Part),
    agency("discounts-v1", "discounts", "v1", Role::Discounts),
    agency("discounts-v2", "discounts", "v2", Role::Discounts),
    agency("mysqldb-v1", "mysqldb", "v1", Role::Database),
];

/// What a travel is put together from.
pub(crate) const PARTS: [&str; 4] = ["flights", "hotels", "cars", "insurances"];

impl Instance {
    /// `travels-v1.travel-agency`.
    pub(crate) fn full_name(&self) -> String {
        format!("{}.{}", self.name, self.namespace)
    }

    /// Whether it waits for requests; portals only make them.
    pub(crate) fn serves(&self) -> bool {
        self.role != Role::Portal
    }

    /// The port on which the application itself listens.
    pub(crate) fn port(&self) -> u16 {
        if self.role == Role::Database { DATABASE_PORT } else { HTTP_PORT }
    }

    /// Name of that port, which declares what is spoken on it.
    pub(crate) fn protocol(&self) -> &'static str {
        if self.role == Role::Database { "mysql" } else { "http" }
    }

    /// Services it calls, by mesh name.
    pub(crate) fn calls(&self) -> Vec<String> {
        match self.role {
            Role::Portal => vec![mesh_name("travels", HTTP_PORT)],
            Role::Travels => PARTS.iter().map(|part| mesh_name(part, HTTP_PORT)).collect(),
            Role::Part => vec![mesh_name("discounts", HTTP_PORT), mesh_name("mysqldb", DATABASE_PORT)],
            Role::Discounts | Role::Database => Vec::new(),
        }
    }

    /// Instances at which those calls arrive: `flights-v1.travel-agency:8000`.
    pub(crate) fn destinations(&self) -> Vec<String> {
        let called = self.calls();
        let is_called = |one: &&Instance| one.serves() && called.contains(&mesh_name(one.service, one.port()));
        INSTANCES.iter().filter(is_called).map(|one| format!("{}:{}", one.full_name(), one.port())).collect()
    }
}

/// Services that run in the versions v1 and v2, among which a route divides the calls.
pub(crate) const VERSIONED: [&str; 2] = ["travels", "discounts"];

/// `travels.travel-agency:8000`.
pub(crate) fn mesh_name(service: &str, port: u16) -> String {
    format!("{service}.{AGENCY}:{port}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_call_reaches_a_service_that_runs() {
        let served: BTreeSet<String> =
            INSTANCES.iter().filter(|one| one.serves()).map(|one| mesh_name(one.service, one.port())).collect();
        for instance in INSTANCES {
            for call in instance.calls() {
                assert!(served.contains(&call), "{} calls {call}", instance.name);
            }
        }
    }

    #[test]
    fn there_are_twenty_six_edges() {
        assert_eq!(INSTANCES.iter().map(|one| one.destinations().len()).sum::<usize>(), 26);
    }
}
