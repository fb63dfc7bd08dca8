//! The key of a request: what consistent hashing hashes.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::COOKIE;

use super::hash::hash;
use crate::policy::HashOn;
use crate::snapshot::Cluster;

/// The hash of the first thing that the request has of those that the cluster hashes; `None` if it has none, or the cluster does
/// not hash.
pub fn key(cluster: &Cluster, headers: &HeaderMap, query: Option<&str>, source: Option<IpAddr>) -> Option<u64> {
    let hashing = cluster.policy.algorithm.hashing()?;
    hashing.on.iter().find_map(|on| match on {
        HashOn::Header(name) => headers.get(name).map(|value| hash(value.as_bytes())),
        HashOn::Cookie(name) => cookie(headers, name).map(hash),
        HashOn::Query(name) => parameter(query?, name).map(|value| hash(value.as_bytes())),
        HashOn::Source => source.map(|address| match address {
            IpAddr::V4(v4) => hash(&v4.octets()),
            IpAddr::V6(v6) => hash(&v6.octets()),
        }),
    })
}

/// The value of a cookie (RFC 6265, section 4.2.1).
pub(crate) fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// The value of a query parameter as it is written.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::HeaderValue;

    use super::*;
    use crate::policy::{Algorithm, Hashing, Policy};

    #[test]
    fn the_first_thing_that_a_request_has_decides() {
        let on = vec![
            HashOn::Header("x-user".parse().expect("a name")),
            HashOn::Cookie("session".into()),
            HashOn::Query("id".into()),
            HashOn::Source,
        ];
        let hash_on = Hashing { on, bounded_load: None };
        let algorithm = Algorithm::Maglev { hash: hash_on, table_size: 101 };
        let cluster = Cluster { policy: Arc::new(Policy { algorithm, ..Policy::default() }), ..Cluster::default() };
        let mut headers = HeaderMap::new();
        let source = Some(IpAddr::from([10, 0, 0, 9]));
        assert_eq!(key(&cluster, &headers, None, None), None);
        assert_eq!(key(&cluster, &headers, None, source), Some(hash(&[10, 0, 0, 9])));
        assert_eq!(key(&cluster, &headers, Some("a=1&id=7"), source), Some(hash(b"7")));
        headers.append(COOKIE, HeaderValue::from_static("other=1; sessions=2; session=abc; x=y"));
        assert_eq!(key(&cluster, &headers, Some("id=7"), source), Some(hash(b"abc")));
        headers.insert("x-user", HeaderValue::from_static("alice"));
        assert_eq!(key(&cluster, &headers, Some("id=7"), source), Some(hash(b"alice")));
        assert_eq!(key(&Cluster::default(), &headers, None, source), None, "the default hashes nothing");
    }
}
