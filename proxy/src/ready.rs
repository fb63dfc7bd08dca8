//! `malla-proxy wait`: returns when the sidecar beside it is ready. For hooks of containers, which cannot wait by themselves.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;

use crate::settings::parse_duration;

/// Pause between two questions.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest time for one answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Wait until the sidecar on this machine (or in this pod) is ready.
///
/// Example: malla-proxy wait --timeout 60s
#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// Where its health is asked
    #[arg(long, env = "MALLA_ADDRESS", value_name = "IP", default_value = "127.0.0.1")]
    pub address: IpAddr,

    /// Its health port
    #[arg(long, env = "MALLA_HEALTH_PORT", value_name = "PORT", default_value_t = 15021)]
    pub health_port: u16,

    /// Longest time to wait; then it fails
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,

    /// Ask nothing: only let this time pass
    #[arg(long, value_name = "DURATION", conflicts_with = "timeout", value_parser = parse_duration)]
    pub pause: Option<Duration>,
}

/// The sidecar was not ready in time.
#[derive(Debug, thiserror::Error)]
#[error("the sidecar at {address} was not ready within {timeout:?}: {answer}")]
pub struct NotReady {
    address: SocketAddr,
    timeout: Duration,
    answer: String,
}

/// Waits.
///
/// # Errors
/// [`NotReady`], with what the sidecar said last.
pub fn wait(args: &WaitArgs) -> Result<(), NotReady> {
    if let Some(pause) = args.pause {
        sleep(pause);
        return Ok(());
    }
    let address = SocketAddr::new(args.address, args.health_port);
    let started = Instant::now();
    loop {
        let answer = match ask(address) {
            Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => return Ok(()),
            Ok(answer) => answer.rsplit("\r\n").next().unwrap_or_default().trim().to_owned(),
            Err(cause) => cause.to_string(),
        };
        if started.elapsed() >= args.timeout {
            return Err(NotReady { address, timeout: args.timeout, answer });
        }
        sleep(PAUSE);
    }
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    // At once: a half request may be answered by a closed connection.
    let request = format!("GET /ready HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn args(address: SocketAddr, timeout: Duration) -> WaitArgs {
        WaitArgs { address: address.ip(), health_port: address.port(), timeout, pause: None }
    }

    #[test]
    fn it_asks_until_the_answer_is_good() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let answering = thread::spawn(move || {
            for status in ["503 x\r\n\r\nnot ready: connecting\n", "200 x\r\n\r\nready\n"] {
                let (mut socket, _) = listener.accept().expect("a connection");
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") {
                    socket.read_exact(&mut byte).expect("a request");
                    head.extend(byte);
                }
                socket.write_all(format!("HTTP/1.1 {status}").as_bytes()).expect("answered");
            }
        });
        wait(&args(address, Duration::from_secs(30))).expect("becomes ready");
        answering.join().expect("has answered twice");
        let error = wait(&args(address, Duration::ZERO)).expect_err("nobody answers");
        assert!(
            error.to_string().starts_with(&format!("the sidecar at {address} was not ready within 0ns: ")),
            "{error}"
        );
    }
}
