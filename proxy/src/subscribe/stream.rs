//! The one ADS stream: kept open for the life of the sidecar, opened again when it ends. Look-ups are taken at any time.

use std::io;
use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};

use futures_util::stream;
use malla_xds::wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::time::{Interval, MissedTickBehavior};
use tonic::Streaming;

use super::status::Connection;
use super::world::{SWEEP, World};
use super::{Ask, Directory};
use crate::control::{Backoff, Client, Connector, chain};
use crate::identity::IdentityStore;

/// Requests that may wait to be sent.
const QUEUE: usize = 64;
/// A server that takes no request for this long is given up.
const SEND_LIMIT: Duration = Duration::from_secs(30);
/// How often overdue answers are looked for.
const CHECK: Duration = Duration::from_secs(1);

/// Runs the directory until it is dropped.
#[derive(Debug)]
pub(super) struct Runner {
    pub(super) directory: Directory,
    pub(super) world: World,
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) connector: Connector,
    pub(super) identity: IdentityStore,
    pub(super) timers: Timers,
}

/// What recurs.
#[derive(Debug)]
pub(super) struct Timers {
    sweep: Interval,
    check: Interval,
}

impl Timers {
    /// To be made on the runtime on which the directory runs.
    pub(super) fn new() -> Self {
        let every = |period| {
            let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        Timers { sweep: every(SWEEP), check: every(CHECK) }
    }
}

/// What happens apart from the stream.
enum Event {
    Ask(Ask),
    Sweep,
    Check,
}

/// An open stream.
struct Opened {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Runner {
    /// Connects, serves, connects again; for ever. What was applied last serves on whatever happens here.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut pause = Duration::ZERO;
        loop {
            let problem = match self.open(pause).await {
                Ok(opened) => self.serve(opened).await,
                Err(problem) => problem,
            };
            self.directory.control.send_replace(None);
            if self.world.disconnected() {
                backoff.reset();
            }
            pause = backoff.next_wait();
            tracing::warn!(
                server = %self.connector.address(),
                problem,
                retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                "no connection to the control server, the last configuration serves on"
            );
            self.directory.status().connection(Connection::Failed(SystemTime::now(), problem));
        }
    }

    /// Opens a stream after a pause, once there is an identity to present. Takes look-ups meanwhile.
    async fn open(&mut self, pause: Duration) -> Result<Opened, String> {
        let connecting = connect(pause, self.connector.clone(), self.identity.clone(), self.directory.clone());
        let mut connecting = pin!(connecting);
        let mut client = loop {
            tokio::select! {
                client = &mut connecting => break client?,
                event = next(&mut self.asks, &mut self.timers) => {
                    self.handle(event);
                }
            }
        };
        // What is to be said first is queued before the stream is open: some servers send no headers before they have heard
        // something. The queue is longer than there are types.
        let (requests, queue) = mpsc::channel(QUEUE);
        for request in self.world.connected(Instant::now()) {
            requests.try_send(request).map_err(|_| "the queue of requests is full".to_owned())?;
        }
        let queue = stream::unfold(queue, |mut queue| async move { queue.recv().await.map(|next| (next, queue)) });
        let opening = async move {
            let responses = client.delta(queue).await.map_err(|status| describe(&status))?;
            Ok::<_, String>((client, responses))
        };
        let mut opening = pin!(tokio::time::timeout(SEND_LIMIT, opening));
        let opened = loop {
            tokio::select! {
                opened = &mut opening => break opened,
                event = next(&mut self.asks, &mut self.timers) => {
                    let answers = self.handle(event);
                    send(&requests, answers).await?;
                }
            }
        };
        let (client, responses) = opened.map_err(|_| "the control server did not open the stream".to_owned())??;
        self.directory.status().connection(Connection::Connected(SystemTime::now()));
        tracing::info!(server = %self.connector.address(), "connected to the control server");
        // Holds the connection.
        self.directory.control.send_replace(Some(client));
        Ok(Opened { requests, responses })
    }

    /// Serves a stream to its end. Returns why it ended.
    async fn serve(&mut self, mut opened: Opened) -> String {
        loop {
            let answers = tokio::select! {
                response = opened.responses.message() => match response {
                    Ok(Some(response)) => {
                        let answers = self.world.response(&response, Instant::now());
                        self.publish();
                        answers
                    }
                    Ok(None) => return "the server ended the stream".to_owned(),
                    Err(status) => return describe(&status),
                },
                event = next(&mut self.asks, &mut self.timers) => self.handle(event),
            };
            if let Err(problem) = send(&opened.requests, answers).await {
                return problem;
            }
        }
    }

    /// Returns what to send, if there is a stream.
    fn handle(&mut self, event: Event) -> Vec<DeltaDiscoveryRequest> {
        let now = Instant::now();
        let requests = match event {
            Event::Ask(ask) => return self.world.ask(ask, now),
            Event::Sweep => self.world.sweep(now),
            Event::Check => {
                self.world.check_deadlines(now);
                Vec::new()
            }
        };
        self.publish();
        requests
    }

    /// Makes what is linked visible.
    fn publish(&mut self) {
        self.directory.apply(self.world.snapshot());
        self.directory.status().subscriptions(self.world.subscriptions());
        self.world.answer_waiters();
        if let Some(trust) = self.world.trust() {
            self.identity.trust(trust);
        }
    }
}

/// Connects after a pause, once there is an identity to present.
async fn connect(
    pause: Duration,
    connector: Connector,
    identity: IdentityStore,
    directory: Directory,
) -> Result<Client, String> {
    tokio::time::sleep(pause).await;
    let mut generations = identity.subscribe();
    let identity = loop {
        generations.borrow_and_update();
        match identity.current() {
            Ok(identity) => break identity,
            Err(_) => {
                // The first attempt tells what it waits for; later ones leave the last failure to be seen.
                if pause.is_zero() {
                    directory.status().connection(Connection::WaitingForCertificate);
                }
                generations.changed().await.map_err(|_| "the sidecar stops".to_owned())?;
            }
        }
    };
    if pause.is_zero() {
        directory.status().connection(Connection::Connecting);
    }
    connector.connect(Some(&identity), &identity.trust_certificates).await.map_err(|error| chain(&error))
}

/// The next thing that happens; may be dropped at any time without losing any.
async fn next(asks: &mut mpsc::Receiver<Ask>, timers: &mut Timers) -> Event {
    tokio::select! {
        Some(ask) = asks.recv() => Event::Ask(ask),
        _ = timers.sweep.tick() => Event::Sweep,
        _ = timers.check.tick() => Event::Check,
    }
}

async fn send(
    requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    answers: Vec<DeltaDiscoveryRequest>,
) -> Result<(), String> {
    for answer in answers {
        match requests.send_timeout(answer, SEND_LIMIT).await {
            Ok(()) => {}
            Err(SendTimeoutError::Closed(_)) => return Err("the server closed the stream".to_owned()),
            Err(SendTimeoutError::Timeout(_)) => return Err("the server takes no requests".to_owned()),
        }
    }
    Ok(())
}

/// A gRPC status for people.
fn describe(status: &tonic::Status) -> String {
    let Some(cause) = std::error::Error::source(status) else {
        return format!("{} ({:?})", status.message(), status.code());
    };
    let broken = std::iter::successors(Some(cause), |cause| cause.source()).any(|cause| {
        // h2 keeps its cause to itself.
        let hidden = cause.downcast_ref::<h2::Error>().and_then(h2::Error::get_io);
        let kind = cause.downcast_ref::<io::Error>().or(hidden).map(io::Error::kind);
        matches!(kind, Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset))
    });
    if broken { "the server has gone".to_owned() } else { format!("{}: {}", status.message(), chain(cause)) }
}
