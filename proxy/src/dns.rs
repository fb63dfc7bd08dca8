//! Names outside the mesh: the control server's own, `ExternalName` services, authorities of explicit mode.
//!
//! `/etc/hosts` goes first, then the servers of `/etc/resolv.conf`; both are read again when they change. Answers are kept for
//! as long as their TTL says, negative ones too. A name that has addresses in `/etc/hosts` is never asked for: half an answer
//! would wait for a server that may not exist.
//!
//! Refused: names of the mesh, which the directory knows.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod happy_eyeballs;
mod system;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::system::System;
use crate::dial::Dialer;
use crate::settings::Settings;
use crate::stream::Replay;
use crate::tls::ConnectError;

/// Names that may be looked up at once; more are refused.
const CONCURRENT: usize = 512;

/// Longest look-up, whatever the servers' number and time-outs.
const LIMIT: Duration = Duration::from_secs(5);

/// Resolves names outside the mesh. Shared by all workers.
#[derive(Debug)]
pub struct Resolver {
    system: System,
    places: Semaphore,
}

/// Why a name did not resolve.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// It does not exist, or has no addresses.
    #[error("there is no such name")]
    NotFound,
    /// The machine names no server.
    #[error("it is not in /etc/hosts, and /etc/resolv.conf names no server that could be asked")]
    NoServers,
    /// The servers did not answer usefully.
    #[error("the name servers gave no answer")]
    Failed(#[source] NetError),
    /// The servers did not answer in time.
    #[error("the name servers did not answer within {LIMIT:?}")]
    Timeout,
    /// Too many names are being looked up.
    #[error("{CONCURRENT} names are being looked up already")]
    Busy,
}

impl Resolver {
    /// With the system's configuration.
    pub fn new(_settings: &Settings) -> Self {
        Resolver { system: System::new("/etc/hosts", "/etc/resolv.conf"), places: Semaphore::new(CONCURRENT) }
    }

    /// The addresses of a name, of both families; an address is its own.
    ///
    /// # Errors
    /// [`ResolveError`]; never an empty list.
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(vec![address]);
        }
        if let Some(addresses) = self.system.hosts().addresses(host) {
            return Ok(addresses);
        }
        let resolver = self.system.resolver();
        let resolver = resolver.as_ref().as_ref().ok_or(ResolveError::NoServers)?;
        let _place = self.places.try_acquire().map_err(|_| ResolveError::Busy)?;
        match timeout(LIMIT, ask(resolver, host)).await {
            Ok(answer) => answer,
            Err(_) => Err(ResolveError::Timeout),
        }
    }

    /// Connects to a name: of its addresses, the first that answers (RFC 8305). `limit` is for all of it.
    ///
    /// # Errors
    /// [`ConnectError`] of the resolution, or of the address that came furthest.
    pub async fn connect(
        &self,
        dialer: &Dialer,
        host: &str,
        port: u16,
        limit: Duration,
    ) -> Result<Replay, ConnectError> {
        let addresses =
            self.resolve(host).await.map_err(|cause| ConnectError::Resolve { name: host.to_owned(), cause })?;
        let addresses: Vec<SocketAddr> = addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect();
        happy_eyeballs::connect(dialer, &addresses, limit).await
    }
}

async fn ask(resolver: &TokioResolver, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
    match resolver.lookup_ip(host).await {
        Ok(found) => {
            let addresses: Vec<IpAddr> = found.iter().collect();
            if addresses.is_empty() { Err(ResolveError::NotFound) } else { Ok(addresses) }
        }
        Err(cause) if cause.is_no_records_found() || cause.is_nx_domain() => Err(ResolveError::NotFound),
        Err(cause) => Err(ResolveError::Failed(cause)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hickory_resolver::proto::op::{Message, ResponseCode};
    use hickory_resolver::proto::rr::rdata::SOA;
    use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
    use tokio::net::{TcpListener, UdpSocket};

    use super::*;

    /// A DNS server on loopback that knows a few names and counts the questions.
    struct Server {
        port: u16,
        questions: Arc<AtomicUsize>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    impl Server {
        async fn start(records: &[(&str, IpAddr, u32)]) -> Self {
            let mut known: HashMap<String, Vec<(IpAddr, u32)>> = HashMap::new();
            for (name, address, ttl) in records {
                known.entry(format!("{name}.")).or_default().push((*address, *ttl));
            }
            let socket = UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
            let port = socket.local_addr().expect("bound").port();
            let questions = Arc::new(AtomicUsize::new(0));
            let counter = questions.clone();
            let task = tokio::spawn(async move {
                let mut buffer = [0; 1500];
                while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                    counter.fetch_add(1, Ordering::Relaxed);
                    let request = Message::from_vec(&buffer[..length]).expect("a question");
                    let answer = answer(&known, request).to_vec().expect("an answer");
                    socket.send_to(&answer, client).await.expect("sent");
                }
            });
            Server { port, questions, task }
        }

        fn resolver(&self, hosts: &Path) -> Resolver {
            Resolver { system: System::with_server(hosts, self.port), places: Semaphore::new(CONCURRENT) }
        }
    }

    fn answer(known: &HashMap<String, Vec<(IpAddr, u32)>>, request: Message) -> Message {
        let query = request.queries[0].clone();
        let name = query.name().to_string();
        let mut response = request.into_response();
        let Some(records) = known.get(&name) else {
            response.metadata.response_code = ResponseCode::NXDomain;
            let soa = SOA::new(Name::root(), Name::root(), 1, 60, 60, 60, 60);
            response.authorities.push(Record::from_rdata(Name::root(), 60, RData::SOA(soa)));
            return response;
        };
        for (address, ttl) in records {
            if matches!(
                (query.query_type(), address),
                (RecordType::A, IpAddr::V4(_)) | (RecordType::AAAA, IpAddr::V6(_))
            ) {
                response.answers.push(Record::from_rdata(query.name().clone(), *ttl, RData::from(*address)));
            }
        }
        response
    }

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

    #[tokio::test]
    async fn both_families_are_found_and_kept_for_their_ttl() {
        let server =
            Server::start(&[("both.example", V4, 300), ("both.example", V6, 300), ("brief.example", V4, 0)]).await;
        let resolver = server.resolver(Path::new("/nonexistent"));
        for _ in 0..3 {
            let mut found = resolver.resolve("both.example").await.expect("known");
            found.sort();
            assert_eq!(found, [V4, V6]);
        }
        assert_eq!(server.questions.load(Ordering::Relaxed), 2, "one question for each family");
        resolver.resolve("brief.example").await.expect("known");
        let before = server.questions.load(Ordering::Relaxed);
        resolver.resolve("brief.example").await.expect("known");
        assert!(server.questions.load(Ordering::Relaxed) > before, "a TTL of zero is asked again");
    }

    #[tokio::test]
    async fn negative_answers_are_kept() {
        let server = Server::start(&[]).await;
        let resolver = server.resolver(Path::new("/nonexistent"));
        assert!(matches!(resolver.resolve("nowhere.example").await, Err(ResolveError::NotFound)));
        let asked = server.questions.load(Ordering::Relaxed);
        assert!(matches!(resolver.resolve("nowhere.example").await, Err(ResolveError::NotFound)));
        assert_eq!(server.questions.load(Ordering::Relaxed), asked);
    }

    #[tokio::test]
    async fn hosts_go_first_and_changes_are_seen() {
        let server = Server::start(&[("db.example", V6, 300)]).await;
        let hosts = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(hosts.path(), "# local\n127.0.0.1 localhost DB.example db # alias\nnonsense here\n")
            .expect("written");
        let resolver = server.resolver(hosts.path());
        assert_eq!(resolver.resolve("db.example").await.expect("known"), [V4]);
        assert_eq!(resolver.resolve("db.example.").await.expect("known"), [V4]);
        assert_eq!(server.questions.load(Ordering::Relaxed), 0);
        std::fs::write(hosts.path(), "127.0.0.1 localhost\n# nothing else is known here any more\n").expect("written");
        assert_eq!(resolver.resolve("db.example").await.expect("known"), [V6]);
    }

    #[tokio::test]
    async fn connects_to_the_address_that_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let port = listener.local_addr().expect("bound").port();
        let server = Server::start(&[("both.example", V4, 300), ("both.example", V6, 300)]).await;
        let resolver = server.resolver(Path::new("/nonexistent"));
        let settings = Settings::embedded("a", "b", ([127, 0, 0, 1], 1).into(), "".into(), "".into());
        let dialer = Dialer::new(&settings);
        let connected =
            resolver.connect(&dialer, "both.example", port, Duration::from_secs(5)).await.expect("IPv4 answers");
        assert_eq!(connected.get_ref().peer_addr().expect("connected").ip(), V4);
        drop(listener);
        let refused = resolver.connect(&dialer, "both.example", port, Duration::from_secs(5)).await;
        assert!(matches!(refused, Err(ConnectError::Refused { .. })));
        let unknown = resolver.connect(&dialer, "nowhere.example", port, Duration::from_secs(5)).await;
        assert!(matches!(unknown, Err(ConnectError::Resolve { .. })));
    }
}
