//! The mesh of the demo: a control server and a sidecar for each program, started as libraries.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use malla_control::resources::ReloadOutcome;
use malla_control::run::{Control, ControlSettings};
use malla_control::token::JoinClaims;
use malla_proxy::metrics::Direction;
use malla_proxy::run::Proxy;
use malla_proxy::settings::{LocalListen, Settings};
use malla_proxy::trace::{Collector, Tracing};
use malla_xds::SpiffeId;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::addresses::Addresses;
use super::topology::{DATABASE_PORT, INSTANCES, Instance, Role, mesh_name};
use crate::edges::{self, Sample};
use crate::http;

/// How long sidecars may take to obtain certificates and configuration.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a join token is good for: sidecars join at once, and renew by certificate.
const TOKEN_LIFETIME: Duration = Duration::from_secs(600);
/// How long sidecars may take to finish what is under way.
const DRAIN: Duration = Duration::from_secs(5);

/// A running mesh.
pub(crate) struct Mesh {
    control: Control,
    sidecars: Vec<(&'static Instance, Proxy)>,
    // Root key and tokens; removed when dropped.
    _state: TempDir,
}

impl Mesh {
    /// Starts the control server on the files in `config`, and every sidecar with a join token of its own. With a collector, it is
    /// told of every request.
    ///
    /// # Errors
    /// The configuration is invalid, or something cannot be started.
    pub(crate) fn start(addresses: &Addresses, config: &Path, collector: Option<&Collector>) -> anyhow::Result<Mesh> {
        let state = tempfile::Builder::new().prefix("malla-demo-state-").tempdir();
        let state = state.context("cannot make a temporary directory")?;
        let control = Control::start(ControlSettings {
            listen: addresses.control,
            admin: addresses.control_admin,
            ..ControlSettings::new(config, state.path().join("control"))
        })?;
        if let Some(refusal) = refusal(&control) {
            bail!("the configuration in {} is refused:\n\n{refusal}", config.display());
        }
        let trust = state.path().join("root.pem");
        fs::write(&trust, control.trust_bundle().as_bytes())
            .with_context(|| format!("cannot write {}", trust.display()))?;
        let trust_domain = control.published().resources.borrow().trust_domain().cloned();
        let mut sidecars = Vec::new();
        for instance in INSTANCES {
            let trust_domain = trust_domain.as_deref().unwrap_or("cluster.local");
            let identity = SpiffeId::new(trust_domain, instance.namespace, instance.service)?;
            let token = control.tokens().create(&JoinClaims::new(&identity, TOKEN_LIFETIME))?;
            let path = state.path().join(instance.name).with_extension("token");
            write_secret(&path, &token).with_context(|| format!("cannot write {}", path.display()))?;
            let sidecar = Proxy::start(settings(instance, addresses, &trust, &path, collector))
                .with_context(|| format!("starting the sidecar of {}", instance.name))?;
            sidecars.push((instance, sidecar));
        }
        Ok(Mesh { control, sidecars, _state: state })
    }

    /// Waits until every sidecar has its certificate and its configuration.
    ///
    /// # Errors
    /// One has not after a minute; the sentence says which and what it waits for.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for (instance, sidecar) in &self.sidecars {
            while let Err(error) = http::get(&sidecar.addresses().health.into(), "/ready").await {
                if Instant::now() > deadline {
                    let waited = PATIENCE.as_secs();
                    return Err(
                        error.context(format!("the sidecar of {} is not ready after {waited} s", instance.name))
                    );
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// What all sidecars have counted since their start.
    pub(crate) fn sample(&self) -> Sample {
        let rows = self.sidecars.iter().flat_map(|(_, sidecar)| sidecar.shared().metrics.edges());
        edges::sample(rows.filter(|row| row.direction == Direction::Outbound).map(|row| edges::count(&row)))
    }

    /// Configuration that was rejected and still is, in sentences, the first line of each by itself telling what it is.
    pub(crate) fn rejections(&self) -> Vec<String> {
        let by_control = refusal(&self.control).map(|errors| {
            format!("The control server refused the configuration; the last good one keeps serving:\n{errors}")
        });
        let streams = self.control.status().streams;
        let by_sidecars = streams.iter().flat_map(|stream| {
            stream.types.iter().flat_map(move |(kind, of_type)| {
                of_type.rejections.iter().map(move |rejection| {
                    let what = rejection.resources.join(", ");
                    format!("The sidecar of {} rejected {kind} {what}: {}", stream.node, rejection.message)
                })
            })
        });
        by_control.into_iter().chain(by_sidecars).collect()
    }

    /// Stops the sidecars, all at once, then the control server.
    pub(crate) async fn stop(self) {
        let mut stopping = JoinSet::new();
        for (_, sidecar) in self.sidecars {
            stopping.spawn(async move { sidecar.drain_and_stop().await });
        }
        while stopping.join_next().await.is_some() {}
        self.control.stop().await;
    }
}

/// The errors of the configuration, if the newest was refused.
fn refusal(control: &Control) -> Option<String> {
    match &control.published().last_reload.borrow().outcome {
        ReloadOutcome::Applied { .. } => None,
        ReloadOutcome::Refused { errors, .. } => Some(errors.trim_end().to_owned()),
    }
}

fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

fn settings(
    instance: &Instance,
    addresses: &Addresses,
    trust: &Path,
    token: &Path,
    collector: Option<&Collector>,
) -> Settings {
    let place = addresses.place(instance);
    let database = mesh_name("mysqldb", DATABASE_PORT);
    let listen = match instance.role {
        Role::Part => vec![LocalListen { local: place.database, destination: database.into() }],
        _ => Vec::new(),
    };
    Settings {
        outbound: place.outbound,
        inbound: place.inbound,
        admin: place.admin,
        health: place.health,
        listen,
        drain: DRAIN,
        tracing: collector.cloned().map(Tracing::everything),
        ..Settings::embedded(instance.name, instance.namespace, addresses.control, trust.to_owned(), token.to_owned())
    }
}
