//! The pure steps, each run alone so that valgrind can count its instructions: what is in [`measured`] counts, what prepares it
//! does not.
//!
//! Everything comes from YAML by the way that it takes in a mesh: configuration, control server, xDS, sidecar.

use std::fmt::Write;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use http::{HeaderMap, Method};
use malla_config::SourceFile;
use malla_control::resources::Resources;
use malla_control::source;
use malla_proxy::authorize::{Subject, authorize};
use malla_proxy::decode::{Decoded, InboundSpec};
use malla_proxy::snapshot::{Cluster, HttpRoutes, Outbound, OutboundService, RouteAction, Snapshot};
use malla_proxy::{balance, decode, detect, explain, route, subscribe};
use malla_xds::wire::{Any, Resource};
use malla_xds::{ResourceType, SpiffeId};

/// Services, and workloads behind each, where a mesh is compiled or applied.
const SERVICES: usize = 100;
const ENDPOINTS: usize = 10;

/// Routes of one service, and endpoints of one, where one is chosen.
const MANY: usize = 1000;

/// Rules of one policy.
const RULES: usize = 100;

/// ClientHellos.
const HELLOS: usize = 100;

/// A step that can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Step {
    /// Tell the protocol of an HTTP/1.1 request
    DetectHttp,
    /// Tell the protocol of a ClientHello, and its SNI
    DetectTls,
    /// Find the last of 1,000 routes
    Route,
    /// Choose one of 1,000 endpoints
    Balance,
    /// Judge a request by 100 rules, of which the last allows it
    Authorize,
    /// Decode a route configuration of 1,000 routes
    DecodeRoutes,
    /// Decode an endpoint assignment of 1,000 endpoints
    DecodeEndpoints,
    /// From responses to a snapshot of 100 services with 10 endpoints each
    Snapshot,
    /// From YAML to the validated mesh of 100 services with 10 endpoints each
    Load,
    /// From the mesh to resources, 100 services with 10 endpoints each
    Compile,
}

impl Step {
    /// How often it is done in [`measured`]: its figure is for one time.
    pub(crate) fn times(self) -> u64 {
        match self {
            Step::DetectHttp | Step::DetectTls | Step::Balance => 1000,
            Step::Route | Step::Authorize => 100,
            Step::DecodeRoutes | Step::DecodeEndpoints => 10,
            Step::Snapshot | Step::Load | Step::Compile => 1,
        }
    }
}

/// What is counted. Its name is what valgrind looks for.
#[inline(never)]
fn measured<T>(times: u64, mut step: impl FnMut() -> T) {
    for _ in 0..times {
        black_box(step());
    }
}

/// Prepares a step, does it once so that caches and allocator are warm, then does it measured.
pub(crate) fn run(step: Step) -> Result<()> {
    fastrand::seed(1);
    match step {
        Step::DetectHttp => {
            let request = b"GET /cart/7 HTTP/1.1\r\nhost: web.shop\r\n\r\n";
            twice(step, || detect::detect(black_box(request)));
        }
        Step::DetectTls => {
            // A client orders its extensions anew each time: the figure is that of many orders.
            let hellos = (0..HELLOS).map(|_| client_hello()).collect::<Result<Vec<_>>>()?;
            let mut next = hellos.iter().cycle();
            twice(step, || next.next().map(|hello| detect::detect(black_box(hello))));
        }
        Step::Route => {
            let snapshot = applied(&one_service(1, MANY)?, ["web.shop:80"]);
            let routes = routes(&snapshot)?;
            let (path, headers) = (format!("/{:04}/items", MANY - 1), HeaderMap::new());
            let head =
                route::Head { method: &Method::GET, host: "web.shop", path: &path, query: None, headers: &headers };
            anyhow::ensure!(
                route::choose(routes, &head).is_some_and(|route| route.name.contains("/last/")),
                "not the last route"
            );
            twice(step, || route::choose(black_box(routes), black_box(&head)));
        }
        Step::Balance => {
            let snapshot = applied(&one_service(MANY, 1)?, ["web.shop:80"]);
            let cluster = cluster(routes(&snapshot)?)?;
            anyhow::ensure!(balance::pick(cluster, &[]).is_some(), "no endpoint");
            twice(step, || balance::pick(black_box(cluster), &[]));
        }
        Step::Authorize => {
            let (resources, front) = (guarded(RULES)?, SpiffeId::new("cluster.local", "web", "front")?);
            let inbound = inbound(&resources, "web-0.shop")?;
            let rules =
                inbound.ports.iter().find_map(|port| port.authorization.as_ref()).context("the port's rules")?;
            let request = explain::Request::new("GET", &format!("http://web.shop/{}/items", RULES - 1), [])?;
            let subject = |method| Subject {
                peer: Some(&front),
                source: Ipv4Addr::LOCALHOST.into(),
                port: 8080,
                head: Some(route::Head { method, ..request.looked_at() }),
            };
            anyhow::ensure!(authorize(rules, &subject(&Method::GET)).denied.is_none(), "the last rule allows");
            anyhow::ensure!(authorize(rules, &subject(&Method::PUT)).denied.is_some(), "and nothing else");
            let subject = subject(&Method::GET);
            twice(step, || black_box(authorize(rules, black_box(&subject))).denied.is_none());
        }
        Step::DecodeRoutes => decode(step, ResourceType::Route, &one_service(1, MANY)?)?,
        Step::DecodeEndpoints => decode(step, ResourceType::Endpoints, &one_service(MANY, 1)?)?,
        Step::Snapshot => {
            let resources = resources(&load(&mesh(SERVICES, ENDPOINTS))?)?;
            let names = (0..SERVICES).map(|number| format!("service-{number}.shop:80")).collect::<Vec<_>>();
            twice(step, || applied(&resources, names.iter().map(String::as_str)));
        }
        Step::Load => {
            let text = mesh(SERVICES, ENDPOINTS);
            twice(step, || load(black_box(&text)));
        }
        Step::Compile => {
            let mesh = load(&mesh(SERVICES, ENDPOINTS))?;
            twice(step, || resources(black_box(&mesh)));
        }
    }
    Ok(())
}

fn twice<T>(step: Step, mut run: impl FnMut() -> T) {
    black_box(run());
    measured(step.times(), run);
}

fn decode(step: Step, kind: ResourceType, resources: &Resources) -> Result<()> {
    let resource = resources.get(kind, "web.shop:80").context("the service's resource")?;
    let any = Any { type_url: kind.type_url().into(), value: resource.body.clone() };
    if let Err(fault) = decode::decode(kind, &resource.name, &any) {
        bail!("{fault}");
    }
    twice(step, || decode::decode(kind, &resource.name, black_box(&any)));
    Ok(())
}

fn inbound(resources: &Resources, workload: &str) -> Result<Arc<InboundSpec>> {
    let name = malla_xds::names::inbound_listener(workload);
    let resource = resources.get(ResourceType::Listener, &name).context("the workload's listener")?;
    let any = Any { type_url: ResourceType::Listener.type_url().into(), value: resource.body.clone() };
    match decode::decode(ResourceType::Listener, &resource.name, &any) {
        Ok(Decoded::Inbound(inbound)) => Ok(inbound),
        Ok(other) => bail!("{other:?} is not the workload's listener"),
        Err(fault) => bail!("{fault}"),
    }
}

fn load(text: &str) -> Result<malla_config::mesh::Mesh> {
    let file = SourceFile { path: "mesh.yaml".into(), text: text.into() };
    malla_config::load(&[file]).map_err(|report| anyhow::anyhow!("{report}"))
}

fn resources(mesh: &malla_config::mesh::Mesh) -> Result<Resources> {
    Ok(source::render(mesh.clone(), "")?)
}

fn applied<'a>(resources: &Resources, names: impl IntoIterator<Item = &'a str>) -> Arc<Snapshot> {
    subscribe::offline::snapshot(names.into_iter().map(Into::into), |kind, name| {
        let found = resources.get(kind, name)?;
        let any = Any { type_url: kind.type_url().into(), value: found.body.clone() };
        Some(Resource {
            name: found.name.to_string(),
            version: found.version.to_string(),
            resource: Some(any),
            ..Default::default()
        })
    })
}

fn routes(snapshot: &Snapshot) -> Result<&HttpRoutes> {
    let service = snapshot.outbound.values().find_map(|destination| match &*destination.outbound {
        Outbound::Service(OutboundService { http: Some(routes), .. }) => Some(&**routes),
        _ => None,
    });
    service.context("the service's routes")
}

fn cluster(routes: &HttpRoutes) -> Result<&Cluster> {
    let clusters = routes.virtual_hosts.iter().flat_map(|host| &host.routes).find_map(|route| match &route.action {
        RouteAction::Forward(clusters) => clusters.clusters.first(),
        _ => None,
    });
    Ok(&clusters.context("the service's cluster")?.0)
}

/// Services with HTTP on port 80, each with some workloads.
fn mesh(services: usize, endpoints: usize) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    for service in 0..services {
        let name = format!("service-{service}");
        let address = format!("10.96.{}.{}", service / 250, service % 250 + 1);
        write_service(&mut text, &name, &address);
        for endpoint in 0..endpoints {
            let number = service * endpoints + endpoint;
            write_workload(&mut text, &name, endpoint, number);
        }
    }
    text
}

/// The service `web` with so many workloads, and a route with so many matches more.
fn one_service(endpoints: usize, routes: usize) -> Result<Resources> {
    let mut text = String::new();
    write_service(&mut text, "web", "10.96.0.1");
    (0..endpoints).for_each(|endpoint| write_workload(&mut text, "web", endpoint, endpoint));
    // A rule has 64 matches at most, a route 16 rules.
    let last = routes.saturating_sub(1);
    for route in 0..routes {
        let name = if route == last { "last".to_owned() } else { format!("route-{route:04}") };
        let _ = writeln!(
            text,
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: web, port: 80}}]\n  rules:\n  - matches: [{{path: {{type: Exact, \
             value: /{route:04}/items}}}}]\n    backendRefs: [{{name: web, port: 80}}]"
        );
    }
    resources(&load(&text)?)
}

/// The service `web` with one workload, and a policy with so many rules.
fn guarded(rules: usize) -> Result<Resources> {
    let mut text = String::new();
    write_service(&mut text, "web", "10.96.0.1");
    write_workload(&mut text, "web", 0, 0);
    text += "---\napiVersion: malla.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: callers, namespace: shop}\nspec:\n  \
             action: Allow\n  rules:\n";
    for rule in 0..rules {
        let _ = writeln!(
            text,
            "  - from: [{{serviceAccounts: [web/front]}}]\n    to: [{{methods: [GET], paths: [{{type: PathPrefix, value: /{rule}}}]}}]"
        );
    }
    resources(&load(&text)?)
}

fn write_service(text: &mut String, name: &str, address: &str) {
    let _ = writeln!(
        text,
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  clusterIP: {address}\n  \
         selector: {{app: {name}}}\n  ports: [{{name: http, port: 80, targetPort: 8080}}]"
    );
}

fn write_workload(text: &mut String, app: &str, endpoint: usize, number: usize) {
    let address = format!("10.{}.{}.{}", 100 + number / 62_500, number / 250 % 250, number % 250 + 1);
    let _ = writeln!(
        text,
        "---\napiVersion: malla.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {app}-{endpoint}, namespace: shop, labels: {{app: \
         {app}}}}}\nspec: {{address: {address}, serviceAccount: {app}, sidecar: {{mode: transparent}}}}"
    );
}

/// What a sidecar sends first.
fn client_hello() -> Result<Vec<u8>> {
    let roots = rustls::RootCertStore::empty();
    let config = rustls::ClientConfig::builder_with_provider(malla_proxy::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("80.web.shop.mesh")?;
    let mut client = rustls::ClientConnection::new(Arc::new(config), name)?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello)?;
    Ok(hello)
}
