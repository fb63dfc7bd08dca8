//! Session persistence (GEP-1619): a client comes back to the endpoint that answered it first, by a token in a cookie or a header.
//!
//! A token never is an address: it is a hash of a cluster and an endpoint, looked up among those to which the route leads now.
//! Whatever a client invents leads to one of them or means nothing. An endpoint that is gone, ejected, failing its checks or full
//! has lost its sessions: the request is balanced like any other, and the answer brings a new token.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::balance::{cookie, hash};
use crate::snapshot::{Cluster, Endpoints};

/// How far a clock that issued a token may be ahead of this one, in seconds.
const CLOCK_SKEW: u64 = 60;

/// How the clients of a route keep to their endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// What carries the token.
    pub carrier: Carrier,
    /// How long a session lasts, whatever the client keeps; `None` is for as long as the client has the token.
    pub lifetime: Option<Duration>,
    /// How long it lasts without a request; `None` is for ever.
    pub idle: Option<Duration>,
}

/// What carries a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    /// A cookie.
    Cookie {
        /// Its name.
        name: Arc<str>,
        /// Paths to which the client sends it.
        path: Arc<str>,
        /// Whether the client keeps it until the session's end; else as long as it runs.
        permanent: bool,
    },
    /// A header of answers, which the client repeats in requests.
    Header(HeaderName),
}

/// Where a session leads.
#[derive(Debug, Clone, Copy)]
pub struct Kept<'a> {
    /// The cluster's place in the route.
    pub place: usize,
    /// The cluster.
    pub cluster: &'a Arc<Cluster>,
    /// The endpoint, and since when.
    pub held: Held,
}

/// The endpoint of a session, and its times in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Where it is.
    pub address: SocketAddr,
    /// When it began, where that is known.
    begun: Option<u64>,
    /// When it was used last, where that is known.
    used: Option<u64>,
}

impl Session {
    /// Where a request's token leads, at a time in seconds since 1970; nothing if it has none that means anything here.
    pub fn kept<'a>(&self, headers: &HeaderMap, clusters: &'a [(Arc<Cluster>, u32)], now: u64) -> Option<Kept<'a>> {
        let token = match &self.carrier {
            Carrier::Cookie { name, .. } => cookie(headers, name)?,
            Carrier::Header(name) => headers.get(name)?.as_bytes(),
        };
        let Token { id: wanted, begun, used } = parse(token)?;
        // A token that does not say its age is old.
        let lasts = |limit: Option<Duration>, since: Option<u64>| {
            limit.is_none_or(|limit| {
                let since = since.filter(|since| *since <= now.saturating_add(CLOCK_SKEW));
                since.is_some_and(|since| now.saturating_sub(since) < limit.as_secs())
            })
        };
        // Tokens count whole seconds: two of them are up to a second further apart than the requests were.
        let idle = self.idle.map(|idle| idle.saturating_add(Duration::from_millis(1999)));
        if !lasts(self.lifetime, begun) || !lasts(idle, used) {
            return None;
        }
        clusters.iter().enumerate().find_map(|(place, (cluster, _))| {
            let Endpoints::Set(set) = &cluster.endpoints else { return None };
            let found = set.iter().find(|endpoint| id(&cluster.name, endpoint.address) == wanted)?;
            Some(Kept { place, cluster, held: Held { address: found.address, begun, used } })
        })
    }

    /// Tells the client that it belongs to an endpoint from now on, or that it still does where that has to be told.
    pub fn keep(&self, cluster: &str, address: SocketAddr, held: Option<Held>, now: u64, answer: &mut HeaderMap) {
        let held = held.filter(|held| held.address == address);
        if held.is_some_and(|held| self.idle.is_none() || held.used >= Some(now)) {
            return;
        }
        let id = id(cluster, address);
        let begun = held.and_then(|held| held.begun).unwrap_or(now);
        let token = match (self.lifetime, self.idle) {
            (None, None) => format!("{id:016x}"),
            (Some(_), None) => format!("{id:016x}-{begun:x}"),
            (_, Some(_)) => format!("{id:016x}-{begun:x}-{now:x}"),
        };
        match &self.carrier {
            Carrier::Header(name) => {
                if let Ok(value) = HeaderValue::from_str(&token) {
                    answer.insert(name, value);
                }
            }
            Carrier::Cookie { name, path, permanent } => {
                let age = self.lifetime.filter(|_| *permanent);
                let left = age.map(|lifetime| lifetime.as_secs().saturating_sub(now.saturating_sub(begun)));
                let age = left.map_or_else(String::new, |seconds| format!("; Max-Age={seconds}"));
                if let Ok(value) = HeaderValue::from_str(&format!("{name}={token}; Path={path}{age}; HttpOnly")) {
                    answer.append(SET_COOKIE, value);
                }
            }
        }
    }

    /// What carries the token, for people.
    pub fn word(&self) -> String {
        match &self.carrier {
            Carrier::Cookie { name, .. } => format!("cookie {name}"),
            Carrier::Header(name) => format!("header {name}"),
        }
    }
}

/// The same in every sidecar, and after a restart.
fn id(cluster: &str, address: SocketAddr) -> u64 {
    let mut text = smallvec::SmallVec::<[u8; 96]>::from_slice(cluster.as_bytes());
    text.push(0);
    match address.ip() {
        std::net::IpAddr::V4(v4) => text.extend_from_slice(&v4.octets()),
        std::net::IpAddr::V6(v6) => text.extend_from_slice(&v6.octets()),
    }
    text.extend_from_slice(&address.port().to_be_bytes());
    hash(&text)
}

/// What a token says.
struct Token {
    id: u64,
    begun: Option<u64>,
    used: Option<u64>,
}

fn parse(token: &[u8]) -> Option<Token> {
    let mut parts = std::str::from_utf8(token).ok()?.split('-');
    let id = parts.next().filter(|id| id.len() == 16)?;
    let begun = parts.next().map(|begun| number(begun).ok_or(())).transpose().ok()?;
    let used = parts.next().map(|used| number(used).ok_or(())).transpose().ok()?;
    parts.next().is_none().then_some(Token { id: number(id)?, begun, used })
}

/// Without a sign, which `from_str_radix` would take.
fn number(hex: &str) -> Option<u64> {
    if hex.bytes().all(|byte| byte.is_ascii_hexdigit()) { u64::from_str_radix(hex, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::{cluster, endpoint};

    fn clusters() -> Vec<(Arc<Cluster>, u32)> {
        let of = |name: &str, hosts: &[u8]| {
            let endpoints = hosts.iter().map(|host| endpoint(SocketAddr::from(([10, 0, 0, *host], 80))));
            (Arc::new(cluster(name, endpoints.collect())), 1)
        };
        vec![of("a.shop:80", &[1, 2]), of("b.shop:80", &[2, 3])]
    }

    fn by_cookie(lifetime: Option<u64>) -> Session {
        let carrier = Carrier::Cookie { name: "s".into(), path: "/".into(), permanent: true };
        Session { carrier, lifetime: lifetime.map(Duration::from_secs), idle: None }
    }

    /// What a client sends back of an answer.
    fn returned(session: &Session, cluster: &str, host: u8, now: u64) -> HeaderMap {
        let mut answer = HeaderMap::new();
        session.keep(cluster, SocketAddr::from(([10, 0, 0, host], 80)), None, now, &mut answer);
        sent_back(session, &answer)
    }

    fn sent_back(session: &Session, answer: &HeaderMap) -> HeaderMap {
        let mut request = HeaderMap::new();
        match &session.carrier {
            Carrier::Header(name) => drop(request.insert(name, answer[name].clone())),
            Carrier::Cookie { .. } => {
                let text = answer[SET_COOKIE].to_str().expect("text");
                let pair = text.split(';').next().expect("a pair");
                request.insert("cookie", format!("x=1; {pair}").parse().expect("a value"));
            }
        }
        request
    }

    #[test]
    fn a_token_leads_back_to_its_cluster_and_endpoint() {
        let clusters = clusters();
        let carrier = Carrier::Header("x-session".parse().expect("a name"));
        let by_header = Session { carrier, lifetime: None, idle: None };
        for session in [by_cookie(None), by_cookie(Some(60)), by_header] {
            for (place, name, host) in [(0, "a.shop:80", 1), (0, "a.shop:80", 2), (1, "b.shop:80", 2)] {
                let request = returned(&session, name, host, 1000);
                let kept = session.kept(&request, &clusters, 1010).expect("known");
                let address = SocketAddr::from(([10, 0, 0, host], 80));
                assert_eq!((kept.place, &*kept.cluster.name, kept.held.address), (place, name, address), "{session:?}");
            }
        }
    }

    #[test]
    fn what_is_not_an_endpoint_of_the_route_leads_nowhere() {
        let (clusters, session) = (clusters(), by_cookie(None));
        for (cluster, host) in [("a.shop:80", 3), ("b.shop:80", 1), ("c.shop:80", 1)] {
            assert!(session.kept(&returned(&session, cluster, host, 0), &clusters, 0).is_none(), "{cluster} {host}");
        }
        for forged in ["10.0.0.1:80", "MTAuMC4wLjE6ODA=", "", "0000000000000000", "+00000000000000a", "ff", "-", "é"] {
            let mut request = HeaderMap::new();
            request.insert("cookie", HeaderValue::from_bytes(format!("s={forged}").as_bytes()).expect("a value"));
            assert!(session.kept(&request, &clusters, 0).is_none(), "{forged}");
        }
        assert!(session.kept(&HeaderMap::new(), &clusters, 0).is_none());
    }

    #[test]
    fn a_session_ends_after_its_lifetime_whatever_the_client_keeps() {
        let (clusters, session) = (clusters(), by_cookie(Some(60)));
        let request = returned(&session, "a.shop:80", 1, 1000);
        for (now, lasts) in [(1000, true), (1059, true), (1060, false), (5000, false), (945, true), (900, false)] {
            assert_eq!(session.kept(&request, &clusters, now).is_some(), lasts, "{now}");
        }
        let without_time = returned(&by_cookie(None), "a.shop:80", 1, 1000);
        assert!(session.kept(&without_time, &clusters, 1000).is_none(), "a token that does not say its age is old");
    }

    #[test]
    fn a_session_ends_when_it_is_not_used_and_each_use_prolongs_it() {
        let (clusters, session) = (clusters(), Session { idle: Some(Duration::from_secs(10)), ..by_cookie(Some(60)) });
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        let mut request = returned(&session, "a.shop:80", 1, 1000);
        for now in (1009..1060).step_by(9) {
            assert!(session.kept(&request, &clusters, now + 2).is_none(), "more than ten seconds are too long");
            let kept = session.kept(&request, &clusters, now).expect("nine are not");
            let mut answer = HeaderMap::new();
            session.keep("a.shop:80", address, Some(kept.held), now, &mut answer);
            let cookie = answer[SET_COOKIE].to_str().expect("text");
            assert!(cookie.contains(&format!("Max-Age={};", 1060 - now)), "{cookie}");
            request = sent_back(&session, &answer);
            // Told once in a second.
            let kept = session.kept(&request, &clusters, now).expect("just told");
            let mut again = HeaderMap::new();
            session.keep("a.shop:80", address, Some(kept.held), now, &mut again);
            assert!(again.is_empty());
        }
        assert!(session.kept(&request, &clusters, 1060).is_none(), "its lifetime goes on from its beginning");
        let without_idle = returned(&by_cookie(Some(60)), "a.shop:80", 1, 1000);
        assert!(session.kept(&without_idle, &clusters, 1000).is_none(), "a token that does not say its use is old");
    }

    #[test]
    fn cookies_say_where_and_how_long_they_hold() {
        let told = |permanent, lifetime: Option<u64>| {
            let carrier = Carrier::Cookie { name: "s".into(), path: "/".into(), permanent };
            let session = Session { carrier, lifetime: lifetime.map(Duration::from_secs), idle: None };
            let mut answer = HeaderMap::new();
            session.keep("a.shop:80", SocketAddr::from(([10, 0, 0, 1], 80)), None, 16, &mut answer);
            let text = answer[SET_COOKIE].to_str().expect("text").to_owned();
            text.split_once("; ").map(|(pair, rest)| (pair.len(), rest.to_owned())).expect("attributes")
        };
        assert_eq!(told(false, None), (2 + 16, "Path=/; HttpOnly".to_owned()));
        assert_eq!(told(false, Some(60)), (2 + 16 + 3, "Path=/; HttpOnly".to_owned()));
        assert_eq!(told(true, Some(60)), (2 + 16 + 3, "Path=/; Max-Age=60; HttpOnly".to_owned()));
    }
}
