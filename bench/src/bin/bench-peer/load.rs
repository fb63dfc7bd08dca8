//! The load. Closed loop: each connection sends as soon as it has its answer, which shows the most that a contender carries. Open
//! loop (`--rate`): requests become due at a constant rate, whether or not earlier ones have been answered, and latency is
//! counted from when a request was *due*: a contender that stalls cannot make the load hold its breath and so hide what the
//! stall did to the requests that should have been sent meanwhile ("coordinated omission").
//!
//! Why not h2load or wrk: h2load counts from when it sent, not from when it should have; wrk2 counts right but knows neither gRPC
//! nor WebSocket, and its timer ticks in milliseconds. Here due times come from the kernel's timer, in nanoseconds.

mod connect;
mod grpc;
mod http1;
mod pace;
mod stream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bench::accounting::{processor_time, resident, started};
use bench::histogram::Histogram;
use bench::sample::Sample;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use self::pace::Pace;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// What to do
    #[arg(value_enum)]
    work: Work,
    /// Where to connect
    #[arg(long)]
    to: SocketAddr,
    /// Connections
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Services, to which connections go in turn: at the addresses that follow each other from `--to` on, called
    /// `service-<n>.shop` (HTTP/1.1)
    #[arg(long, default_value_t = 1)]
    services: u32,
    /// Concurrent calls on each connection (gRPC)
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Bytes of the answers, or of the messages
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Requests per second over all connections; as many as possible without it
    #[arg(long)]
    rate: Option<f64>,
    /// Exactly so many requests on one connection, instead of as many as fit into the time (HTTP/1.1)
    #[arg(long)]
    requests: Option<u64>,
    /// Seconds before measuring
    #[arg(long, default_value_t = 0.5)]
    warmup: f64,
    /// Seconds of measuring
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Seconds without load, after measuring, before memory is read
    #[arg(long, default_value_t = 0.0)]
    rest: f64,
    /// Processes to watch
    #[arg(long, value_delimiter = ',')]
    watch: Vec<u32>,
    /// Directory of the certificates
    #[arg(long, default_value = ".")]
    certificates: PathBuf,
    /// Name to ask for in handshakes
    #[arg(long, default_value = crate::tls::NAME)]
    sni: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Work {
    /// `GET` over kept connections
    Http1,
    /// A new connection for each `GET`
    Http1New,
    /// Tries until a first `GET` is answered, and says when that was, in seconds since the machine started
    Ready,
    /// Connections that do one `GET` and then nothing
    Idle,
    /// Unary calls
    GrpcUnary,
    /// Messages back and forth on streams that stay
    GrpcStream,
    /// WebSocket frames back and forth
    Websocket,
    /// Bytes back and forth
    Echo,
    /// As many bytes as come
    Source,
    /// A new connection for each byte there and back
    EchoNew,
    /// Full mTLS handshakes with the inbound side
    HandshakeFull,
    /// Resumed ones
    HandshakeResumed,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    arguments: Arguments,
    pace: Option<Pace>,
    /// Connections so far.
    opened: AtomicU32,
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    histogram: Histogram,
    completed: u64,
    failed: u64,
    bytes: u64,
    failure: Option<String>,
}

impl Shared {
    /// Waits until a request is due; when it was due.
    async fn due(&self) -> Instant {
        match &self.pace {
            Some(pace) => pace.due().await,
            None => Instant::now(),
        }
    }

    fn succeeded(&self, due: Instant, bytes: usize) {
        let latency = due.elapsed();
        let mut counted = self.counted.lock();
        counted.histogram.record(latency);
        counted.completed += 1;
        counted.bytes += bytes as u64;
    }

    fn received(&self, bytes: usize) {
        self.counted.lock().bytes += bytes as u64;
    }

    /// Counts a failure, and pauses: a contender that refuses everything is not to be stormed.
    async fn failed(&self, error: &anyhow::Error) {
        {
            let mut counted = self.counted.lock();
            counted.failed += 1;
            counted.failure.get_or_insert_with(|| format!("{error:#}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let pace = arguments.rate.map(Pace::start).transpose()?;
    let shared = Arc::new(Shared { arguments, pace, opened: AtomicU32::new(0), counted: Mutex::default() });
    let arguments = &shared.arguments;
    if arguments.work == Work::Ready {
        http1::ready(&shared).await;
        println!("{}", bench::accounting::now());
        return Ok(());
    }
    if let Some(requests) = arguments.requests {
        http1::exactly(&shared, requests).await?;
        let counted = shared.counted.lock();
        let sample = Sample { completed: counted.completed, latency: counted.histogram.latency(), ..Sample::default() };
        println!("{}", serde_json::to_string(&sample)?);
        return Ok(());
    }
    for _ in 0..arguments.connections {
        let shared = shared.clone();
        match arguments.work {
            Work::Http1 => drop(tokio::spawn(http1::kept(shared))),
            Work::Http1New => drop(tokio::spawn(http1::new(shared))),
            Work::Idle | Work::Ready => {}
            Work::GrpcUnary | Work::GrpcStream => drop(tokio::spawn(grpc::connection(shared))),
            Work::Websocket | Work::Echo | Work::Source => drop(tokio::spawn(stream::connection(shared))),
            Work::EchoNew => drop(tokio::spawn(connect::echo(shared))),
            Work::HandshakeFull | Work::HandshakeResumed => drop(tokio::spawn(connect::handshakes(shared))),
        }
    }
    let idle = if arguments.work == Work::Idle { Some(http1::idle(&shared).await?) } else { None };
    tokio::time::sleep(Duration::from_secs_f64(arguments.warmup)).await;
    *shared.counted.lock() = Counted { completed: idle.as_ref().map_or(0, Vec::len) as u64, ..Counted::default() };
    let used = || -> Vec<Duration> { arguments.watch.iter().copied().map(processor_time).collect() };
    let own = std::process::id();
    let (before, own_before, begin) = (used(), processor_time(own), Instant::now());
    tokio::time::sleep(Duration::from_secs_f64(arguments.seconds)).await;
    let (after, own_after, seconds) = (used(), processor_time(own), begin.elapsed().as_secs_f64());
    if let Some(ended) = arguments.watch.iter().find(|id| started(**id).is_none()) {
        bail!("the process {ended}, which is watched, has ended");
    }
    let counted = std::mem::take(&mut *shared.counted.lock());
    tokio::time::sleep(Duration::from_secs_f64(arguments.rest)).await;
    let sample = Sample {
        seconds,
        completed: counted.completed,
        failed: counted.failed,
        bytes: counted.bytes,
        failure: counted.failure,
        latency: counted.histogram.latency(),
        processor: after
            .iter()
            .zip(&before)
            .map(|(after, before)| after.saturating_sub(*before).as_secs_f64())
            .collect(),
        own_processor: (own_after - own_before).as_secs_f64(),
        resident: arguments.watch.iter().copied().map(resident).collect(),
    };
    println!("{}", serde_json::to_string(&sample)?);
    drop(idle);
    // Connections that are under way end with the process.
    std::process::exit(0)
}

async fn open(to: SocketAddr) -> Result<TcpStream> {
    let socket = TcpStream::connect(to).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}
