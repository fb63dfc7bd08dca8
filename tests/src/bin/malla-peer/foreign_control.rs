//! A control server that is not ours and says what a sidecar must not take: it tells what the sidecar answers.
//!
//! The listener `web.shop:80` is told three times: with a route by `path_separated_prefix` (which gRPC's dialect does not
//! have), then with one that leads nowhere on purpose (status 500), then with an HTTP filter that nobody knows.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::Result;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use malla_xds::envoy::{self, discovery, http_connection_manager as hcm, listener, pack_any, route, router};
use malla_xds::grpc::{CertificateRequest, CertificateResponse, Control, serve as answer};
use malla_xds::wire::{Any, DeltaDiscoveryResponse, DiscoveryResponse, Resource};
use malla_xds::{Resource as Compiled, ResourceType};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair, SanType};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

const NAME: &str = "web.shop:80";

/// Serves until killed. Writes its root to `trust`, signs every request for `identity`.
pub(crate) async fn serve(listen: SocketAddr, trust: PathBuf, identity: String) -> Result<()> {
    let root_key = KeyPair::generate()?;
    let mut root = CertificateParams::new(Vec::new())?;
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_pem = root.self_signed(&root_key)?.pem();
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(Vec::new())?;
    leaf.subject_alt_names = vec![SanType::IpAddress(listen.ip())];
    let certificate = leaf.signed_by(&key, &issuer)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.into()],
            rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    std::fs::write(trust, &root_pem)?;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let control = Arc::new(Foreign { issuer, root_pem, identity });
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, control) = (acceptor.clone(), control.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| {
                let control = control.clone();
                async move { Ok::<_, std::convert::Infallible>(answer(control, 1 << 20, request).await) }
            });
            // The sidecar ends the connection when the test ends it.
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

struct Foreign {
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
    identity: String,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Control for Foreign {
    type DeltaStream = Responses<DeltaDiscoveryResponse>;
    type SotwStream = Responses<DiscoveryResponse>;

    async fn delta(
        self: Arc<Self>,
        request: Request<Streaming<discovery::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaStream>, Status> {
        let (send, responses) = mpsc::unbounded_channel();
        tokio::spawn(converse(request.into_inner(), send, self.root_pem.clone()));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(responses))))
    }

    async fn sotw(
        self: Arc<Self>,
        _: Request<Streaming<discovery::DiscoveryRequest>>,
    ) -> Result<Response<Self::SotwStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn create_certificate(
        self: Arc<Self>,
        request: Request<CertificateRequest>,
    ) -> Result<Response<CertificateResponse>, Status> {
        let sign = || -> Result<String> {
            let mut csr = CertificateSigningRequestParams::from_pem(&request.get_ref().csr)?;
            csr.params = CertificateParams::new(Vec::new())?;
            csr.params.subject_alt_names = vec![SanType::URI(self.identity.as_str().try_into()?)];
            csr.params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
            csr.params.extended_key_usages =
                vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            Ok(csr.signed_by(&self.issuer)?.pem())
        };
        let leaf = sign().map_err(|error| Status::invalid_argument(format!("{error:#}")))?;
        Ok(Response::new(CertificateResponse { cert_chain: vec![leaf, self.root_pem.clone()] }))
    }
}

/// One stream: answers subscriptions, tells the next listener when the last one was accepted or rejected.
async fn converse(
    mut requests: Streaming<discovery::DeltaDiscoveryRequest>,
    send: mpsc::UnboundedSender<Result<DeltaDiscoveryResponse, Status>>,
    root_pem: String,
) {
    let mut told = 0;
    while let Some(Ok(request)) = requests.next().await {
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else { continue };
        let subscribed = request.resource_names_subscribe.iter().any(|name| name == NAME);
        let answered = kind == ResourceType::Listener && request.response_nonce == told.to_string();
        if let Some(error) = &request.error_detail {
            println!("rejected {told}: {}", error.message);
        } else if answered && told > 0 {
            println!("accepted {told}");
        }
        if kind == ResourceType::Listener && (subscribed || answered) && told < 3 {
            told += 1;
            println!("told {told}");
            let message = telling(told);
            let _ = send.send(Ok(response(kind, vec![resource(kind, NAME, &message)], Vec::new(), told)));
        } else {
            // Everything else that is asked for: the trust anchor, or nothing.
            let names = request.resource_names_subscribe.iter().filter(|name| *name != NAME);
            for name in names {
                let (found, missing) = match kind {
                    ResourceType::Secret => (vec![resource(kind, name, &secret(name, &root_pem))], Vec::new()),
                    _ => match Compiled::empty(kind, name) {
                        Some(empty) => (vec![wire(&empty)], Vec::new()),
                        None => (Vec::new(), vec![name.clone()]),
                    },
                };
                let _ = send.send(Ok(response(kind, found, missing, 0)));
            }
        }
    }
}

fn response(kind: ResourceType, resources: Vec<Resource>, removed: Vec<String>, nonce: u32) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        resources,
        type_url: kind.type_url().to_owned(),
        nonce: nonce.to_string(),
        removed_resources: removed,
        ..Default::default()
    }
}

fn resource(kind: ResourceType, name: &str, message: &impl prost::Message) -> Resource {
    wire(&Compiled::new(kind, name, [], message))
}

fn wire(compiled: &Compiled) -> Resource {
    Resource {
        version: compiled.version.to_string(),
        resource: Some(Any { type_url: compiled.kind.type_url().to_owned(), value: compiled.body.clone() }),
        name: compiled.name.to_string(),
        aliases: Vec::new(),
    }
}

fn secret(name: &str, pem: &str) -> envoy::tls::Secret {
    let inline = envoy::core::data_source::Specifier::InlineString(pem.to_owned());
    let anchors = envoy::core::DataSource { specifier: Some(inline), ..Default::default() };
    let context = envoy::tls::CertificateValidationContext { trusted_ca: Some(anchors), ..Default::default() };
    let kind = envoy::tls::secret::Type::ValidationContext(context);
    envoy::tls::Secret { name: name.to_owned(), r#type: Some(kind) }
}

fn telling(number: u32) -> listener::Listener {
    use route::route_match::PathSpecifier;
    let prefix = match number {
        1 => PathSpecifier::PathSeparatedPrefix("/a".to_owned()),
        _ => PathSpecifier::Prefix("/".to_owned()),
    };
    let nowhere = route::DirectResponseAction { status: 500, body: None, ..Default::default() };
    let only = route::Route {
        name: "default".to_owned(),
        r#match: Some(route::RouteMatch { path_specifier: Some(prefix), ..Default::default() }),
        action: Some(route::route::Action::DirectResponse(nowhere)),
        ..Default::default()
    };
    let host = route::VirtualHost {
        name: "all".to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![only],
        ..Default::default()
    };
    let routes = route::RouteConfiguration { name: NAME.to_owned(), virtual_hosts: vec![host], ..Default::default() };
    let filter = hcm::HttpFilter {
        name: "router".to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(pack_any(router::Router::default()))),
        ..Default::default()
    };
    let mut filters = vec![filter];
    if number == 3 {
        filters.insert(0, hcm::HttpFilter { name: "unheard.of".to_owned(), ..Default::default() });
    }
    let manager = hcm::HttpConnectionManager {
        http_filters: filters,
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(routes)),
        ..Default::default()
    };
    let api = listener::ApiListener { api_listener: Some(pack_any(manager)) };
    listener::Listener { name: NAME.to_owned(), api_listener: Some(api), ..Default::default() }
}
