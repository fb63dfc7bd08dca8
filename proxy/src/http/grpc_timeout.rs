//! The header `grpc-timeout`: how long the caller waits (gRPC over HTTP2, "Timeout").

use std::time::Duration;

use http::header::{HeaderName, HeaderValue};

/// Its name.
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// At most eight digits, and a unit.
const LARGEST: u128 = 99_999_999;

/// Reads a value; `None` if it is none.
pub(crate) fn read(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (amount, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if amount.is_empty() || amount.len() > 8 || !amount.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = amount.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount.saturating_mul(3600)),
        "M" => Duration::from_secs(amount.saturating_mul(60)),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// Writes what is left, in the finest unit that has room for it.
pub(crate) fn write(left: Duration) -> HeaderValue {
    let units = [(left.as_micros(), 'u'), (left.as_millis(), 'm'), (left.as_secs().into(), 'S')];
    let fits = units.into_iter().find(|(amount, _)| *amount <= LARGEST);
    let (amount, unit) = fits.unwrap_or((LARGEST, 'S'));
    HeaderValue::try_from(format!("{amount}{unit}")).unwrap_or(HeaderValue::from_static("0u"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_grpc_writes() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("999999999m", None),
            ("1", None),
            ("S", None),
            ("-1S", None),
            ("1s", None),
            ("", None),
        ] {
            assert_eq!(read(&HeaderValue::from_static(text)), expected, "{text}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for left in [Duration::ZERO, Duration::from_micros(1), Duration::from_millis(99_999), Duration::from_secs(3600)]
        {
            assert_eq!(read(&write(left)), Some(left));
        }
        assert_eq!(write(Duration::from_secs(200)), "200000m");
        assert_eq!(write(Duration::from_secs(1_000_000)), "1000000S");
        assert_eq!(write(Duration::MAX), "99999999S");
    }
}
