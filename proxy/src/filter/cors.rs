//! CORS: what pages of other origins may do, in the words that browsers understand (Fetch standard, section 3.2).

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::route::matches_value;
use crate::snapshot::ValueMatch;

/// What pages of other origins may do.
#[derive(Debug, Clone)]
pub struct Cors {
    /// The origins.
    pub origins: Vec<ValueMatch>,
    /// Methods, as the header says them.
    pub methods: Option<HeaderValue>,
    /// Request headers, as the header says them.
    pub headers: Option<HeaderValue>,
    /// Response headers that pages may read, as the header says them.
    pub expose: Option<HeaderValue>,
    /// Seconds for which browsers may remember the answer, as the header says them.
    pub max_age: Option<HeaderValue>,
    /// Whether requests may carry credentials.
    pub credentials: bool,
    /// Whether questions of origins that may do nothing go to the upstream.
    pub forward_others: bool,
}

impl Cors {
    /// The origin of a request, if it may do something.
    pub fn origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        let text = origin.to_str().ok()?;
        self.origins.iter().any(|allowed| matches_value(allowed, text)).then(|| origin.clone())
    }

    /// Whether a request is a browser's question in advance.
    pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
        *method == Method::OPTIONS
            && headers.contains_key(ORIGIN)
            && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// The headers of the answer to a question in advance; none for an origin that may do nothing.
    pub fn preflight(&self, asked: &HeaderMap, origin: Option<HeaderValue>) -> HeaderMap {
        let mut answer = HeaderMap::new();
        let Some(origin) = origin else { return answer };
        self.allow(origin, &mut answer);
        let mut tell = |name: HeaderName, value: &Option<HeaderValue>, asked: Option<&HeaderValue>| {
            // With credentials a wildcard means itself: what was asked for is named instead.
            let value = match value {
                Some(all) if all == "*" && self.credentials => asked,
                value => value.as_ref(),
            };
            if let Some(value) = value {
                answer.insert(name, value.clone());
            }
        };
        tell(ACCESS_CONTROL_ALLOW_METHODS, &self.methods, asked.get(ACCESS_CONTROL_REQUEST_METHOD));
        tell(ACCESS_CONTROL_ALLOW_HEADERS, &self.headers, asked.get(ACCESS_CONTROL_REQUEST_HEADERS));
        tell(ACCESS_CONTROL_MAX_AGE, &self.max_age, None);
        answer
    }

    /// Tells the browser that the page may have this answer.
    pub fn respond(&self, origin: HeaderValue, headers: &mut HeaderMap) {
        self.allow(origin, headers);
        if let Some(expose) = self.expose.as_ref().filter(|expose| **expose != "*" || !self.credentials) {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }

    fn allow(&self, origin: HeaderValue, headers: &mut HeaderMap) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.append(VARY, HeaderValue::from_static("origin"));
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    fn cors(credentials: bool) -> Cors {
        Cors {
            origins: vec![ValueMatch::Exact("https://a.example".into())],
            methods: Some(HeaderValue::from_static("*")),
            headers: Some(HeaderValue::from_static("x-a")),
            expose: Some(HeaderValue::from_static("x-b")),
            max_age: Some(HeaderValue::from_static("5")),
            credentials,
            forward_others: false,
        }
    }

    #[test]
    fn only_allowed_origins_are_told_anything() {
        let cors = cors(false);
        let asked = |origin| headers(&[("origin", origin), ("access-control-request-method", "PUT")]);
        let allowed = asked("https://a.example");
        assert!(Cors::is_preflight(&Method::OPTIONS, &allowed) && !Cors::is_preflight(&Method::GET, &allowed));
        let answer = cors.preflight(&allowed, cors.origin(&allowed));
        assert_eq!(answer["access-control-allow-origin"], "https://a.example");
        assert_eq!(answer["access-control-allow-methods"], "*");
        assert_eq!(answer["access-control-max-age"], "5");
        let other = asked("https://b.example");
        assert!(cors.preflight(&other, cors.origin(&other)).is_empty());
    }

    #[test]
    fn with_credentials_wildcards_become_what_was_asked_for() {
        let cors = cors(true);
        let asked = headers(&[("origin", "https://a.example"), ("access-control-request-method", "PUT")]);
        let answer = cors.preflight(&asked, cors.origin(&asked));
        assert_eq!(answer["access-control-allow-methods"], "PUT");
        assert_eq!(answer["access-control-allow-credentials"], "true");
    }
}
