//! `sessionPersistence` of rules of `HTTPRoute` and `GRPCRoute` (GEP-1619) → [`mesh::Session`](Session).

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::filter::may_change;
use crate::mesh::{Session, SessionCarrier};
use crate::names;
use crate::object::Object;
use crate::suggest::shown;

/// Gateway API's limit of a name.
const LONGEST_NAME: usize = 128;

/// The field as it is written, the same in both kinds of routes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    absolute_timeout: Option<String>,
    cookie_config: Option<RawCookie>,
    idle_timeout: Option<String>,
    session_name: Option<String>,
    r#type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawCookie {
    lifetime_type: Option<String>,
}

/// The persistence of a rule, the `at`th of its route.
pub(crate) fn of_rule<T: Serialize>(
    object: &Object,
    rule: Cursor<'_>,
    at: usize,
    written: Option<T>,
    diagnostics: &mut Diagnostics,
) -> Option<Session> {
    let written = written?;
    let cursor = rule.field("sessionPersistence");
    let raw: Raw = match serde_json::to_value(written).and_then(serde_json::from_value) {
        Ok(raw) => raw,
        Err(error) => {
            cursor.error(diagnostics, Code::InvalidValue, error.to_string(), "write it as Gateway API has it");
            return None;
        }
    };
    let Raw { absolute_timeout, cookie_config, idle_timeout, session_name, r#type } = raw;
    let mut time = |field: &str, written: Option<String>| {
        let text = written?;
        let duration = names::duration(&text).filter(|duration| *duration >= Duration::from_secs(1));
        if duration.is_none() {
            let message = format!("`{}` is not a duration of a second or more", shown(&text));
            cursor.field(field).error(diagnostics, Code::InvalidValue, message, names::DURATION_HELP);
        }
        duration
    };
    let (lifetime, idle) = (time("absoluteTimeout", absolute_timeout), time("idleTimeout", idle_timeout));
    if let (Some(lifetime), Some(idle)) = (lifetime, idle)
        && idle >= lifetime
    {
        let message = format!("a session that ends after {lifetime:?} is never idle for {idle:?}");
        let help = "write a shorter `idleTimeout`, or remove it";
        cursor.field("idleTimeout").error(diagnostics, Code::NoEffect, message, help);
    }
    let by_header = r#type.as_deref() == Some("Header");
    let permanent = cookie_config.as_ref().and_then(|cookie| cookie.lifetime_type.as_deref()) == Some("Permanent");
    if by_header && cookie_config.is_some() {
        let message = "`cookieConfig` has no effect on a session that a header carries";
        let help = "remove it, or write `type: Cookie`";
        cursor.field("cookieConfig").key().error(diagnostics, Code::NoEffect, message, help);
    }
    if !by_header && permanent && lifetime.is_none() && !cursor.has("absoluteTimeout") {
        let message = "a cookie that is kept needs to know until when";
        let help = "write `absoluteTimeout:`, or `lifetimeType: Session`";
        cursor.field("cookieConfig").error(diagnostics, Code::MissingField, message, help);
    }
    let name = match session_name {
        Some(name) => {
            check_name(cursor.field("sessionName"), &name, by_header, diagnostics);
            if by_header { name.to_ascii_lowercase() } else { name }
        }
        // Of its own for each rule: sessions of two rules are not taken for one another.
        None => format!("malla-session-{}-{}-{at}", object.namespace, object.name),
    };
    let name: Arc<str> = name.into();
    let carrier = match by_header {
        true => SessionCarrier::Header(name),
        false => SessionCarrier::Cookie { name, permanent },
    };
    Some(Session { carrier, lifetime, idle })
}

fn check_name(cursor: Cursor<'_>, name: &str, by_header: bool, diagnostics: &mut Diagnostics) {
    let fault = match names::http_token(name) {
        Err(fault) => Some((fault.to_string(), "write letters, digits, `-` and `_`")),
        Ok(()) if name.len() > LONGEST_NAME => Some((format!("is longer than {LONGEST_NAME}"), "write a shorter name")),
        Ok(()) if by_header => {
            let changeable = may_change(&name.to_ascii_lowercase());
            changeable.err().map(|(fault, help)| (fault.to_string(), help))
        }
        Ok(()) => None,
    };
    if let Some((fault, help)) = fault {
        let message = format!("`{}` cannot be the name of a session: {fault}", shown(name));
        cursor.error(diagnostics, Code::InvalidValue, message, help);
    }
}
