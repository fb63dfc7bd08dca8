//! A control server and a sidecar in this process, on loopback: from YAML to what arrives.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use malla_control::resources::ReloadOutcome;
use malla_control::run::{Control, ControlSettings};
use malla_control::token::JoinClaims;
use malla_proxy::run::Proxy;
use malla_proxy::settings::{LocalListen, Settings};
use malla_proxy::trace::{Collector, Tracing};
use malla_xds::SpiffeId;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Plaintext is allowed in the namespace `shop`, where the sidecar's workload is; applications here have none of their own.
pub(crate) const CLIENT: &str = "apiVersion: malla.dev/v1alpha1
kind: Mesh
metadata: {name: mesh}
spec: {mtls: {namespaces: {shop: permissive}}}
---
apiVersion: malla.dev/v1alpha1
kind: Workload
metadata: {name: client-1, namespace: shop}
spec: {address: 127.0.0.1, serviceAccount: client, sidecar: {mode: explicit}}
---
";

/// A control server, and the sidecar of `client-1.shop`.
pub(crate) struct Local {
    control: Control,
    proxy: Proxy,
    directory: TempDir,
    /// Where the sidecar listens for each destination.
    pub(crate) listening: Vec<SocketAddr>,
}

impl Local {
    /// On a configuration, with local ports that lead to these destinations.
    pub(crate) fn start(configuration: &str, destinations: &[&str]) -> Local {
        let directory = tempfile::tempdir().expect("a directory");
        let config = config(&directory);
        fs::create_dir(&config).expect("made");
        replace(&config, configuration);
        let any_port: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let settings = ControlSettings {
            listen: any_port,
            admin: any_port,
            ..ControlSettings::new(&config, directory.path().join("state"))
        };
        let control = Control::start(settings).expect("started");
        if let ReloadOutcome::Refused { errors, .. } = &control.published().last_reload.borrow().outcome {
            panic!("{errors}");
        }
        let (token, trust) = (directory.path().join("client.token"), directory.path().join("trust.pem"));
        let trust_domain = control.published().resources.borrow().trust_domain().cloned();
        let identity = SpiffeId::new(&trust_domain.expect("it was applied"), "shop", "client").expect("an identity");
        let claims = JoinClaims::new(&identity, Duration::from_secs(60));
        fs::write(&token, control.tokens().create(&claims).expect("a token")).expect("written");
        fs::write(&trust, control.trust_bundle().as_bytes()).expect("written");
        let listen = destinations.iter().map(|to| LocalListen { local: any_port, destination: (*to).into() }).collect();
        let settings = Settings::embedded("client-1", "shop", control.xds_address(), trust, token);
        // Follows no trace of its own accord, and nobody takes spans: what routes ask for is seen in the headers.
        let collector = Collector::Grpc("http://127.0.0.1:9".parse().expect("a URL"));
        let tracing = Some(Tracing { share: 0.0, ..Tracing::everything(collector) });
        let proxy = Proxy::start(Settings { listen, tracing, ..settings }).expect("started");
        let listening = proxy.addresses().listen.clone();
        Local { control, proxy, directory, listening }
    }

    /// Another configuration from now on; returns at once.
    pub(crate) fn write(&self, configuration: &str) {
        replace(&config(&self.directory), configuration);
    }

    /// Waits until a line of the sidecar's metrics is there.
    pub(crate) async fn wait_metric(&self, line: &str) {
        let admin = self.proxy.addresses().admin;
        let told = async {
            loop {
                let metrics = exchange(admin, "GET", "/metrics", "").await;
                if metrics.lines().any(|told| told == line) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, told).await.unwrap_or_else(|_| panic!("the metrics never say {line}"));
    }

    /// Ends both.
    pub(crate) async fn stop(self) {
        self.proxy.drain_and_stop().await;
        self.control.stop().await;
    }
}

fn config(directory: &TempDir) -> PathBuf {
    directory.path().join("config")
}

/// At once, as those do who mean it.
fn replace(config: &std::path::Path, text: &str) {
    let new = config.join("mesh.new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, config.join("mesh.yaml"))).expect("written");
}

/// Sends a request that closes its connection, and returns all that comes.
pub(crate) async fn exchange(address: SocketAddr, method: &str, path: &str, headers: &str) -> String {
    let mut socket = TcpStream::connect(address).await.expect("connected");
    let host = if headers.to_ascii_lowercase().contains("host: ") { "" } else { "host: web.shop\r\n" };
    let request = format!("{method} {path} HTTP/1.1\r\n{host}{headers}connection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("in time");
    String::from_utf8_lossy(&answer).into_owned()
}
