//! Filters of rules and backends → [`mesh::Filters`](Filters).
//!
//! Gateway API writes the same filters in three places (rules of `HTTPRoute`, rules of `GRPCRoute`, backends of both). Their
//! shape is checked by the schema of each place; here they are read as one.

mod cors;
mod headers;
mod mirror;
mod raw;
mod url;

use std::collections::HashSet;
use std::time::Duration;

use serde::Serialize;

pub(crate) use self::headers::may_change;
use self::raw::{RawExtension, RawFilter};
use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::extension::{self, Extension};
use crate::kinds::Kind;
use crate::mesh::{BackendFilters, Filters, HttpMatch, PathMatch, PathRewrite, Retry};
use crate::route::{Context, at_most};
use crate::suggest::{self, shown};

/// Gateway API's limit of filters in one place.
const MAX_FILTERS: usize = 16;

/// The filters of a rule, and what it names besides.
#[derive(Default)]
pub(crate) struct OfRule {
    pub(crate) filters: Filters,
    /// A `RetryPolicy`, with the time-out of each try.
    pub(crate) retry: Option<(Retry, Option<Duration>)>,
}

/// The filters of a rule. `matches` are those of the rule: some filters ask something of them.
pub(crate) fn of_rule<T: Serialize>(
    context: Context<'_>,
    list: Cursor<'_>,
    written: Option<Vec<T>>,
    matches: &[HttpMatch],
    diagnostics: &mut Diagnostics,
) -> OfRule {
    let mut rule = OfRule::default();
    read(list, written, diagnostics, |cursor, filter, diagnostics| {
        let filters = &mut rule.filters;
        match filter.r#type.as_str() {
            "RequestHeaderModifier" => {
                let cursor = cursor.field("requestHeaderModifier");
                filters.request_headers = headers::ready(cursor, filter.request_header_modifier, diagnostics);
            }
            "ResponseHeaderModifier" => {
                let cursor = cursor.field("responseHeaderModifier");
                filters.response_headers = headers::ready(cursor, filter.response_header_modifier, diagnostics);
            }
            "URLRewrite" => {
                let cursor = cursor.field("urlRewrite");
                filters.rewrite = url::rewrite(cursor, filter.url_rewrite, diagnostics);
                needs_prefixes(cursor.field("path"), filters.rewrite.path.as_ref(), matches, diagnostics);
            }
            "RequestRedirect" => {
                let cursor = cursor.field("requestRedirect");
                let redirect = url::redirect(cursor, filter.request_redirect, diagnostics);
                needs_prefixes(cursor.field("path"), redirect.path.as_ref(), matches, diagnostics);
                filters.redirect = Some(redirect);
            }
            "RequestMirror" => {
                let cursor = cursor.field("requestMirror");
                filters.mirrors.extend(mirror::ready(context, cursor, filter.request_mirror, diagnostics));
            }
            "CORS" => filters.cors = Some(cors::ready(cursor.field("cors"), filter.cors, diagnostics)),
            "ExtensionRef" => rule.extend(context, cursor.field("extensionRef"), filter.extension_ref, diagnostics),
            _ => unsupported(cursor, &filter, diagnostics),
        }
    });
    if rule.filters.redirect.is_some() && !rule.filters.mirrors.is_empty() {
        let message = "a rule that redirects forwards nothing that could be mirrored";
        list.error(diagnostics, Code::NoEffect, message, "remove the one or the other");
    }
    if rule.filters.redirect.is_some() && rule.filters.rewrite != Default::default() {
        let message = "a rule cannot both redirect and rewrite";
        list.error(diagnostics, Code::InvalidValue, message, "remove one of the two: a redirect forwards nothing");
    }
    rule
}

impl OfRule {
    /// Takes what an `ExtensionRef` names.
    fn extend(
        &mut self,
        context: Context<'_>,
        cursor: Cursor<'_>,
        written: Option<RawExtension>,
        diagnostics: &mut Diagnostics,
    ) {
        let names = suggest::listing(extension::KINDS.map(Kind::name));
        let Some(RawExtension { group, kind, name }) = written else {
            let help = "write `extensionRef: {group: malla.dev, kind: …, name: …}`";
            cursor.error(diagnostics, Code::MissingField, "the filter names nothing", help);
            return;
        };
        let known = extension::KINDS.into_iter().find(|known| known.name() == kind && group == "malla.dev");
        let Some(kind) = known else {
            let message = format!("the kind `{}` of `{}` is no filter", shown(&kind), shown(&group));
            let help = format!("write `group: malla.dev` and one of {names}");
            cursor.error(diagnostics, Code::NotSupported, message, help);
            return;
        };
        let namespace = &context.object.namespace;
        let taken = match context.index.extension(cursor.field("name"), kind, namespace, &name, diagnostics) {
            None => return,
            Some(Extension::Fault(fault)) => self.filters.fault.replace(fault.clone()).is_some(),
            Some(Extension::RateLimit(limit)) => self.filters.rate_limit.replace(limit.clone()).is_some(),
            Some(Extension::Sampling(share)) => self.filters.sampling.replace(*share).is_some(),
            Some(Extension::Retry(retry, per_try)) => self.retry.replace((retry.clone(), *per_try)).is_some(),
        };
        if taken {
            let message = format!("the rule names {} already", kind.with_article());
            cursor.error(diagnostics, Code::Duplicate, message, "remove one of them");
        }
    }
}

/// The filters of a backend.
pub(crate) fn of_backend<T: Serialize>(
    list: Cursor<'_>,
    written: Option<Vec<T>>,
    diagnostics: &mut Diagnostics,
) -> BackendFilters {
    let mut filters = BackendFilters::default();
    read(list, written, diagnostics, |cursor, filter, diagnostics| match filter.r#type.as_str() {
        "RequestHeaderModifier" => {
            let cursor = cursor.field("requestHeaderModifier");
            filters.request_headers = headers::ready(cursor, filter.request_header_modifier, diagnostics);
        }
        "ResponseHeaderModifier" => {
            let cursor = cursor.field("responseHeaderModifier");
            filters.response_headers = headers::ready(cursor, filter.response_header_modifier, diagnostics);
        }
        "URLRewrite" | "RequestRedirect" | "RequestMirror" | "CORS" | "ExtensionRef" => {
            let message = format!("the filter `{}` of a single backend is not supported yet", filter.r#type);
            cursor.error(diagnostics, Code::NotSupported, message, "write it in the `filters` of the rule");
        }
        _ => unsupported(cursor, &filter, diagnostics),
    });
    filters
}

/// Takes each filter, those of one type only once.
fn read<T: Serialize>(
    list: Cursor<'_>,
    written: Option<Vec<T>>,
    diagnostics: &mut Diagnostics,
    mut take: impl FnMut(Cursor<'_>, RawFilter, &mut Diagnostics),
) {
    let written = written.unwrap_or_default();
    at_most(list, "filters", written.len(), MAX_FILTERS, diagnostics);
    let mut seen = HashSet::new();
    for (at, written) in written.into_iter().enumerate() {
        let cursor = list.item(at);
        let filter: RawFilter = match serde_json::to_value(written).and_then(serde_json::from_value) {
            Ok(filter) => filter,
            Err(error) => {
                cursor.error(diagnostics, Code::InvalidValue, error.to_string(), "write it as Gateway API has it");
                continue;
            }
        };
        if let Some(field) = filter.stray_field() {
            let message = format!("`{field}` has no effect in a filter of the type `{}`", filter.r#type);
            cursor.field(field).key().error(diagnostics, Code::NoEffect, message, "remove it, or change the type");
        }
        if !filter.may_repeat() && !seen.insert(filter.r#type.clone()) {
            let message = format!("there is a filter `{}` already", filter.r#type);
            cursor.error(diagnostics, Code::Duplicate, message, "write all of it in one filter");
            continue;
        }
        take(cursor, filter, diagnostics);
    }
}

fn unsupported(cursor: Cursor<'_>, filter: &RawFilter, diagnostics: &mut Diagnostics) {
    cursor.unsupported(diagnostics, &format!("the filter `{}`", shown(&filter.r#type)));
}

/// Replacing a prefix means something only where a prefix is matched.
fn needs_prefixes(
    cursor: Cursor<'_>,
    rewrite: Option<&PathRewrite>,
    matches: &[HttpMatch],
    diagnostics: &mut Diagnostics,
) {
    let prefixes = matches.iter().all(|matched| matches!(matched.path, PathMatch::Prefix(_)));
    if matches!(rewrite, Some(PathRewrite::Prefix(_))) && !prefixes {
        let message = "`ReplacePrefixMatch` needs a `PathPrefix` in every match of the rule";
        cursor.error(diagnostics, Code::InvalidValue, message, "write `type: ReplaceFullPath`, or other matches");
    }
}
