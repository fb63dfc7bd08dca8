//! A database on whose connections the server speaks first, framed like MySQL's (client/server protocol, "Packets" and
//! "HandshakeV10"). It owns both ends of that little language and refuses to be a database: it knows one table by heart.
//!
//! What counts here is the order: a client waits for the greeting before it says a word, which stalls every proxy that waits
//! for the client to find out what is spoken.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// The largest packet either end takes.
const LARGEST: usize = 64 << 10;
/// "HandshakeV10" begins with its number.
const PROTOCOL_VERSION: u8 = 10;
/// "COM_QUERY".
const QUERY: u8 = 0x03;

/// Connects, waits for the greeting, asks, and returns the answer.
///
/// # Errors
/// The connection failed or ended early, or the other end does not speak this protocol.
pub(crate) async fn query(address: SocketAddr, statement: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let greeting = read_packet(&mut stream).await?.ok_or_else(|| ended("before its greeting"))?;
    if greeting.first() != Some(&PROTOCOL_VERSION) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the greeting is not a database's"));
    }
    let mut command = vec![QUERY];
    command.extend_from_slice(statement.as_bytes());
    write_packet(&mut stream, 0, &command).await?;
    stream.shutdown().await?;
    let answer = read_packet(&mut stream).await?.ok_or_else(|| ended("before its answer"))?;
    String::from_utf8(answer).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the answer is not text"))
}

/// Serves one connection until the client has sent its last query.
///
/// # Errors
/// The connection failed, or the client does not speak this protocol.
pub(crate) async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, connection_number: u32) -> io::Result<()> {
    write_packet(&mut stream, 0, &greeting(connection_number)).await?;
    while let Some(packet) = read_packet(&mut stream).await? {
        let Some((&QUERY, statement)) = packet.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the packet is not a query"));
        };
        write_packet(&mut stream, 1, answer(&String::from_utf8_lossy(statement)).as_bytes()).await?;
    }
    stream.shutdown().await
}

/// The one table: a price for every city, the same at each question.
fn answer(statement: &str) -> String {
    let sum: u32 = statement.bytes().map(u32::from).sum();
    format!("{{\"price\": {}}}", 50 + sum % 450)
}

fn greeting(connection_number: u32) -> Vec<u8> {
    let mut packet = vec![PROTOCOL_VERSION];
    packet.extend_from_slice(b"8.0.0-malla-demo\0");
    packet.extend_from_slice(&connection_number.to_le_bytes());
    packet.extend_from_slice(b"saltsalt\0"); // nobody logs in, so nobody needs a random salt
    packet.extend_from_slice(&[0xff, 0xf7, 0xff, 0x02, 0x00, 0xff, 0xdf, 21]); // capabilities, utf8mb4, autocommit
    packet.extend_from_slice(&[0; 10]);
    packet.extend_from_slice(b"saltsaltsalt\0mysql_native_password\0");
    packet
}

async fn write_packet(stream: &mut (impl AsyncWrite + Unpin), sequence: u8, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut packet = length.to_le_bytes();
    packet[3] = sequence;
    let whole = [&packet[..], payload].concat();
    stream.write_all(&whole).await
}

/// The next packet, or nothing if the other end has finished.
async fn read_packet(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 4];
    if stream.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut head[1..]).await?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
    if length > LARGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the packet is larger than any of this protocol"));
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    Ok(Some(payload))
}

fn ended(when: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the connection ended {when}"))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn server_speaks_first_then_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let server = async {
            let (stream, _) = listener.accept().await.expect("a connection");
            serve(stream, 1).await.expect("a client that speaks the protocol");
        };
        let (answer, ()) = tokio::join!(query(address, "SELECT price FROM flights WHERE city = 'Lima'"), server);
        assert!(answer.expect("an answer").starts_with("{\"price\": "));
    }

    #[tokio::test]
    async fn a_connection_without_greeting_is_an_error_in_words() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let server = async { drop(listener.accept().await.expect("a connection")) };
        let (answer, ()) = tokio::join!(query(address, "SELECT"), server);
        assert_eq!(answer.expect_err("no greeting").to_string(), "the connection ended before its greeting");
    }
}
