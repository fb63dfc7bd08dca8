//! What an unquoted scalar means, to Malla and to other YAML tools.
//!
//! YAML 1.1 (kubectl, Helm, most editors) and 1.2 disagree about `yes`, `08`, `1_000` or `2024-01-01`. Malla refuses what
//! they read differently: the same file must mean the same everywhere.

/// The meaning of an unquoted scalar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Plain {
    /// Nothing, `~`, `null`.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// Decimal, without leading zeros.
    Integer(i64),
    /// A number that is not an `i64`.
    Number,
    /// A string for every tool.
    String,
    /// A boolean in YAML 1.1, a string in 1.2.
    MaybeBool,
    /// A number in some tools only, or another number in others.
    MaybeNumber,
    /// A date in YAML 1.1, a string in 1.2.
    MaybeDate,
}

impl Plain {
    /// For a sentence: "… is a number, not a string".
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Plain::Null => "empty",
            Plain::Bool(_) => "a boolean",
            Plain::Integer(_) | Plain::Number => "a number",
            Plain::String => "a string",
            Plain::MaybeBool => "a boolean for some YAML tools and a string for others",
            Plain::MaybeNumber => "read as different values by different YAML tools",
            Plain::MaybeDate => "a date for some YAML tools and a string for others",
        }
    }
}

/// The meaning of unquoted text.
pub(crate) fn resolve(text: &str) -> Plain {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Plain::Null,
        "true" | "True" | "TRUE" => return Plain::Bool(true),
        "false" | "False" | "FALSE" => return Plain::Bool(false),
        // `y` and `n` are booleans by the letter of YAML 1.1, and strings for all of its tools that people use.
        "yes" | "Yes" | "YES" | "no" | "No" | "NO" | "on" | "On" | "ON" | "off" | "Off" | "OFF" => {
            return Plain::MaybeBool;
        }
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let lower = unsigned.to_ascii_lowercase();
    if matches!(lower.as_str(), ".inf" | ".nan") {
        return Plain::Number;
    }
    if !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return Plain::String;
    }
    if unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.strip_prefix('+').unwrap_or(text).parse() {
            _ if unsigned.len() > 1 && unsigned.starts_with('0') => Plain::MaybeNumber,
            Ok(number) => Plain::Integer(number),
            Err(_) => Plain::Number,
        };
    }
    if is_date(unsigned) {
        return Plain::MaybeDate;
    }
    let radix = match lower.get(..2) {
        Some("0x") => Some(16),
        Some("0o") => Some(8),
        Some("0b") => Some(2),
        _ => None,
    };
    if let (Some(radix), Some(digits)) = (radix, lower.get(2..)) {
        let digits = !digits.is_empty() && digits.chars().all(|digit| digit == '_' || digit.is_digit(radix));
        return if digits { Plain::MaybeNumber } else { Plain::String };
    }
    if unsigned.contains('_') && is_number(&unsigned.replace('_', "")) {
        return Plain::MaybeNumber;
    }
    if is_number(unsigned) { Plain::Number } else { Plain::String }
}

/// YAML 1.2's floats and integers, without sign.
fn is_number(text: &str) -> bool {
    let shape = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
    shape && text.bytes().any(|byte| byte.is_ascii_digit()) && text.parse::<f64>().is_ok()
}

/// `2024-01-31`, also with a time after it.
fn is_date(text: &str) -> bool {
    let Some((date, rest)) = text.get(..10).zip(text.get(10..)) else { return false };
    let shape = date.bytes().enumerate().all(|(at, byte)| match at {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    shape && (rest.is_empty() || rest.starts_with(['T', 't', ' ']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_plain_scalars() {
        for (text, expected) in [
            ("", Plain::Null),
            ("~", Plain::Null),
            ("true", Plain::Bool(true)),
            ("False", Plain::Bool(false)),
            ("8080", Plain::Integer(8080)),
            ("-1", Plain::Integer(-1)),
            ("+7", Plain::Integer(7)),
            ("0", Plain::Integer(0)),
            ("1.10", Plain::Number),
            ("1e3", Plain::Number),
            (".5", Plain::Number),
            (".inf", Plain::Number),
            ("99999999999999999999", Plain::Number),
            ("yes", Plain::MaybeBool),
            ("NO", Plain::MaybeBool),
            ("on", Plain::MaybeBool),
            ("y", Plain::String),
            ("08", Plain::MaybeNumber),
            ("0o14", Plain::MaybeNumber),
            ("0x1F", Plain::MaybeNumber),
            ("1_000", Plain::MaybeNumber),
            ("2024-01-31", Plain::MaybeDate),
            ("2024-01-31T10:00:00Z", Plain::MaybeDate),
            ("cart", Plain::String),
            ("10.1.2.3", Plain::String),
            ("1.2.3", Plain::String),
            ("v1", Plain::String),
            ("1s", Plain::String),
            ("0xyz", Plain::String),
            ("-", Plain::String),
            (".", Plain::String),
            ("fd00::7", Plain::String),
            ("1é00000000", Plain::String),
            ("inf", Plain::String),
        ] {
            assert_eq!(resolve(text), expected, "{text}");
        }
    }
}
