//! Durations as people type them: `20s`, `1h30m`, `250ms`.

use std::time::Duration;

/// Parses a sum of numbers with units `ms`, `s`, `m`, `h`, `d`.
///
/// # Errors
/// A sentence that says what to write: empty text, a number without a unit, an unknown unit, zero, more than fits.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("{text:?} is not a duration like `20s`, `1h30m` or `250ms`");
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(expected)?;
        let number: u64 = rest[..digits].parse().map_err(|_| expected())?;
        let after = &rest[digits..];
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let milliseconds_per_unit = match &after[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(expected()),
        };
        let part = number.checked_mul(milliseconds_per_unit).ok_or_else(expected)?;
        total = total.checked_add(Duration::from_millis(part)).ok_or_else(expected)?;
        rest = &after[letters..];
    }
    if total.is_zero() { Err(expected()) } else { Ok(total) }
}

/// Parses the lifetime of certificates: 10 s to 30 days. Shorter ones would be renewed without a pause, and longer ones are
/// not what a mesh without revocation should have.
///
/// # Errors
/// As [`parse_duration`]; a sentence with the bounds.
pub(crate) fn parse_certificate_lifetime(text: &str) -> Result<Duration, String> {
    within(parse_duration(text)?, Duration::from_secs(10), DAYS_30, "certificates live")
}

/// Parses the time for which a join token can be used: 1 s to 30 days. Whoever finds a token can use it.
///
/// # Errors
/// As [`parse_duration`]; a sentence with the bounds.
pub(crate) fn parse_token_lifetime(text: &str) -> Result<Duration, String> {
    within(parse_duration(text)?, Duration::from_secs(1), DAYS_30, "tokens can be used")
}

const DAYS_30: Duration = Duration::from_secs(30 * 86_400);

fn within(written: Duration, least: Duration, most: Duration, what: &str) -> Result<Duration, String> {
    if (least..=most).contains(&written) {
        return Ok(written);
    }
    let (least, most) = (display_duration(least), display_duration(most));
    Err(format!("{what} from {least} to {most}, not {}", display_duration(written)))
}

/// A duration for people: the two largest units, `2h 5m`, `40s`, `12ms`.
pub(crate) fn display_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [(seconds / 86_400, "d"), (seconds / 3_600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let shown: Vec<String> = parts
        .iter()
        .skip_while(|(count, _)| *count == 0)
        .take(2)
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    if shown.is_empty() { format!("{}ms", duration.as_millis()) } else { shown.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_have_bounds() {
        assert_eq!(parse_certificate_lifetime("10s"), Ok(Duration::from_secs(10)));
        let short = parse_certificate_lifetime("9s").expect_err("too short");
        assert_eq!(short, "certificates live from 10s to 30d, not 9s");
        assert_eq!(parse_token_lifetime("30d"), Ok(DAYS_30));
        assert_eq!(parse_token_lifetime("31d").expect_err("too long"), "tokens can be used from 1s to 30d, not 31d");
        assert!(parse_token_lifetime("500ms").is_err());
    }

    #[test]
    fn parses_what_people_type() {
        assert_eq!(parse_duration("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        for wrong in ["", "20", "s", "1w", "0s", "-1s", "1.5h", "20 s", "99999999999999999999s", "999999999999999999d"]
        {
            assert!(parse_duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn shows_the_two_largest_units() {
        assert_eq!(display_duration(Duration::from_millis(12)), "12ms");
        assert_eq!(display_duration(Duration::from_secs(40)), "40s");
        assert_eq!(display_duration(Duration::from_secs(7_505)), "2h 5m");
        assert_eq!(display_duration(Duration::from_secs(86_400)), "1d");
    }
}
