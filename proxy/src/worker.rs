//! Worker threads: each a `current_thread` runtime of its own; a new connection goes to the least loaded one.
//!
//! Accept loops hand over sockets that are not registered with any runtime ([`Accepted`]). The queue of a worker is bounded; while
//! it is full, accepting waits.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::http::Mirrors;
use crate::listen;
use crate::names::Name;
use crate::pool::Pool;
use crate::shared::{Shared, Worker};

/// A connection that was accepted and is to be served by some worker. The socket is non-blocking.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub stream: TcpStream,
    /// Its peer.
    pub peer: SocketAddr,
    /// Where it came in.
    pub entrance: Entrance,
}

/// Where a connection came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entrance {
    /// Redirected by the kernel on its way out: look at the original destination.
    OutboundTransparent,
    /// The HTTP listener of explicit mode.
    OutboundHttp,
    /// A local port that leads to one destination.
    OutboundLocal(Name),
    /// From another sidecar, or redirected on its way in.
    Inbound,
}

/// The workers of one sidecar.
#[derive(Debug)]
pub struct Workers {
    handles: Vec<Handle>,
}

#[derive(Debug)]
struct Handle {
    queue: mpsc::Sender<Accepted>,
    connections: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

/// Connections that may wait for a worker; while every queue is full, the kernel keeps what comes.
const QUEUE: usize = 1024;
/// How long an accept loop waits for workers that are all busy before it refuses a connection.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

impl Workers {
    /// Starts the threads of a sidecar, as many as its settings say. They end when the drain
    /// has run.
    ///
    /// # Errors
    /// When the system refuses a thread or a runtime.
    pub(crate) fn start(shared: &Arc<Shared>) -> io::Result<Workers> {
        let mut handles = Vec::with_capacity(shared.settings.workers.get());
        for index in 0..shared.settings.workers.get() {
            let (queue, accepted) = mpsc::channel(QUEUE);
            let connections = Arc::new(AtomicUsize::new(0));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (shared, counter) = (shared.clone(), connections.clone());
            let thread = std::thread::Builder::new()
                .name(format!("malla-worker-{index}"))
                .spawn(move || runtime.block_on(work(shared, index, accepted, counter)))?;
            handles.push(Handle { queue, connections, thread });
        }
        Ok(Workers { handles })
    }

    /// Gives a connection to the least loaded worker; waits while its queue is full, so that a burst is slowed down and not
    /// refused.
    ///
    /// # Errors
    /// Gives it back when the queue stays full for ten seconds or the worker has ended.
    #[allow(clippy::result_large_err, reason = "the connection is what comes back")]
    pub async fn dispatch(&self, accepted: Accepted) -> Result<(), Accepted> {
        let least = self.handles.iter().min_by_key(|handle| handle.connections.load(Ordering::Relaxed));
        let Some(handle) = least else { return Err(accepted) };
        let Ok(Ok(place)) = timeout(LONGEST_WAIT, handle.queue.reserve()).await else { return Err(accepted) };
        handle.connections.fetch_add(1, Ordering::Relaxed);
        place.send(accepted);
        Ok(())
    }

    /// Waits for the threads, which end once the drain has run. Blocks.
    pub(crate) fn join(self) {
        for Handle { queue, thread, .. } in self.handles {
            drop(queue);
            if thread.join().is_err() {
                tracing::error!("a worker thread has panicked");
            }
        }
    }

    /// Connections that the workers serve or have queued.
    pub fn connections(&self) -> usize {
        self.handles.iter().map(|handle| handle.connections.load(Ordering::Relaxed)).sum()
    }
}

/// A connection in the count of its worker.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Worker {
    /// Serves a connection in a task of its own, counted as in flight until it ends.
    fn spawn_connection(self: &Arc<Self>, accepted: Accepted, counted: Counted) {
        let in_flight = self.shared.drain.guard();
        let worker = self.clone();
        tokio::spawn(async move {
            let _held = (counted, in_flight);
            listen::serve(worker, accepted).await;
        });
    }
}

/// The life of a worker: takes connections until the queue closes or the deadline of the drain has passed. Whatever task is left
/// then ends with the runtime: connections need not watch for the deadline.
async fn work(shared: Arc<Shared>, index: usize, mut queue: mpsc::Receiver<Accepted>, connections: Arc<AtomicUsize>) {
    let drain = shared.drain.clone();
    let shard = shared.metrics.shard();
    let worker = Arc::new(Worker { shared, index, shard, pool: Pool::default(), mirrors: Mirrors::default() });
    let serve = async {
        while let Some(accepted) = queue.recv().await {
            worker.spawn_connection(accepted, Counted(connections.clone()));
        }
        drain.cutting().await;
    };
    tokio::select! {
        () = serve => {}
        () = drain.cutting() => {}
    }
}
