//! Answers of HTTP/1 upstreams that are broken, or can be read in two ways: no client takes one for a whole answer, and the connection
//! that it came on carries no other request.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::super::Version;
use super::super::testing::{Pair, exchange_raw, read_until, scripted};
use super::grpc;
use crate::snapshot::UpstreamHttp;

/// What comes after the last byte.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    /// The end of the connection.
    Closes,
    /// Nothing: it is the sidecar's to give up.
    Stays,
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

fn broken() -> Vec<(&'static str, String, Then)> {
    let chunked = |rest: &str| format!("{CHUNKED}{rest}");
    let with = |headers: &str, rest: &str| format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n{rest}");
    vec![
        ("a size that is none", chunked("5\r\nhello\r\nzz\r\n"), Then::Stays),
        ("a size that overflows", chunked("5\r\nhello\r\n11111111111111111\r\n"), Then::Stays),
        ("a negative size", chunked("5\r\nhello\r\n-5\r\nhello\r\n0\r\n\r\n"), Then::Stays),
        ("a chunk longer than its size", chunked("5\r\nhelloworld\r\n0\r\n\r\n"), Then::Stays),
        ("no last chunk", chunked("5\r\nhello\r\n"), Then::Closes),
        ("half a chunk", chunked("5\r\nhe"), Then::Closes),
        ("no end after the last chunk", chunked("5\r\nhello\r\n0\r\n"), Then::Closes),
        ("less than its length", with("content-length: 10", "hello"), Then::Closes),
        // Hyper would go by the chunks; RFC 9112, 6.3 has it handled as an error.
        (
            "a length and chunks",
            with("content-length: 5\r\ntransfer-encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
            Then::Stays,
        ),
        (
            "chunks and a length",
            with("transfer-encoding: chunked\r\ncontent-length: 3", "5\r\nhello\r\n0\r\n\r\n"),
            Then::Stays,
        ),
        ("two lengths", with("content-length: 5\r\ncontent-length: 6", "hello!"), Then::Stays),
        ("a length that is none", with("content-length: 5x", "hello"), Then::Stays),
        ("a negative length", with("content-length: -5", "hello"), Then::Stays),
        ("a length that overflows", with("content-length: 99999999999999999999999", "hello"), Then::Closes),
        ("half a head", "HTTP/1.1 200 OK\r\ncontent-le".to_owned(), Then::Closes),
        ("no HTTP", "220 mail.example ESMTP\r\n".to_owned(), Then::Stays),
    ]
}

/// Answers the first connection with that, and all others well.
async fn answers(answer: String, then: Then) -> (SocketAddr, impl Sized) {
    scripted(move |number, mut socket| {
        let answer = answer.clone();
        async move {
            while !read_until(&mut socket, "\r\n\r\n").await.is_empty() {
                let well = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nwell";
                let _ = socket.write_all(if number == 0 { answer.as_bytes() } else { well.as_bytes() }).await;
                if number == 0 && then == Then::Closes {
                    return;
                }
            }
        }
    })
    .await
}

/// Whether a client takes these bytes for a whole answer with success.
fn is_whole(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    if !head.starts_with("HTTP/1.1 200") {
        return false;
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    match length {
        Some(length) => body.len() >= length,
        None if head.contains("transfer-encoding: chunked") => body.ends_with("0\r\n\r\n"),
        // The end of the connection is the end of the body.
        None => true,
    }
}

#[tokio::test]
async fn broken_answers_are_never_whole_ones_and_their_connection_is_not_used_again() {
    for (what, answer, then) in broken() {
        let (application, _running) = answers(answer, then).await;
        let pair = Pair::new(application, Version::Http1, UpstreamHttp::Http1).await;
        let request = "GET / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n";
        let seen = timeout(Duration::from_secs(20), exchange_raw(pair.outbound.address, request)).await;
        let seen = seen.unwrap_or_else(|_| panic!("{what}: the client waits for ever"));
        assert!(!is_whole(&seen), "{what}: {seen:?}");
        let seen = exchange_raw(pair.outbound.address, request).await;
        assert!(is_whole(&seen) && seen.ends_with("well"), "{what}, and the next: {seen:?}");
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_parsed_is_told_in_words() {
    for (answer, what) in [
        ("220 mail.example ESMTP\r\n", "invalid HTTP version parsed"),
        ("HTTP/1.1 2x0 OK\r\n\r\n", "invalid HTTP status-code parsed"),
        ("HTTP/1.1 200 OK\r\nx y: z\r\n\r\n", "invalid HTTP header parsed"),
        ("HTTP/1.1 200 OK\r\nx: y\0\r\n\r\n", "invalid HTTP header parsed"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5x\r\n\r\nhello", "invalid content-length parsed"),
    ] {
        let (application, _running) = answers(answer.to_owned(), Then::Stays).await;
        let pair = Pair::new(application, Version::Http1, UpstreamHttp::Http1).await;
        let request = "GET / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n";
        let seen = exchange_raw(pair.outbound.address, request).await;
        assert!(
            seen.starts_with("HTTP/1.1 502 ") && seen.contains("malla-reason: upstream_protocol"),
            "{answer}: {seen}"
        );
        assert!(seen.contains(what), "{answer}: {seen}");
    }
}

#[tokio::test]
async fn broken_answers_are_errors_of_their_stream_to_clients_of_http2() {
    for (what, answer, then) in broken() {
        let (application, _running) = answers(answer, then).await;
        let pair = Pair::new(application, Version::Http2, UpstreamHttp::Http1).await;
        let (client, _driving) = grpc::client(pair.outbound.address).await;
        let request = http::Request::get("http://cart/").body(()).expect("a request");
        let mut ready = client.ready().await.expect("ready");
        let (response, _) = ready.send_request(request, true).expect("sent");
        let Ok(response) = timeout(Duration::from_secs(20), response).await.expect(what) else { continue };
        let (head, mut body) = response.into_parts();
        if head.status != 200 {
            assert!(head.headers.contains_key("malla-reason"), "{what}: {head:?}");
            continue;
        }
        let ended = timeout(Duration::from_secs(20), async {
            while let Some(data) = body.data().await {
                let data = data?;
                let _ = body.flow_control().release_capacity(data.len());
            }
            body.trailers().await.map(drop)
        });
        assert!(ended.await.expect(what).is_err(), "{what}: a whole answer");
    }
}

#[tokio::test]
async fn what_an_upstream_says_beyond_its_answer_answers_nobody() {
    let (application, _running) = scripted(|_, mut socket| async move {
        loop {
            let request = read_until(&mut socket, "\r\n\r\n").await;
            let Some(path) = request.split(' ').nth(1) else { return };
            let body = format!("to {path}");
            let length = body.len();
            let more = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nsmuggled";
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}{more}");
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    let pair = Pair::new(application, Version::Http1, UpstreamHttp::Http1).await;
    for number in 0..20 {
        let request = format!("GET /{number} HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n");
        let seen = exchange_raw(pair.outbound.address, &request).await;
        assert!(seen.ends_with(&format!("to /{number}")), "{seen:?}");
    }
}
