//! A pod of the mesh: its workload, its sidecar.

use std::ops::Deref;
use std::time::Duration;

use crate::mesh::{Mesh, NAMESPACE};
use crate::metrics;
use crate::pod::{Pod, SIDECAR_USER, inside};
use crate::process::{Output, Process};
use crate::wait;

/// How long a sidecar may take until it is ready, and to end when told so.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a member's sidecar receives traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sidecar {
    /// By redirection.
    Transparent,
    /// Without redirection.
    Explicit,
    /// There is none.
    None,
}

/// A pod with a workload in the configuration. It is a [`Pod`] for everything that runs in it.
#[derive(Debug)]
pub struct Member {
    sidecar: Option<Process>,
    manner: Sidecar,
    pod: Pod,
}

impl Deref for Member {
    type Target = Pod;

    fn deref(&self) -> &Pod {
        &self.pod
    }
}

impl Member {
    pub(crate) fn new(pod: Pod, manner: Sidecar) -> Member {
        Member { sidecar: None, manner, pod }
    }

    /// The app that a service selects: the name without its number.
    pub fn app(&self) -> &str {
        match self.name().rsplit_once('-') {
            Some((app, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => app,
            _ => self.name(),
        }
    }

    /// Its SPIFFE identity.
    pub fn identity(&self) -> String {
        format!("spiffe://cluster.local/ns/{NAMESPACE}/sa/{}", self.app())
    }

    /// Its `Workload` document; `more` are further fields of its `spec`, each on a line with two spaces before it.
    pub fn workload(&self, more: &str) -> String {
        let (name, app, address) = (self.name(), self.app(), self.ipv4());
        let mode = match self.manner {
            Sidecar::Transparent => "transparent",
            Sidecar::Explicit => "explicit",
            Sidecar::None => "none",
        };
        format!(
            "apiVersion: malla.dev/v1alpha1\nkind: Workload\n\
             metadata: {{name: {name}, namespace: {NAMESPACE}, labels: {{app: {app}}}}}\nspec:\n  address: {address}\n  \
             serviceAccount: {app}\n  sidecar: {{mode: {mode}}}\n{more}"
        )
    }

    /// Installs redirection (if transparent) and starts the sidecar.
    #[track_caller]
    pub(crate) fn launch(&mut self, mesh: &Mesh) -> &mut Member {
        if self.manner == Sidecar::Transparent {
            self.pod.redirect();
        }
        self.start_sidecar(mesh, &[]);
        self
    }

    /// Starts the sidecar with further arguments.
    #[track_caller]
    pub fn start_sidecar(&mut self, mesh: &Mesh, more: &[&str]) {
        self.start_sidecar_as(SIDECAR_USER, &[], mesh, more);
    }

    /// Starts the sidecar as some user, by a command that runs what follows it.
    #[track_caller]
    pub fn start_sidecar_as(&mut self, user: u32, wrapper: &[&str], mesh: &Mesh, more: &[&str]) {
        self.sidecar = Some(self.spawn_sidecar(user, wrapper, mesh, more));
    }

    /// As [`Member::start_sidecar_as`], but the caller keeps the sidecar.
    #[track_caller]
    pub fn spawn_sidecar(&self, user: u32, wrapper: &[&str], mesh: &Mesh, more: &[&str]) -> Process {
        let (trust, token) = (mesh.trust(), mesh.token(self.app(), "1h"));
        let (control, program, address) = (mesh.control_address(), inside("malla-proxy"), self.ipv4().to_string());
        let (trust, token) = (trust.to_string_lossy(), token.to_string_lossy());
        let mut command = wrapper.to_vec();
        command.extend([&*program, "--control", &control, "--trust", &trust, "--token", &token]);
        command.extend(["--workload", self.name()]);
        if self.manner == Sidecar::Transparent {
            command.extend(["--mode", "transparent"]);
        } else {
            command.extend(["--mode", "explicit", "--address", &address]);
        }
        command.extend(more);
        self.pod.spawn_as(user, &command, &[])
    }

    /// Waits until the sidecar says that it is ready.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        let mut sidecar = self.take_sidecar();
        self.wait_sidecar_ready(&mut sidecar);
        self.sidecar = Some(sidecar);
    }

    /// As [`Member::wait_ready`], for a sidecar that the caller keeps.
    #[track_caller]
    pub fn wait_sidecar_ready(&self, sidecar: &mut Process) {
        let what = format!("the sidecar of {} to be ready", self.name());
        self.pod.wait_listening(sidecar, 15021);
        wait::until(&what, PATIENCE, || {
            assert!(!sidecar.has_ended(), "the sidecar ended:\n{}", sidecar.tail());
            // The listener is on the pod's address where that is where the sidecar listens.
            let hosts = ["127.0.0.1".to_owned(), self.pod.ipv4().to_string()];
            let ready = |host: &String| {
                let url = format!("http://{host}:15021/ready");
                self.pod.exec(&["curl", "-sf", "--max-time", "5", &url]).status.success()
            };
            hosts.iter().any(ready).then_some(())
        });
    }

    /// The running sidecar.
    #[track_caller]
    pub fn sidecar(&self) -> &Process {
        self.sidecar.as_ref().expect("the sidecar runs")
    }

    /// Takes the sidecar away, still running.
    #[track_caller]
    pub fn take_sidecar(&mut self) -> Process {
        self.sidecar.take().expect("the sidecar runs")
    }

    /// Ends the sidecar with SIGTERM and waits until it has drained.
    #[track_caller]
    pub fn drain_sidecar(&mut self) -> Output {
        self.take_sidecar().terminate(PATIENCE)
    }

    /// A page of the sidecar's admin listener.
    #[track_caller]
    pub fn admin(&self, path: &str) -> String {
        let host = if self.manner == Sidecar::Explicit { self.ipv4().to_string() } else { "127.0.0.1".to_owned() };
        self.pod.exec(&["curl", "-sS", "--max-time", "10", &format!("http://{host}:15020{path}")]).success().text()
    }

    /// The sum of a metric's samples that carry all these labels.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        metrics::sum(&self.admin("/metrics"), name, labels)
    }

    /// Waits until a metric reaches a value.
    #[track_caller]
    pub fn wait_metric(&self, name: &str, labels: &[(&str, &str)], least: f64) {
        let what = format!("{name}{labels:?} of {} to reach {least}:\n{}", self.name(), self.admin("/metrics"));
        wait::until(&what, Duration::from_secs(20), || (self.metric(name, labels) >= least).then_some(()));
    }
}
