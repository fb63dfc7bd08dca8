//! Answers that the sidecar makes itself: a status, the word, and a sentence for people; for gRPC calls a status of gRPC.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use super::body::Body;
use crate::filter::Abort;
use crate::reason::Reason;

/// The response header that tells which sidecar-made failure this is.
pub(crate) const MALLA_REASON: HeaderName = HeaderName::from_static("malla-reason");
/// The response header that tells why an answer that the route retries was not retried.
pub(crate) const MALLA_NOT_RETRIED: HeaderName = HeaderName::from_static("malla-not-retried");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Why a request cannot be served: the word, and what it was about (an address, a name, what was wrong).
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) what: Cow<'static, str>,
    /// The status of the answer to a plain HTTP request.
    status: u16,
    /// The status of the answer to a gRPC call.
    grpc_status: u8,
    /// Seconds after which the client may come back.
    retry_after: Option<u64>,
}

impl Failure {
    pub(crate) fn new(reason: Reason, what: impl Into<Cow<'static, str>>) -> Self {
        let (status, grpc_status) = (reason.status(), grpc_code(reason));
        Failure { reason, what: what.into(), status, grpc_status, retry_after: None }
    }

    /// With another status than its reason's.
    pub(crate) fn with_status(self, status: u16) -> Self {
        Failure { status, ..self }
    }

    /// A route without a backend that may receive anything: 500 (Gateway API, `HTTPRouteRule.backendRefs`), because trying
    /// again will not help.
    pub(crate) fn no_backend(route: &str) -> Self {
        Failure { status: 500, ..Failure::new(Reason::NoEndpoints, format!("{route} leads nowhere")) }
    }

    /// A rate limit was reached; there is room again after some time.
    pub(crate) fn rate_limited(limit: &str, wait: Duration) -> Self {
        let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
        let failure = Failure::new(Reason::RateLimited, limit.to_owned());
        Failure { retry_after: Some(seconds.max(1)), ..failure }
    }

    /// A failure that the route asked for.
    pub(crate) fn injected(abort: Abort, route: &str) -> Self {
        let failure = Failure::new(Reason::FaultInjected, route.to_owned());
        Failure { status: abort.status(), grpc_status: abort.grpc_status(), ..failure }
    }

    /// The answer to a plain HTTP request.
    pub(crate) fn response(&self) -> Response<Body> {
        let text = format!("{}: {} ({})\n", self.reason.word(), self.reason.sentence(), self.what);
        let mut response = Response::new(Body::text(Bytes::from(text)));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(MALLA_REASON, HeaderValue::from_static(self.reason.word()));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    /// The answer where there is no request to answer, as bytes of HTTP/1.1.
    pub(crate) fn last_words(&self) -> Vec<u8> {
        let (reason, what) = (self.reason, &self.what);
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_REQUEST);
        let text = format!("{reason}: {} ({what})\n", reason.sentence());
        format!(
            "HTTP/1.1 {status}\r\nmalla-reason: {reason}\r\ncontent-type: text/plain; charset=utf-8\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{text}",
            text.len()
        )
        .into_bytes()
    }

    /// The answer to a gRPC call: trailers only (gRPC over HTTP2, "Responses").
    pub(crate) fn grpc_response(&self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(MALLA_REASON, HeaderValue::from_static(self.reason.word()));
        self.grpc_trailers(headers);
        response
    }

    /// `grpc-status` and `grpc-message`.
    pub(crate) fn grpc_trailers(&self, headers: &mut http::HeaderMap) {
        headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(self.grpc_status)));
        let text = format!("{}: {} ({})", self.reason.word(), self.reason.sentence(), self.what);
        if let Ok(message) = HeaderValue::from_str(&percent_encoded(&text)) {
            headers.insert(GRPC_MESSAGE, message);
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// The gRPC status for a failure, as gRPC maps HTTP statuses, but for deadlines, which have a status of their own.
pub(crate) const fn grpc_code(reason: Reason) -> u8 {
    match reason {
        Reason::RequestTimeout | Reason::TryTimeout => 4, // DEADLINE_EXCEEDED
        Reason::ClientReset => 1,                         // CANCELLED
        Reason::RateLimited => 8,                         // RESOURCE_EXHAUSTED
        _ => match reason.status() {
            400 | 408 | 431 | 500 | 508 => 13, // INTERNAL
            401 => 16,                         // UNAUTHENTICATED
            403 => 7,                          // PERMISSION_DENIED
            404 => 12,                         // UNIMPLEMENTED
            _ => 14,                           // UNAVAILABLE
        },
    }
}

/// `grpc-message` is percent-encoded: everything but printable ASCII, and the percent sign.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The word that another sidecar put into its answer.
pub(crate) fn told(headers: &http::HeaderMap) -> Option<Reason> {
    let word = headers.get(&MALLA_REASON)?.as_bytes();
    Reason::ALL.iter().copied().find(|reason| reason.word().as_bytes() == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_speak_http_and_grpc() {
        let failure = Failure::new(Reason::ConnectRefused, "10.1.2.3:80 refused the connection");
        let plain = failure.response();
        assert_eq!(plain.status(), 503);
        assert_eq!(plain.headers()["malla-reason"], "connect_refused");
        assert_eq!(told(plain.headers()), Some(Reason::ConnectRefused));
        let call = failure.grpc_response();
        assert_eq!(call.status(), 200);
        assert_eq!(call.headers()["grpc-status"], "14");
        let message = call.headers()["grpc-message"].to_str().expect("text");
        assert!(message.contains("connect_refused: the endpoint refused the connection"), "{message}");
    }

    #[test]
    fn messages_of_grpc_are_percent_encoded() {
        assert_eq!(percent_encoded("50 % é\n"), "50 %25 %C3%A9%0A");
    }

    #[test]
    fn deadlines_and_missing_routes_have_their_grpc_status() {
        let codes = [Reason::RequestTimeout, Reason::NoRoute, Reason::CircuitOpen, Reason::PlaintextRefused];
        assert_eq!(codes.map(grpc_code), [4, 12, 14, 7]);
    }
}
