//! Paths, values and regular expressions of HTTP and gRPC matches.

use std::collections::HashSet;
use std::sync::Arc;

use regex::RegexBuilder;

use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::mesh::{PathMatch, ValueMatch};
use crate::names;
use crate::suggest::shown;

/// Memory of a compiled expression. What is larger costs every request.
const MAX_REGEX_BYTES: usize = 256 << 10;
/// Gateway API's limit of a path.
const MAX_PATH: usize = 1024;
/// Gateway API's limit of a header's value.
const MAX_VALUE: usize = 4096;

/// How a value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Exact,
    Prefix,
    Regex,
}

/// A path, checked.
pub(crate) fn path(cursor: Cursor<'_>, how: How, value: &str, diagnostics: &mut Diagnostics) -> PathMatch {
    let at = cursor.field("value");
    if how == How::Regex {
        regex(at, value, MAX_PATH, diagnostics);
        return PathMatch::Regex(value.into());
    }
    if let Err((fault, help)) = check_path(value) {
        at.error(diagnostics, Code::InvalidValue, format!("`{}` is not a path: {fault}", shown(value)), help);
    }
    match how {
        How::Exact => PathMatch::Exact(value.into()),
        // Gateway API: `/a` and `/a/` are the same prefix.
        _ => PathMatch::Prefix(value.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(value).into()),
    }
}

/// What Gateway API asks of paths: requests are compared after normalization, so these would never match.
pub(crate) fn check_path(path: &str) -> Result<(), (String, &'static str)> {
    let never = "such a request never arrives: paths are normalized before they are compared";
    if !path.starts_with('/') {
        return Err(("it does not begin with `/`".into(), "write `/` before it"));
    }
    if path.len() > MAX_PATH {
        return Err((format!("it is longer than {MAX_PATH} characters"), "write a prefix of it"));
    }
    for part in ["//", "/./", "/../", "%2f", "%2F"] {
        if path.contains(part) {
            return Err((format!("it has `{part}`"), never));
        }
    }
    for end in ["/.", "/.."] {
        if path.ends_with(end) {
            return Err((format!("it ends with `{end}`"), never));
        }
    }
    if let Some(sign) = ['?', '#'].into_iter().find(|sign| path.contains(*sign)) {
        return Err((format!("it has a `{sign}`"), "a path ends before the query: match it with `queryParams`"));
    }
    let mut rest = path;
    while let Some(character) = rest.chars().next() {
        let length = match character {
            '%' if rest.get(1..3).is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit())) => 3,
            other if other.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/".contains(other) => 1,
            other => {
                let fault = format!("it has a `{}`", other.escape_debug());
                return Err((fault, "write it percent-encoded, as it stands in requests"));
            }
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(())
}

/// The value of a header or query parameter, checked.
pub(crate) fn value(cursor: Cursor<'_>, how: How, value: &str, diagnostics: &mut Diagnostics) -> ValueMatch {
    let at = cursor.field("value");
    match how {
        How::Regex => {
            regex(at, value, MAX_VALUE, diagnostics);
            ValueMatch::Regex(value.into())
        }
        _ => {
            if value.is_empty() || value.len() > MAX_VALUE {
                let message = format!("a value must have 1 to {MAX_VALUE} characters");
                at.error(diagnostics, Code::InvalidValue, message, "write the value that requests carry");
            } else if value.chars().any(|character| character.is_control()) {
                let message = format!("`{}` has a control character", shown(value));
                at.error(diagnostics, Code::InvalidValue, message, "no request can carry it");
            }
            ValueMatch::Exact(value.into())
        }
    }
}

/// The name of a header in lower case, checked, unique in its match.
pub(crate) fn header_name(
    cursor: Cursor<'_>,
    name: &str,
    seen: &mut HashSet<String>,
    diagnostics: &mut Diagnostics,
) -> Arc<str> {
    let at = cursor.field("name");
    let lower = name.to_ascii_lowercase();
    if let Err(fault) = names::http_token(name) {
        let message = format!("`{}` is not the name of a header: {fault}", shown(name));
        let help = match name {
            ":authority" => "match the host with `hostnames`",
            ":path" | ":method" => "match it with `path` or `method`",
            _ => "write a name as in `x-canary`",
        };
        at.error(diagnostics, Code::InvalidValue, message, help);
    } else if lower == "host" {
        let message = "the host is not matched as a header";
        at.error(diagnostics, Code::InvalidValue, message, "match it with `hostnames`");
    } else if !seen.insert(lower.clone()) {
        let message = format!("the header `{lower}` is written twice; only the first would count");
        at.error(diagnostics, Code::NoEffect, message, "write one match that says both, as a RegularExpression");
    }
    lower.into()
}

/// Whether a regular expression compiles and stays small; it is matched against whole values.
pub(crate) fn regex(cursor: Cursor<'_>, pattern: &str, longest: usize, diagnostics: &mut Diagnostics) -> bool {
    if pattern.is_empty() || pattern.len() > longest {
        let message = format!("a regular expression must have 1 to {longest} characters");
        cursor.error(diagnostics, Code::InvalidValue, message, "write a shorter one, or several matches");
        return false;
    }
    // Alone first: `a)|(b` would compile inside of the group that anchors it.
    let build = |pattern: &str| RegexBuilder::new(pattern).size_limit(MAX_REGEX_BYTES).build();
    let error = match build(pattern).and_then(|_| build(&format!("^(?:{pattern})$"))) {
        Ok(_) => return true,
        Err(error) => error,
    };
    let (message, help) = match error {
        regex::Error::CompiledTooBig(_) => (
            format!("the regular expression needs more than {} KiB when compiled", MAX_REGEX_BYTES >> 10),
            "make its repetitions smaller, or write a prefix".to_owned(),
        ),
        error => {
            let told = error.to_string();
            let reason =
                told.lines().rev().find_map(|line| line.strip_prefix("error: ")).unwrap_or("it does not parse");
            let help = match reason {
                reason if reason.contains("look-around") || reason.contains("backreference") => {
                    "look-around and back-references are not available (RE2 syntax); write it without them"
                }
                _ => "write it in RE2 syntax; quote it in YAML with single quotes",
            };
            (format!("the regular expression does not compile: {reason}"), help.to_owned())
        }
    };
    cursor.error(diagnostics, Code::InvalidValue, message, help);
    false
}
