//! xDS and certificates for those who connect: the gRPC methods of the control server.
//!
//! Decides who may do what ([`proof`] tells who somebody is): xDS needs a mesh certificate, a certificate needs a token or a mesh certificate, `inbound/…` needs
//! the workload's own identity. The protocol itself is `malla_xds`'s state machines; the life of a stream is [`stream`].

mod proof;
mod stream;
mod view;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use malla_xds::envoy::core;
use malla_xds::grpc::{self, CertificateRequest, CertificateResponse};
use malla_xds::resource::node_metadata;
use malla_xds::telemetry::{Report, Watch};
use malla_xds::wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse};
use malla_xds::{DeltaServer, Limits, ResourceType, SotwServer, SpiffeId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use crate::authority::{Authority, CertifyError};
use crate::ca::IssueError;
use crate::kubernetes::ClusterView;
use crate::metrics::{Metrics, Reason};
use crate::resources::Published;
use crate::status::{self, Followers, Streams};
use crate::telemetry::Telemetry;
use crate::token::TokenAuthority;
use proof::Proof;
pub(crate) use proof::{Purpose, Unproven, bearer};
use stream::Flavour;

/// Largest message that a client may send, in bytes: ten thousand names fit.
pub(crate) const MESSAGE_LIMIT: usize = 4 << 20;
/// Streams at once.
const STREAM_LIMIT: usize = 50_000;
/// Streams at once on one connection. A sidecar has one, gRPC one per channel.
const STREAMS_PER_CONNECTION: usize = 8;

/// Who is at the other end of a connection. Travels with each request as an extension.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Its address.
    pub(crate) address: SocketAddr,
    /// The identity that its client certificate proves, if it showed one.
    pub(crate) identity: Option<SpiffeId>,
    /// Serial number of that certificate, hexadecimal.
    pub(crate) serial: Option<String>,
    /// Cancelled when the connection is to end.
    pub(crate) closing: CancellationToken,
    /// Calls in progress on the connection: xDS streams and requests for certificates.
    pub(crate) calls: Arc<AtomicUsize>,
}

/// What the methods need.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    pub(crate) published: Published,
    pub(crate) authority: Arc<Authority>,
    pub(crate) tokens: TokenAuthority,
    pub(crate) streams: Arc<Streams>,
    pub(crate) metrics: Arc<Metrics>,
    /// What sidecars tell about traffic.
    pub(crate) telemetry: Arc<Telemetry>,
    /// Owns the tasks of streams.
    pub(crate) tasks: TaskTracker,
    /// The cluster that the mesh is in, if it is in one.
    pub(crate) cluster: Option<ClusterView>,
    permits: Arc<Semaphore>,
}

/// The responses of a stream.
type Responses<R> = ReceiverStream<Result<R, Status>>;

impl ControlPlane {
    pub(crate) fn new(
        published: Published,
        authority: Arc<Authority>,
        tokens: TokenAuthority,
        metrics: Arc<Metrics>,
        cluster: Option<ClusterView>,
    ) -> Self {
        let tasks = TaskTracker::new();
        ControlPlane {
            telemetry: Telemetry::new(tasks.clone()),
            published,
            authority,
            tokens,
            streams: Arc::default(),
            metrics,
            tasks,
            cluster,
            permits: Arc::new(Semaphore::new(STREAM_LIMIT)),
        }
    }

    /// Who follows the trust bundle: sidecars, and API servers that call the webhook.
    pub(crate) fn followers(&self, bundle: &str) -> Followers {
        let mut followers = self.streams.followers(&self.published, bundle);
        let unbelieving = self.cluster.as_ref().and_then(|cluster| cluster.unbelieving(bundle));
        followers.number += usize::from(unbelieving.is_some());
        followers.behind.extend(unbelieving.map(str::to_owned));
        followers
    }

    /// What people are told.
    pub(crate) fn status(&self) -> status::Status {
        let bundle = self.authority.current().trust_bundle().clone();
        let trust = self.authority.status(self.followers(&bundle));
        let mut status = status::Status::now(&self.published, &self.streams, trust);
        status.notices.extend(self.cluster.iter().flat_map(ClusterView::notices));
        status
    }

    /// Lets a stream in: who opens it, by its certificate, and what counts it.
    fn admit<T>(&self, request: &Request<T>) -> Result<(Peer, SpiffeId, Call), Status> {
        let peer = peer(request)?;
        let Some(identity) = peer.identity.clone() else {
            return Err(Status::unauthenticated(
                "xDS needs a mesh certificate: obtain one with CreateCertificate and a join token, and connect with it",
            ));
        };
        let permit =
            self.permits.clone().try_acquire_owned().map_err(|_| too_many("streams are open on this server"))?;
        let call = Call::start(&peer, permit)?;
        Ok((peer, identity, call))
    }

    fn open<F: Flavour>(
        self: &Arc<Self>,
        machine: F,
        request: Request<Streaming<F::Request>>,
    ) -> Result<Response<Responses<F::Response>>, Status> {
        let (peer, identity, call) = self.admit(&request)?;
        let software = request.metadata().get("user-agent").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let software: String = software.chars().take(128).collect();
        let (sender, receiver) = tokio::sync::mpsc::channel(stream::RESPONSES_AHEAD);
        let stream = stream::Stream {
            plane: self.clone(),
            peer,
            identity,
            software,
            machine,
            sender,
            unacknowledged: Vec::new(),
        };
        let requests = request.into_inner();
        self.tasks.spawn(async move {
            stream.run(requests).await;
            drop(call);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn certify(
        &self,
        request: &Request<CertificateRequest>,
    ) -> Result<CertificateResponse, (&'static str, Status)> {
        let peer = peer(request).map_err(|status| ("internal", status))?;
        let _call = Call::count(&peer);
        let shown = bearer(request.metadata().as_ref());
        let Proof { identity, by, token } = self.prove(&peer, shown, Purpose::Certificate).await?;
        let resources = self.published.resources.borrow().clone();
        if let Some(domain) = resources.trust_domain().filter(|domain| ***domain != *identity.trust_domain()) {
            tracing::warn!(address = %peer.address, %identity, trust_domain = %domain, "refused a certificate");
            let sentence = format!("{identity} is not of this mesh: its trust domain is {domain}");
            return Err(("trust_domain", Status::permission_denied(sentence)));
        }
        let body = request.get_ref();
        let wanted = u64::try_from(body.validity_duration).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        if let Some(proven) = token {
            self.tokens.use_up(&proven).map_err(|error| {
                tracing::warn!(address = %peer.address, %identity, token = proven.token, %error, "refused a join token");
                (error.word(), Status::unauthenticated(format!("the join token is refused: {error}")))
            })?;
        }
        let address = peer.address.to_string();
        let begun = Instant::now();
        let issued = self.authority.certify(&body.csr, &identity, wanted, by, address).map_err(|error| {
            tracing::warn!(address = %peer.address, %identity, error = &error as &dyn std::error::Error, "refused a certificate");
            match error {
                CertifyError::Issue(IssueError::Request(_)) => {
                    ("invalid_request", Status::invalid_argument(error.to_string()))
                }
                CertifyError::TooMany => ("rate_limited", Status::resource_exhausted(error.to_string())),
                CertifyError::Issue(_) | CertifyError::Audit(_) => ("internal", Status::internal(error.to_string())),
            }
        })?;
        self.metrics.signing_seconds.observe(begun.elapsed().as_secs_f64());
        let lasts = issued.not_after.duration_since(std::time::SystemTime::now()).unwrap_or_default().as_secs();
        tracing::info!(%identity, address = %peer.address, serial = issued.serial, lasts_seconds = lasts, "issued a certificate");
        Ok(CertificateResponse { cert_chain: issued.chain })
    }
}

impl grpc::Control for ControlPlane {
    type DeltaStream = Responses<DeltaDiscoveryResponse>;
    type SotwStream = Responses<DiscoveryResponse>;

    async fn delta(
        self: Arc<Self>,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaStream>, Status> {
        self.open(DeltaServer::new(Limits::default()), request)
    }

    async fn sotw(
        self: Arc<Self>,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::SotwStream>, Status> {
        self.open(SotwServer::new(Limits::default()), request)
    }

    async fn report(
        self: Arc<Self>,
        request: Request<Streaming<Report>>,
    ) -> Result<Response<BoxStream<Watch>>, Status> {
        let (peer, identity, call) = self.admit(&request)?;
        let (watches, receiver) = tokio::sync::mpsc::channel(stream::RESPONSES_AHEAD);
        let reports = request.into_inner();
        let plane = self.clone();
        self.tasks.spawn(async move {
            let may = |node: &str| {
                let listener = malla_xds::names::inbound_listener(node);
                let owner = plane.published.resources.borrow().required_identity(ResourceType::Listener, &listener);
                match owner {
                    Some(owner) if owner == identity => Ok(()),
                    _ => Err(Status::permission_denied(format!("{identity} does not speak for {node:?}"))),
                }
            };
            plane.telemetry.follow(reports, watches, peer.closing, may).await;
            drop(call);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn create_certificate(
        self: Arc<Self>,
        request: Request<CertificateRequest>,
    ) -> Result<Response<CertificateResponse>, Status> {
        match self.certify(&request).await {
            Ok(response) => {
                self.metrics.certificates.inc();
                Ok(Response::new(response))
            }
            Err((reason, status)) => {
                self.metrics.certificates_refused.get_or_create(&Reason { reason }).inc();
                Err(status)
            }
        }
    }
}

/// A call in progress.
#[derive(Debug)]
pub(crate) struct Call {
    calls: Arc<AtomicUsize>,
    /// Given back when the call ends.
    permit: Option<OwnedSemaphorePermit>,
}

impl Call {
    pub(crate) fn count(peer: &Peer) -> Call {
        peer.calls.fetch_add(1, Ordering::Relaxed);
        Call { calls: peer.calls.clone(), permit: None }
    }

    fn start(peer: &Peer, permit: OwnedSemaphorePermit) -> Result<Call, Status> {
        let mut call = Call::count(peer);
        call.permit = Some(permit);
        if peer.calls.load(Ordering::Relaxed) > STREAMS_PER_CONNECTION {
            return Err(too_many("streams are open on this connection"));
        }
        Ok(call)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
        self.permit.take();
    }
}

/// Checks what a client says about itself against what its certificate proves.
fn check_node(node: &core::Node, identity: &SpiffeId) -> Result<(), Status> {
    match node_metadata(node, "namespace") {
        Some(claimed) if claimed != identity.namespace() => Err(Status::permission_denied(format!(
            "the node says that it is in namespace {claimed:?}, its certificate that it is {identity}"
        ))),
        _ => Ok(()),
    }
}

fn peer<T>(request: &Request<T>) -> Result<Peer, Status> {
    request.extensions().get::<Peer>().cloned().ok_or_else(|| Status::internal("the connection is not known"))
}

fn too_many(what: &str) -> Status {
    Status::resource_exhausted(format!("too many {what}"))
}
