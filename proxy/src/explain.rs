//! What this sidecar would do with a request, in words: the very functions that do it, asked without a connection.
//!
//! For `malla explain` and route tests. Nothing here runs for real requests.

use std::sync::Arc;

use http::header::{HOST, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Uri};

use crate::decode::RouteTable;
use crate::decode::route::{RouteSpec, VirtualHostSpec};
use crate::http::Head;
use crate::names;
use crate::route::{self, Mismatch};
use crate::snapshot::{PathMatch, RouteMatch, ValueMatch};

/// A request as a program would send it, in canonical form.
#[derive(Debug, Clone)]
pub struct Request {
    authority: Box<str>,
    secure: bool,
    head: Head,
}

/// Why something is no request that the sidecar would take.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoRequest(String);

/// What of a table a request meets.
#[derive(Debug)]
pub struct Explanation<'a> {
    /// The virtual host.
    pub host: &'a VirtualHostSpec,
    /// Routes before the one that matches, in order, and the first thing that does not hold.
    pub passed: Vec<(&'a RouteSpec, String)>,
    /// The route that matches.
    pub matched: Option<&'a RouteSpec>,
}

/// What the upstream sees of a request after the changes of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// The host, with port if there is one.
    pub host: String,
    /// The path and query.
    pub path: String,
    /// The headers, in order of their names.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// A request by method, absolute URL and headers. A header `host` may differ from the host of the URL, which says where the
    /// request is sent.
    ///
    /// # Errors
    /// What a sidecar would refuse it for, or what is wrong with the URL.
    pub fn new(
        method: &str,
        url: &str,
        headers: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Request, NoRequest> {
        let invalid = |what: &str| NoRequest(what.to_owned());
        let method: Method = method.parse().map_err(|_| invalid("it is not a method"))?;
        let url: Uri = url.parse().map_err(|_| NoRequest(format!("{url:?} is not a URL")))?;
        let parts = url.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err(invalid("the URL must be absolute, as in http://cart.shop/"));
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().map_err(|_| NoRequest(format!("{name:?} is not a header")))?;
            let value: HeaderValue =
                value.parse().map_err(|_| NoRequest(format!("{value:?} is not the value of a header")))?;
            map.append(name, value);
        }
        if !map.contains_key(HOST) {
            let host = HeaderValue::from_str(authority.as_str()).map_err(|_| invalid("the host is not valid"))?;
            map.insert(HOST, host);
        }
        let (mut request, ()) = http::Request::new(()).into_parts();
        request.method = method;
        request.uri = Uri::from(parts.path_and_query.unwrap_or(PathAndQuery::from_static("/")));
        request.headers = map;
        let head = Head::from_http1(request).map_err(|failure| NoRequest(failure.to_string()))?;
        Ok(Request { authority: authority.as_str().into(), secure: scheme == http::uri::Scheme::HTTPS, head })
    }

    /// The name that a sidecar of a namespace looks up: `cart.shop:80`.
    pub fn destination(&self, namespace: &str) -> Option<String> {
        names::destination(&self.authority, if self.secure { 443 } else { 80 }, namespace).map(Into::into)
    }

    /// Its path without the query, as routes see it.
    pub fn path(&self) -> &str {
        self.head.path.path()
    }

    /// As rules see it.
    pub fn looked_at(&self) -> route::Head<'_> {
        self.head.seen()
    }

    /// As a route sends it to the cluster at this place.
    pub fn sent(&self, route: &RouteSpec, place: usize) -> Request {
        let mut sent = self.clone();
        if let Some(filters) = &route.filters {
            sent.head.filter(filters, place);
        }
        sent
    }

    /// What the cluster at this place of a route sees.
    pub fn forwarded(&self, route: &RouteSpec, place: usize) -> Forwarded {
        let Request { head, .. } = self.sent(route, place);
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let mut headers: Vec<_> = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        headers.sort();
        Forwarded {
            host: head.authority.as_ref().map_or_else(String::new, ToString::to_string),
            path: head.path.to_string(),
            headers,
        }
    }

    /// Where a route redirects it to, if it does.
    pub fn location(&self, route: &RouteSpec) -> Option<(u16, String)> {
        let redirect = route.redirect.as_ref()?;
        let location = redirect.location(self.head.host(), &self.head.path)?;
        Some((redirect.status.as_u16(), String::from_utf8_lossy(location.as_bytes()).into_owned()))
    }
}

/// What a request meets in a table; nothing if no virtual host is for it.
pub fn explain<'a>(table: &'a RouteTable, request: &Request) -> Option<Explanation<'a>> {
    let head = request.looked_at();
    let host = route::best_host(&table.virtual_hosts, |host| &host.domains, head.host)?;
    let mut passed = Vec::new();
    for route in &host.routes {
        match route::mismatch(&route.matcher, &head) {
            None => return Some(Explanation { host, passed, matched: Some(route) }),
            Some(mismatch) => passed.push((route, why_not(&route.matcher, &mismatch, &head))),
        }
    }
    Some(Explanation { host, passed, matched: None })
}

fn why_not(matcher: &RouteMatch, mismatch: &Mismatch<'_>, head: &route::Head<'_>) -> String {
    match mismatch {
        Mismatch::Path => format!("the path {} is not {}", head.path, path_words(&matcher.path)),
        Mismatch::Method(method) => format!("the method {} is not {method}", head.method),
        Mismatch::Header(name, expected) => match head.headers.get(*name) {
            None => format!("there is no header {name}, which must be {}", value_words(expected)),
            Some(value) => {
                let value = String::from_utf8_lossy(value.as_bytes());
                format!("the header {name} is {value:?}, not {}", value_words(expected))
            }
        },
        Mismatch::Query(name, expected) => {
            format!("the query parameter {name} is absent or not {}", value_words(expected))
        }
    }
}

/// The conditions of a route, as one would say them.
pub fn words(matcher: &RouteMatch) -> String {
    let mut words = Vec::new();
    words.extend(matcher.method.as_ref().map(|method| method.to_string()));
    words.push(match &matcher.path {
        PathMatch::Any => "any path".to_owned(),
        path => format!("path {}", path_words(path)),
    });
    let value = |what: &str, name: &str, value: &ValueMatch| match value {
        ValueMatch::Exact(text) => format!("{what} {name} = {text}"),
        ValueMatch::Regex(regex) => format!("{what} {name} ~ {regex}"),
        ValueMatch::Present => format!("{what} {name} is present"),
    };
    words.extend(matcher.headers.iter().map(|(name, matched)| value("header", name.as_str(), matched)));
    words.extend(matcher.query.iter().map(|(name, matched): &(Arc<str>, _)| value("query", name, matched)));
    words.join(", ")
}

fn path_words(path: &PathMatch) -> String {
    match path {
        PathMatch::Any => "any".to_owned(),
        PathMatch::Exact(path) => path.to_string(),
        PathMatch::Prefix(prefix) => format!("{prefix}…"),
        PathMatch::Regex(regex) => format!("~ {regex}"),
    }
}

fn value_words(value: &ValueMatch) -> String {
    match value {
        ValueMatch::Exact(text) => format!("{text:?}"),
        ValueMatch::Regex(regex) => format!("~ {regex}"),
        ValueMatch::Present => "present".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, url: &str, headers: &[(&str, &str)]) -> Result<Request, NoRequest> {
        Request::new(method, url, headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn requests_are_read_as_the_sidecar_reads_them() {
        let read = request("GET", "http://Cart.shop/a/../b?c", &[]).expect("valid");
        assert_eq!(read.destination("web").as_deref(), Some("cart.shop:80"));
        assert_eq!((read.path(), read.looked_at().host), ("/b", "cart.shop"));
        let other = request("GET", "http://cart/", &[("Host", "shop.example.com")]).expect("valid");
        assert_eq!(other.destination("web").as_deref(), Some("cart.web:80"));
        assert_eq!(other.looked_at().host, "shop.example.com");
        for (method, url) in [("G T", "http://a/"), ("GET", "/a"), ("GET", "http://u@a/"), ("GET", "http://a b/")] {
            assert!(request(method, url, &[]).is_err() || url == "http://u@a/", "{method} {url}");
        }
    }
}
