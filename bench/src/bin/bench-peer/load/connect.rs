//! New connections: each with one byte there and back, or each with an mTLS handshake with the inbound side.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Shared, Work, open};
use crate::tls::Tls;

/// A new connection for each byte.
pub(super) async fn echo(shared: Arc<Shared>) {
    loop {
        let due = shared.due().await;
        let once = async {
            let mut socket = open(shared.arguments.to).await?;
            socket.write_all(b"x").await?;
            anyhow::Ok(socket.read_u8().await?)
        };
        match once.await {
            Ok(_) => shared.succeeded(due, 1),
            Err(error) => shared.failed(&error).await,
        }
    }
}

/// A handshake, and one request so that it is known to be complete, for each connection.
pub(super) async fn handshakes(shared: Arc<Shared>) {
    let resumed = shared.arguments.work == Work::HandshakeResumed;
    let tls = match Tls::load_named(&shared.arguments.certificates, b"h2", &shared.arguments.sni) {
        Ok(tls) if resumed => tls,
        Ok(tls) => tls.without_resumption(),
        Err(error) => return shared.failed(&error.context("certificates")).await,
    };
    let mut first = true;
    loop {
        let due = shared.due().await;
        match handshake(&shared, &tls, resumed && !first).await {
            Ok(()) => shared.succeeded(due, 0),
            Err(error) => shared.failed(&error).await,
        }
        first = false;
    }
}

async fn handshake(shared: &Shared, tls: &Tls, resumed: bool) -> Result<()> {
    let io = tls.connect(open(shared.arguments.to).await?).await?;
    let kind = io.get_ref().1.handshake_kind().context("a handshake that is complete")?;
    ensure!((kind == HandshakeKind::Resumed) == resumed, "the handshake was {kind:?}");
    let (sender, connection) = h2::client::handshake(io).await?;
    let driven = tokio::spawn(connection);
    let mut sender = sender.ready().await?;
    // Tells our sidecar what another one would: that the application's request was HTTP/1.1.
    let request = http::Request::get("http://web.shop/64").header("malla-http", "1.1").body(())?;
    let (response, _) = sender.send_request(request, true)?;
    let response = response.await?;
    ensure!(response.status().is_success(), "status {}", response.status());
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    drop(sender);
    driven.abort();
    Ok(())
}
