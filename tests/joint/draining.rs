//! An endpoint that is ending, as its `EndpointSlice` says (`terminating`, `serving`): what is under way there goes on, it gets nothing
//! new, and no request fails. From the file through the control server and xDS to what a sidecar does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::local::{CLIENT, Local, PATIENCE};

const GET: &str = "GET / HTTP/1.1\r\nhost: web.shop\r\n\r\n";
const GET_SLOW: &str = "GET /slow HTTP/1.1\r\nhost: web.shop\r\n\r\n";

fn mesh(port: u16, second: &str) -> String {
    format!(
        "{CLIENT}apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{ports: [{{name: http, port: 80}}, {{name: tcp, port: 9000, appProtocol: tcp}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: http, port: {port}}}, {{name: tcp, port: {port}}}]
endpoints:
- {{addresses: [127.0.0.2], conditions: {{ready: true, serving: true, terminating: false}}}}
- {{addresses: [127.0.0.3], conditions: {second}}}
"
    )
}

/// An application that says who it is: to HTTP requests, of which those for `/slow` wait in the middle of the answer; and to each
/// line of anything else.
struct Application {
    requests: AtomicUsize,
    connections: AtomicUsize,
    go_on: Notify,
}

async fn serve(application: Arc<Application>, name: &'static str, mut socket: TcpStream) {
    application.connections.fetch_add(1, Relaxed);
    let mut piece = [0; 1024];
    let mut text = String::new();
    while let Ok(length @ 1..) = socket.read(&mut piece).await {
        text.push_str(&String::from_utf8_lossy(&piece[..length]));
        if text.starts_with("GET") && !text.ends_with("\r\n\r\n") {
            continue;
        }
        application.requests.fetch_add(1, Relaxed);
        let answer = match text.as_str() {
            slow if slow.starts_with("GET /slow") => {
                let begin = format!("HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{name} and ");
                if socket.write_all(begin.as_bytes()).await.is_err() {
                    return;
                }
                application.go_on.notified().await;
                "rest\n\n".to_owned()
            }
            request if request.starts_with("GET") => format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{name}"),
            _ => name.to_owned(),
        };
        if socket.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        text.clear();
    }
}

/// On the same port of two addresses.
async fn applications() -> (u16, [Arc<Application>; 2]) {
    for _ in 0..20 {
        let first = TcpListener::bind("127.0.0.2:0").await.expect("a port");
        let port = first.local_addr().expect("bound").port();
        let Ok(second) = TcpListener::bind(("127.0.0.3", port)).await else { continue };
        let start = |listener: TcpListener, name: &'static str| {
            let (requests, connections) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let application = Arc::new(Application { requests, connections, go_on: Notify::new() });
            let own = application.clone();
            tokio::spawn(async move {
                while let Ok((socket, _)) = listener.accept().await {
                    tokio::spawn(serve(own.clone(), name, socket));
                }
            });
            application
        };
        return (port, [start(first, "2"), start(second, "3")]);
    }
    panic!("no port is free on both addresses");
}

/// Sends a request on a connection; what comes first of the answer's body, nothing if it is no success.
async fn asked(socket: &mut TcpStream, request: &str) -> Option<String> {
    socket.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    let mut piece = [0; 1024];
    loop {
        match timeout(PATIENCE, socket.read(&mut piece)).await {
            Ok(Ok(length @ 1..)) => text.push_str(&String::from_utf8_lossy(&piece[..length])),
            _ => return None,
        }
        match text.split_once("\r\n\r\n") {
            Some((_, body)) if !body.is_empty() => {
                return text.starts_with("HTTP/1.1 200").then(|| body.to_owned());
            }
            _ => {}
        }
    }
}

/// A connection on which the second application has answered this.
async fn at_the_second(address: SocketAddr, request: &str) -> TcpStream {
    for _ in 0..1000 {
        let mut socket = TcpStream::connect(address).await.expect("connected");
        if request.starts_with("GET") {
            if asked(&mut socket, request).await.is_some_and(|answer| answer.starts_with('3')) {
                return socket;
            }
        } else if said(&mut socket, request).await == "3" {
            return socket;
        }
    }
    panic!("the second application gets nothing");
}

async fn said(socket: &mut TcpStream, line: &str) -> String {
    socket.write_all(line.as_bytes()).await.expect("sent");
    let mut piece = [0; 1024];
    let read = timeout(PATIENCE, socket.read(&mut piece)).await.expect("in time").expect("read");
    String::from_utf8_lossy(&piece[..read]).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_ending_keeps_what_it_has_and_gets_nothing_new() {
    let (port, [first, second]) = applications().await;
    let local = Local::start(&mesh(port, "{ready: true}"), &["web.shop:80", "web.shop:9000"]);
    let [http, tcp] = local.listening[..] else { panic!("two local ports") };

    // Under way at the second when it begins to end: half an answer, and a raw connection.
    let mut download = at_the_second(http, GET_SLOW).await;
    let mut raw = at_the_second(tcp, "hello\n").await;
    first.go_on.notify_waiters();
    // All the while: requests on connections that stay, and on new ones.
    let (stop, failed, answered) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let load = {
        let (stop, failed, answered) = (stop.clone(), failed.clone(), answered.clone());
        tokio::spawn(async move {
            let mut kept = TcpStream::connect(http).await.expect("connected");
            while !stop.load(Relaxed) {
                let mut fresh = TcpStream::connect(http).await.expect("connected");
                for socket in [&mut kept, &mut fresh] {
                    let answer = asked(socket, GET).await;
                    answered.fetch_add(1, Relaxed);
                    failed.fetch_add(usize::from(answer.is_none()), Relaxed);
                }
            }
        })
    };

    for ending in
        ["{ready: false, serving: true, terminating: true}", "{ready: false, serving: false, terminating: true}"]
    {
        local.write(&mesh(port, ending));
        // From some moment on nothing new arrives there, however much is asked.
        let calm = async {
            loop {
                let (before, so_far) = (second.requests.load(Relaxed), answered.load(Relaxed));
                while answered.load(Relaxed) < so_far + 100 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                if second.requests.load(Relaxed) == before {
                    return;
                }
            }
        };
        timeout(PATIENCE, calm).await.expect("it gets nothing more");
        // The same for connections: each port has endpoints of its own, which arrive by themselves.
        let fresh = async || {
            let mut fresh = TcpStream::connect(tcp).await.expect("connected");
            said(&mut fresh, "hello\n").await == "2"
        };
        let calm = async {
            // A balancer may prefer one of two for a while: it is told when nothing goes to the other for a second.
            let mut since = tokio::time::Instant::now();
            while since.elapsed() < Duration::from_secs(1) {
                if !fresh().await {
                    since = tokio::time::Instant::now();
                }
            }
        };
        timeout(PATIENCE, calm).await.expect("new connections go to the other");
        let connections = second.connections.load(Relaxed);
        for _ in 0..20 {
            assert!(fresh().await, "and stay there");
        }
        assert_eq!(second.connections.load(Relaxed), connections);
        assert_eq!(said(&mut raw, "still there?\n").await, "3", "the raw connection stays");
    }
    second.go_on.notify_waiters();
    let mut rest = [0; 6];
    timeout(PATIENCE, download.read_exact(&mut rest)).await.expect("in time").expect("the whole answer");
    assert_eq!(&rest, b"rest\n\n");

    // It has come back.
    let before = second.requests.load(Relaxed);
    local.write(&mesh(port, "{ready: true}"));
    let back = async {
        while second.requests.load(Relaxed) < before + 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, back).await.expect("it gets requests again");
    stop.store(true, Relaxed);
    load.await.expect("it did not panic");
    assert_eq!(failed.load(Relaxed), 0, "of {}", answered.load(Relaxed));
    drop((download, raw));
    local.stop().await;
}
