//! Which of several replicas writes: the one that holds a `Lease`. All others serve just the same.
//!
//! Whether a holder is gone is judged by this replica's own clock, from when it last saw the lease renewed: clocks of machines may
//! differ. A holder that cannot renew gives up before others may take over.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// The lease of the control server.
pub(crate) const LEASE: &str = "malla-control";
/// Without renewal, others take over after this.
const DURATION: Duration = Duration::from_secs(15);
/// A holder that has not renewed for so long holds no more.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to renew, or to look.
const PERIOD: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 4 });

/// Takes part until stopped, and gives the lease up then; tells whether it is held.
pub(crate) async fn take_part(
    client: Client,
    namespace: String,
    me: String,
    leads: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let api: Api<Lease> = Api::namespaced(client, &namespace);
    let mut seen: Option<(String, Instant)> = None;
    let mut renewed = Instant::now();
    let mut failing = false;
    loop {
        match timeout(PERIOD, attempt(&api, &me, &mut seen)).await {
            Ok(Ok(holds)) => {
                failing = false;
                renewed = if holds { Instant::now() } else { renewed };
                say(&leads, holds);
            }
            failure => {
                if !std::mem::replace(&mut failing, true) {
                    let error = match &failure {
                        Ok(Err(error)) => crate::source::chain(error),
                        _ => "no answer in time".to_owned(),
                    };
                    tracing::warn!(error, "the lease cannot be renewed; routes get no conditions until it can");
                }
                if renewed.elapsed() > PATIENCE {
                    say(&leads, false);
                }
            }
        }
        let pause = PERIOD.mul_f64(0.75 + fastrand::f64() / 2.0);
        if stop.run_until_cancelled(sleep(pause)).await.is_none() {
            break;
        }
    }
    if leads.send_replace(false) {
        // Others need not wait then; if this fails, they do.
        let _ = timeout(PERIOD, give_up(&api, &me)).await;
    }
}

fn say(leads: &watch::Sender<bool>, holds: bool) {
    leads.send_if_modified(|held| {
        let changed = *held != holds;
        if changed {
            tracing::info!(leads = holds, "this replica writes the conditions of routes, or another one does");
        }
        std::mem::replace(held, holds) != holds
    });
}

/// Renews the lease, or takes it if nobody holds it. Whether it is held then.
async fn attempt(api: &Api<Lease>, me: &str, seen: &mut Option<(String, Instant)>) -> kube::Result<bool> {
    let now = MicroTime(Timestamp::now());
    let Some(mut lease) = api.get_opt(LEASE).await? else {
        let metadata = ObjectMeta { name: Some(LEASE.to_owned()), ..Default::default() };
        let lease = Lease { metadata, spec: Some(held(me, now.clone(), now, 0)) };
        return won(api.create(&PostParams::default(), &lease).await);
    };
    let spec = lease.spec.take().unwrap_or_default();
    let holder = spec.holder_identity.clone().unwrap_or_default();
    let version = lease.metadata.resource_version.clone().unwrap_or_default();
    let since = match seen {
        Some((known, since)) if *known == version => *since,
        _ => {
            let now = Instant::now();
            *seen = Some((version, now));
            now
        }
    };
    let turns = spec.lease_transitions.unwrap_or_default();
    lease.spec = Some(if holder == me {
        held(me, spec.acquire_time.unwrap_or_else(|| now.clone()), now, turns)
    } else if holder.is_empty() || since.elapsed() > DURATION {
        held(me, now.clone(), now, turns.saturating_add(1))
    } else {
        return Ok(false);
    });
    won(api.replace(LEASE, &PostParams::default(), &lease).await)
}

/// Of two who write at once, the API server refuses one.
fn won(written: kube::Result<Lease>) -> kube::Result<bool> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

fn held(me: &str, acquired: MicroTime, renewed: MicroTime, turns: i32) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        acquire_time: Some(acquired),
        renew_time: Some(renewed),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        lease_transitions: Some(turns),
        ..Default::default()
    }
}

async fn give_up(api: &Api<Lease>, me: &str) -> kube::Result<()> {
    let mut lease = api.get(LEASE).await?;
    if let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(me)) {
        spec.holder_identity = Some(String::new());
        api.replace(LEASE, &PostParams::default(), &lease).await?;
    }
    Ok(())
}
