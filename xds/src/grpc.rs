//! The gRPC methods between sidecar and control server, client and server side, by hand over tonic: both flavours of
//! `envoy.service.discovery.v3.AggregatedDiscoveryService`, `istio.v1.auth.IstioCertificateService/CreateCertificate`, and
//! `malla.telemetry.v1.Telemetry/Report` ([`telemetry`](crate::telemetry)).
//!
//! By hand because responses carry shared bytes ([`wire`](crate::wire)), and because four methods are not worth a code
//! generator. Connections, TLS and authentication are the callers'.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;

use http::HeaderValue;
use http::uri::{PathAndQuery, Uri};
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::BoxStream;
use tonic::codegen::tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::envoy::protobuf;
use crate::telemetry::{Report, Watch};
use crate::wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse};

const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const SOTW: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const REPORT: &str = "/malla.telemetry.v1.Telemetry/Report";
const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// Largest message that a sidecar takes from the server, in bytes. The server splits at 1 MiB what it can split.
const CLIENT_MESSAGE_LIMIT: usize = 32 << 20;

/// `istio.v1.auth.IstioCertificateRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateRequest {
    /// Certificate signing request, PEM. Only its public key counts.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// Wanted lifetime in seconds; 0 leaves it to the server.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    /// Not used by Malla.
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<protobuf::Struct>,
}

/// `istio.v1.auth.IstioCertificateResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateResponse {
    /// PEM certificates: the leaf, intermediates, the root last.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}

/// The server's side of the methods.
pub trait Control: Send + Sync + 'static {
    /// Responses of a delta stream.
    type DeltaStream: Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send + 'static;
    /// Responses of a state-of-the-world stream.
    type SotwStream: Stream<Item = Result<DiscoveryResponse, Status>> + Send + 'static;

    /// `DeltaAggregatedResources`.
    fn delta(
        self: Arc<Self>,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> impl Future<Output = Result<Response<Self::DeltaStream>, Status>> + Send;

    /// `StreamAggregatedResources`.
    fn sotw(
        self: Arc<Self>,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> impl Future<Output = Result<Response<Self::SotwStream>, Status>> + Send;

    /// `CreateCertificate`.
    fn create_certificate(
        self: Arc<Self>,
        request: Request<CertificateRequest>,
    ) -> impl Future<Output = Result<Response<CertificateResponse>, Status>> + Send;

    /// `Report`. A server that takes no reports says so.
    fn report(
        self: Arc<Self>,
        request: Request<Streaming<Report>>,
    ) -> impl Future<Output = Result<Response<BoxStream<Watch>>, Status>> + Send {
        drop(request);
        std::future::ready(Err(Status::unimplemented("this server takes no reports")))
    }
}

/// Serves one HTTP request. `message_limit` bounds what is received, in bytes.
pub async fn serve<C, B>(control: Arc<C>, message_limit: usize, request: http::Request<B>) -> http::Response<Body>
where
    C: Control,
    B: http_body::Body + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>> + Send,
{
    match request.uri().path() {
        DELTA => {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::default()).max_decoding_message_size(message_limit);
            let method = Method(move |request| {
                let control = control.clone();
                Box::pin(async move { control.delta(request).await })
            });
            grpc.streaming(method, request).await
        }
        SOTW => {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::default()).max_decoding_message_size(message_limit);
            let method = Method(move |request| {
                let control = control.clone();
                Box::pin(async move { control.sotw(request).await })
            });
            grpc.streaming(method, request).await
        }
        CREATE_CERTIFICATE => {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::default()).max_decoding_message_size(message_limit);
            let method = Method(move |request| {
                let control = control.clone();
                Box::pin(async move { control.create_certificate(request).await })
            });
            grpc.unary(method, request).await
        }
        REPORT => {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::default()).max_decoding_message_size(message_limit);
            let method = Method(move |request| {
                let control = control.clone();
                Box::pin(async move { control.report(request).await })
            });
            grpc.streaming(method, request).await
        }
        unknown => Status::unimplemented(format!("there is no method {unknown}")).into_http(),
    }
}

/// A function as a method of tonic's server.
struct Method<F>(F);

impl<F, Fut, M1, M2> tonic::server::UnaryService<M1> for Method<F>
where
    F: FnMut(Request<M1>) -> Fut,
    Fut: Future<Output = Result<Response<M2>, Status>>,
{
    type Response = M2;
    type Future = Fut;

    fn call(&mut self, request: Request<M1>) -> Fut {
        (self.0)(request)
    }
}

impl<F, Fut, M1, M2, S> tonic::server::StreamingService<M1> for Method<F>
where
    F: FnMut(Request<Streaming<M1>>) -> Fut,
    Fut: Future<Output = Result<Response<S>, Status>>,
    S: Stream<Item = Result<M2, Status>>,
{
    type Response = M2;
    type ResponseStream = S;
    type Future = Fut;

    fn call(&mut self, request: Request<Streaming<M1>>) -> Fut {
        (self.0)(request)
    }
}

/// [`serve`] as a tower service, for tests and for servers made of such.
#[derive(Debug)]
pub struct ControlServer<C> {
    control: Arc<C>,
    message_limit: usize,
}

impl<C> ControlServer<C> {
    /// A service that receives messages of at most `message_limit` bytes.
    pub fn new(control: Arc<C>, message_limit: usize) -> Self {
        ControlServer { control, message_limit }
    }
}

impl<C> Clone for ControlServer<C> {
    fn clone(&self) -> Self {
        ControlServer { control: self.control.clone(), message_limit: self.message_limit }
    }
}

impl<C, B> tower_service::Service<http::Request<B>> for ControlServer<C>
where
    C: Control,
    B: http_body::Body + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>> + Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = tonic::codegen::BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let (control, message_limit) = (self.control.clone(), self.message_limit);
        Box::pin(async move { Ok(serve(control, message_limit, request).await) })
    }
}

/// The sidecar's side of the methods, over any HTTP/2 connection.
#[derive(Debug, Clone)]
pub struct ControlClient<T> {
    grpc: tonic::client::Grpc<T>,
}

impl<T> ControlClient<T>
where
    T: GrpcService<Body>,
    T::Error: Into<Box<dyn Error + Send + Sync>>,
    T::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<Box<dyn Error + Send + Sync>> + Send,
{
    /// A client over a connection. `origin` is `https://<authority>`.
    pub fn new(connection: T, origin: Uri) -> Self {
        let grpc = tonic::client::Grpc::with_origin(connection, origin).max_decoding_message_size(CLIENT_MESSAGE_LIMIT);
        ControlClient { grpc }
    }

    /// Opens a delta stream.
    ///
    /// # Errors
    /// The connection's, or the server's refusal (`PERMISSION_DENIED`, `UNAUTHENTICATED`, `RESOURCE_EXHAUSTED`).
    pub async fn delta(
        &mut self,
        requests: impl Stream<Item = DeltaDiscoveryRequest> + Send + 'static,
    ) -> Result<Streaming<DeltaDiscoveryResponse>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(DELTA);
        Ok(self.grpc.streaming(Request::new(requests), path, ProstCodec::default()).await?.into_inner())
    }

    /// Opens a state-of-the-world stream.
    ///
    /// # Errors
    /// As [`delta`](Self::delta).
    pub async fn sotw(
        &mut self,
        requests: impl Stream<Item = DiscoveryRequest> + Send + 'static,
    ) -> Result<Streaming<DiscoveryResponse>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(SOTW);
        Ok(self.grpc.streaming(Request::new(requests), path, ProstCodec::default()).await?.into_inner())
    }

    /// Opens a stream of reports.
    ///
    /// # Errors
    /// As [`delta`](Self::delta); `UNIMPLEMENTED` from a server that takes none.
    pub async fn report(
        &mut self,
        reports: impl Stream<Item = Report> + Send + 'static,
    ) -> Result<Streaming<Watch>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(REPORT);
        Ok(self.grpc.streaming(Request::new(reports), path, ProstCodec::default()).await?.into_inner())
    }

    /// Asks for a certificate. Without a token, the connection's client certificate tells who asks (renewal).
    ///
    /// # Errors
    /// The connection's, or the server's refusal (`UNAUTHENTICATED`, `INVALID_ARGUMENT`).
    pub async fn create_certificate(
        &mut self,
        request: CertificateRequest,
        token: Option<&str>,
    ) -> Result<CertificateResponse, Status> {
        self.ready().await?;
        let mut request = Request::new(request);
        if let Some(token) = token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
                .map_err(|_| Status::invalid_argument("the token is not a JWT: it contains control characters"))?;
            value.set_sensitive(true);
            let mut headers = std::mem::take(request.metadata_mut()).into_headers();
            headers.insert(http::header::AUTHORIZATION, value);
            *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers);
        }
        let path = PathAndQuery::from_static(CREATE_CERTIFICATE);
        Ok(self.grpc.unary(request, path, ProstCodec::default()).await?.into_inner())
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.grpc
            .ready()
            .await
            .map_err(|error| Status::unavailable(format!("the connection is gone: {}", error.into())))
    }
}
