//! An application that answers each request with its own name and the request's head. The path says how: `?status=`, `?wait=`
//! (milliseconds; `?wait-NAME=` for one application), `?once=` (a status for the first request of the path), `?later-NAME=` (503 by one,
//! which asks to be left alone for so many seconds); and `/refused-by-NAME` is answered with 503 by one.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// An application on HTTP/1.1.
#[derive(Clone)]
pub(crate) struct Application {
    /// What it calls itself.
    pub(crate) name: &'static str,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Application {
    /// Starts it; it ends with the runtime.
    pub(crate) async fn start(name: &'static str) -> Application {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let application = Application { name, address, heads: Arc::default() };
        let own = application.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(own.clone().serve(socket));
            }
        });
        application
    }

    /// The heads of its requests so far, in lower case.
    pub(crate) fn heads(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.heads.lock().expect("nobody has panicked")
    }

    async fn serve(self, mut socket: TcpStream) {
        let mut head = String::new();
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = socket.read(&mut piece).await {
            head.push_str(&String::from_utf8_lossy(&piece[..length]));
            if !head.ends_with("\r\n\r\n") {
                continue;
            }
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let asked = |name: &str| {
                let query = path.split_once('?')?.1;
                query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok())
            };
            let first = !self.heads().iter().any(|head| head.split(' ').nth(1) == Some(&path));
            self.heads().push(head.to_ascii_lowercase());
            let wait = asked("wait").or(asked(&format!("wait-{}", self.name)));
            sleep(Duration::from_millis(wait.unwrap_or(0))).await;
            let refuses = path.strip_prefix("/refused-by-").is_some_and(|name| name == self.name);
            let later = asked(&format!("later-{}", self.name));
            let refused = refuses || later.is_some();
            let retry_after = later.map_or_else(String::new, |seconds| format!("retry-after: {seconds}\r\n"));
            let status = refused.then_some(503).or(asked("status")).or(asked("once").filter(|_| first)).unwrap_or(200);
            let body = format!("{}\n{head}", self.name);
            let answer = format!(
                "HTTP/1.1 {status} x\r\nserver: {}\r\nx-internal: 1\r\n{retry_after}content-length: {}\r\n\r\n{body}",
                self.name,
                body.len()
            );
            head.clear();
            if socket.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}
