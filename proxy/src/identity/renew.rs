//! Keeps the certificate fresh: obtains the first with the token, the next with the one before, half-way through its life or soon after
//! another root has begun to sign.
//!
//! A failure is retried with growing waits and alarmed; the certificate at hand serves on until it expires.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use malla_xds::grpc::CertificateResponse;
use tokio::time::Instant;
use tonic::Code;

use super::issue::Application;
use super::{Identity, IdentityStore};
use crate::control::{Backoff, Connector, chain};
use crate::settings::Settings;

/// An answer must come within this time.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Never sooner than this after the last certificate, whatever its life.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// When another root signs, all sidecars renew within this time, or a tenth of what their certificates have left.
const LONGEST_SPREAD: Duration = Duration::from_secs(60);
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
                    let left = identity.not_after.duration_since(SystemTime::now()).unwrap_or_default();
                    let wait = renewal_wait(left, 0.9 + 0.2 * fastrand::f64());
                    self.store.install(identity);
                    tokio::select! {
                        () = wait_both_clocks(wait) => {}
                        () = self.another_root(left) => {
                            tracing::info!("another root signs by now, the certificate is renewed");
                        }
                    }
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
        // Also an identity that has expired tells whom to trust.
        let trusted = self.store.last();
        let trusted = trusted.as_ref().map_or(&[][..], |last| &last.trust_certificates);
        let mut client = self.connector.connect(present, trusted).await.map_err(|error| chain(&error))?;
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

    /// Waits until another root signs than this certificate's, and a little longer, so that not all come at once.
    async fn another_root(&self, left: Duration) {
        let mut generations = self.store.subscribe();
        while !self.store.is_of_former_root() {
            if generations.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
        tokio::time::sleep((left / 10).min(LONGEST_SPREAD).mul_f64(fastrand::f64())).await;
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

/// Half of what is left, times `jitter` (0.9 to 1.1).
fn renewal_wait(left: Duration, jitter: f64) -> Duration {
    (left / 2).mul_f64(jitter).max(SHORTEST_WAIT)
}

/// Waits by whichever clock is faster: the monotonic one stands still while the machine sleeps, the wall clock may be set back.
async fn wait_both_clocks(wait: Duration) {
    let (start, due) = (Instant::now(), SystemTime::now() + wait);
    loop {
        let by_wall = due.duration_since(SystemTime::now()).unwrap_or_default();
        let left = wait.saturating_sub(start.elapsed()).min(by_wall);
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
        let wait = |left, jitter| renewal_wait(Duration::from_secs(left), jitter);
        assert_eq!(wait(86_400, 1.0), Duration::from_secs(43_200));
        assert_eq!(wait(86_400, 0.9), Duration::from_secs(38_880));
        assert_eq!(wait(1, 1.0), Duration::from_secs(1));
        assert_eq!(wait(0, 1.0), Duration::from_secs(1));
    }

    /// A clock that is set back by ten minutes, or by years, delays no renewal: the monotonic clock goes on.
    #[tokio::test(start_paused = true)]
    async fn waits_no_longer_than_it_should_whatever_the_wall_clock_says() {
        let start = Instant::now();
        // The paused clock runs ahead while the wall clock stands (almost) still, as if it were set back all the time.
        wait_both_clocks(Duration::from_secs(600)).await;
        assert!(start.elapsed() <= Duration::from_secs(601), "{:?}", start.elapsed());
    }
}
