//! Upgraded connections, whose caller is judged again when the rules change.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::super::Version;
use super::super::testing::{Pair, counted, eventually, guards, read_until, upgrades};
use crate::authorize::{Action, Authorization, Condition, Enforcement, Policy, RuleSet};
use crate::snapshot::{UpstreamHttp, ValueMatch};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nhost: cart\r\nconnection: Upgrade\r\nupgrade: websocket\r\nx-room: one\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";

/// Who asks for this path with this header may.
fn only(path: &str, room: &str) -> Authorization {
    let permissions = vec![Condition::All(vec![
        Condition::Path(ValueMatch::Exact(path.into())),
        Condition::Header("x-room".parse().expect("a name"), ValueMatch::Exact(room.into())),
    ])];
    let web = Condition::Identity(ValueMatch::Exact("spiffe://test/ns/shop/sa/web".into()));
    let policy = Policy { name: "shop/p/0".into(), permissions, principals: vec![web] };
    let set = RuleSet { action: Action::Allow, enforcement: Enforcement::Enforced, policies: vec![policy] };
    Authorization { sets: vec![set] }
}

#[tokio::test]
async fn a_tunnel_that_changed_rules_deny_is_ended() {
    let (application, ended, _running) = upgrades().await;
    let pair = Pair::new(application, Version::Http1, UpstreamHttp::Http1).await;
    let directory = &pair.inbound.worker.shared.directory;
    directory.replace(guards(application, UpstreamHttp::Http1, only("/chat", "one")));
    let mut socket = TcpStream::connect(pair.outbound.address).await.expect("connected");
    socket.write_all(UPGRADE.as_bytes()).await.expect("sent");
    assert!(read_until(&mut socket, "\r\n\r\n").await.starts_with("HTTP/1.1 101"));
    // A change that still lets it in leaves it alone.
    directory.replace(guards(application, UpstreamHttp::Http1, only("/chat", "one")));
    socket.write_all(b"ping").await.expect("sent");
    assert_eq!(read_until(&mut socket, "ping").await, "ping");
    // One that is about something of its head that nobody else has kept.
    directory.replace(guards(application, UpstreamHttp::Http1, only("/chat", "two")));
    let rest = tokio::time::timeout(Duration::from_secs(20), read_until(&mut socket, "never"));
    assert_eq!(rest.await.expect("it is ended"), "");
    eventually("the application's side ends too", || ended.load(Relaxed) == 1).await;
    let inbound = &pair.inbound.worker;
    eventually("it is recorded", || {
        counted(inbound, "malla_requests_total", &["status=\"101\"", "reason=\"denied\""]) == 1
    })
    .await;
    assert_eq!(counted(inbound, "malla_authorization_denied_total", &["policy=\"none\""]), 1);
}
