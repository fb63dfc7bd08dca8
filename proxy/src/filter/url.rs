//! Rewrites and redirects.
//!
//! They start from the canonical path that was matched, and what they put in is checked when it is decoded, so that the
//! result is canonical again.

use std::fmt::Write as _;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, StatusCode};

/// Another host or path for the upstream.
#[derive(Debug, Clone, Default)]
pub struct Rewrite {
    /// The host that the upstream sees.
    pub host: Option<Authority>,
    /// The path that the upstream sees.
    pub path: Option<PathRewrite>,
}

impl Rewrite {
    /// Whether host and path stay.
    pub fn is_nothing(&self) -> bool {
        self.host.is_none() && self.path.is_none()
    }
}

/// Another path; the query stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathRewrite {
    /// Instead of the whole path.
    Full(Box<str>),
    /// Instead of the first bytes, as many as the route's match has.
    Prefix {
        /// Bytes of the path that go.
        length: usize,
        /// What comes instead.
        with: Box<str>,
    },
}

impl PathRewrite {
    /// The new path and query; `None` for what is no path (`OPTIONS *`).
    pub fn apply(&self, path: &PathAndQuery) -> Option<PathAndQuery> {
        let text = self.text(path)?;
        PathAndQuery::try_from(text).ok()
    }

    fn text(&self, from: &PathAndQuery) -> Option<String> {
        let (with, rest) = match self {
            PathRewrite::Full(path) => (path, ""),
            PathRewrite::Prefix { length, with } => (with, from.path().get(*length..)?),
        };
        if !from.path().starts_with('/') {
            return None;
        }
        let mut text = String::with_capacity(with.len().saturating_add(from.as_str().len()));
        text.push_str(with);
        text.push_str(rest);
        if let Some(query) = from.query() {
            text.push('?');
            text.push_str(query);
        }
        Some(text)
    }
}

/// An answer that leads elsewhere.
#[derive(Debug, Clone)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Another host than the request's.
    pub host: Option<Box<str>>,
    /// A port to name.
    pub port: Option<u16>,
    /// Another path.
    pub path: Option<PathRewrite>,
    /// Whether the query goes.
    pub strip_query: bool,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

impl Redirect {
    /// Where a request is led: `host` is its own, without port.
    pub fn location(&self, host: &str, path: &PathAndQuery) -> Option<HeaderValue> {
        let mut text = format!("{}://{}", self.scheme, self.host.as_deref().unwrap_or(host));
        if let Some(port) = self.port {
            // Writing to a string does not fail.
            let _ = write!(text, ":{port}");
        }
        match self.path.as_ref().and_then(|rewrite| rewrite.text(path)) {
            Some(rewritten) => text.push_str(&rewritten),
            None if path.path().starts_with('/') => text.push_str(path.as_str()),
            None => text.push('/'),
        }
        if self.strip_query
            && let Some(at) = text.find('?')
        {
            text.truncate(at);
        }
        HeaderValue::try_from(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(of: &str, with: &str) -> PathRewrite {
        PathRewrite::Prefix { length: of.len(), with: with.into() }
    }

    #[test]
    fn paths_are_rewritten_and_queries_stay() {
        for (rewrite, path, expected) in [
            (prefix("/a", "/b"), "/a", Some("/b")),
            (prefix("/a/", "/b/"), "/a/c?d=/e", Some("/b/c?d=/e")),
            (prefix("/a/", "/"), "/a/c", Some("/c")),
            (prefix("/a", "/"), "/a?x", Some("/?x")),
            (prefix("/", "/b/"), "/c", Some("/b/c")),
            (PathRewrite::Full("/whole".into()), "/a/b?c=d", Some("/whole?c=d")),
            (PathRewrite::Full("/whole".into()), "*", None),
            (prefix("/long", "/b"), "/", None),
        ] {
            let rewritten = rewrite.apply(&PathAndQuery::from_static(path));
            assert_eq!(rewritten.as_ref().map(PathAndQuery::as_str), expected, "{rewrite:?} {path}");
        }
    }

    #[test]
    fn redirects_keep_what_they_do_not_change() {
        let same = Redirect {
            scheme: "http",
            host: None,
            port: None,
            path: None,
            strip_query: false,
            status: StatusCode::FOUND,
        };
        let location = |redirect: &Redirect, path: &'static str| {
            redirect.location("shop.example", &PathAndQuery::from_static(path)).unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(location(&same, "/a?b=c"), "http://shop.example/a?b=c");
        let tls = Redirect { scheme: "https", port: Some(8443), ..same.clone() };
        assert_eq!(location(&tls, "/a"), "https://shop.example:8443/a");
        let other = Redirect { host: Some("b.example".into()), path: Some(prefix("/a/", "/b/")), ..same.clone() };
        assert_eq!(location(&other, "/a/x?y"), "http://b.example/b/x?y");
        assert_eq!(location(&Redirect { strip_query: true, ..same.clone() }, "/a?b"), "http://shop.example/a");
        assert_eq!(location(&same, "*"), "http://shop.example/");
    }
}
