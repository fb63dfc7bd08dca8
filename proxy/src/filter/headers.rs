//! Changes of headers.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Changes of headers, none of which [`may_change`] refuses.
/// The order counts: what comes later wins.
#[derive(Debug, Clone, Default)]
pub struct HeaderChanges(pub Vec<HeaderChange>);

/// A change of one header.
#[derive(Debug, Clone)]
pub enum HeaderChange {
    /// All its values go.
    Remove(HeaderName),
    /// It gets a value.
    Write(HeaderName, HeaderValue, Write),
}

/// What becomes of the values that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// They stay, and the new one comes after them.
    Append,
    /// They are replaced.
    Replace,
    /// They stay, and there is no new one.
    IfAbsent,
    /// They are replaced if there are any.
    IfPresent,
}

impl HeaderChanges {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for change in &self.0 {
            match change {
                HeaderChange::Remove(name) => {
                    headers.remove(name);
                }
                HeaderChange::Write(name, value, write) => write.apply(headers, name, value),
            }
        }
    }
}

impl Write {
    fn apply(self, headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) {
        match self {
            Write::IfAbsent if headers.contains_key(name) => {}
            Write::IfPresent if !headers.contains_key(name) => {}
            // A map has a bound (32 Ki entries), which no message comes near: heads are limited to a hundred headers.
            Write::Append => drop(headers.try_append(name, value.clone())),
            _ => drop(headers.try_insert(name, value.clone())),
        }
    }
}

/// Whether a route may change a header: not those of one connection, not those that frame or route the message, not those that
/// sidecars tell each other.
pub fn may_change(name: &HeaderName) -> bool {
    const NEVER: [&str; 14] = [
        "connection",
        "content-length",
        "expect",
        "grpc-timeout",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    !NEVER.contains(&name.as_str()) && !name.as_str().starts_with("malla-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_removes_in_order() {
        let name = |name: &'static str| HeaderName::from_static(name);
        let value = |value: &'static str| HeaderValue::from_static(value);
        let mut headers = HeaderMap::new();
        for (key, text) in [("a", "1"), ("b", "1"), ("b", "2"), ("c", "1"), ("d", "1")] {
            headers.append(name(key), value(text));
        }
        let write = |key, text, write| HeaderChange::Write(name(key), value(text), write);
        let changes = HeaderChanges(vec![
            HeaderChange::Remove(name("a")),
            HeaderChange::Remove(name("absent")),
            write("b", "new", Write::Replace),
            write("c", "2", Write::Append),
            write("d", "2", Write::IfAbsent),
            write("e", "1", Write::IfAbsent),
            write("f", "1", Write::IfPresent),
            write("g", "1", Write::Append),
        ]);
        changes.apply(&mut headers);
        let mut all: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
        all.sort();
        assert_eq!(all, ["b=new", "c=1", "c=2", "d=1", "e=1", "g=1"]);
    }

    #[test]
    fn leaves_connections_and_sidecars_alone() {
        for refused in ["connection", "transfer-encoding", "content-length", "host", "malla-http", "malla-anything"] {
            assert!(!may_change(&HeaderName::from_static(refused)), "{refused}");
        }
        assert!(may_change(&HeaderName::from_static("x-canary")));
    }
}
