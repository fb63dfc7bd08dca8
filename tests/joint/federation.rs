//! Other trust domains, from what is written to what sidecars verify with.

use std::fmt::Write as _;

use malla_config::SourceFile;
use malla_proxy::decode::{Decoded, TrustBundle, decode};
use malla_xds::ResourceType;
use malla_xds::wire::Any;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

/// A root in PEM.
fn root() -> String {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.self_signed(&KeyPair::generate().expect("a key")).expect("signed").pem()
}

/// A mesh that knows `partner.example` by these roots, and reaches a workload of it.
fn mesh(roots: &str) -> String {
    let mut text = String::from(
        "apiVersion: malla.dev/v1alpha1\nkind: Mesh\nmetadata: {name: mesh}\nspec:\n  federation:\n  \
         - trustDomain: partner.example\n    roots: |\n",
    );
    for line in roots.lines() {
        let _ = writeln!(text, "      {line}");
    }
    text + "---
apiVersion: v1
kind: Service
metadata: {name: rates, namespace: shop}
spec: {selector: {app: rates}, ports: [{name: http, port: 80}]}
---
apiVersion: malla.dev/v1alpha1
kind: Workload
metadata: {name: rates-1, namespace: shop, labels: {app: rates}}
spec: {address: 10.9.0.1, serviceAccount: rates, trustDomain: partner.example, sidecar: {mode: transparent}}
"
}

fn load(text: String) -> malla_config::Mesh {
    malla_config::load(&[SourceFile::new("mesh.yaml", text)]).unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn roots_of_other_trust_domains_reach_sidecars_beside_the_own() {
    let (own, theirs) = (root(), root());
    let resources = malla_control::source::render(load(mesh(&theirs)), &own).expect("compiles");
    let decoded = |kind: ResourceType, name: &str| {
        let rendered = resources.get(kind, name).unwrap_or_else(|| panic!("no {name}"));
        let any = Any { type_url: kind.type_url().to_owned(), value: rendered.body.clone() };
        decode(kind, name, &any).unwrap_or_else(|fault| panic!("{name}: {fault}"))
    };
    let Decoded::Secret(bundle) = decoded(ResourceType::Secret, malla_xds::names::ROOT_CA) else { panic!("a secret") };
    let TrustBundle { certificates, federated } = &*bundle;
    assert_eq!(certificates.len(), 1);
    assert_eq!(federated.keys().map(|name| &**name).collect::<Vec<_>>(), ["cluster.local", "partner.example"]);
    assert_eq!(federated["cluster.local"], *certificates, "for those who look there alone");
    assert_ne!(federated["partner.example"], *certificates);
    // Who is called there is one of theirs, and their control server serves it.
    let Decoded::Cluster(cluster) = decoded(ResourceType::Cluster, "rates.shop:80") else { panic!("a cluster") };
    let identities = &cluster.tls.as_ref().expect("it has a sidecar").identities;
    assert_eq!(identities[0].as_str(), "spiffe://partner.example/ns/shop/sa/rates");
    assert!(resources.get(ResourceType::Listener, "inbound/rates-1.shop").is_none());
}

#[test]
fn what_is_no_certificate_is_refused() {
    let broken = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    let error = malla_control::source::render(load(mesh(broken)), &root()).expect_err("refused");
    assert!(error.to_string().contains("partner.example"), "{error}");
}
