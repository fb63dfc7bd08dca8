//! One request, in the order of its way: destination, route, upstream, and the answer made fit for the client.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use http::header::{CONNECTION, EXPECT, HeaderValue, LOCATION, PROXY_AUTHORIZATION, UPGRADE};
use http::{HeaderMap, Response, StatusCode, response};
use http_body::Body as _;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::body::{Body, grpc_status};
use super::client_io::ClientState;
use super::failure::{Failure, MALLA_NOT_RETRIED, MALLA_REASON, told};
use super::forward::{Plan, Upstream, UpstreamBody, forward};
use super::grpc_timeout::{self, GRPC_TIMEOUT};
use super::head::{Head, MALLA_UPGRADE, Original, Upgrade, strip_response};
use super::idle::{Idle, Watch};
use super::mirror;
use super::request_body::Gate;
use super::response::{Exchange, ResponseBody};
use super::tunnel::{Judged, Tunnel};
use super::{Connection, Inbound, Outbound, Side};
use crate::authorize::{Authorization, Subject, Verdict, authorize};
use crate::clock;
use crate::filter::{Cors, Fault, Filters, Held, Redirect};
use crate::metrics::Protocol;
use crate::names::{self, Name, SpiffeId};
use crate::outbound;
use crate::outcome::Outcome;
use crate::pool::Target;
use crate::reason::Reason;
use crate::route;
use crate::shared::Worker;
use crate::snapshot::{self, Cluster, HttpRoutes, InboundPort, Route, RouteAction, UnknownDestination};

/// A request as a connection brought it.
pub(super) struct Arrived {
    /// Boxed: it is handed from step to step, and each step would keep room for it.
    pub(super) head: Result<Box<Head>, Failure>,
    pub(super) body: Body,
    /// How many bytes of the body were read.
    pub(super) read: Option<Arc<AtomicU64>>,
    pub(super) outcome: Outcome,
    /// Opens when the client of an HTTP/2 connection is to be told `100 Continue`.
    pub(super) gate: Option<Arc<Gate>>,
    /// The HTTP/1 connection that it came on.
    pub(super) client: Option<Arc<ClientState>>,
}

/// What a request becomes.
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one")]
pub(super) enum Served {
    /// An answer.
    Answer(Response<ResponseBody>),
    /// After this head, a tunnel to an upstream that switched.
    Switched(response::Parts, Box<Tunnel>),
    /// After a head of success, a raw connection to a destination (`CONNECT` to the sidecar as HTTP proxy).
    Connect(outbound::Tunnel, Exchange),
}

/// Serves a request. Never fails: a failure becomes an answer.
pub(super) async fn serve(connection: &Arc<Connection>, arrived: Arrived) -> Served {
    let Arrived { head, body, read, outcome, gate, client } = arrived;
    let mut exchange = Exchange { outcome, grpc: false, deadline: None, idle: None, held: None, read, client };
    let result = match head {
        Ok(head) if connection.worker.shared.memory.requests() => {
            exchange.grpc = head.is_grpc();
            Err(Failure::new(Reason::Overloaded, "it has nearly used up its memory"))
        }
        Ok(mut head) => {
            exchange.grpc = head.is_grpc();
            exchange.outcome.follow(&mut head.headers);
            match &connection.side {
                Side::Outbound(side) => from_application(connection, side, head, body, gate, &mut exchange).await,
                Side::Inbound(side) => to_application(connection, side, head, body, gate, &mut exchange).await,
            }
        }
        Err(failure) => Err(failure),
    };
    match result {
        Ok(Reached::Upstream(upstream, context)) => answer(connection, upstream, context, exchange),
        Ok(Reached::Answered(response)) => Served::Answer(own(response, exchange)),
        Ok(Reached::Proxied(tunnel)) => {
            exchange.outcome.status(StatusCode::OK);
            Served::Connect(tunnel, exchange)
        }
        Err(failure) => Served::Answer(refuse(&failure, exchange)),
    }
}

/// Where a request has got to.
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one")]
enum Reached {
    Upstream(Upstream, Context),
    Proxied(outbound::Tunnel),
    /// The sidecar's own answer, which is no failure.
    Answered(Response<Body>),
}

impl Reached {
    /// Takes along what is to be done to the answer of the cluster at this place of a route.
    fn filtered(mut self, route: &Route, of_answer: impl FnOnce(Arc<Filters>) -> OfAnswer) -> Self {
        if let (Reached::Upstream(_, context), Some(filters)) = (&mut self, &route.filters) {
            context.filters = Some(of_answer(filters.clone())).filter(OfAnswer::does_anything);
        }
        self
    }
}

/// What the answer must be made fit for.
struct Context {
    /// The client's connection is HTTP/2.
    http2: bool,
    upgrade: Option<Upgrade>,
    deadline: Option<Instant>,
    /// Ends it when nothing moves.
    idle: Option<Arc<Idle>>,
    /// What the route does to the answer.
    filters: Option<OfAnswer>,
    /// What the rules of the port were asked about, if it may become a tunnel.
    judged: Option<Box<Head>>,
}

/// What a route does to the answer of one of its clusters.
struct OfAnswer {
    filters: Arc<Filters>,
    /// The cluster's place in the route.
    place: usize,
    /// The page that asked, if it may have the answer.
    origin: Option<HeaderValue>,
    /// The cluster, where clients keep to their endpoints.
    cluster: Option<Name>,
    /// The session that the client has already.
    held: Option<Held>,
}

impl OfAnswer {
    fn does_anything(&self) -> bool {
        self.origin.is_some() || self.cluster.is_some() || !self.filters.headers(self.place).response.is_empty()
    }

    /// Of an answer of an endpoint.
    fn apply(&self, endpoint: Option<SocketAddr>, status: StatusCode, headers: &mut HeaderMap) {
        self.filters.headers(self.place).response.apply(headers);
        if let (Some(cors), Some(origin)) = (&self.filters.cors, &self.origin) {
            cors.respond(origin.clone(), headers);
        }
        if let (Some(session), Some(cluster), Some(address)) = (&self.filters.session, &self.cluster, endpoint)
            && (self.held.is_some_and(|held| held.address == address) || !status.is_server_error())
        {
            session.keep(cluster, address, self.held, since_1970(), headers);
        }
    }
}

async fn from_application(
    connection: &Arc<Connection>,
    side: &Outbound,
    mut head: Box<Head>,
    body: Body,
    gate: Option<Arc<Gate>>,
    exchange: &mut Exchange,
) -> Result<Reached, Failure> {
    let worker = &connection.worker;
    head.take_original(false);
    let name = match side {
        Outbound::To(name) => name.clone(),
        Outbound::ByAuthority => {
            head.headers.remove(PROXY_AUTHORIZATION);
            by_authority(connection, &head)?
        }
    };
    if matches!((side, &head.upgrade), (Outbound::ByAuthority, Some(Upgrade::Connect))) {
        let tunnel = Box::pin(outbound::tunnel(worker, &name)).await;
        return tunnel.map(Reached::Proxied).map_err(|(reason, what)| Failure::new(reason, what));
    }
    let destination =
        worker.shared.directory.lookup(&name).await.map_err(|reason| Failure::new(reason, name.to_string()))?;
    let service = match &*destination {
        snapshot::Outbound::Service(service) => service,
        snapshot::Outbound::Unknown(UnknownDestination::Deny) => {
            return Err(Failure::new(Reason::NoRoute, format!("the mesh does not know {name}")));
        }
        snapshot::Outbound::Unknown(UnknownDestination::PassThrough) => {
            let fixed = Some(outside(&name)?);
            let route = worker.pool.pass_through();
            exchange.outcome.service(worker.pool.outside().name.clone());
            exchange.outcome.routed(route, &mut head.headers);
            return run(connection, worker.pool.outside(), fixed, None, route, &name, head, body, gate, exchange).await;
        }
    };
    exchange.outcome.service(service.name.clone());
    let routes = service.http.as_deref().ok_or_else(|| Failure::new(Reason::NoRoute, format!("{name} is not HTTP")))?;
    let route = choose(routes, &head)?;
    exchange.outcome.routed(route, &mut head.headers);
    let mut origin = None;
    if let Some(cors) = route.filters.as_ref().and_then(|filters| filters.cors.as_ref()) {
        origin = cors.origin(&head.headers);
        if Cors::is_preflight(&head.method, &head.headers) && (origin.is_some() || !cors.forward_others) {
            return Ok(Reached::Answered(preflight(cors, &head, origin)));
        }
    }
    for limit in &route.limits {
        let taken = limit.take(&head.headers, || own_account(worker), clock::now());
        taken.map_err(|wait| Failure::rate_limited(&limit.name, wait))?;
    }
    if let Some(fault) = route.filters.as_ref().and_then(|filters| filters.fault.as_ref()) {
        Box::pin(inject(fault, route)).await?;
    }
    let session = route.filters.as_ref().and_then(|filters| filters.session.as_ref());
    let held;
    let (place, cluster) = match &route.action {
        RouteAction::Forward(clusters) => {
            let resumed = session.and_then(|session| session.kept(&head.headers, &clusters.clusters, since_1970()));
            held = resumed.map(|kept| kept.held);
            let resumed = resumed.map(|kept| (kept.place, kept.cluster));
            resumed.or_else(|| clusters.next()).ok_or_else(|| Failure::no_backend(&route.name))?
        }
        RouteAction::Redirect(elsewhere) => return redirect(elsewhere, &head, &service.name).map(Reached::Answered),
        RouteAction::NoBackend => return Err(Failure::no_backend(&route.name)),
    };
    if let Some(filters) = &route.filters {
        head.filter(filters, place);
    }
    let body = match route.mirrors.is_empty() {
        true => body,
        false => mirror::copy(worker, route, protocol(&head), &head, body),
    };
    let kept = held.map(|held| held.address);
    let upstream = run(connection, cluster, None, kept, route, &service.name, head, body, gate, exchange).await;
    let cluster = session.map(|_| cluster.name.clone());
    upstream.map(|reached| reached.filtered(route, |filters| OfAnswer { filters, place, origin, cluster, held }))
}

fn choose<'a>(routes: &'a HttpRoutes, head: &Head) -> Result<&'a Route, Failure> {
    let looked_at = route::Head {
        method: &head.method,
        host: head.host(),
        path: head.path.path(),
        query: head.path.query(),
        headers: &head.headers,
    };
    route::choose(routes, &looked_at)
        .ok_or_else(|| Failure::new(Reason::NoRoute, format!("{} {}{}", head.method, head.host(), head.path.path())))
}

/// The answer to a browser's question in advance.
fn preflight(cors: &Cors, head: &Head, origin: Option<HeaderValue>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.headers_mut() = cors.preflight(&head.headers, origin);
    response
}

/// Makes a request wait, and fail, if the fault is for it.
async fn inject(fault: &Fault, route: &Route) -> Result<(), Failure> {
    if let Some(delay) = fault.delay() {
        // Who has a time-out of its own has waited long enough by then.
        sleep(route.timeout.map_or(delay, |limit| limit.min(delay))).await;
    }
    fault.abort().map_or(Ok(()), |abort| Err(Failure::injected(abort, &route.name)))
}

/// Seconds since 1970, by the clock of this machine.
fn since_1970() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `namespace/service account` of this sidecar; empty while it has no identity.
fn own_account(worker: &Worker) -> Box<str> {
    let identity = worker.shared.identity.last();
    identity.map_or_else(Default::default, |identity| {
        let id: &SpiffeId = &identity.spiffe_id;
        format!("{}/{}", id.namespace(), id.service_account()).into()
    })
}

/// The answer that leads elsewhere. A client that named no host is led to the service's own.
fn redirect(redirect: &Redirect, head: &Head, service: &Name) -> Result<Response<Body>, Failure> {
    let host = if head.host().is_empty() { default_host(service) } else { head.host() };
    let location = redirect
        .location(host, &head.path)
        .ok_or_else(|| Failure::new(Reason::Internal, "the redirect leads to no valid URL"))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = redirect.status;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// The host of a service (`cart.shop:80`).
fn default_host(service: &Name) -> &str {
    service.rsplit_once(':').map_or(&**service, |(host, _)| host)
}

/// The name under which the directory knows the authority. A connection mostly names the same one again.
fn by_authority(connection: &Connection, head: &Head) -> Result<Name, Failure> {
    let authority = head.authority.as_ref().ok_or_else(|| {
        Failure::new(Reason::ProtocolError, "the request names no host, and this listener routes by host")
    })?;
    let mut last = connection.last_authority.lock();
    if let Some((asked, name)) = &*last
        && asked == authority
    {
        return Ok(name.clone());
    }
    let default_port = if head.upgrade == Some(Upgrade::Connect) { 443 } else { 80 };
    let name: Name = names::destination(authority.as_str(), default_port, &connection.worker.shared.settings.namespace)
        .ok_or_else(|| Failure::new(Reason::ProtocolError, format!("{authority} is not a host")))?
        .into();
    if head.upgrade.is_none() {
        *last = Some((authority.clone(), name.clone()));
    }
    Ok(name)
}

/// A destination outside of the mesh: an address, or a name to resolve.
fn outside(name: &Name) -> Result<Target, Failure> {
    if let Ok(address) = name.parse() {
        return Ok(Target::Address(address));
    }
    let split = name.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = split.ok_or_else(|| Failure::new(Reason::NoRoute, format!("{name} is no destination")))?;
    Ok(Target::Name(host.into(), port))
}

async fn to_application(
    connection: &Arc<Connection>,
    side: &Inbound,
    mut head: Box<Head>,
    body: Body,
    gate: Option<Arc<Gate>>,
    exchange: &mut Exchange,
) -> Result<Reached, Failure> {
    head.take_original(side.peer.is_some());
    exchange.outcome.protocol(protocol(&head));
    exchange.outcome.client(side.peer.clone());
    exchange.outcome.service(side.service.clone());
    let snapshot = connection.worker.shared.directory.snapshot();
    let gone = || Failure::new(Reason::NoInboundPort, format!("{} on port {}", side.service, side.port));
    let ports = snapshot.inbound.as_deref().map_or(&[][..], |inbound| &inbound.ports);
    let of_service = |port: &&InboundPort| port.service == side.service;
    let same = ports.iter().find(|port| of_service(port) && port.port == side.port);
    // The service may have got another target while the connection lives; only where it has none is the old one kept.
    let port = same.or_else(|| ports.iter().find(of_service)).map(|port| (&port.upstream, &port.authorization));
    let before = || side.before.as_ref().map(|(upstream, authorization)| (upstream, authorization));
    let (upstream, authorization) = port.or_else(before).ok_or_else(gone)?;
    if let Some(rules) = authorization {
        may(connection, side, rules, &head)?;
    }
    let fixed = match upstream.endpoints {
        snapshot::Endpoints::OriginalDst => side.original_destination.map(Target::Address),
        _ => None,
    };
    let route = connection.worker.pool.pass_through();
    exchange.outcome.route(route.name.clone());
    let judged = head.upgrade.is_some().then(|| head.clone());
    let mut reached = run(connection, upstream, fixed, None, route, &side.service, head, body, gate, exchange).await?;
    if let Reached::Upstream(_, context) = &mut reached {
        context.judged = judged;
    }
    Ok(reached)
}

/// Asks the rules of the port about the request that will be forwarded.
fn may(connection: &Connection, side: &Inbound, rules: &Authorization, head: &Head) -> Result<(), Failure> {
    let Inbound { peer, source, port, service, .. } = side;
    let subject = Subject { peer: peer.as_ref(), source: *source, port: *port, head: Some(head.seen()) };
    let Verdict { allowed, denied, audited } = authorize(rules, &subject);
    let (metrics, shard) = (&connection.worker.shared.metrics, &connection.worker.shard);
    let caller = peer.as_ref().map_or("a caller without identity", SpiffeId::as_str);
    if let Some(policy) = audited {
        metrics.audited(service, policy);
        if let Some(suppressed) = shard.log.permit(Instant::now().into_std()) {
            let (method, path) = (head.method.as_str(), head.path.path());
            tracing::info!(%service, policy, caller, %source, method, path, suppressed, "a policy would refuse this request");
        }
    }
    let Some(policy) = denied else {
        shard.allowed(service, allowed);
        return Ok(());
    };
    metrics.denied(service, policy);
    Err(Failure::new(Reason::Denied, format!("{caller} to {service}")))
}

#[allow(clippy::too_many_arguments, reason = "the end of both ways, which differ in all of them")]
async fn run(
    connection: &Arc<Connection>,
    cluster: &Arc<Cluster>,
    fixed: Option<Target>,
    kept: Option<SocketAddr>,
    route: &Route,
    service: &Name,
    mut head: Box<Head>,
    body: Body,
    gate: Option<Arc<Gate>>,
    exchange: &mut Exchange,
) -> Result<Reached, Failure> {
    if head.upgrade.is_some() && !body.is_end_stream() {
        head.upgrade = None; // a body cannot go before the switch
    }
    let gate = expects_continue(&mut head, &body).then(|| gate.unwrap_or_default());
    let deadline = deadline(connection, route, &head, exchange);
    let default_host = default_host(service);
    let idle = cluster.request_idle_timeout.map(Idle::new);
    let upgrade = head.upgrade.clone();
    let context =
        Context { http2: connection.http2, upgrade, deadline, idle: idle.clone(), filters: None, judged: None };
    let plan = Plan {
        cluster,
        fixed,
        kept,
        try_timeout: route.try_timeout,
        grpc_deadline: deadline.filter(|_| exchange.grpc),
        deadline,
        idle,
        source: connection.source,
        retry: &route.retry,
        default_host,
    };
    // Pinned where it is made: to move it, which is kilobytes, costs more than to route the request.
    let forwarding = pin!(forward(&connection.worker, &plan, head, body, gate, &mut exchange.outcome));
    let upstream = match deadline {
        None => forwarding.await,
        Some(at) => timeout_at(at, forwarding)
            .await
            .unwrap_or_else(|_| Err(Failure::new(Reason::RequestTimeout, service.to_string()))),
    };
    Ok(Reached::Upstream(upstream?, context))
}

/// Whether the body waits for `100 Continue`. HTTP/1.0 does not know the expectation (RFC 9110 §10.1.1).
fn expects_continue(head: &mut Head, body: &Body) -> bool {
    let Some(expectation) = head.headers.get(EXPECT) else { return false };
    let expects = expectation.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if expects && (body.is_end_stream() || head.original == Original::Http10) {
        head.headers.remove(EXPECT);
        return false;
    }
    expects
}

/// The route's time-out, or the caller's own deadline, if that is earlier (gRPC over HTTP2, "Timeout").
fn deadline(connection: &Connection, route: &Route, head: &Head, exchange: &Exchange) -> Option<Instant> {
    let callers = match connection.side {
        // The outbound sidecar keeps the deadline of its caller; a second watch here would only be later.
        Side::Inbound(Inbound { peer: Some(_), .. }) => None,
        _ if exchange.grpc => head.headers.get(GRPC_TIMEOUT).and_then(grpc_timeout::read),
        _ => None,
    };
    let limit = match (route.timeout, callers) {
        (Some(one), Some(other)) => one.min(other),
        (one, other) => one.or(other)?,
    };
    Instant::from_std(exchange.outcome.started()).checked_add(limit)
}

/// The sidecar's own answer.
fn refuse(failure: &Failure, mut exchange: Exchange) -> Response<ResponseBody> {
    exchange.outcome.failed(failure.reason, failure);
    let response = if exchange.grpc { failure.grpc_response() } else { failure.response() };
    own(response, exchange)
}

/// An answer of the sidecar's own, recorded.
fn own(response: Response<Body>, mut exchange: Exchange) -> Response<ResponseBody> {
    exchange.outcome.status(response.status());
    exchange.outcome.grpc_status(grpc_status(response.headers()));
    response.map(|body| ResponseBody::new(body, exchange))
}

/// Makes an upstream's response fit for the client.
fn answer(connection: &Arc<Connection>, upstream: Upstream, context: Context, mut exchange: Exchange) -> Served {
    let Upstream { mut head, body, from_sidecar, held, endpoint, try_deadline, not_retried } = upstream;
    if from_sidecar {
        if let Some(reason) = told(&head.headers) {
            exchange.outcome.failed_elsewhere(reason);
        }
    } else {
        head.headers.remove(MALLA_REASON);
        head.headers.remove(MALLA_NOT_RETRIED);
    }
    if let Some(why) = not_retried {
        head.headers.insert(MALLA_NOT_RETRIED, HeaderValue::from_static(why.word()));
    }
    if let Some(filters) = &context.filters {
        let status = head.status;
        filters.apply(endpoint, status, &mut head.headers);
    }
    exchange.outcome.status(head.status);
    exchange.outcome.grpc_status(grpc_status(&head.headers));
    exchange.held = Some(held);
    match body {
        UpstreamBody::Switched(protocol, upstream) => {
            switched(connection, &context, &mut head, protocol);
            if context.upgrade != Some(Upgrade::Connect) {
                exchange.outcome.status(StatusCode::SWITCHING_PROTOCOLS);
            }
            let judged = context.judged.map(|head| Judged { connection: connection.clone(), head });
            let tunnel = Tunnel { upstream: *upstream, exchange, judged };
            Served::Switched(head, Box::new(tunnel))
        }
        UpstreamBody::Body(body) => {
            if head.version != http::Version::HTTP_2 {
                strip_response(&mut head.headers);
            }
            head.headers.remove(MALLA_UPGRADE);
            exchange.deadline = earlier(context.deadline, try_deadline)
                .filter(|_| !body.is_end_stream())
                .map(|(at, reason)| (Box::pin(sleep_until(at)), reason));
            exchange.idle = context.idle.clone().filter(|_| !body.is_end_stream()).map(Watch::new);
            head.version = if context.http2 { http::Version::HTTP_2 } else { http::Version::HTTP_11 };
            Served::Answer(Response::from_parts(head, ResponseBody::new(body, exchange)))
        }
    }
}

fn earlier(request: Option<Instant>, one_try: Option<Instant>) -> Option<(Instant, Reason)> {
    let request = request.map(|at| (at, Reason::RequestTimeout));
    let one_try = one_try.map(|at| (at, Reason::TryTimeout));
    request.into_iter().chain(one_try).min_by_key(|(at, _)| *at)
}

/// The head that tells the client that the protocol has changed: `101` in HTTP/1.1, `200` in HTTP/2 (RFC 8441 §5).
fn switched(connection: &Connection, context: &Context, head: &mut response::Parts, protocol: HeaderValue) {
    strip_response(&mut head.headers);
    head.headers.remove(MALLA_UPGRADE);
    let plain_connect = context.upgrade == Some(Upgrade::Connect);
    if context.http2 {
        head.status = StatusCode::OK;
        head.version = http::Version::HTTP_2;
        head.headers.remove(http::header::CONTENT_LENGTH);
        let to_sidecar = matches!(&connection.side, Side::Inbound(Inbound { peer: Some(_), .. }));
        if to_sidecar && !plain_connect {
            head.headers.insert(MALLA_UPGRADE, protocol);
        }
    } else {
        head.version = http::Version::HTTP_11;
        head.status = if plain_connect { StatusCode::OK } else { StatusCode::SWITCHING_PROTOCOLS };
        if !plain_connect {
            announce(&mut head.headers, protocol);
        }
    }
}

fn announce(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// What the application of the client speaks.
fn protocol(head: &Head) -> Protocol {
    match head.original {
        _ if head.is_grpc() => Protocol::Grpc,
        Original::Http10 => Protocol::Http10,
        Original::Http11 => Protocol::Http1,
        Original::Http2 => Protocol::Http2,
    }
}

/// The record of a request that has just arrived.
pub(super) fn begin(connection: &Connection, head: &Result<Box<Head>, Failure>) -> Outcome {
    let (protocol, method, path) = match head {
        Ok(head) => (protocol(head), head.method.clone(), Some(head.path.clone())),
        Err(_) if connection.http2 => (Protocol::Http2, http::Method::default(), None),
        Err(_) => (Protocol::Http1, http::Method::default(), None),
    };
    let mut outcome = Outcome::new(connection.worker.clone(), connection.direction(), protocol, method);
    outcome.path(path);
    outcome
}
