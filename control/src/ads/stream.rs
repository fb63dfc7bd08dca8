//! The life of one xDS stream: requests and changes go into the state machine, what comes out is sent and reported.
//!
//! Changes of endpoints are coalesced, everything else is pushed at once. Nothing is answered before there is a
//! configuration. A client that does not read ends its own stream and delays nobody else's.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use malla_xds::envoy::core;
use malla_xds::names::inbound_workload;
use malla_xds::resource::node_metadata;
use malla_xds::wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse};
use malla_xds::{DeltaServer, Push, Reply, ResourceType, SotwServer, SpiffeId, StreamError, TypeProgress, View};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Status, Streaming};

use super::view::ClientView;
use super::{ControlPlane, Peer, check_node};
use crate::metrics;
use crate::resources::Resources;
use crate::status::StreamReport;

/// Responses that wait for the connection to take them.
pub(super) const RESPONSES_AHEAD: usize = 4;
/// How long a client may leave a response unread: 30 s, except where a test waits for it.
const READ_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 30 });
/// Endpoints are pushed when they have not changed for so long …
const ENDPOINTS_QUIET: Duration = Duration::from_millis(50);
/// … and at the latest so long after their first change.
const ENDPOINTS_DELAY: Duration = Duration::from_millis(300);
/// The type of which a sidecar's own ports are.
const LISTENER: &str = ResourceType::Listener.type_url();
/// Longest node id that is shown.
const NODE_LIMIT: usize = 256;

/// One of the two flavours of xDS.
pub(super) trait Flavour: Send + 'static {
    /// What the client sends.
    type Request: Send + Sync + 'static;
    /// What it gets.
    type Response: Send + 'static;
    /// Word for people and metrics.
    const WORD: &'static str;
    /// Whether only those speak it that make calls and open no raw connections: stock gRPC.
    const CALLS_ONLY: bool;

    /// The client's description of itself.
    fn node(request: &Self::Request) -> Option<&core::Node>;
    /// Type URL and names that a request subscribes to.
    fn subscribes(request: &Self::Request) -> (&str, &[String]);
    /// Type URL of a response.
    fn type_url(response: &Self::Response) -> &str;
    /// See [`DeltaServer::request`].
    fn request(&mut self, request: &Self::Request, view: &impl View) -> Result<Reply<Self::Response>, StreamError>;
    /// See [`DeltaServer::push`].
    fn push(&mut self, view: &impl View, what: Push) -> Result<Vec<Self::Response>, StreamError>;
    /// See [`DeltaServer::progress`].
    fn progress(&self) -> Vec<TypeProgress>;
}

macro_rules! flavour {
    ($machine:ty, $word:literal, $calls_only:literal, $request:ty, $names:ident, $response:ty) => {
        impl Flavour for $machine {
            type Request = $request;
            type Response = $response;
            const WORD: &'static str = $word;
            const CALLS_ONLY: bool = $calls_only;

            fn node(request: &Self::Request) -> Option<&core::Node> {
                request.node.as_ref()
            }
            fn subscribes(request: &Self::Request) -> (&str, &[String]) {
                (&request.type_url, &request.$names)
            }
            fn type_url(response: &Self::Response) -> &str {
                &response.type_url
            }
            fn request(&mut self, request: &$request, view: &impl View) -> Result<Reply<$response>, StreamError> {
                <$machine>::request(self, request, view)
            }
            fn push(&mut self, view: &impl View, what: Push) -> Result<Vec<$response>, StreamError> {
                <$machine>::push(self, view, what)
            }
            fn progress(&self) -> Vec<TypeProgress> {
                <$machine>::progress(self)
            }
        }
    };
}
flavour!(DeltaServer, "delta", false, DeltaDiscoveryRequest, resource_names_subscribe, DeltaDiscoveryResponse);
flavour!(SotwServer, "sotw", true, DiscoveryRequest, resource_names, DiscoveryResponse);

/// A stream.
pub(super) struct Stream<F: Flavour> {
    pub(super) plane: Arc<ControlPlane>,
    pub(super) peer: Peer,
    pub(super) identity: SpiffeId,
    pub(super) software: String,
    pub(super) machine: F,
    pub(super) sender: mpsc::Sender<Result<F::Response, Status>>,
    /// Types of which a change was sent and is not acknowledged yet, and since when there is that change.
    pub(super) unacknowledged: Vec<(ResourceType, std::time::Instant)>,
}

/// Why a stream ended.
enum End {
    /// The client closed it, or its connection.
    Client,
    /// The server did.
    Server {
        /// Word for metrics.
        reason: &'static str,
        /// What the client is told.
        status: Status,
    },
}

impl End {
    fn server(reason: &'static str, status: Status) -> End {
        End::Server { reason, status }
    }
}

impl<F: Flavour> Stream<F> {
    /// Runs until client or server end it.
    pub(super) async fn run(mut self, mut requests: Streaming<F::Request>) {
        let plane = self.plane.clone();
        let report = plane.streams.open(self.identity.clone(), self.peer.address, F::WORD);
        let gauge = plane.metrics.streams.get_or_create_owned(&metrics::Flavour { flavour: F::WORD });
        gauge.inc();
        let (identity, address) = (self.identity.clone(), self.peer.address);
        tracing::info!(%identity, %address, flavour = F::WORD, "xDS stream opened");
        let ControlFlow::Break(end) = self.serve(&mut requests, &report).await;
        gauge.dec();
        match end {
            End::Client => tracing::info!(%identity, %address, "xDS stream closed by the client"),
            End::Server { reason, status } => {
                plane.metrics.streams_ended.get_or_create(&metrics::Reason { reason }).inc();
                tracing::info!(%identity, %address, reason, message = status.message(), "xDS stream ended");
                // If it does not read, it does not read this either.
                let _ = self.sender.try_send(Err(status));
            }
        }
    }

    async fn serve(
        &mut self,
        requests: &mut Streaming<F::Request>,
        report: &StreamReport,
    ) -> ControlFlow<End, std::convert::Infallible> {
        let mut published = self.plane.published.resources.clone();
        let closing = self.peer.closing.clone();
        let mut named = false;
        // The configuration of the last push: all answers are about it.
        let mut current: Arc<Resources> = published.borrow_and_update().clone();
        let mut endpoints_since: Option<Instant> = None;
        let mut endpoints_changed = current.changed();
        let mut endpoints_due = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = closing.cancelled() => {
                    let status = Status::unavailable("the connection is being closed: connect again");
                    return ControlFlow::Break(End::server("connection_closing", status));
                }
                () = self.sender.closed() => return ControlFlow::Break(End::Client),
                changed = published.changed() => {
                    if changed.is_err() {
                        let status = Status::unavailable("the control server is stopping: connect again");
                        return ControlFlow::Break(End::server("stopping", status));
                    }
                    current = published.borrow_and_update().clone();
                    let now = Instant::now();
                    if endpoints_since.is_none() {
                        endpoints_changed = current.changed();
                    }
                    let since = *endpoints_since.get_or_insert(now);
                    endpoints_due = (now + ENDPOINTS_QUIET).min(since + ENDPOINTS_DELAY);
                    self.push(&current, Push::AllButEndpoints, current.changed(), report).await?;
                }
                () = sleep_until(endpoints_due), if endpoints_since.is_some() => {
                    endpoints_since = None;
                    self.push(&current, Push::All, endpoints_changed, report).await?;
                }
                message = requests.message(), if current.is_loaded() => {
                    let request = match message {
                        Ok(Some(request)) => request,
                        Ok(None) | Err(_) => return ControlFlow::Break(End::Client),
                    };
                    if let Some(node) = F::node(&request).filter(|_| !named) {
                        named = true;
                        self.introduce(node, report)?;
                    }
                    self.answer(&request, &current, report).await?;
                }
            }
        }
    }

    fn introduce(&self, node: &core::Node, report: &StreamReport) -> ControlFlow<End> {
        let id: String = node.id.chars().filter(|c| !c.is_control()).take(NODE_LIMIT).collect();
        let software = match node_metadata(node, "version") {
            Some(version) => format!("malla-proxy {}", version.chars().take(NODE_LIMIT).collect::<String>()),
            None => self.software.clone(),
        };
        report.node(&id, &software);
        match check_node(node, &self.identity) {
            Ok(()) => ControlFlow::Continue(()),
            Err(status) => ControlFlow::Break(End::server("wrong_node", status)),
        }
    }

    async fn answer(&mut self, request: &F::Request, resources: &Resources, report: &StreamReport) -> ControlFlow<End> {
        let view = ClientView { resources, identity: &self.identity, calls_only: F::CALLS_ONLY };
        let reply = match self.machine.request(request, &view) {
            Ok(reply) => reply,
            Err(error) => return ControlFlow::Break(limit(error)),
        };
        if let (LISTENER, names) = F::subscribes(request)
            && let Some(workload) = names.iter().find_map(|name| inbound_workload(name))
        {
            report.serves(workload);
        }
        let (identity, metrics) = (&self.identity, &self.plane.metrics);
        if let Some((kind, rejection)) = &reply.rejection {
            metrics.rejections.get_or_create(&metrics::Type { r#type: kind.word() }).inc();
            let (resources, message) = (rejection.resources.join(", "), &rejection.message);
            tracing::warn!(%identity, address = %self.peer.address, r#type = %kind, resources, message, "configuration rejected");
        }
        for (kind, name, reason) in &reply.denied {
            metrics.denials.get_or_create(&metrics::Type { r#type: kind.word() }).inc();
            tracing::warn!(%identity, address = %self.peer.address, r#type = %kind, name = &**name, reason, "resource denied");
            report.denied(*kind, name, reason);
        }
        let progress = self.machine.progress();
        if let Some((rejected, _)) = &reply.rejection {
            self.unacknowledged.retain(|(kind, _)| kind != rejected);
        }
        self.acknowledged(&progress);
        report.progress(progress);
        self.send(reply.responses).await
    }

    /// Measures the changes of which nothing is unanswered any more.
    fn acknowledged(&mut self, progress: &[TypeProgress]) {
        let metrics = &self.plane.metrics;
        self.unacknowledged.retain(|(kind, changed)| {
            let waits = progress.iter().any(|of_type| of_type.kind == *kind && of_type.unanswered > 0);
            if !waits {
                let family = metrics.propagation_seconds.get_or_create(&metrics::Type { r#type: kind.word() });
                family.observe(changed.elapsed().as_secs_f64());
            }
            waits
        });
    }

    async fn push(
        &mut self,
        resources: &Resources,
        what: Push,
        changed: std::time::Instant,
        report: &StreamReport,
    ) -> ControlFlow<End> {
        let view = ClientView { resources, identity: &self.identity, calls_only: F::CALLS_ONLY };
        let responses = match self.machine.push(&view, what) {
            Ok(responses) => responses,
            Err(error) => return ControlFlow::Break(limit(error)),
        };
        for kind in responses.iter().filter_map(|response| ResourceType::from_type_url(F::type_url(response))) {
            // Of several changes that a client has not answered, the oldest says for how long it lags behind.
            if !self.unacknowledged.iter().any(|(known, _)| *known == kind) {
                self.unacknowledged.push((kind, changed));
            }
        }
        report.progress(self.machine.progress());
        self.send(responses).await
    }

    async fn send(&mut self, responses: Vec<F::Response>) -> ControlFlow<End> {
        for response in responses {
            if let Some(kind) = ResourceType::from_type_url(F::type_url(&response)) {
                self.plane.metrics.responses.get_or_create(&metrics::Type { r#type: kind.word() }).inc();
            }
            let sent = timeout(READ_TIMEOUT, self.sender.send(Ok(response)));
            match self.peer.closing.run_until_cancelled(sent).await {
                Some(Ok(Ok(()))) => {}
                // The loop will find the connection closing.
                None => return ControlFlow::Continue(()),
                Some(Ok(Err(_))) => return ControlFlow::Break(End::Client),
                Some(Err(_)) => {
                    let status = Status::resource_exhausted("responses were left unread for too long");
                    return ControlFlow::Break(End::server("slow_reader", status));
                }
            }
        }
        ControlFlow::Continue(())
    }
}

fn limit(error: StreamError) -> End {
    let reason = match error {
        StreamError::TooManySubscriptions { .. } => "too_many_subscriptions",
        StreamError::InvalidName { .. } => "invalid_name",
        StreamError::NeverAnswers { .. } => "never_answers",
    };
    End::server(reason, Status::resource_exhausted(error.to_string()))
}
