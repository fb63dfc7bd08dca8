//! Every example of the documentation, as the control server renders it, is understood by the sidecar of each of its workloads.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use malla_config::mesh::{Mesh, Workload};
use malla_config::{SourceFile, load};
use malla_control::run::{Control, ControlSettings};
use malla_control::token::JoinClaims;
use malla_proxy::reason::Reason;
use malla_proxy::run::Proxy;
use malla_proxy::settings::Settings;
use malla_tests::examples::Example;
use malla_xds::SpiffeId;

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_is_understood() {
    let examples = malla_tests::examples::all();
    for example in &examples {
        understood(example).await;
    }
    let of_pages = examples.iter().filter(|example| example.name.starts_with("docs/")).count();
    assert!(of_pages >= 11, "the pages have lost examples: {of_pages} were found");
}

async fn understood(example: &Example) {
    let Example { name, text } = example;
    let config = tempfile::tempdir().expect("a directory");
    fs::write(config.path().join("mesh.yaml"), text).expect("written");
    let loaded = load(&[SourceFile::new(name.as_str(), text.as_str())]);
    let mesh = loaded.unwrap_or_else(|report| panic!("{name}:\n{report}"));
    let state = tempfile::tempdir().expect("a directory");
    let any_port = "127.0.0.1:0".parse().expect("an address");
    let settings =
        ControlSettings { listen: any_port, admin: any_port, ..ControlSettings::new(config.path(), state.path()) };
    let control = Control::start(settings).expect("started");
    let trust = state.path().join("trust.pem");
    fs::write(&trust, control.trust_bundle().as_bytes()).expect("written");
    for workload in mesh.workloads.values() {
        let proxy = sidecar(&control, &mesh, workload, state.path(), trust.clone());
        for service in mesh.services.values() {
            for port in &service.ports {
                let destination = format!("{}:{}", service.name, port.port);
                let found = proxy.shared().directory.lookup(&destination).await;
                assert!(found.is_ok(), "{name}: {} → {destination}: {found:?}", workload.name);
            }
        }
        let ready = async {
            while proxy.shared().directory.snapshot().inbound.is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ready).await.expect("the own ports arrive");
        let unknown = proxy.shared().directory.lookup("nothing.nowhere:80").await;
        assert!(!matches!(unknown, Err(Reason::NoConfiguration)), "a name of nothing is answered");
        let state = proxy.shared().directory.status().state();
        assert_eq!((state.last_rejection, state.problems), (None, Default::default()), "{name}");
        proxy.drain_and_stop().await;
    }
    control.stop().await;
}

fn sidecar(control: &Control, mesh: &Mesh, workload: &Workload, directory: &Path, trust: PathBuf) -> Proxy {
    let (name, namespace) = (&workload.name.name, &workload.name.namespace);
    let identity =
        SpiffeId::new(&mesh.settings.trust_domain, namespace, &workload.service_account).expect("an identity");
    let token = directory.join(format!("{name}.token"));
    let claims = JoinClaims::new(&identity, Duration::from_secs(60));
    fs::write(&token, control.tokens().create(&claims).expect("a token")).expect("written");
    Proxy::start(Settings::embedded(name, namespace, control.xds_address(), trust, token)).expect("started")
}
