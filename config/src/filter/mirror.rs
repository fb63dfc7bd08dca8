//! `RequestMirror`.

use super::raw::{RawFraction, RawMirror, RawMirrorBackend};
use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::mesh::{Mirror, Share};
use crate::route::{Context, RawBackend};

/// A mirror, checked; nothing if its backend is not one.
pub(super) fn ready(
    context: Context<'_>,
    cursor: Cursor<'_>,
    written: Option<RawMirror>,
    diagnostics: &mut Diagnostics,
) -> Option<Mirror> {
    let Some(RawMirror { backend_ref, fraction, percent }) = written else {
        let help = "write `requestMirror: {backendRef: {name: …, port: …}}`";
        cursor.error(diagnostics, Code::MissingField, "the filter mirrors to nobody", help);
        return None;
    };
    let share = share(cursor, fraction, percent, diagnostics);
    let RawMirrorBackend { group, kind, name, namespace, port } = backend_ref;
    let raw = RawBackend { group, kind, name, namespace, port, weight: None, filters: Default::default() };
    let backend = context.backend(cursor.field("backendRef"), raw, diagnostics)?;
    Some(Mirror { service: backend.service, port: backend.port, subset: backend.subset, share })
}

fn share(
    cursor: Cursor<'_>,
    fraction: Option<RawFraction>,
    percent: Option<i32>,
    diagnostics: &mut Diagnostics,
) -> Share {
    let mut wrong = |field: &str, message: &str, help: &str| {
        cursor.field(field).error(diagnostics, Code::InvalidValue, message, help);
        Share::ALL
    };
    match (fraction, percent) {
        (None, None) => Share::ALL,
        (Some(_), Some(_)) => wrong("percent", "`fraction` says the share already", "write one of both"),
        (None, Some(percent)) => match u32::try_from(percent).ok().filter(|percent| *percent <= 100) {
            Some(percent) => Share::per_million(percent * 10_000),
            None => wrong("percent", "it is not a percentage", "write a number from 0 to 100"),
        },
        (Some(RawFraction { numerator, denominator }), None) => {
            let denominator = u64::try_from(denominator.unwrap_or(100)).ok().filter(|denominator| *denominator > 0);
            match (u64::try_from(numerator).ok(), denominator) {
                (Some(numerator), Some(denominator)) if numerator <= denominator => {
                    // Rounded to parts of a million; it is at most all of them.
                    Share::per_million(((numerator * 1_000_000 + denominator / 2) / denominator) as u32)
                }
                _ => wrong("fraction", "it is not a part of the whole", "write a numerator up to the denominator"),
            }
        }
    }
}
