//! `URLRewrite` and `RequestRedirect`.

use std::sync::Arc;

use super::raw::{RawPath, RawRedirect, RawRewrite};
use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::http_match::check_path;
use crate::mesh::{PathRewrite, Redirect, Rewrite, Scheme};
use crate::names;
use crate::suggest::shown;

/// The status codes of redirects.
const REDIRECTS: [i64; 5] = [301, 302, 303, 307, 308];

/// A rewrite, checked.
pub(super) fn rewrite(cursor: Cursor<'_>, written: Option<RawRewrite>, diagnostics: &mut Diagnostics) -> Rewrite {
    let RawRewrite { hostname, path } = written.unwrap_or_default();
    if hostname.is_none() && path.is_none() {
        let help = "write `hostname:` or `path:` in it";
        cursor.error(diagnostics, Code::MissingField, "the filter rewrites nothing", help);
    }
    Rewrite {
        hostname: self::hostname(cursor, hostname, diagnostics),
        path: path.and_then(|written| self::path(cursor.field("path"), written, diagnostics)),
    }
}

/// A redirect, checked.
pub(super) fn redirect(cursor: Cursor<'_>, written: Option<RawRedirect>, diagnostics: &mut Diagnostics) -> Redirect {
    let RawRedirect { scheme, hostname, port, path, status_code } = written.unwrap_or_default();
    if scheme.is_none() && hostname.is_none() && port.is_none() && path.is_none() {
        let help = "write `scheme:`, `hostname:`, `port:` or `path:` in it";
        cursor.error(diagnostics, Code::MissingField, "the redirect leads to the same place again", help);
    }
    let port = port.and_then(|port| match names::port(port) {
        Ok(port) => Some(port),
        Err(fault) => {
            cursor.field("port").error(diagnostics, Code::InvalidValue, fault, "write a port");
            None
        }
    });
    let status = status_code.unwrap_or(302);
    if !REDIRECTS.contains(&status) {
        let message = format!("{status} is not the status of a redirect");
        let help = "write 301, 302, 303, 307 or 308";
        cursor.field("statusCode").error(diagnostics, Code::InvalidValue, message, help);
    }
    Redirect {
        scheme: scheme.map(|scheme| if scheme == "https" { Scheme::Https } else { Scheme::Http }),
        hostname: self::hostname(cursor, hostname, diagnostics),
        port,
        path: path.and_then(|written| self::path(cursor.field("path"), written, diagnostics)),
        status: u16::try_from(status).unwrap_or(302),
    }
}

fn hostname(cursor: Cursor<'_>, written: Option<String>, diagnostics: &mut Diagnostics) -> Option<Arc<str>> {
    let name = written?;
    let fault = if name.starts_with('*') { Err("it stands for many".to_owned()) } else { names::route_hostname(&name) };
    if let Err(fault) = fault {
        let message = format!("`{}` is not a valid hostname: {fault}", shown(&name));
        let help = "write a DNS name in lower case, as in `shop.example.com`";
        cursor.field("hostname").error(diagnostics, Code::InvalidValue, message, help);
    }
    Some(name.into())
}

fn path(cursor: Cursor<'_>, written: RawPath, diagnostics: &mut Diagnostics) -> Option<PathRewrite> {
    let RawPath { r#type, replace_full_path, replace_prefix_match } = written;
    let prefix = r#type == "ReplacePrefixMatch";
    let (field, value, other) = match prefix {
        true => ("replacePrefixMatch", replace_prefix_match, replace_full_path.map(|_| "replaceFullPath")),
        false => ("replaceFullPath", replace_full_path, replace_prefix_match.map(|_| "replacePrefixMatch")),
    };
    if let Some(other) = other {
        let message = format!("`{other}` has no effect with `type: {}`", shown(&r#type));
        cursor.field(other).key().error(diagnostics, Code::NoEffect, message, format!("write `{field}:`"));
    }
    let Some(value) = value else {
        let message = format!("`type: {}` needs `{field}`", shown(&r#type));
        cursor.error(diagnostics, Code::MissingField, message, format!("write `{field}:`"));
        return None;
    };
    // An empty replacement of a prefix means to strip it.
    let value = if prefix && value.is_empty() { "/".to_owned() } else { value };
    if let Err((fault, help)) = check_path(&value) {
        let message = format!("`{}` is not a path: {fault}", shown(&value));
        cursor.field(field).error(diagnostics, Code::InvalidValue, message, help);
    }
    Some(match prefix {
        true => PathRewrite::Prefix(value.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(&value).into()),
        false => PathRewrite::Full(value.into()),
    })
}
