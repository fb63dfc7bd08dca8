//! Bodies of HTTP/1 requests that nobody has read: what is left of one never becomes a request, neither of the client's connection nor
//! of the application's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::testing::{
    Pair, cluster, endpoint, eventually, exchange_raw, knows, outbound, read_until, route, scripted, worker,
};
use super::super::{Side, Version, serve};
use super::http1::nowhere;
use crate::snapshot::{Snapshot, UpstreamHttp};

/// What the body of the first request looks like.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: cart\r\n\r\n";
const NEXT: &str = "GET /next HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n";

/// The ways in which a body may be framed: the head's line, and the body.
fn framed() -> [(String, String); 2] {
    let length = SMUGGLED.len();
    [
        (format!("content-length: {length}"), SMUGGLED.to_owned()),
        ("transfer-encoding: chunked".to_owned(), format!("{length:x}\r\n{SMUGGLED}\r\n0\r\n\r\n")),
    ]
}

/// What an application was asked: the number of the connection, and the first line.
type Asked = Arc<Mutex<Vec<(usize, String)>>>;

/// An application that answers when it has seen a head, and takes whatever comes next for another request: as one does that does not
/// look at bodies.
async fn careless() -> (SocketAddr, Asked, impl Sized) {
    let asked = Asked::default();
    let seen = asked.clone();
    let (address, running) = scripted(move |number, mut socket| {
        let seen = seen.clone();
        async move {
            let mut read = Vec::new();
            let mut piece = [0; 4096];
            loop {
                while let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                    let head = String::from_utf8_lossy(&read[..end]).into_owned();
                    read.drain(..end + 4);
                    seen.lock().push((number, head.lines().next().unwrap_or_default().to_owned()));
                    let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await;
                }
                match socket.read(&mut piece).await {
                    Ok(0) | Err(_) => return,
                    Ok(length) => read.extend_from_slice(&piece[..length]),
                }
            }
        }
    })
    .await;
    (address, asked, running)
}

/// Sends a head, waits for the answer, sends the body and another request; everything that came.
async fn late_body(address: SocketAddr, framing: &str, body: &str) -> String {
    let mut socket = TcpStream::connect(address).await.expect("connected");
    let head = format!("POST /first HTTP/1.1\r\nhost: cart\r\n{framing}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = read_until(&mut socket, "\r\n\r\n").await;
    // A sidecar that has closed by now takes nothing more.
    let _ = socket.write_all(format!("{body}{NEXT}").as_bytes()).await;
    let mut rest = Vec::new();
    let _ = timeout(Duration::from_secs(20), socket.read_to_end(&mut rest)).await.expect("the connection ends");
    answer.push_str(&String::from_utf8_lossy(&rest));
    answer
}

#[tokio::test]
async fn what_is_left_of_a_body_is_no_request_of_the_clients() {
    for (framing, body) in framed() {
        // The sidecar answers itself: nobody reads the body.
        let nobody =
            outbound(worker(knows(route(&Arc::new(cluster("cart.shop:80", Vec::new())))), "web"), Version::Http1);
        let answer = late_body(nobody.await.address, &framing, &body).await;
        let answers = answer.matches("HTTP/1.1 ").count();
        assert!(answers == answer.matches("HTTP/1.1 503").count() && (1..=2).contains(&answers), "{framing}: {answer}");

        // On the way in, in plaintext.
        let (client, server) = tokio::io::duplex(1 << 16);
        let serving =
            tokio::spawn(serve(worker(Snapshot::default(), "cart"), server, Version::Http1, Side::Inbound(nowhere())));
        let (mut read, mut write) = tokio::io::split(client);
        let first = format!("POST /first HTTP/1.1\r\nhost: cart\r\n{framing}\r\n\r\n{body}{NEXT}");
        write.write_all(first.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        timeout(Duration::from_secs(20), read.read_to_string(&mut answer)).await.expect("it ends").expect("text");
        let answers = answer.matches("HTTP/1.1 ").count();
        assert!((1..=2).contains(&answers), "{framing}: {answer}");
        serving.await.expect("no panic");
    }
}

#[tokio::test]
async fn what_is_left_of_a_body_is_no_request_of_the_applications() {
    for (framing, body) in framed() {
        let (application, asked, _running) = careless().await;
        // Straight to it, and through two sidecars.
        let plain = Arc::new(cluster("cart.shop:80", vec![endpoint(application)]));
        let straight = outbound(worker(knows(route(&plain)), "web"), Version::Http1).await;
        let pair = Pair::new(application, Version::Http1, UpstreamHttp::Http1).await;
        for sidecar in [straight.address, pair.outbound.address] {
            asked.lock().clear();
            let mut socket = TcpStream::connect(sidecar).await.expect("connected");
            let head = format!("POST /first HTTP/1.1\r\nhost: cart\r\n{framing}\r\n\r\n");
            socket.write_all(head.as_bytes()).await.expect("sent");
            assert!(read_until(&mut socket, "early").await.contains("HTTP/1.1 200"));
            // The answer is whole, and the body has not come: others must not get this connection.
            for _ in 0..5 {
                let answer = exchange_raw(sidecar, NEXT).await;
                assert!(answer.ends_with("early"), "{answer}");
            }
            let _ = socket.write_all(body.as_bytes()).await;
            drop(socket);
            eventually("all requests came", || {
                asked.lock().iter().filter(|(_, line)| line.contains("/next")).count() == 5
            })
            .await;
            let asked = asked.lock().clone();
            let first = asked.iter().find(|(_, line)| line.contains("/first")).expect("it came").0;
            assert!(
                !asked.iter().any(|(number, line)| line.contains("/next") && *number == first),
                "{framing}: a request on a connection with an unfinished body: {asked:?}"
            );
        }
    }
}
