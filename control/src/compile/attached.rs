//! Which routes apply to which service port: those whose parent it is, and whose kind its protocol carries. (A route to all
//! ports of a service applies to those that can carry it.)
//!
//! Routes of the service's own namespace are for all clients; those of another namespace for the clients of that namespace, which
//! then follow none of the others of the same kind (GAMMA: producer and consumer routes).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use malla_config::mesh::{
    AppProtocol, HttpRoute, Mesh, ParentRef, RouteKind, RouteName, ServiceName, TcpRoute, TlsRoute,
};

use malla_xds::ResourceType;

use crate::resources::AttachedRoute;
use crate::world::{ServicePortName, World};

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

    /// The routes that most clients of a service port follow.
    pub(super) fn to(&self, name: &ServicePortName, protocol: AppProtocol) -> Routes<'a> {
        self.within(name, protocol, &name.service.namespace)
    }

    /// The routes that the clients of those namespaces follow which have routes of their own to it.
    pub(super) fn of_consumers(
        &self,
        name: &ServicePortName,
        protocol: AppProtocol,
    ) -> BTreeMap<&'a Arc<str>, Routes<'a>> {
        let all = self.all(name, protocol);
        let http = all.http.iter().map(|route| &route.name.namespace);
        let tcp = all.tcp.iter().map(|route| &route.name.namespace);
        let tls = all.tls.iter().map(|route| &route.name.namespace);
        let consumers = http.chain(tcp).chain(tls).filter(|namespace| **namespace != name.service.namespace);
        consumers.map(|namespace| (namespace, self.within(name, protocol, namespace))).collect()
    }

    /// The routes of a namespace; of kinds of which it has none, those for all.
    fn within(&self, name: &ServicePortName, protocol: AppProtocol, namespace: &Arc<str>) -> Routes<'a> {
        fn of<'r, R>(
            routes: Vec<&'r R>,
            named: fn(&R) -> &RouteName,
            clients: &Arc<str>,
            own: &Arc<str>,
        ) -> Vec<&'r R> {
            let clients = if routes.iter().any(|route| named(route).namespace == *clients) { clients } else { own };
            routes.into_iter().filter(|route| named(route).namespace == *clients).collect()
        }
        let (all, own) = (self.all(name, protocol), &name.service.namespace);
        Routes {
            http: of(all.http, |route| &route.name, namespace, own),
            tcp: of(all.tcp, |route| &route.name, namespace, own),
            tls: of(all.tls, |route| &route.name, namespace, own),
        }
    }

    fn all(&self, name: &ServicePortName, protocol: AppProtocol) -> Routes<'a> {
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

/// All routes of a world, with the resources by which clients follow them.
pub(super) fn shown(world: &World) -> Vec<AttachedRoute> {
    let mesh = &world.mesh;
    let route = |kind: &str, name: &RouteName, parents: &[ParentRef], resource: ResourceType| {
        let applies = |port: &&ServicePortName| {
            parents
                .iter()
                .any(|parent| parent.service == port.service && parent.port.is_none_or(|number| number == port.port))
        };
        let names = world.ports.keys().filter(applies);
        let consumer = parents.iter().any(|parent| parent.service.namespace != name.namespace);
        AttachedRoute {
            name: format!("{kind} {}/{}", name.namespace, name.name),
            resources: names.map(|port| (resource, port.to_string().into())).collect(),
            only_for: consumer.then(|| name.namespace.as_ref().into()),
        }
    };
    let http = mesh.http_routes.iter().map(|http| {
        let kind = if http.kind == RouteKind::Grpc { "GRPCRoute" } else { "HTTPRoute" };
        route(kind, &http.name, &http.parents, ResourceType::Route)
    });
    let tcp = mesh.tcp_routes.iter().map(|tcp| route("TCPRoute", &tcp.name, &tcp.parents, ResourceType::Listener));
    let tls = mesh.tls_routes.iter().map(|tls| route("TLSRoute", &tls.name, &tls.parents, ResourceType::Listener));
    http.chain(tcp).chain(tls).collect()
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
