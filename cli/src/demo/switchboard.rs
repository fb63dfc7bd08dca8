//! The demo's own little HTTP service: breaks and mends programs while everybody watches. It touches the programs alone, never
//! the mesh: what follows is for the mesh to notice.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::program::Program;

/// Serves `POST /break/NAME`, `POST /mend/NAME` and `GET /` until dropped.
pub(crate) async fn serve(listener: TcpListener, programs: Arc<[Arc<Program>]>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                let programs = Arc::clone(&programs);
                connections.spawn(async move {
                    let service = service_fn(|request: Request<Incoming>| {
                        let (status, text) = answer(request.method(), request.uri().path(), &programs);
                        let mut response = Response::new(Full::new(Bytes::from(text)));
                        *response.status_mut() = status;
                        async move { Ok::<_, Infallible>(response) }
                    });
                    // Whoever switches sees a failure in their own client.
                    let _ = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            } else {
                tokio::task::yield_now().await;
            },
            Some(_ended) = connections.join_next() => {}
        }
    }
}

fn answer(method: &Method, path: &str, programs: &[Arc<Program>]) -> (StatusCode, String) {
    let serving = || programs.iter().filter(|program| program.instance().serves());
    let (verb, name) = match path.trim_start_matches('/').split_once('/') {
        Some((verb @ ("break" | "mend"), name)) => (verb, name),
        None if path == "/" => {
            let line = |program: &Arc<Program>| {
                format!("{} {}\n", program.instance().name, if program.is_broken() { "broken" } else { "well" })
            };
            return (StatusCode::OK, serving().map(line).collect());
        }
        _ => return (StatusCode::NOT_FOUND, "write POST /break/NAME, POST /mend/NAME, or GET /\n".to_owned()),
    };
    if method != Method::POST {
        return (StatusCode::METHOD_NOT_ALLOWED, format!("this changes something: use `curl -X POST`, not {method}\n"));
    }
    let Some(program) = serving().find(|program| program.instance().name == name) else {
        let names: Vec<&str> = serving().map(|program| program.instance().name).collect();
        return (StatusCode::NOT_FOUND, format!("there is no {name:?}; there are {}\n", names.join(", ")));
    };
    program.set_broken(verb == "break");
    let now = if verb == "break" { "fails every request from now on" } else { "is well again" };
    (StatusCode::OK, format!("{name} {now}\n"))
}
