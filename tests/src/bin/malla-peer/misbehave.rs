//! Peers that behave badly. None of them reports success: what matters is what happens to the others.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

/// Opens connections and keeps them, idle after `bytes`. Says `holding` when all are there.
pub(crate) async fn hold(address: SocketAddr, connections: usize, bytes: &str) -> Result<()> {
    let bytes = (0..bytes.len() / 2)
        .map(|n| u8::from_str_radix(&bytes[n * 2..n * 2 + 2], 16))
        .collect::<Result<Vec<u8>, _>>()
        .context("bytes are hexadecimal")?;
    let mut held = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut stream = TcpStream::connect(address).await?;
        if !bytes.is_empty() {
            stream.write_all(&bytes).await?;
        }
        held.push(stream);
    }
    println!("holding");
    signal(SignalKind::terminate())?.recv().await;
    Ok(())
}

/// Random bytes, and beginnings of real protocols that turn random.
pub(crate) async fn garbage(address: SocketAddr, connections: u64) -> Result<()> {
    const BEGINNINGS: &[&[u8]] = &[
        b"",
        b"GET / HTTP/1.1\r\n",
        b"POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x16\x03\x01\xff\xff",
        b"\0\0\0\0\0\0\0",
    ];
    for number in 0..connections {
        let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let noise = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        });
        let beginning = BEGINNINGS[(number % BEGINNINGS.len() as u64) as usize];
        let bytes: Vec<u8> = beginning.iter().copied().chain(noise.take(3000)).collect();
        let Ok(mut stream) = TcpStream::connect(address).await else { continue };
        // The other side may close whenever it has seen enough.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(3), read).await {
            anyhow::ensure!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), error);
        }
    }
    println!("sent");
    Ok(())
}

/// Requests whose answers nobody reads. Says `asked` when all are sent.
pub(crate) async fn never_read(address: SocketAddr, host: &str, path: &str, connections: usize) -> Result<()> {
    let mut held = Vec::with_capacity(connections);
    for _ in 0..connections {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_recv_buffer_size(4096)?;
        let mut stream = socket.connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await?;
        held.push(stream);
    }
    println!("asked");
    signal(SignalKind::terminate())?.recv().await;
    Ok(())
}
