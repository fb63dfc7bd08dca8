//! `RequestHeaderModifier` and `ResponseHeaderModifier`.

use std::collections::HashMap;
use std::sync::Arc;

use super::raw::{RawHeader, RawHeaderModifier};
use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::mesh::HeaderChanges;
use crate::names;
use crate::route::at_most;
use crate::suggest::shown;

/// Gateway API's limit of headers in each list.
const MAX_HEADERS: usize = 16;
/// Gateway API's limit of a header's value.
const MAX_VALUE: usize = 4096;

/// Headers of one connection, or that frame the message: whoever changes them breaks it for the next hop.
const CONNECTION: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
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

/// The changes, checked.
pub(super) fn ready(
    cursor: Cursor<'_>,
    written: Option<RawHeaderModifier>,
    diagnostics: &mut Diagnostics,
) -> HeaderChanges {
    let RawHeaderModifier { set, add, remove } = written.unwrap_or_default();
    if set.is_empty() && add.is_empty() && remove.is_empty() {
        let help = "write `set:`, `add:` or `remove:` in it";
        cursor.error(diagnostics, Code::MissingField, "the filter changes no header", help);
    }
    for (field, length) in [("set", set.len()), ("add", add.len()), ("remove", remove.len())] {
        at_most(cursor.field(field), field, length, MAX_HEADERS, diagnostics);
    }
    let mut seen = HashMap::new();
    let mut pairs = |field: &'static str, written: Vec<RawHeader>, diagnostics: &mut Diagnostics| {
        let each = written.into_iter().enumerate().map(|(at, RawHeader { name, value })| {
            let cursor = cursor.field(field).item(at);
            let name = self::name(cursor.field("name"), &name, field, &mut seen, diagnostics);
            check_value(cursor.field("value"), &value, diagnostics);
            (name, value.into())
        });
        each.collect()
    };
    let set = pairs("set", set, diagnostics);
    let add = pairs("add", add, diagnostics);
    let remove = remove
        .into_iter()
        .enumerate()
        .map(|(at, name)| self::name(cursor.field("remove").item(at), &name, "remove", &mut seen, diagnostics))
        .collect();
    HeaderChanges { set, add, remove }
}

/// A header's name in lower case; it may be changed, and is not changed in two ways.
fn name(
    cursor: Cursor<'_>,
    name: &str,
    field: &'static str,
    seen: &mut HashMap<String, &'static str>,
    diagnostics: &mut Diagnostics,
) -> Arc<str> {
    let lower = name.to_ascii_lowercase();
    if let Err((fault, help)) = may_change(&lower) {
        cursor.error(diagnostics, Code::InvalidValue, format!("`{}` {fault}", shown(name)), help);
    } else if let Some(earlier) = seen.insert(lower.clone(), field) {
        let message = format!("the header `{lower}` is in `{earlier}` already");
        cursor.error(diagnostics, Code::Duplicate, message, "write it once: which change comes first would be a guess");
    }
    lower.into()
}

/// Whether filters may change a header.
pub(crate) fn may_change(lower: &str) -> Result<(), (String, &'static str)> {
    if lower == "host" || lower == ":authority" {
        return Err(("is not changed as a header".into(), "write a filter `URLRewrite` with `hostname:`"));
    }
    if let Err(fault) = names::http_token(lower) {
        return Err((format!("is not the name of a header: {fault}"), "write a name as in `x-canary`"));
    }
    if CONNECTION.contains(&lower) {
        return Err(("concerns one connection only".into(), "remove it: each hop writes its own"));
    }
    if lower.starts_with("malla-") {
        return Err(("is written by sidecars only".into(), "write another name"));
    }
    Ok(())
}

fn check_value(cursor: Cursor<'_>, value: &str, diagnostics: &mut Diagnostics) {
    let fault = if value.is_empty() || value.len() > MAX_VALUE {
        format!("a value must have 1 to {MAX_VALUE} characters")
    } else if value.trim() != value {
        "a value neither begins nor ends with a space".to_owned()
    } else if let Some(character) = value.chars().find(|character| !matches!(character, ' '..='~' | '\t')) {
        format!("a header cannot carry `{}`", character.escape_debug())
    } else {
        return;
    };
    cursor.error(diagnostics, Code::InvalidValue, fault, "write printable ASCII; encode what is not");
}
