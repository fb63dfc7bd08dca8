//! A mesh in a sandbox: control server, configuration directory, services with addresses of their own.
//!
//! Everything is in the namespace `shop`. Members are called `<app>-<number>`; a service selects its app.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::member::{Member, Sidecar};
use crate::metrics;
use crate::pod::{Pod, inside};
use crate::process::{Output, Process};
use crate::sandbox::Sandbox;
use crate::wait;

/// The namespace of all services and workloads.
pub const NAMESPACE: &str = "shop";

/// How long a control server may take to start.
const START: Duration = Duration::from_secs(60);

/// A control server and what it is told. Members come and go as the test wants.
#[derive(Debug)]
pub struct Mesh {
    control: Option<Process>,
    control_pod: Pod,
    services: Cell<u8>,
    sandbox: Sandbox,
}

impl Mesh {
    /// A sandbox with a pod for the control server, which [`Mesh::start`] starts.
    #[track_caller]
    pub fn new() -> Mesh {
        Mesh::within(Sandbox::new())
    }

    /// As [`Mesh::new`], in a sandbox that was made already.
    #[track_caller]
    pub fn within(sandbox: Sandbox) -> Mesh {
        let control_pod = sandbox.pod("control");
        fs::create_dir_all(sandbox.directory().join("config")).expect("the sandbox's directory is writable");
        Mesh { control: None, control_pod, services: Cell::new(0), sandbox }
    }

    /// The sandbox.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// The pod of the control server.
    pub fn control_pod(&self) -> &Pod {
        &self.control_pod
    }

    /// A pod outside the mesh.
    #[track_caller]
    pub fn stranger(&self, name: &str) -> Pod {
        self.sandbox.pod(name)
    }

    /// A pod, and a workload in the configuration, that will have a transparent sidecar.
    #[track_caller]
    pub fn member(&self, name: &str) -> Member {
        self.member_with(name, Sidecar::Transparent)
    }

    /// A pod, and a workload in the configuration.
    #[track_caller]
    pub fn member_with(&self, name: &str, sidecar: Sidecar) -> Member {
        let member = Member::new(self.sandbox.pod(name), sidecar);
        self.write(&format!("workloads/{name}.yaml"), &member.workload(""));
        member
    }

    /// Starts the sidecars of members, with redirection; returns when all are ready.
    #[track_caller]
    pub fn join<'a>(&self, members: impl IntoIterator<Item = &'a mut Member>) {
        let members: Vec<&mut Member> = members.into_iter().map(|member| member.launch(self)).collect();
        members.into_iter().for_each(Member::wait_ready);
    }

    /// A service over the members of an app, with virtual addresses that the pods know by its names. `ports` are YAML,
    /// one port a line: `{name: http, port: 80, targetPort: 8080}`.
    #[track_caller]
    pub fn service(&self, app: &str, ports: &[&str]) {
        self.write_service(app, &format!("  selector: {{app: {app}}}\n"), ports);
    }

    /// A service without endpoints of its own: a route leads elsewhere.
    #[track_caller]
    pub fn routed_service(&self, name: &str, ports: &[&str]) {
        self.write_service(name, "", ports);
    }

    #[track_caller]
    fn write_service(&self, name: &str, selector: &str, ports: &[&str]) {
        let number = self.services.get() + 1;
        self.services.set(number);
        let ports: String = ports.iter().map(|port| format!("  - {port}\n")).collect();
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\nspec:\n  \
             clusterIP: 10.96.0.{number}\n  clusterIPs: [10.96.0.{number}, 'fd96::{number}']\n{selector}  ports:\n{ports}"
        );
        self.write(&format!("services/{name}.yaml"), &text);
        let names = format!("{name} {name}.{NAMESPACE} {name}.{NAMESPACE}.svc.cluster.local");
        self.sandbox.add_hosts(&format!("10.96.0.{number} {names}\nfd96::{number} {name}6.{NAMESPACE}\n"));
    }

    /// Writes a file of the configuration, replacing the one of the same name at once.
    #[track_caller]
    pub fn write(&self, name: &str, text: &str) {
        let path = self.configuration().join(name);
        let parent = path.parent().expect("a file is in a directory");
        fs::create_dir_all(parent).expect("the configuration is writable");
        let new = path.with_extension("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).expect("the configuration is writable");
    }

    /// Removes a file of the configuration.
    #[track_caller]
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.configuration().join(name)).expect("the file is there");
    }

    /// The directory that the control server reads.
    pub fn configuration(&self) -> PathBuf {
        self.sandbox.directory().join("config")
    }

    /// The control server's state directory.
    pub fn state(&self) -> PathBuf {
        self.sandbox.directory().join("state")
    }

    /// Address of the control server.
    pub fn control_address(&self) -> String {
        format!("{}:15012", self.control_pod.ipv4())
    }

    /// Starts the control server, or starts it again; returns when it listens.
    #[track_caller]
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts the control server with further arguments.
    #[track_caller]
    pub fn start_with(&mut self, more: &[&str]) {
        self.start_wrapped(&[], more);
    }

    /// The same, by a command that runs what follows it.
    #[track_caller]
    pub fn start_wrapped(&mut self, wrapper: &[&str], more: &[&str]) {
        let (configuration, state) = (self.configuration(), self.state());
        let advertise = self.control_pod.ipv4().to_string();
        let (program, configuration) = (inside("malla"), configuration.to_string_lossy());
        let (kept, listen) = (state.to_string_lossy(), "0.0.0.0:15012");
        let mut command = wrapper.to_vec();
        command.extend([&*program, "control", "--config", &configuration, "--state", &kept]);
        command.extend(["--listen", listen, "--advertise", &advertise]);
        command.extend(more);
        let mut control = self.control_pod.spawn(&command);
        self.control_pod.wait_listening(&mut control, 15012);
        self.control = Some(control);
        fs::copy(state.join("root.pem"), self.trust()).expect("the control server has made its root");
        fs::set_permissions(self.trust(), fs::Permissions::from_mode(0o644)).expect("the test owns the copy");
    }

    /// The running control server.
    #[track_caller]
    pub fn control(&self) -> &Process {
        self.control.as_ref().expect("the control server runs")
    }

    /// Ends the control server with SIGKILL.
    #[track_caller]
    pub fn kill_control(&mut self) {
        self.control.take().expect("the control server runs").kill();
    }

    /// The trust anchor that sidecars are given.
    pub fn trust(&self) -> PathBuf {
        self.sandbox.directory().join("trust.pem")
    }

    /// Creates a join token of an identity in [`NAMESPACE`]; the path of a file with it.
    #[track_caller]
    pub fn token(&self, service_account: &str, ttl: &str) -> PathBuf {
        let state = self.state();
        let output = self.malla(&[
            "token",
            "create",
            "--namespace",
            NAMESPACE,
            "--service-account",
            service_account,
            "--ttl",
            ttl,
            "--state",
            &state.to_string_lossy(),
        ]);
        let path = self.sandbox.directory().join(format!("{service_account}.token"));
        fs::write(&path, output.success().stdout).expect("the sandbox's directory is writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("the test owns the file");
        path
    }

    /// Runs the command `malla` beside the control server.
    #[track_caller]
    pub fn malla(&self, arguments: &[&str]) -> Output {
        let program = inside("malla");
        let command: Vec<&str> = std::iter::once(program.as_str()).chain(arguments.iter().copied()).collect();
        self.control_pod.exec(&command)
    }

    /// The sum of a control server's metric's samples that carry all these labels.
    #[track_caller]
    pub fn control_metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let page = "http://127.0.0.1:15014/metrics";
        let exposed = self.control_pod.exec(&["curl", "-sS", "--max-time", "10", page]).success().text();
        metrics::sum(&exposed, name, labels)
    }

    /// What `malla status` tells programs.
    #[track_caller]
    pub fn status(&self) -> Value {
        let output = self.malla(&["status", "-o", "json"]).success();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error} in {}", output.text()))
    }

    /// A page of the control server's admin listener.
    #[track_caller]
    pub fn admin(&self, path: &str) -> String {
        self.control_pod.exec(&["curl", "-sS", &format!("http://127.0.0.1:15014{path}")]).success().text()
    }

    /// Waits until `malla status` satisfies a condition.
    #[track_caller]
    pub fn wait_status(&self, what: &str, mut condition: impl FnMut(&Value) -> bool) -> Value {
        wait::until(what, START, || Some(self.status()).filter(|status| condition(status)))
    }
}

impl Default for Mesh {
    fn default() -> Mesh {
        Mesh::new()
    }
}
