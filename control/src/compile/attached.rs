//! Which routes apply to which service port: those whose parent it is, and whose kind its protocol carries. (A route to all
//! ports of a service applies to those that can carry it.)

use std::collections::{BTreeSet, HashMap};

use malla_config::mesh::{AppProtocol, HttpRoute, Mesh, ParentRef, RouteKind, ServiceName, TcpRoute, TlsRoute};

use crate::world::ServicePortName;

/// All attachments of a mesh, by service.
pub(super) struct Attachments<'a> {
    http: HashMap<&'a ServiceName, BTreeSet<usize>>,
    tcp: HashMap<&'a ServiceName, BTreeSet<usize>>,
    tls: HashMap<&'a ServiceName, BTreeSet<usize>>,
    mesh: &'a Mesh,
}

/// The routes of one service port, the oldest first.
#[derive(Default)]
pub(super) struct Routes<'a> {
    pub(super) http: Vec<&'a HttpRoute>,
    pub(super) tcp: Vec<&'a TcpRoute>,
    pub(super) tls: Vec<&'a TlsRoute>,
}

impl<'a> Attachments<'a> {
    pub(super) fn new(mesh: &'a Mesh) -> Self {
        Attachments {
            http: by_service(mesh.http_routes.iter().map(|route| &route.parents)),
            tcp: by_service(mesh.tcp_routes.iter().map(|route| &route.parents)),
            tls: by_service(mesh.tls_routes.iter().map(|route| &route.parents)),
            mesh,
        }
    }

    pub(super) fn to(&self, name: &ServicePortName, protocol: AppProtocol) -> Routes<'a> {
        use AppProtocol::{Detect, Grpc, Http1, Http2, Tcp, Tls};
        let mut routes = Routes::default();
        if matches!(protocol, Http1 | Http2 | Grpc | Detect) {
            routes.http = chosen(&self.http, &self.mesh.http_routes, |route| &route.parents, name);
            routes.http.retain(|route| protocol != Http1 || route.kind != RouteKind::Grpc);
        }
        if matches!(protocol, Tcp | Tls | Detect) {
            routes.tcp = chosen(&self.tcp, &self.mesh.tcp_routes, |route| &route.parents, name);
        }
        if protocol == Tls {
            routes.tls = chosen(&self.tls, &self.mesh.tls_routes, |route| &route.parents, name);
        }
        routes
    }
}

fn by_service<'a>(parents: impl Iterator<Item = &'a Vec<ParentRef>>) -> HashMap<&'a ServiceName, BTreeSet<usize>> {
    let mut indexes: HashMap<&ServiceName, BTreeSet<usize>> = HashMap::new();
    for (index, parents) in parents.enumerate() {
        for parent in parents {
            indexes.entry(&parent.service).or_default().insert(index);
        }
    }
    indexes
}

fn chosen<'a, R>(
    indexes: &HashMap<&ServiceName, BTreeSet<usize>>,
    routes: &'a [R],
    parents: impl Fn(&R) -> &[ParentRef],
    name: &ServicePortName,
) -> Vec<&'a R> {
    let applies =
        |parent: &ParentRef| parent.service == name.service && parent.port.is_none_or(|port| port == name.port);
    let of_service = indexes.get(&name.service).into_iter().flatten().filter_map(|index| routes.get(*index));
    of_service.filter(|route| parents(route).iter().any(applies)).collect()
}
