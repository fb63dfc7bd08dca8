//! The plain TCP relay: what it costs to pass bytes on without looking at them; with `--tls`, through mTLS.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};

use crate::tls::Tls;

/// Of each direction of a connection. Larger ones gain nothing here, smaller ones lose throughput.
const BUFFER: usize = 64 * 1024;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Port to listen on
    #[arg(long)]
    listen: u16,
    /// Where to
    #[arg(long)]
    to: SocketAddr,
    /// Which side speaks mTLS
    #[arg(long, value_enum, default_value_t = Encrypted::Neither)]
    tls: Encrypted,
    /// Directory of the certificates
    #[arg(long, default_value = ".")]
    certificates: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Encrypted {
    Neither,
    Downstream,
    Upstream,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let listener = TcpListener::bind(("::", arguments.listen)).await?;
    let tls = if arguments.tls == Encrypted::Neither {
        None
    } else {
        Some(Tls::load(&arguments.certificates, b"malla-tcp")?)
    };
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(carry(client, arguments.to, arguments.tls, tls.clone()));
    }
}

async fn carry(client: TcpStream, to: SocketAddr, encrypted: Encrypted, tls: Option<Tls>) -> Result<()> {
    client.set_nodelay(true)?;
    let upstream = TcpStream::connect(to).await?;
    upstream.set_nodelay(true)?;
    match (encrypted, tls) {
        (Encrypted::Downstream, Some(tls)) => copy(tls.accept(client).await?, upstream).await,
        (Encrypted::Upstream, Some(tls)) => copy(client, tls.connect(upstream).await?).await,
        _ => copy(client, upstream).await,
    }
}

async fn copy(
    mut one: impl AsyncRead + AsyncWrite + Unpin,
    mut other: impl AsyncRead + AsyncWrite + Unpin,
) -> Result<()> {
    copy_bidirectional_with_sizes(&mut one, &mut other, BUFFER, BUFFER).await?;
    Ok(())
}
