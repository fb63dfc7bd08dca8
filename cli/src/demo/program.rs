//! The programs of the travel agency that wait for requests: ordinary HTTP/1.1 servers and one database. They could be
//! written in any language: nothing in them knows of the mesh but the address of the sidecar beside them.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::caller::Caller;
use super::mysql;
use super::topology::{DATABASE_PORT, HTTP_PORT, Instance, PARTS, Role, mesh_name};

/// One running program.
#[derive(Debug)]
pub(crate) struct Program {
    instance: &'static Instance,
    caller: Caller,
    broken: AtomicBool,
}

impl Program {
    /// A healthy program.
    pub(crate) fn new(instance: &'static Instance, caller: Caller) -> Self {
        Program { instance, caller, broken: AtomicBool::new(false) }
    }

    /// What it is.
    pub(crate) fn instance(&self) -> &'static Instance {
        self.instance
    }

    /// Its way to the others.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// From now on it fails every request, or none.
    pub(crate) fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::Relaxed);
    }

    /// Whether it fails every request.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Serves until dropped.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => { connections.spawn(Arc::clone(&self).connection(stream)); }
                    // Out of file descriptors, or the client has gone already: the next may fare better.
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                },
                Some(_ended) = connections.join_next() => {}
            }
        }
    }

    /// What goes wrong on a connection, its client sees and counts.
    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        if self.instance.role == Role::Database {
            let _: io::Result<()> =
                if self.is_broken() { Ok(()) } else { mysql::serve(stream, fastrand::u32(..)).await };
            return;
        }
        let service = service_fn(|request| {
            let program = Arc::clone(&self);
            async move { Ok::<_, Infallible>(program.answer(request).await) }
        });
        let _ = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if self.is_broken() {
            return answer(
                StatusCode::INTERNAL_SERVER_ERROR,
                &json!({"error": format!("{} is broken", self.instance.name)}),
            );
        }
        let wanted = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let body = match self.instance.role {
            Role::Travels => self.travel(&wanted, &context(request.headers())).await,
            Role::Part => self.part(&wanted, &context(request.headers())).await,
            Role::Discounts => json!({"discount": if self.instance.version == "v2" { 15 } else { 10 }}),
            Role::Portal | Role::Database => Value::Null,
        };
        answer(
            StatusCode::OK,
            &json!({"service": self.instance.service, "version": self.instance.version, "answer": body}),
        )
    }

    /// A travel is what its parts offer; a part that fails is left out.
    async fn travel(&self, city: &str, context: &HeaderMap) -> Value {
        let part = async |name: &str| {
            let offer = self.caller.get(&mesh_name(name, HTTP_PORT), &format!("/{name}/{city}"), context.clone()).await;
            offer.ok().and_then(|body| serde_json::from_slice::<Value>(&body).ok())
        };
        let [flights, hotels, cars, insurances] = PARTS;
        let (flights, hotels, cars, insurances) =
            tokio::join!(part(flights), part(hotels), part(cars), part(insurances));
        json!({"city": city, "flights": flights, "hotels": hotels, "cars": cars, "insurances": insurances})
    }

    /// A price out of the database, less a discount; without either, the part is still offered.
    async fn part(&self, city: &str, context: &HeaderMap) -> Value {
        let statement = format!("SELECT price FROM {} WHERE city = '{city}'", self.instance.service);
        let (database, discounts) = (mesh_name("mysqldb", DATABASE_PORT), mesh_name("discounts", HTTP_PORT));
        let (price, discount) = tokio::join!(
            self.caller.query(&database, &statement),
            self.caller.get(&discounts, "/discounts/new", context.clone())
        );
        json!({"price": price.ok(), "discount": discount.ok().map(|body| String::from_utf8_lossy(&body).into_owned())})
    }
}

/// What ties a request to those that it causes: all that a program must do for traces is to pass these on.
const CONTEXT: [HeaderName; 8] = [
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
    HeaderName::from_static("b3"),
    HeaderName::from_static("x-b3-traceid"),
    HeaderName::from_static("x-b3-spanid"),
    HeaderName::from_static("x-b3-parentspanid"),
    HeaderName::from_static("x-b3-sampled"),
];

fn context(headers: &HeaderMap) -> HeaderMap {
    let present = CONTEXT.into_iter().filter_map(|name| headers.get(&name).cloned().map(|value| (name, value)));
    present.collect()
}

fn answer(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
