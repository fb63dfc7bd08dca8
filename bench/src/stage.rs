//! The stage: pods for every contender, the backend in each server pod, the control server and the certificates.
//!
//! Pods stay for the whole run; proxies come and go with the work ([`crate::contender`]).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use bench::sample::Sample;
use malla_tests::member::Sidecar;
use malla_tests::pod::inside;
use malla_tests::{Member, Mesh, Pod, Process, Sandbox, tools};

use crate::contender::{Contender, envoy};
use crate::machine::Machine;

/// How long the whole run may take before its sandbox is taken away.
const LIMIT: Duration = Duration::from_secs(6 * 3600);

/// How long a load may take in all. Who hangs for longer is left out.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where proxies stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// One proxy beside the client, plaintext in and out.
    Hop,
    /// A proxy on either side, mTLS between them.
    Pair,
}

/// What is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carried {
    Http1,
    Grpc,
    Websocket,
    /// Bytes back and forth.
    Echo,
    /// Bytes from the server, as many as come.
    Source,
}

impl Carried {
    /// Port of the service, and of the backend.
    pub(crate) fn ports(self) -> (u16, u16) {
        match self {
            Carried::Http1 | Carried::Websocket => (80, 8080),
            Carried::Grpc => (90, 9000),
            Carried::Echo => (7000, 7000),
            Carried::Source => (7001, 7001),
        }
    }
}

/// A way from the load to the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) place: Place,
    pub(crate) carried: Carried,
}

/// A pod, in the mesh or not.
#[derive(Debug)]
pub(crate) enum Site {
    Member(Member),
    Pod(Pod),
}

impl Deref for Site {
    type Target = Pod;

    fn deref(&self) -> &Pod {
        match self {
            Site::Member(member) => member,
            Site::Pod(pod) => pod,
        }
    }
}

/// The pods of a contender; both are redirected.
#[derive(Debug)]
pub(crate) struct Pods {
    pub(crate) client: Site,
    pub(crate) server: Site,
    _backend: Process,
}

/// Everything that stays for the whole run.
#[derive(Debug)]
pub(crate) struct Stage {
    pods: Vec<(Contender, Pods)>,
    /// Files that a process may have open.
    pub(crate) files: u64,
    /// A client that nothing redirects.
    pub(crate) outside: Pod,
    /// A backend that nothing redirects.
    pub(crate) plain: Member,
    _backend: Process,
    pub(crate) certificates: PathBuf,
    pub(crate) load_on: String,
    pub(crate) proxies_on: String,
    pub(crate) mesh: Mesh,
}

impl Stage {
    /// Makes the pods and starts what stays.
    pub(crate) fn set(contenders: &[Contender], machine: &Machine) -> Result<Stage> {
        let files = raise_limits();
        let peer = tools::binary("bench-peer");
        let envoy = envoy::binary().unwrap_or_default();
        let own = std::env::current_exe()?;
        let sandbox = Sandbox::lasting(LIMIT, &[("bench", &own), ("bench-peer", &peer), ("envoy", &envoy)]);
        let certificates = certificates(sandbox.directory())?;
        let mut mesh = Mesh::within(sandbox);
        let ports = [
            "http, port: 80, targetPort: 8080",
            "grpc, port: 90, targetPort: 9000",
            "tcp, port: 7000",
            "tcp-source, port: 7001",
        ];
        let ports = ports.map(|port| format!("{{name: {port}}}"));
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        // The first service has the address 10.96.0.1, the second 10.96.0.2.
        mesh.service("web", &ports);
        mesh.service("plain", &ports);
        let (load_on, proxies_on) = (machine.load_on.to_string(), machine.proxies_on.to_string());
        let backend = |pod: &Pod| {
            let mut process = pod.spawn(&["taskset", "-c", &load_on, &inside("bench-peer"), "backend"]);
            pod.wait_listening(&mut process, 7001);
            process
        };
        let outside = mesh.stranger("outside");
        let plain = mesh.member_with("plain-1", Sidecar::None);
        forget_ended(&outside);
        forget_ended(&plain);
        mesh.write("workloads/plain-1.yaml", &plain.workload("  mtls: {mode: permissive}\n"));
        let plain_backend = backend(&plain);
        let mut pods = Vec::new();
        for contender in contenders.iter().copied().filter(|contender| *contender != Contender::Direct) {
            let name = contender.name();
            let (client, server) = match contender {
                Contender::Malla => (Site::Member(mesh.member("client-1")), Site::Member(mesh.member("web-1"))),
                _ => {
                    let pod = |side: &str| Site::Pod(mesh.stranger(&format!("{name}-{side}")));
                    (pod("client"), pod("server"))
                }
            };
            for side in [&client, &server] {
                side.redirect();
                forget_ended(side);
            }
            let backend = backend(&server);
            pods.push((contender, Pods { client, server, _backend: backend }));
        }
        mesh.start();
        Ok(Stage { pods, files, outside, plain, _backend: plain_backend, certificates, load_on, proxies_on, mesh })
    }

    /// The pods of a contender that has some.
    pub(crate) fn pods(&self, contender: Contender) -> Result<&Pods> {
        let found = self.pods.iter().find(|(of, _)| *of == contender);
        found.map(|(_, pods)| pods).with_context(|| format!("{} has no pods", contender.name()))
    }

    /// Where the load of a way goes: to the service's address, which is redirected; directly without a proxy.
    pub(crate) fn target(&self, contender: Contender, way: Way) -> SocketAddr {
        let (service, backend) = way.carried.ports();
        match (contender, way.place) {
            (Contender::Direct, _) => SocketAddr::new(self.plain.ipv4(), backend),
            (_, Place::Pair) => (Ipv4Addr::new(10, 96, 0, 1), service).into(),
            (_, Place::Hop) => (Ipv4Addr::new(10, 96, 0, 2), service).into(),
        }
    }

    /// Where spans may be sent to, over HTTP.
    pub(crate) fn collector(&self) -> String {
        format!("http://{}:4318", self.plain.ipv4())
    }

    /// Runs a load in a pod to its end.
    pub(crate) fn load(&self, pod: &Pod, to: SocketAddr, watch: &[u32], arguments: &[String]) -> Result<Sample> {
        let (to, program) = (to.to_string(), inside("bench-peer"));
        let mut command = vec!["taskset", "-c", &self.load_on, &program, "load", "--to", &to];
        let watch: Vec<String> = watch.iter().map(u32::to_string).collect();
        let watch = watch.join(",");
        if !watch.is_empty() {
            command.extend(["--watch", &watch]);
        }
        command.extend(arguments.iter().map(String::as_str));
        let output = pod.spawn(&command).end(PATIENCE).success();
        serde_json::from_str(output.text().trim()).with_context(|| format!("the load said {}", output.both()))
    }
}

/// Ended connections would keep their ports for a minute: after some rounds of new connections there would be hardly any left, and what
/// is measured would be the kernel's search for one.
fn forget_ended(pod: &Pod) {
    pod.shell("echo 64 > /proc/sys/net/ipv4/tcp_max_tw_buckets").success();
}

/// Files that are open at once: every connection of the load, and two for each of those in a relay. Returns how many there may
/// be: raising the hard limit takes a capability that not every root has.
fn raise_limits() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const WANTED: u64 = 65_536;
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(WANTED);
    for maximum in [most.max(WANTED), most] {
        if setrlimit(Resource::Nofile, Rlimit { current: Some(maximum), maximum: Some(maximum) }).is_ok() {
            return maximum;
        }
    }
    limit.current.unwrap_or(WANTED)
}

/// An authority and one certificate for all proxies that are not ours: P-256, as ours. HAProxy wants all of it in one file.
fn certificates(directory: &Path) -> Result<PathBuf> {
    let directory = directory.join("certificates");
    fs::create_dir_all(&directory)?;
    let authority_key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut authority = rcgen::CertificateParams::new(Vec::new())?;
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    // OpenSSL takes a certificate whose subject is its issuer's for self-signed.
    authority.distinguished_name.push(rcgen::DnType::CommonName, "bench authority");
    let authority_pem = authority.self_signed(&authority_key)?.pem();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut leaf = rcgen::CertificateParams::new(vec!["bench.mesh".to_owned()])?;
    leaf.distinguished_name.push(rcgen::DnType::CommonName, "bench");
    leaf.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let leaf_pem = leaf.signed_by(&key, &rcgen::Issuer::new(authority, authority_key))?.pem();
    for (name, text) in [
        ("ca_certificates.pem", authority_pem),
        ("certificates.pem", leaf_pem.clone()),
        ("private_key.pem", key.serialize_pem()),
        ("both.pem", leaf_pem + &key.serialize_pem()),
    ] {
        // The authority is the benchmark's own and ends with it.
        let path = directory.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    }
    Ok(directory)
}
