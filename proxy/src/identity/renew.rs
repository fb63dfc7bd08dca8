//! Keeps the certificate fresh: obtains the first with the token, the next with the one before, half-way through its life.
//!
//! A failure is retried with growing waits and alarmed; the certificate at hand serves on until it expires.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use malla_xds::grpc::CertificateResponse;
use tonic::Code;

use super::issue::Application;
use super::{Identity, IdentityStore};
use crate::control::{Backoff, Connector, chain};
use crate::settings::Settings;

/// An answer must come within this time.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Never sooner than this after the last certificate, whatever its life.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// A sleeping machine may wake after the end: the clock is looked at no less often.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// What is needed to obtain certificates.
#[derive(Debug)]
pub struct Renewal {
    store: IdentityStore,
    connector: Connector,
    token: PathBuf,
    namespace: Arc<str>,
}

impl Renewal {
    /// For the workload of the settings.
    pub fn new(store: IdentityStore, connector: Connector, settings: &Settings) -> Self {
        Renewal { store, connector, token: settings.token.clone(), namespace: settings.namespace.clone() }
    }

    /// Obtains a certificate at once and renews it for ever.
    pub async fn run(self) {
        let mut backoff = Backoff::default();
        loop {
            match self.obtain().await {
                Ok(identity) => {
                    backoff.reset();
                    tracing::info!(
                        identity = %identity.spiffe_id,
                        until = %httpdate::HttpDate::from(identity.not_after),
                        "obtained a certificate"
                    );
                    let due = renewal_time(SystemTime::now(), identity.not_after, 0.9 + 0.2 * fastrand::f64());
                    self.store.install(identity);
                    sleep_until(due).await;
                }
                Err(problem) => {
                    let pause = backoff.next_wait();
                    self.alarm(&problem, pause);
                    self.store.failed(problem);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Obtains one certificate: with the present one if it is valid and the server takes it, else with the token.
    ///
    /// # Errors
    /// What went wrong, for people.
    pub async fn obtain(&self) -> Result<Identity, String> {
        let application = Application::new().map_err(|error| chain(&error))?;
        let response = match self.store.current().ok() {
            None => self.ask(&application, None).await?,
            Some(present) => match self.ask(&application, Some(&present)).await {
                Ok(response) => response,
                // The certificate authority may be another one by now: the token may still convince it.
                Err(problem) => self.ask(&application, None).await.map_err(|_| problem)?,
            },
        };
        application.identity(&response, &self.namespace, self.connector.provider()).map_err(|error| chain(&error))
    }

    async fn ask(&self, application: &Application, present: Option<&Identity>) -> Result<CertificateResponse, String> {
        let request = application.request().map_err(|error| chain(&error))?;
        let token = match present {
            Some(_) => None,
            // Read anew each time: orchestrators replace it.
            None => Some(
                fs::read_to_string(&self.token)
                    .map_err(|cause| format!("cannot read the token in {} (--token): {cause}", self.token.display()))?,
            ),
        };
        let mut client = self.connector.connect(present).await.map_err(|error| chain(&error))?;
        let answer = client.create_certificate(request, token.as_deref());
        let answer = tokio::time::timeout(ANSWER_LIMIT, answer).await;
        let answer = answer.map_err(|_| "the control server did not answer".to_owned())?;
        answer.map_err(|status| match status.code() {
            Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument => {
                format!("the control server refuses a certificate: {}", status.message())
            }
            code => format!("the control server gave no certificate: {} ({code:?})", status.message()),
        })
    }

    fn alarm(&self, problem: &str, pause: Duration) {
        let retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        match self.store.last() {
            None => tracing::warn!(problem, retry_in_ms, "no certificate yet"),
            Some(last) => {
                let until = httpdate::HttpDate::from(last.not_after);
                if last.not_after <= SystemTime::now() {
                    tracing::error!(problem, retry_in_ms, expired = %until, "the certificate has expired, mesh connections fail");
                } else {
                    tracing::warn!(problem, retry_in_ms, %until, "the certificate was not renewed, the present one serves on");
                }
            }
        }
    }
}

/// Half-way from now to the end, times `jitter` (0.9 to 1.1).
fn renewal_time(now: SystemTime, end: SystemTime, jitter: f64) -> SystemTime {
    let left = end.duration_since(now).unwrap_or_default();
    now + (left / 2).mul_f64(jitter).max(SHORTEST_WAIT)
}

/// By the wall clock, which goes on while the machine sleeps.
async fn sleep_until(due: SystemTime) {
    while let Ok(left) = due.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renews_half_way_with_jitter_and_never_in_a_hurry() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |life, jitter| {
            renewal_time(now, now + Duration::from_secs(life), jitter).duration_since(now).expect("later")
        };
        assert_eq!(at(86_400, 1.0), Duration::from_secs(43_200));
        assert_eq!(at(86_400, 0.9), Duration::from_secs(38_880));
        assert_eq!(at(1, 1.0), Duration::from_secs(1));
        let past = now - Duration::from_secs(5);
        assert_eq!(renewal_time(now, past, 1.0), now + Duration::from_secs(1));
    }
}
