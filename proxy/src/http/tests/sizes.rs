//! How large bodies were, when answers began, and how two sidecars came to their keys: what both of them count.

use tokio::io::AsyncWriteExt;

use super::super::Version;
use super::super::testing::{Pair, counted, exchange_raw, read_until, scripted};
use crate::snapshot::UpstreamHttp;

#[tokio::test]
async fn both_sidecars_measure_bodies_and_the_first_byte() {
    let (application, _running) = scripted(|_, mut socket| async move {
        read_until(&mut socket, &"x".repeat(300)).await;
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let _ = socket.write_all(format!("{head}3e8\r\n{}\r\n0\r\n\r\n", "y".repeat(1000)).as_bytes()).await;
    })
    .await;
    let pair = Pair::new(application, Version::Http1, UpstreamHttp::Http1).await;
    let body = "x".repeat(300);
    let request = format!("POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 300\r\nconnection: close\r\n\r\n{body}");
    let answer = exchange_raw(pair.outbound.address, &request).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("yyy"), "{answer}");
    let of_inbound = "service=\"cart.shop:80\",source=\"spiffe://test/ns/shop/sa/web\"";
    let of_outbound = "service=\"cart.shop:80\",source=\"test-1.shop\"";
    for (sidecar, direction, labels) in
        [(&pair.outbound, "outbound", of_outbound), (&pair.inbound, "inbound", of_inbound)]
    {
        let page = sidecar.worker.shared.metrics.exposition();
        for line in [
            format!("malla_request_size_bytes_sum{{direction=\"{direction}\",{labels}}} 300.0\n"),
            format!("malla_response_size_bytes_sum{{direction=\"{direction}\",{labels}}} 1000.0\n"),
        ] {
            assert!(page.contains(&line), "{line}{page}");
        }
        assert_eq!(counted(&sidecar.worker, "malla_request_first_byte_seconds_count", &[direction]), 1);
    }
    let full = ["direction=\"outbound\"", "handshake=\"full\""];
    assert_eq!(counted(&pair.outbound.worker, "malla_tls_handshakes_total", &full), 1);
}
