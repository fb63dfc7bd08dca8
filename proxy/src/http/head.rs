//! Heads of requests and responses: made canonical once, cleaned of what concerns only one connection (RFC 9110 §7.6.1), and
//! written for the version that the next hop speaks.
//!
//! What is matched is what is forwarded: host and path are brought into one spelling here and nowhere else. Headers are moved
//! along, not copied.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, Entry, HOST, HeaderName, HeaderValue, SEC_WEBSOCKET_KEY, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Uri, request};

use super::failure::{Failure, MALLA_REASON};
use crate::filter::Filters;
use crate::reason::Reason;
use crate::route;

/// Tells the inbound sidecar in which version a request came to the outbound one: `1.0`, `1.1` or `2`.
pub(crate) const MALLA_HTTP: HeaderName = HeaderName::from_static("malla-http");
/// On the answer to an extended `CONNECT` between sidecars: the application switched to this protocol.
pub(crate) const MALLA_UPGRADE: HeaderName = HeaderName::from_static("malla-upgrade");
/// Headers of a request, as hyper limits them in HTTP/1 too.
pub(super) const MOST_HEADERS: usize = 100;
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// The version in which the application sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Original {
    Http10,
    Http11,
    Http2,
}

/// A request for something else than an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// `Upgrade` of HTTP/1.1, or extended `CONNECT` (RFC 8441): the protocol.
    To(HeaderValue),
    /// Plain `CONNECT`.
    Connect,
}

/// The head of a request, canonical.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) method: Method,
    /// Lower case; `None` where an HTTP/1.0 client named none.
    pub(crate) authority: Option<Authority>,
    pub(crate) path: PathAndQuery,
    /// Without those of one connection, without `host`.
    pub(crate) headers: HeaderMap,
    pub(crate) original: Original,
    pub(crate) upgrade: Option<Upgrade>,
}

impl Head {
    /// Reads a head as HTTP/1 brought it.
    pub(crate) fn from_http1(parts: request::Parts) -> Result<Head, Failure> {
        let request::Parts { method, uri, version, mut headers, .. } = parts;
        let original = if version == http::Version::HTTP_10 { Original::Http10 } else { Original::Http11 };
        let host = take_host(&mut headers)?;
        if host.is_none() && original == Original::Http11 {
            return Err(invalid("the request has no Host header"));
        }
        let upgrade = strip_request(&mut headers, original);
        if method == Method::CONNECT {
            let authority = uri.into_parts().authority.ok_or_else(|| invalid("CONNECT without a target"))?;
            let authority = Some(canonical_authority(authority)?);
            let path = PathAndQuery::from_static("/");
            return Ok(Head { method, authority, path, headers, original, upgrade: Some(Upgrade::Connect) });
        }
        // The absolute form overrides Host (RFC 9112 §3.2.2); where they differ, somebody may go by the other.
        let uri = uri.into_parts();
        let authority = match (uri.authority, host) {
            (Some(authority), Some(host)) if !is_same_host(authority.as_str(), &host) => {
                return Err(invalid("the target and the Host header differ"));
            }
            (Some(authority), _) => Some(authority),
            (None, Some(host)) if !host.is_empty() => {
                Some(Authority::try_from(host.as_bytes()).map_err(|_| invalid("the Host header is not a host name"))?)
            }
            (None, _) => None,
        };
        Ok(Head {
            authority: authority.map(canonical_authority).transpose()?,
            path: canonical_path(uri.path_and_query.unwrap_or(PathAndQuery::from_static("/")), &method)?,
            method,
            headers,
            original,
            upgrade,
        })
    }

    /// Reads a head as HTTP/2 brought it. (The library has refused headers of one connection.)
    pub(crate) fn from_http2(parts: request::Parts) -> Result<Head, Failure> {
        let request::Parts { mut method, uri, mut headers, extensions, .. } = parts;
        // Clients cut cookies into pieces (RFC 9113 §8.2.3).
        if headers.len().saturating_sub(headers.get_all(COOKIE).iter().count()) > MOST_HEADERS {
            return Err(Failure::new(Reason::HeadersTooLarge, format!("more than {MOST_HEADERS} headers")));
        }
        let host = take_host(&mut headers)?;
        let uri = uri.into_parts();
        let authority = match (uri.authority, host) {
            (Some(authority), Some(host)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
                return Err(invalid(":authority and Host differ"));
            }
            (Some(authority), _) => Some(canonical_authority(authority)?),
            (None, Some(host)) if !host.is_empty() => Some(canonical_authority(
                Authority::try_from(host.as_bytes()).map_err(|_| invalid("the Host header is not a host name"))?,
            )?),
            (None, _) => None,
        };
        let mut upgrade = None;
        if method == Method::CONNECT {
            if authority.is_none() && extensions.get::<h2::ext::Protocol>().is_none() {
                return Err(invalid("CONNECT without a target"));
            }
            upgrade = Some(match extensions.get::<h2::ext::Protocol>() {
                Some(protocol) => Upgrade::To(
                    HeaderValue::from_str(protocol.as_str()).map_err(|_| invalid(":protocol is not a token"))?,
                ),
                None => Upgrade::Connect,
            });
            if matches!(upgrade, Some(Upgrade::To(_))) {
                method = Method::GET;
            }
            // What follows is no body, and must not be taken for one where this is written in HTTP/1.
            headers.remove(CONTENT_LENGTH);
        }
        let path = uri.path_and_query.unwrap_or(PathAndQuery::from_static("/"));
        let path = canonical_path(path, &method)?;
        Ok(Head { method, authority, path, headers, original: Original::Http2, upgrade })
    }

    /// From a request that [`Head::into_http1`] made and that was not sent.
    pub(crate) fn from_unsent(parts: request::Parts, original: Original, upgrade: Option<Upgrade>) -> Head {
        let request::Parts { method, uri, mut headers, .. } = parts;
        let host = headers.remove(HOST);
        headers.remove(CONNECTION);
        headers.remove(UPGRADE);
        let uri = uri.into_parts();
        let named = || host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
        let path = uri.path_and_query.unwrap_or(PathAndQuery::from_static("/"));
        Head { method, authority: uri.authority.or_else(named), path, headers, original, upgrade }
    }

    /// What another sidecar said about the version in which the request came to it.
    pub(crate) fn take_original(&mut self, trusted: bool) {
        let Some(told) = self.headers.remove(&MALLA_HTTP) else { return };
        if trusted {
            match told.as_bytes() {
                b"1.0" => self.original = Original::Http10,
                b"1.1" => self.original = Original::Http11,
                _ => {}
            }
        }
    }

    /// Makes a route's changes for the cluster at this place: headers, host, path.
    pub(crate) fn filter(&mut self, filters: &Filters, place: usize) {
        filters.headers(place).request.apply(&mut self.headers);
        if let Some(host) = &filters.rewrite.host {
            self.authority = Some(host.clone());
        }
        if let Some(path) = filters.rewrite.path.as_ref().and_then(|rewrite| rewrite.apply(&self.path)) {
            self.path = path;
        }
    }

    /// The part that routes and rules look at.
    pub(crate) fn seen(&self) -> route::Head<'_> {
        route::Head {
            method: &self.method,
            host: self.host(),
            path: self.path.path(),
            query: self.path.query(),
            headers: &self.headers,
        }
    }

    /// Host in lower case without the port; empty if there is none.
    pub(crate) fn host(&self) -> &str {
        self.authority.as_ref().map_or("", Authority::host)
    }

    /// Whether the client speaks gRPC, by its content type.
    pub(crate) fn is_grpc(&self) -> bool {
        let content_type = self.headers.get(http::header::CONTENT_TYPE);
        content_type.is_some_and(|value| {
            let rest = value.as_bytes().strip_prefix(b"application/grpc");
            rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
        })
    }

    /// For an HTTP/2 upstream; `to_sidecar` tells it the original version.
    pub(crate) fn into_http2(mut self, to_sidecar: bool) -> Request<()> {
        if to_sidecar {
            self.headers.insert(MALLA_HTTP, self.original.word());
        }
        let mut request = Request::new(());
        let mut uri = http::uri::Parts::default();
        match self.authority {
            Some(authority) => {
                uri.scheme = Some(Scheme::HTTP);
                uri.authority = Some(authority);
                *request.version_mut() = http::Version::HTTP_2;
            }
            // Without an authority the library writes the head of a forwarded HTTP/1 request: no `:authority`.
            None => *request.version_mut() = http::Version::HTTP_11,
        }
        uri.path_and_query = Some(self.path);
        *request.method_mut() = self.method;
        match self.upgrade {
            Some(Upgrade::To(protocol)) => {
                *request.method_mut() = Method::CONNECT;
                if let Ok(protocol) = protocol.to_str() {
                    request.extensions_mut().insert(h2::ext::Protocol::from(protocol));
                }
            }
            Some(Upgrade::Connect) => {
                uri.scheme = None;
                uri.path_and_query = None;
            }
            None => {}
        }
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        *request.headers_mut() = self.headers;
        request
    }

    /// For an HTTP/1 upstream, in HTTP/1.1. `default_host` stands in where the client named none.
    pub(crate) fn into_http1<B>(mut self, default_host: &str, body: B) -> Request<B> {
        let authority = self.authority.as_ref().map_or(default_host, Authority::as_str);
        let host = HeaderValue::from_str(authority).unwrap_or(HeaderValue::from_static(""));
        self.headers.insert(HOST, host);
        let mut uri = http::uri::Parts::default();
        match &self.upgrade {
            Some(Upgrade::Connect) => uri.authority = self.authority,
            Some(Upgrade::To(protocol)) => {
                self.headers.insert(UPGRADE, protocol.clone());
                self.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                if protocol.as_bytes().eq_ignore_ascii_case(b"websocket") {
                    complete_websocket(&mut self.headers);
                }
                uri.path_and_query = Some(self.path);
            }
            None => {
                if self.headers.contains_key(TE) {
                    self.headers.insert(CONNECTION, HeaderValue::from_static("te"));
                }
                uri.path_and_query = Some(self.path);
            }
        }
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        *request.headers_mut() = self.headers;
        request
    }
}

impl Original {
    fn word(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Original::Http10 => "1.0",
            Original::Http11 => "1.1",
            Original::Http2 => "2",
        })
    }
}

/// What a WebSocket handshake of HTTP/1 has and one of HTTP/2 has not (RFC 8441 §5): a key, of which the answer is of no use to
/// the client.
fn complete_websocket(headers: &mut HeaderMap) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let Entry::Vacant(key) = headers.entry(SEC_WEBSOCKET_KEY) else { return };
    let mut text: String = (0..21).filter_map(|_| fastrand::choice(DIGITS)).map(|digit| char::from(*digit)).collect();
    text.push_str("A=="); // 16 bytes: the last digit carries two bits
    if let Ok(value) = HeaderValue::try_from(text) {
        key.insert(value);
    }
}

fn invalid(what: &'static str) -> Failure {
    Failure::new(Reason::ProtocolError, what)
}

/// Removes `host`; more than one is a smuggler's trick (RFC 9112 §3.2).
fn take_host(headers: &mut HeaderMap) -> Result<Option<HeaderValue>, Failure> {
    match headers.entry(HOST) {
        Entry::Vacant(_) => Ok(None),
        Entry::Occupied(hosts) => {
            if hosts.iter().nth(1).is_some() {
                return Err(invalid("the request has several Host headers"));
            }
            Ok(Some(hosts.remove()))
        }
    }
}

/// Whether a target of plain HTTP and a Host header name the same, whoever writes the port that goes without saying.
fn is_same_host(target: &str, host: &HeaderValue) -> bool {
    let short = |text: &str| text.strip_suffix(":80").unwrap_or(text).to_ascii_lowercase();
    host.to_str().is_ok_and(|host| short(host) == short(target))
}

fn canonical_authority(authority: Authority) -> Result<Authority, Failure> {
    let text = authority.as_str();
    if text.contains('@') {
        return Err(invalid("the authority contains user information"));
    }
    let port = text.strip_prefix(authority.host()).unwrap_or_default();
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit())) {
        return Err(invalid("the authority has no valid port"));
    }
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        let lower = text.to_ascii_lowercase();
        return Authority::try_from(lower).map_err(|_| invalid("the authority is not a host name"));
    }
    Ok(authority)
}

/// Resolves `.` and `..` segments, plain or percent-encoded, so that no rule about paths is passed by another spelling.
fn canonical_path(path: PathAndQuery, method: &Method) -> Result<PathAndQuery, Failure> {
    if !path.path().starts_with('/') {
        let asterisk = path.path() == "*" && *method == Method::OPTIONS;
        return if asterisk { Ok(path) } else { Err(invalid("the path does not begin with a slash")) };
    }
    if !path.path().split('/').any(is_dot_segment) {
        // `http://cart?q`: the path is not written (RFC 9112 §3.2.1).
        if path.as_str().starts_with('?') {
            return PathAndQuery::try_from(format!("/{}", path.as_str())).map_err(|_| invalid("the path is not valid"));
        }
        return Ok(path);
    }
    let mut segments: Vec<&str> = Vec::new();
    let mut last_is_dots = false;
    for segment in path.path().split('/').skip(1) {
        last_is_dots = is_dot_segment(segment);
        match dots(segment) {
            Some(1) => {}
            Some(_) => {
                segments.pop();
            }
            None => segments.push(segment),
        }
    }
    let mut text = String::with_capacity(path.as_str().len());
    for segment in &segments {
        text.push('/');
        text.push_str(segment);
    }
    if last_is_dots || segments.is_empty() {
        text.push('/');
    }
    if let Some(query) = path.query() {
        text.push('?');
        text.push_str(query);
    }
    PathAndQuery::try_from(text).map_err(|_| invalid("the path is not valid"))
}

/// Whether a segment of a path is `.` or `..`, however it is written.
pub(crate) fn is_dot_segment(segment: &str) -> bool {
    dots(segment).is_some()
}

/// 1 for `.`, 2 for `..`, whichever way they are written.
fn dots(segment: &str) -> Option<usize> {
    if segment.is_empty() || segment.len() > 6 {
        return None;
    }
    let (mut rest, mut count) = (segment.as_bytes(), 0_usize);
    while !rest.is_empty() {
        rest = match rest {
            [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
            _ => return None,
        };
        count = count.saturating_add(1);
    }
    (count <= 2).then_some(count)
}

/// Removes from an HTTP/1 request what concerns only its connection, and returns what it asks to become.
fn strip_request(headers: &mut HeaderMap, original: Original) -> Option<Upgrade> {
    let options = strip_connection(headers);
    let te = headers.remove(TE);
    if te.is_some_and(|te| lists(&te, "trailers")) {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let upgrade = headers.remove(UPGRADE)?;
    // HTTP/2 in plaintext is reached by prior knowledge only: `Upgrade: h2c` is a plain request (RFC 9113 §3.1).
    headers.remove(HTTP2_SETTINGS);
    let wanted = options.upgrade && original == Original::Http11 && !lists(&upgrade, "h2c") && !upgrade.is_empty();
    wanted.then_some(Upgrade::To(upgrade))
}

/// Removes from an HTTP/1 response what concerns only its connection.
pub(crate) fn strip_response(headers: &mut HeaderMap) {
    strip_connection(headers);
    headers.remove(UPGRADE);
    headers.remove(TE);
}

struct ConnectionOptions {
    upgrade: bool,
}

fn strip_connection(headers: &mut HeaderMap) -> ConnectionOptions {
    let mut options = ConnectionOptions { upgrade: false };
    if let Entry::Occupied(connection) = headers.entry(CONNECTION) {
        let (_, mut values) = connection.remove_entry_mult();
        let first = values.next();
        let values: smallvec::SmallVec<[HeaderValue; 2]> = first.into_iter().chain(values).collect();
        for option in values.iter().flat_map(|value| value.as_bytes().split(|b| *b == b',')) {
            let option = option.trim_ascii();
            if option.eq_ignore_ascii_case(b"upgrade") {
                options.upgrade = true;
            } else if !is_protected(option)
                && let Ok(name) = HeaderName::from_bytes(option)
            {
                headers.remove(name);
            }
        }
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(TRANSFER_ENCODING);
    options
}

/// Options that name no header, and headers that a client must not make disappear by calling them its connection's.
fn is_protected(option: &[u8]) -> bool {
    const PROTECTED: [&str; 9] = [
        "close",
        "keep-alive",
        "te",
        "host",
        "content-length",
        "content-type",
        "authorization",
        "malla-http",
        "trailer",
    ];
    PROTECTED.iter().any(|name| option.eq_ignore_ascii_case(name.as_bytes()))
}

fn lists(value: &HeaderValue, token: &str) -> bool {
    value.as_bytes().split(|b| *b == b',').any(|part| {
        let part = part.split(|b| *b == b';').next().unwrap_or_default();
        part.trim_ascii().eq_ignore_ascii_case(token.as_bytes())
    })
}

/// Fields that must not travel as trailers, because the next hop could take them for what frames or routes the message
/// (RFC 9110 §6.5.1), and those that only sidecars write.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    for name in [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, TE, UPGRADE, MALLA_HTTP, MALLA_REASON] {
        trailers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut builder = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).expect("a valid request").into_parts().0
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn headers_of_one_connection_stay_on_it() {
        let head = Head::from_http1(parts(
            "GET",
            "/",
            &[
                ("host", "cart"),
                ("connection", "keep-alive, X-Hop, authorization"),
                ("connection", "te"),
                ("x-hop", "1"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("te", "gzip, trailers;q=0.5"),
                ("authorization", "secret"),
                ("x-end", "1"),
            ],
        ))
        .expect("valid");
        assert_eq!(names(&head.headers), ["authorization", "te", "x-end"]);
        assert_eq!(head.headers["te"], "trailers");
        assert_eq!(head.upgrade, None);
    }

    #[test]
    fn upgrades_are_asked_for_by_two_headers_and_never_to_http2() {
        let upgrade = |headers: &[(&str, &str)]| {
            let mut all = vec![("host", "a")];
            all.extend(headers);
            Head::from_http1(parts("GET", "/", &all)).expect("valid").upgrade
        };
        let websocket = Some(Upgrade::To(HeaderValue::from_static("websocket")));
        assert_eq!(upgrade(&[("upgrade", "websocket"), ("connection", "Upgrade")]), websocket);
        assert_eq!(upgrade(&[("upgrade", "websocket")]), None);
        assert_eq!(upgrade(&[("upgrade", "h2c"), ("connection", "upgrade, http2-settings")]), None);
    }

    #[test]
    fn the_authority_has_one_spelling_and_one_source() {
        let authority = |uri: &str, headers: &[(&str, &str)]| {
            Head::from_http1(parts("GET", uri, headers)).map(|head| head.authority.map(|a| a.to_string()))
        };
        assert_eq!(authority("/", &[("host", "Cart.Shop:80")]).ok(), Some(Some("cart.shop:80".into())));
        assert_eq!(authority("http://a.b/", &[("host", "A.b:80")]).ok(), Some(Some("a.b".into())), "they say the same");
        let differ = authority("http://a.b/", &[("host", "c.d")]);
        assert_eq!(differ.map_err(|failure| failure.reason), Err(Reason::ProtocolError), "who reads which?");
        assert_eq!(authority("/", &[("host", "")]).ok(), Some(None));
        for bad in
            [&[][..], &[("host", "a"), ("host", "a")], &[("host", "u@a")], &[("host", "a b")], &[("host", "[::1]0")]]
        {
            assert_eq!(authority("/", bad).map_err(|failure| failure.reason), Err(Reason::ProtocolError), "{bad:?}");
        }
        let mut old = parts("GET", "/", &[]);
        old.version = http::Version::HTTP_10;
        assert!(Head::from_http1(old).is_ok_and(|head| head.authority.is_none()), "HTTP/1.0 needs no Host");
        let two = |headers: &[(&str, &str)]| Head::from_http2(parts("GET", "http://cart/", headers));
        assert!(two(&[("host", "CART")]).is_ok());
        assert!(two(&[("host", "other")]).is_err());
    }

    #[test]
    fn paths_have_one_spelling() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/b?c=/../d", "/a/b?c=/../d"),
            ("/a/../b", "/b"),
            ("/a/./b/", "/a/b/"),
            ("/a/%2e%2E/b?q", "/b?q"),
            ("/../../etc", "/etc"),
            ("/a/..", "/"),
            ("/a/b/.", "/a/b/"),
            ("/a//b", "/a//b"),
            ("?q=1", "/?q=1"),
            ("/.a/..b/%2e%2e%2e", "/.a/..b/%2e%2e%2e"),
        ] {
            let canonical = canonical_path(PathAndQuery::from_static(path), &Method::GET);
            assert_eq!(canonical.ok().map(|path| path.to_string()).as_deref(), Some(expected), "{path}");
        }
    }

    #[test]
    fn the_original_version_is_believed_only_from_sidecars() {
        let head = |trusted| {
            let mut head =
                Head::from_http2(parts("GET", "http://cart/", &[("malla-http", "1.1")])).expect("a valid head");
            head.take_original(trusted);
            assert!(!head.headers.contains_key(MALLA_HTTP));
            head.original
        };
        assert_eq!(head(true), Original::Http11);
        assert_eq!(head(false), Original::Http2);
    }

    #[test]
    fn heads_are_written_for_the_next_hop() {
        let head = Head::from_http1(parts("GET", "/x?y", &[("host", "cart"), ("te", "trailers")])).expect("valid");
        let two = head.clone().into_http2(true);
        assert_eq!(two.uri().to_string(), "http://cart/x?y");
        assert_eq!(two.headers()["malla-http"], "1.1");
        assert!(!two.headers().contains_key("host"));
        let one = head.into_http1("unused", ());
        assert_eq!(one.uri().to_string(), "/x?y");
        assert_eq!(
            (&one.headers()["host"], &one.headers()["connection"]),
            (&"cart".parse().unwrap(), &"te".parse().unwrap())
        );
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            let head = Head::from_http2(parts("POST", "http://a/", &[("content-type", content_type)])).expect("valid");
            assert_eq!(head.is_grpc(), expected, "{content_type}");
        }
    }

    #[test]
    fn headers_are_counted_in_http2_too() {
        let reason = |name: &str, number: usize| {
            let headers: Vec<(&str, &str)> = (0..number).map(|_| (name, "1")).collect();
            Head::from_http2(parts("GET", "http://cart/", &headers)).map(drop).map_err(|failure| failure.reason)
        };
        assert_eq!(reason("x-a", 100), Ok(()));
        assert_eq!(reason("x-a", 101), Err(Reason::HeadersTooLarge));
        assert_eq!(reason("cookie", 300), Ok(()), "one cookie in pieces");
    }

    #[test]
    fn trailers_cannot_frame_or_route() {
        let mut trailers = parts("GET", "/", &[("content-length", "1"), ("grpc-status", "0"), ("host", "x")]).headers;
        clean_trailers(&mut trailers);
        assert_eq!(names(&trailers), ["grpc-status"]);
    }
}
