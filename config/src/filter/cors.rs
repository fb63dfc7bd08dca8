//! `CORS`.

use std::sync::Arc;
use std::time::Duration;

use super::raw::RawCors;
use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::mesh::Cors;
use crate::names;
use crate::route::at_most;
use crate::suggest::shown;

/// Gateway API's limit of each list.
const MAX_ITEMS: usize = 64;
/// Gateway API's default of `maxAge`, in seconds.
const DEFAULT_MAX_AGE: i32 = 5;

/// What pages of other origins may do, checked.
pub(super) fn ready(cursor: Cursor<'_>, written: Option<RawCors>, diagnostics: &mut Diagnostics) -> Cors {
    let RawCors { allow_credentials, allow_headers, allow_methods, allow_origins, expose_headers, max_age } =
        written.unwrap_or_default();
    if allow_origins.is_empty() {
        let help = "write `allowOrigins:` and the origins, as in `https://shop.example.com`";
        cursor.error(diagnostics, Code::MissingField, "no origin is allowed anything", help);
    }
    let max_age = max_age.unwrap_or(DEFAULT_MAX_AGE);
    if max_age < 1 {
        let message = format!("{max_age} is not a number of seconds above zero");
        cursor.field("maxAge").error(diagnostics, Code::InvalidValue, message, "write the seconds, as in `86400`");
    }
    let mut list = |field: &str, items: Vec<String>, check: fn(&str) -> Result<(), String>, help: &str| {
        let cursor = cursor.field(field);
        at_most(cursor, field, items.len(), MAX_ITEMS, diagnostics);
        let several = items.len() > 1;
        for (at, item) in items.iter().enumerate() {
            let fault = match item.as_str() {
                "*" if several => Err("it stands for all, beside others".to_owned()),
                "*" => Ok(()),
                item => check(item),
            };
            if let Err(fault) = fault {
                let message = format!("`{}` is not valid here: {fault}", shown(item));
                cursor.item(at).error(diagnostics, Code::InvalidValue, message, help);
            }
        }
        items.into_iter().map(Arc::from).collect::<Vec<_>>()
    };
    Cors {
        allow_origins: list(
            "allowOrigins",
            allow_origins,
            origin,
            "write it as in `https://*.example.com`, or `*` alone",
        ),
        allow_credentials: allow_credentials.unwrap_or(false),
        allow_methods: list("allowMethods", allow_methods, names::http_token, "write methods, or `*` alone"),
        allow_headers: list("allowHeaders", allow_headers, names::http_token, "write names of headers, or `*` alone"),
        expose_headers: list(
            "exposeHeaders",
            expose_headers,
            names::http_token,
            "write names of headers, or `*` alone",
        ),
        max_age: Duration::from_secs(u64::try_from(max_age).unwrap_or(1)),
    }
}

/// `scheme://host`, with an optional port; the host may have wildcards.
fn origin(text: &str) -> Result<(), String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let rest = rest.ok_or_else(|| "it begins neither with `https://` nor with `http://`".to_owned())?;
    let (host, port) = rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
    if port.is_some_and(|port| port.parse::<u16>().map_or(true, |port| port == 0)) {
        return Err("its port is not a number from 1 to 65535".into());
    }
    names::dns_subdomain(&host.replace('*', "x"))
}
