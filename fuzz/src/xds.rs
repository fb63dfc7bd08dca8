//! What a control server may say: every resource is taken or refused by name, nothing ends or wedges the sidecar, and what a good
//! server says afterwards is applied as if the bad one had never spoken.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use malla_config::{Mesh, SourceFile, load};
use malla_control::resources::Resources;
use malla_proxy::decode::decode;
use malla_proxy::snapshot::{Outbound, Snapshot};
use malla_proxy::subscribe::offline;
use malla_xds::wire::{Any, DeltaDiscoveryResponse, Resource};
use malla_xds::{Name, ResourceType};
use prost::Message;

use crate::Target;
use crate::mutate::Form;

pub(crate) const TARGET: Target = Target {
    name: "xds",
    form: Form::Message,
    words: &[
        "cart.shop:80",
        "*",
        "type.googleapis.com/",
        "spiffe://cluster.local/ns/shop/sa/cart",
        "(a+)+",
        "\u{fffd}",
        "10.0.0.1",
        "::",
    ],
    run,
    seeds,
};

/// An input is a response of delta ADS.
fn run(bytes: &[u8]) {
    let Ok(response) = DeltaDiscoveryResponse::decode(bytes) else { return };
    if let Some(kind) = ResourceType::from_type_url(&response.type_url) {
        for resource in &response.resources {
            let Some(any) = &resource.resource else { continue };
            if let Err(fault) = decode(kind, &resource.name, any) {
                assert!(!fault.to_string().is_empty(), "a refusal says why");
            }
        }
    }
    let good = &good();
    let resource = |kind, name: &str| good.resource(kind, name);
    let recovered = offline::recovered(good.destinations.iter().cloned(), &[response], resource);
    assert_eq!(&shape(&recovered), &good.shape, "what a bad server said stays when a good one has spoken");
}

/// A mesh as a good server serves it.
struct Good {
    resources: Resources,
    destinations: Vec<Name>,
    shape: Shape,
}

impl Good {
    fn resource(&self, kind: ResourceType, name: &str) -> Option<Resource> {
        self.resources.get(kind, name).map(|found| on_the_wire(&found))
    }
}

fn good() -> &'static Good {
    static GOOD: OnceLock<Good> = OnceLock::new();
    GOOD.get_or_init(|| {
        let mesh = examples().into_iter().find(|(name, _)| name == "resilience").expect("the example resilience").1;
        let destinations = destinations(&mesh);
        let resources = malla_control::offline::compiled(mesh).expect("the example compiles");
        let mut good = Good { resources, destinations, shape: Shape::new() };
        let resource = |kind, name: &str| good.resource(kind, name);
        let snapshot = offline::snapshot(good.destinations.iter().cloned(), resource);
        assert_eq!(snapshot.outbound.len(), good.destinations.len());
        good.shape = shape(&snapshot);
        good
    })
}

fn destinations(mesh: &Mesh) -> Vec<Name> {
    let services = mesh.services.values();
    services
        .flat_map(|service| service.ports.iter().map(|port| format!("{}:{}", service.name, port.port).into()))
        .collect()
}

/// Of each destination: whether it is a service, its name, and its routes.
type Shape = BTreeMap<Name, Option<(Name, Vec<String>)>>;

fn shape(snapshot: &Snapshot) -> Shape {
    let of = |outbound: &Outbound| match outbound {
        Outbound::Service(service) => {
            let hosts = service.http.iter().flat_map(|http| &http.virtual_hosts);
            let routes =
                hosts.flat_map(|host| host.routes.iter().map(|route| format!("{:?} {}", host.domains, route.name)));
            Some((service.name.clone(), routes.collect()))
        }
        Outbound::Unknown(_) => None,
    };
    snapshot.outbound.iter().map(|(name, known)| (name.clone(), of(&known.outbound))).collect()
}

fn on_the_wire(resource: &malla_xds::Resource) -> Resource {
    Resource {
        version: resource.version.to_string(),
        name: resource.name.to_string(),
        aliases: resource.aliases.iter().map(|alias| alias.to_string()).collect(),
        resource: Some(Any { type_url: resource.kind.type_url().to_owned(), value: resource.body.clone() }),
    }
}

/// The examples of the documentation.
fn examples() -> Vec<(String, Mesh)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples");
    let entries = fs::read_dir(root).expect("the examples").filter_map(Result::ok);
    let mut examples: Vec<_> = entries
        .filter_map(|entry| {
            let text = fs::read_to_string(entry.path().join("mesh.yaml")).ok()?;
            Some((entry.file_name().to_string_lossy().into_owned(), load(&[SourceFile::new("mesh.yaml", text)]).ok()?))
        })
        .collect();
    examples.sort_by(|(a, _), (b, _)| a.cmp(b));
    examples
}

/// What the control server says of every example, a response for each type.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (_, mesh) in examples() {
        let Ok(resources) = malla_control::offline::compiled(mesh) else { continue };
        for kind in ResourceType::ALL {
            let response = DeltaDiscoveryResponse {
                type_url: kind.type_url().to_owned(),
                resources: resources.all(kind).map(|found| on_the_wire(found)).collect(),
                nonce: "1".to_owned(),
                ..Default::default()
            };
            if !response.resources.is_empty() {
                seeds.push(response.encode_to_vec());
            }
        }
    }
    seeds
}
