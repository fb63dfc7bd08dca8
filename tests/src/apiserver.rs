//! A real API server, where one is at hand: `kube-apiserver` and `etcd` in the directory that `KUBEBUILDER_ASSETS` names, as the test
//! environments of Kubernetes have them.
//!
//! It validates, admits, evaluates roles and signs tokens. There are no controllers and no kubelets: tests write what those would.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http::Request;
use kube::Client;
use malla_control::kubernetes::{ClusterAddress, connect};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use crate::cluster::{name_of, resource_of};

/// A running one. Ends when dropped.
pub struct ApiServer {
    client: Client,
    address: SocketAddr,
    authority: String,
    // Before what they need.
    _server: Ended,
    _etcd: Ended,
    directory: tempfile::TempDir,
}

/// A process that ends with its owner.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Either fails only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const ADMINISTRATOR: &str = "of-the-administrator";

impl ApiServer {
    /// Starts one; nothing where there is none at hand.
    pub async fn start() -> Option<ApiServer> {
        let assets = PathBuf::from(std::env::var_os("KUBEBUILDER_ASSETS")?);
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let text = |path: PathBuf| path.into_os_string().into_string().expect("UTF-8");
        let [clients, peers, address] = [(); 3].map(|()| free_port());
        let (clients, peers) = (format!("http://{clients}"), format!("http://{peers}"));
        let etcd = [
            format!("--data-dir={}", text(at("etcd"))),
            format!("--listen-client-urls={clients}"),
            format!("--advertise-client-urls={clients}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=default={peers}"),
            "--unsafe-no-fsync=true".to_owned(),
        ];
        let etcd = spawn(&assets.join("etcd"), &etcd, &at("etcd.log"));

        let authority = certificates(directory.path());
        let accounts = KeyPair::generate().expect("a key");
        fs::write(at("accounts.key"), accounts.serialize_pem()).expect("written");
        fs::write(at("accounts.pub"), accounts.public_key_pem()).expect("written");
        fs::write(at("tokens.csv"), format!("{ADMINISTRATOR},administrator,1,system:masters\n")).expect("written");
        let server = [
            format!("--etcd-servers={clients}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", address.port()),
            format!("--cert-dir={}", text(at("made"))),
            format!("--tls-cert-file={}", text(at("server.pem"))),
            format!("--tls-private-key-file={}", text(at("server.key"))),
            format!("--token-auth-file={}", text(at("tokens.csv"))),
            format!("--service-account-signing-key-file={}", text(at("accounts.key"))),
            format!("--service-account-key-file={}", text(at("accounts.pub"))),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            // Nobody makes the accounts' secrets and the default accounts.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ];
        let server = spawn(&assets.join("kube-apiserver"), &server, &at("server.log"));
        let kubeconfig = at("administrator");
        fs::write(&kubeconfig, kubeconfig_of(address, &authority, ADMINISTRATOR)).expect("written");
        let client = connect(&ClusterAddress::File { path: kubeconfig, context: None }).await.expect("a client");
        let started = ApiServer { client, address, authority, _server: server, _etcd: etcd, directory };
        started.wait_ready().await;
        Some(started)
    }

    async fn wait_ready(&self) {
        let ready = async {
            loop {
                let request = Request::get("/readyz").body(Vec::new()).expect("a request");
                if self.client.request_text(request).await.is_ok() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(120), ready).await.is_err() {
            let said = fs::read_to_string(self.directory.path().join("server.log")).unwrap_or_default();
            panic!("kube-apiserver is not ready: {}", said.lines().rev().take(30).collect::<Vec<_>>().join("\n"));
        }
    }

    /// For what has no function here.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A file by which others find it, and may do everything.
    pub fn administrator(&self) -> PathBuf {
        self.kubeconfig(ADMINISTRATOR)
    }

    /// A file by which others find it, and are taken for whoever the token says.
    pub fn kubeconfig(&self, token: &str) -> PathBuf {
        let file = tempfile::Builder::new().prefix("kubeconfig-").tempfile_in(self.directory.path());
        let (_, path) = file.expect("a file").keep().expect("a file");
        fs::write(&path, kubeconfig_of(self.address, &self.authority, token)).expect("written");
        path
    }

    /// Writes an object, as `kubectl apply --server-side` does.
    ///
    /// # Errors
    /// The server does not take it.
    pub async fn try_apply(&self, object: &Value, parameters: &str) -> kube::Result<Value> {
        let path = format!("{}?fieldManager=tests&force=true{parameters}", path_of(object));
        self.patch(path, object).await
    }

    /// The same for what it takes.
    pub async fn apply(&self, object: &Value) -> Value {
        let written = self.try_apply(object, "").await;
        written.unwrap_or_else(|error| panic!("{}: {error}", path_of(object)))
    }

    /// Writes what a controller would: the status of an object.
    pub async fn status(&self, object: &Value) -> Value {
        let path = format!("{}/status?fieldManager=tests&force=true", path_of(object));
        self.patch(path, object).await.unwrap_or_else(|error| panic!("{}: {error}", path_of(object)))
    }

    async fn patch(&self, path: String, object: &Value) -> kube::Result<Value> {
        let request = Request::patch(path).header("content-type", "application/apply-patch+yaml");
        self.client.request(request.body(object.to_string().into_bytes()).expect("a request")).await
    }

    /// Makes an object.
    ///
    /// # Errors
    /// The server does not take it.
    pub async fn create(&self, object: &Value, parameters: &str) -> kube::Result<Value> {
        let path = path_of(object);
        let (collection, _) = path.rsplit_once('/').expect("a name");
        let request = Request::post(format!("{collection}?{parameters}")).header("content-type", "application/json");
        self.client.request(request.body(object.to_string().into_bytes()).expect("a request")).await
    }

    /// An object as it is now.
    pub async fn get(&self, object: &Value) -> Option<Value> {
        let request = Request::get(path_of(object)).body(Vec::new()).expect("a request");
        self.client.request(request).await.ok()
    }

    /// A token of a service account, for an audience (empty for the server's own), bound to a pod.
    pub async fn token(&self, namespace: &str, account: &str, audience: &str, pod: Option<&Value>) -> String {
        let mut spec = json!({ "expirationSeconds": 3600 });
        if !audience.is_empty() {
            spec["audiences"] = json!([audience]);
        }
        if let Some(pod) = pod {
            let metadata = &pod["metadata"];
            spec["boundObjectRef"] =
                json!({ "kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"] });
        }
        let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec });
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = Request::post(path).header("content-type", "application/json");
        let request = request.body(body.to_string().into_bytes()).expect("a request");
        let made: Value = self.client.request(request).await.unwrap_or_else(|error| panic!("{account}: {error}"));
        made["status"]["token"].as_str().expect("a token").to_owned()
    }
}

fn path_of(object: &Value) -> String {
    let resource = resource_of(object);
    let (version, plural) = resource.rsplit_once('/').expect("a version");
    let root = if version.contains('/') { "/apis" } else { "/api" };
    match name_of(object) {
        (namespace, name) if namespace.is_empty() => format!("{root}/{version}/{plural}/{name}"),
        (namespace, name) => format!("{root}/{version}/namespaces/{namespace}/{plural}/{name}"),
    }
}

fn kubeconfig_of(address: SocketAddr, authority: &str, token: &str) -> String {
    use base64::Engine as _;
    let authority = base64::engine::general_purpose::STANDARD.encode(authority);
    let text = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "real",
        "clusters": [{ "name": "real", "cluster": { "server": format!("https://{address}"), "certificate-authority-data": authority } }],
        "users": [{ "name": "real", "user": { "token": token } }],
        "contexts": [{ "name": "real", "context": { "cluster": "real", "user": "real" } }],
    });
    text.to_string()
}

/// The server's certificate and key, beside each other; returns who signed it.
fn certificates(directory: &Path) -> String {
    let key = KeyPair::generate().expect("a key");
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = parameters.self_signed(&key).expect("a certificate");
    let issuer = Issuer::new(parameters, key);
    let key = KeyPair::generate().expect("a key");
    let names = vec!["127.0.0.1".to_owned(), "kubernetes.default.svc".to_owned()];
    let leaf = CertificateParams::new(names).expect("names").signed_by(&key, &issuer).expect("a certificate");
    fs::write(directory.join("server.pem"), leaf.pem()).expect("written");
    fs::write(directory.join("server.key"), key.serialize_pem()).expect("written");
    authority.pem()
}

fn spawn(program: &Path, arguments: &[String], log: &Path) -> Ended {
    let log = File::create(log).expect("a log");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
    Ended(command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display())))
}

/// One that nobody has at this moment.
fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address")
}
