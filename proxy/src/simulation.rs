//! A network without sockets, for tests in simulated time: connections are pipes in memory, replicas are tasks, and the clock of
//! the runtime jumps to whatever is due next. Minutes of traffic take a second, and the same seed gives the same traffic.
//!
//! Only the connecting of TCP is replaced ([`Network::connect`]): everything above is the sidecar's own code.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, sleep};

use crate::balance::EndpointSet;
use crate::dial::Dialer;
use crate::http::testing::{SERVICE, endpoint, knows, route};
use crate::http::{Outbound, Side, Version, serve};
use crate::policy::{Place, Policy};
use crate::shared::{Shared, Worker};
use crate::snapshot::{Cluster, Endpoint, Endpoints, Route};
use crate::stream::{Duplex, Stream};
use crate::tls::ConnectError;

/// Until a connection is made, or a message has arrived.
const DISTANCE: Duration = Duration::from_millis(1);
/// What a pipe holds.
const WINDOW: usize = 64 * 1024;

/// Where addresses lead.
#[derive(Debug, Clone, Default)]
pub(crate) struct Network {
    replicas: Arc<Mutex<HashMap<SocketAddr, Arc<Replica>>>>,
    /// Where the test itself answers.
    taken: Arc<Mutex<HashMap<SocketAddr, mpsc::UnboundedSender<DuplexStream>>>>,
}

/// How a replica behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Manner {
    /// Answers in 4 to 6 ms.
    Well,
    /// Answers, but takes so long.
    Slow(Duration),
    /// Answers 503 at once.
    Unavailable,
    /// Closes the connection instead of answering.
    Resets,
    /// Takes requests and never answers them.
    Hangs,
    /// The process has ended: its connections break, and new ones are refused.
    Gone,
    /// The machine has lost its power: nothing comes back, not even a refusal.
    Vanished,
}

/// A replica of the service.
#[derive(Debug)]
pub(crate) struct Replica {
    address: SocketAddr,
    manner: watch::Sender<Manner>,
    requests: AtomicUsize,
}

impl Network {
    /// The connections that are made to an address; without their receiver they are refused.
    pub(crate) fn take(&self, at: SocketAddr) -> mpsc::UnboundedReceiver<DuplexStream> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.taken.lock().insert(at, sender);
        receiver
    }

    /// A connection, as [`Dialer::dial`] would make one.
    pub(crate) async fn connect(&self, to: SocketAddr, limit: Duration) -> Result<Stream, ConnectError> {
        let taken = self.taken.lock().get(&to).cloned();
        if let Some(taken) = taken {
            sleep(DISTANCE).await;
            let (near, far) = tokio::io::duplex(WINDOW);
            let refused = |_| ConnectError::tcp(to, io::ErrorKind::ConnectionRefused.into());
            return taken.send(far).map_err(refused).map(|()| Stream::from(Box::new(near) as Box<dyn Duplex>));
        }
        let replica = self.replicas.lock().get(&to).cloned();
        let manner = replica.as_ref().map_or(Manner::Gone, |replica| *replica.manner.borrow());
        match (replica, manner) {
            (_, Manner::Vanished) => {
                sleep(limit).await;
                Err(ConnectError::Timeout { to, after: limit })
            }
            (None, _) | (_, Manner::Gone) => {
                sleep(DISTANCE).await;
                Err(ConnectError::tcp(to, io::ErrorKind::ConnectionRefused.into()))
            }
            (Some(replica), _) => {
                sleep(DISTANCE).await;
                let (near, far) = tokio::io::duplex(WINDOW);
                tokio::spawn(replica.serve(far));
                Ok(Stream::from(Box::new(near) as Box<dyn Duplex>))
            }
        }
    }
}

impl Replica {
    /// From now on.
    pub(crate) fn behaves(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }

    /// Requests that have arrived.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }

    /// A connection, until it is closed or the process ends.
    async fn serve(self: Arc<Self>, mut socket: DuplexStream) {
        let mut manners = self.manner.subscribe();
        tokio::select! {
            biased;
            _ = manners.wait_for(|manner| *manner == Manner::Gone) => {}
            () = self.answer(&mut socket) => {}
        }
    }

    async fn answer(&self, socket: &mut DuplexStream) {
        while read_head(socket).await {
            let manner = *self.manner.borrow();
            if manner == Manner::Vanished {
                return std::future::pending().await;
            }
            self.requests.fetch_add(1, Relaxed);
            let answer: &[u8] = match manner {
                Manner::Unavailable => b"HTTP/1.1 503 x\r\ncontent-length: 0\r\n\r\n",
                _ => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            };
            let time = match manner {
                Manner::Slow(time) => time,
                _ => Duration::from_micros(fastrand::u64(4000..6000)),
            };
            match manner {
                Manner::Resets => return,
                Manner::Hangs => return std::future::pending().await,
                Manner::Unavailable => sleep(DISTANCE).await,
                _ => sleep(time).await,
            }
            if *self.manner.borrow() == Manner::Vanished {
                return std::future::pending().await;
            }
            if socket.write_all(answer).await.is_err() {
                return;
            }
        }
    }
}

/// Whether a request has come.
async fn read_head(socket: &mut DuplexStream) -> bool {
    let mut bytes = Vec::new();
    let mut piece = [0; 1024];
    while !bytes.ends_with(b"\r\n\r\n") {
        match socket.read(&mut piece).await {
            Ok(0) | Err(_) => return false,
            Ok(length) => bytes.extend_from_slice(&piece[..length]),
        }
    }
    true
}

/// A sidecar, the replicas of the service that it calls, and what has happened.
pub(crate) struct World {
    pub(crate) replicas: Vec<Arc<Replica>>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) worker: Arc<Worker>,
    began: Instant,
}

/// A request that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    /// When, since the beginning.
    pub(crate) at: Duration,
    /// How long it took.
    pub(crate) took: Duration,
    pub(crate) status: u16,
}

/// Where replicas are: the sidecar itself is in `a`.
pub(crate) fn zone(name: &str) -> Place {
    ("r".into(), name.into())
}

impl World {
    /// One replica in each of these zones. What is drawn at random depends on the seed alone.
    pub(crate) fn new(seed: u64, zones: &[&str], policy: Policy, change: impl FnOnce(Route) -> Route) -> World {
        fastrand::seed(seed);
        let network = Network::default();
        let replicas: Vec<Arc<Replica>> = (1..)
            .zip(zones)
            .map(|(last, _)| {
                let address = SocketAddr::from(([10, 0, 0, last], 80));
                Arc::new(Replica { address, manner: watch::Sender::new(Manner::Well), requests: AtomicUsize::new(0) })
            })
            .collect();
        *network.replicas.lock() = replicas.iter().map(|replica| (replica.address, replica.clone())).collect();
        let places: Vec<(SocketAddr, Place)> =
            replicas.iter().zip(zones).map(|(replica, name)| (replica.address, zone(name))).collect();
        let cluster = Arc::new(cluster(&places, policy));
        let worker = worker(network, change(route(&cluster)));
        World { replicas, cluster, worker, began: Instant::now() }
    }

    /// Offers so many requests in a second, for so long, whether answers come or not; returns when all are over.
    pub(crate) async fn offer(&self, per_second: u32, time: Duration) -> Vec<Asked> {
        let number = time.as_secs() * u64::from(per_second);
        let mut ticks = interval(Duration::from_secs(1) / per_second);
        let mut asking = Vec::new();
        for _ in 0..number {
            ticks.tick().await;
            let (worker, began) = (self.worker.clone(), self.began);
            asking.push(tokio::spawn(async move {
                let at = began.elapsed();
                let status = ask(worker).await;
                Asked { at, took: began.elapsed() - at, status }
            }));
        }
        let mut asked = Vec::with_capacity(asking.len());
        for one in asking {
            asked.push(one.await.expect("it did not panic"));
        }
        asked
    }

    /// Sets the manner of some replicas at a time since the beginning.
    pub(crate) fn at(&self, time: Duration, replicas: impl IntoIterator<Item = usize>, manner: Manner) {
        let (until, replicas) = (self.began + time, replicas.into_iter().map(|at| self.replicas[at].clone()));
        let replicas: Vec<_> = replicas.collect();
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            replicas.iter().for_each(|replica| replica.behaves(manner));
        });
    }

    /// Requests that have arrived, at all replicas together.
    pub(crate) fn arrived(&self) -> usize {
        self.replicas.iter().map(|replica| replica.requests()).sum()
    }
}

fn cluster(places: &[(SocketAddr, Place)], policy: Policy) -> Cluster {
    let policy = Arc::new(policy);
    let feedback = Arc::new(crate::balance::Feedback {
        cluster: SERVICE.into(),
        outliers: policy.outliers.clone(),
        ..Default::default()
    });
    let endpoints: Vec<Arc<Endpoint>> = places
        .iter()
        .map(|(address, locality)| {
            Arc::new(Endpoint { locality: locality.clone(), feedback: feedback.clone(), ..endpoint(*address) })
        })
        .collect();
    feedback.watch.replace(endpoints.iter().map(|endpoint| (endpoint.address, endpoint.load.clone())).collect());
    let set = EndpointSet::new(endpoints, policy.clone(), feedback.watch.clone(), &zone("a"), u32::MAX);
    Cluster { name: SERVICE.into(), endpoints: Endpoints::Set(set), policy, feedback, ..Cluster::default() }
}

/// A sidecar that knows this route, in this network.
pub(crate) fn worker(network: Network, route: Route) -> Arc<Worker> {
    let plain = crate::http::testing::worker(knows(route), "web");
    let plain = Arc::into_inner(plain).expect("nobody has it yet");
    let shared = Arc::into_inner(plain.shared).expect("nobody has it yet");
    let mut dialer = Dialer::new(&shared.settings);
    dialer.network = Some(network);
    Arc::new(Worker { shared: Arc::new(Shared { dialer: dialer.into(), ..shared }), ..plain })
}

/// A request of the application, on a connection of its own; the status of the answer, zero if there was none.
pub(crate) async fn ask(worker: Arc<Worker>) -> u16 {
    let (mut near, far) = tokio::io::duplex(WINDOW);
    let serving = tokio::spawn(serve(worker, far, Version::Http1, Side::Outbound(Outbound::To(SERVICE.into()))));
    let mut answer = Vec::new();
    let _ = near.write_all(b"GET / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n").await;
    let _ = near.read_to_end(&mut answer).await;
    drop(near);
    let _ = serving.await;
    String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}
