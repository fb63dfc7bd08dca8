//! Series: clients make none by what they ask for.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::Version;
use super::super::testing::{Pair, http_proxy, read_until, scripted};
use crate::snapshot::UpstreamHttp;

/// Requests of the test; `MALLA_RANDOM_REQUESTS` says otherwise.
const REQUESTS: usize = 100_000;

#[tokio::test]
async fn hosts_and_paths_of_clients_make_no_series() {
    let (application, _running) = scripted(|_, mut socket| async move {
        while !read_until(&mut socket, "\r\n\r\n").await.is_empty() {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    })
    .await;
    let pair = Pair::new(application, Version::Http1, UpstreamHttp::Http1).await;
    // One is for a service, whatever the host; the other finds out by the host.
    let proxy = http_proxy(pair.outbound.worker.clone()).await;
    let addresses = [pair.outbound.address, proxy.address];
    let series = || [&pair.outbound, &pair.inbound].map(|side| side.worker.shared.metrics.exposition().lines().count());
    let mut random = fastrand::Rng::with_seed(1);
    let mut before = None;
    let requests =
        std::env::var("MALLA_RANDOM_REQUESTS").ok().and_then(|number| number.parse().ok()).unwrap_or(REQUESTS);
    for block in 0..requests / 100 {
        let mut socket = TcpStream::connect(addresses[block % 2]).await.expect("connected");
        for at in 0..100 {
            let host = if at % 2 == 0 { "cart".to_owned() } else { format!("cart-{:x}.shop", random.u64(..)) };
            let (path, query, method) = (random.u64(..), random.u64(..), ["GET", "PUT", "QUERY"][at % 3]);
            let last = if at == 99 { "connection: close\r\n" } else { "" };
            let head =
                format!("{method} /{path:x}?q={query:x} HTTP/1.1\r\nhost: {host}\r\nx-{path:x}: 1\r\n{last}\r\n");
            socket.write_all(head.as_bytes()).await.expect("sent");
        }
        let mut answers = String::new();
        socket.read_to_string(&mut answers).await.expect("answers");
        let (well, all) = (answers.matches("HTTP/1.1 200").count(), answers.matches("HTTP/1.1 ").count());
        assert_eq!((well, all), ([100, 50][block % 2], 100), "{answers}");
        // The first of each have met everything that is counted.
        if block > 0 {
            let now = series();
            assert_eq!(*before.get_or_insert(now), now);
        }
    }
}
