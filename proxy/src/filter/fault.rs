//! Faults: delays and failures on purpose.

use std::time::Duration;

/// Delays and failures on purpose; at least one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fault {
    /// How long requests wait, and how many.
    pub delay: Option<(Duration, Share)>,
    /// How requests fail, and how many.
    pub abort: Option<(Abort, Share)>,
}

/// How a request is made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    /// With this HTTP status.
    Http(u16),
    /// With this gRPC status.
    Grpc(u8),
}

/// A share of requests, in parts per million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(pub u32);

impl Share {
    /// Whether a request is one of them.
    pub fn draw(self) -> bool {
        fastrand::u32(..1_000_000) < self.0
    }
}

impl Fault {
    /// How long a request waits.
    pub fn delay(&self) -> Option<Duration> {
        self.delay.filter(|(_, share)| share.draw()).map(|(time, _)| time)
    }

    /// How a request fails.
    pub fn abort(&self) -> Option<Abort> {
        self.abort.filter(|(_, share)| share.draw()).map(|(abort, _)| abort)
    }
}

impl Abort {
    /// The status for a plain HTTP request.
    pub fn status(self) -> u16 {
        match self {
            Abort::Http(status) => status,
            // As google.rpc.Code maps them.
            Abort::Grpc(code) => match code {
                1 => 499,
                3 | 9 | 11 => 400,
                4 => 504,
                5 => 404,
                6 | 10 => 409,
                7 => 403,
                8 => 429,
                12 => 501,
                14 => 503,
                16 => 401,
                _ => 500,
            },
        }
    }

    /// The status for a gRPC call (gRPC, "HTTP to gRPC Status Code Mapping").
    pub fn grpc_status(self) -> u8 {
        match self {
            Abort::Grpc(code) => code,
            Abort::Http(status) => match status {
                400 => 13,
                401 => 16,
                403 => 7,
                404 => 12,
                429 | 502..=504 => 14,
                _ => 2,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_met() {
        assert!((0..1000).all(|_| Share(1_000_000).draw()));
        assert!(!(0..1000).any(|_| Share(0).draw()));
        let drawn = (0..100_000).filter(|_| Share(100_000).draw()).count();
        // Ten percent of 100,000: six standard deviations (95) are 570.
        assert!((9_430..=10_570).contains(&drawn), "{drawn}");
    }
}
