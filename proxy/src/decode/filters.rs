//! What routes do to requests and answers: header changes, rewrites, redirects.

use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, StatusCode};
use malla_xds::envoy::core::header_value_option::HeaderAppendAction;
use malla_xds::envoy::core::{self, HeaderValueOption};
use malla_xds::envoy::matcher::RegexMatchAndSubstitute;
use malla_xds::envoy::route::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
use malla_xds::envoy::route::route_action::HostRewriteSpecifier;
use malla_xds::envoy::route::{RedirectAction, RouteAction};
use malla_xds::names::WHOLE_PATH;

use super::fault::{At, Fault, each};
use super::unsupported;
use crate::filter::{HeaderChange, HeaderChanges, HeaderFilters, PathRewrite, Redirect, Rewrite, Write, may_change};
use crate::snapshot::PathMatch;

/// The four lists that a route configuration, a virtual host, a route and a weighted cluster have alike.
pub(super) struct HeaderLists<'a> {
    pub(super) request_add: &'a [HeaderValueOption],
    pub(super) request_remove: &'a [String],
    pub(super) response_add: &'a [HeaderValueOption],
    pub(super) response_remove: &'a [String],
}

/// Takes the four lists of a message.
macro_rules! header_lists {
    ($message:expr) => {
        $crate::decode::filters::HeaderLists {
            request_add: &$message.request_headers_to_add,
            request_remove: &$message.request_headers_to_remove,
            response_add: &$message.response_headers_to_add,
            response_remove: &$message.response_headers_to_remove,
        }
    };
}
pub(super) use header_lists;

/// The changes that one message asks for.
pub(super) fn headers(lists: &HeaderLists<'_>) -> Result<HeaderFilters, Fault> {
    Ok(HeaderFilters {
        request: changes(
            "request_headers_to_add",
            lists.request_add,
            "request_headers_to_remove",
            lists.request_remove,
        )?,
        response: changes(
            "response_headers_to_add",
            lists.response_add,
            "response_headers_to_remove",
            lists.response_remove,
        )?,
    })
}

/// Removes first, as Envoy does.
fn changes(
    add: &'static str,
    written: &[HeaderValueOption],
    remove: &'static str,
    removed: &[String],
) -> Result<HeaderChanges, Fault> {
    let mut changes = each(remove, removed, |name| Ok(HeaderChange::Remove(self::name(name)?)))?;
    changes.extend(each(add, written, write)?);
    Ok(HeaderChanges(changes))
}

#[allow(deprecated, reason = "the deprecated form means the same and is still sent")]
fn write(option: &HeaderValueOption) -> Result<HeaderChange, Fault> {
    let header = option.header.as_ref().ok_or_else(|| Fault::new("is missing").within("header"))?;
    let write = match (HeaderAppendAction::try_from(option.append_action), &option.append) {
        (Ok(HeaderAppendAction::AppendIfExistsOrAdd), Some(append)) if !append.value => Write::Replace,
        (Ok(HeaderAppendAction::AppendIfExistsOrAdd), _) => Write::Append,
        (Ok(HeaderAppendAction::AddIfAbsent), _) => Write::IfAbsent,
        (Ok(HeaderAppendAction::OverwriteIfExistsOrAdd), _) => Write::Replace,
        (Ok(HeaderAppendAction::OverwriteIfExists), _) => Write::IfPresent,
        (Err(_), _) => {
            return Err(Fault::new(format!("{} is not known", option.append_action)).within("append_action"));
        }
    };
    let name = name(&header.key).at("header.key")?;
    Ok(HeaderChange::Write(name, value(header).at("header")?, write))
}

fn name(text: &str) -> Result<HeaderName, Fault> {
    let name = HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| Fault::new(format!("{text:?} is not the name of a header that can be changed")))?;
    if may_change(&name) { Ok(name) } else { Err(Fault::new(format!("the header {text:?} cannot be changed"))) }
}

/// A literal: of Envoy's format strings only `%%` is understood.
fn value(header: &core::HeaderValue) -> Result<HeaderValue, Fault> {
    let raw = !header.raw_value.is_empty();
    let text = if raw { header.raw_value.as_slice() } else { header.value.as_bytes() };
    let field = if raw { "raw_value" } else { "value" };
    let literal = String::from_utf8_lossy(text).replace("%%", "");
    if literal.contains('%') {
        return Err(Fault::new("format strings are not supported: write %% for a percent sign").within(field));
    }
    let bytes = match std::str::from_utf8(text) {
        Ok(text) => text.replace("%%", "%").into_bytes(),
        Err(_) => text.to_vec(),
    };
    HeaderValue::from_bytes(&bytes).map_err(|_| Fault::new("is not the value of a header").within(field))
}

/// The rewrite of a forwarding route.
pub(super) fn rewrite(action: &RouteAction, matched: &PathMatch) -> Result<Rewrite, Fault> {
    unsupported("path_rewrite_policy", action.path_rewrite_policy.is_some())?;
    unsupported("path_rewrite", !action.path_rewrite.is_empty())?;
    let host = match &action.host_rewrite_specifier {
        None => None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => Some(authority(host).at("host_rewrite_literal")?),
        Some(_) => return Err(Fault::new("only host_rewrite_literal is supported").within("host_rewrite_specifier")),
    };
    let path = match (&action.regex_rewrite, action.prefix_rewrite.as_str()) {
        (None, "") => None,
        (None, with) => Some(prefix(with, matched).at("prefix_rewrite")?),
        (Some(rewrite), "") => Some(whole(rewrite).at("regex_rewrite")?),
        (Some(_), _) => return Err(Fault::new("is set together with prefix_rewrite").within("regex_rewrite")),
    };
    Ok(Rewrite { host, path })
}

fn authority(text: &str) -> Result<Authority, Fault> {
    let valid = |authority: &Authority| !authority.as_str().contains('@') && !authority.host().is_empty();
    let parsed: Option<Authority> = text.to_ascii_lowercase().parse().ok();
    parsed.filter(valid).ok_or_else(|| Fault::new(format!("{text:?} is not a host")))
}

fn prefix(with: &str, matched: &PathMatch) -> Result<PathRewrite, Fault> {
    let length = match matched {
        PathMatch::Any => 1,
        PathMatch::Exact(text) | PathMatch::Prefix(text) => text.len(),
        PathMatch::Regex(_) => return Err(Fault::new("has no prefix to replace where the match is an expression")),
    };
    Ok(PathRewrite::Prefix { length, with: path(with)? })
}

fn whole(rewrite: &RegexMatchAndSubstitute) -> Result<PathRewrite, Fault> {
    let pattern = rewrite.pattern.as_ref().map_or("", |pattern| &pattern.regex);
    if pattern != WHOLE_PATH {
        let problem = format!("{pattern:?} is not supported, only {WHOLE_PATH:?}");
        return Err(Fault::new(problem).within("pattern.regex"));
    }
    if rewrite.substitution.contains('\\') {
        return Err(Fault::new("references to groups are not supported").within("substitution"));
    }
    Ok(PathRewrite::Full(path(&rewrite.substitution).at("substitution")?))
}

/// A path in canonical form: what is put in must not undo what was matched.
fn path(text: &str) -> Result<Box<str>, Fault> {
    let canonical = text.starts_with('/')
        && !text.contains(['?', '#'])
        && !text.split('/').any(crate::http::is_dot_segment)
        && PathAndQuery::try_from(text).is_ok();
    if canonical { Ok(text.into()) } else { Err(Fault::new(format!("{text:?} is not a path in canonical form"))) }
}

/// The redirect of a route.
pub(super) fn redirect(written: &RedirectAction, matched: &PathMatch) -> Result<Redirect, Fault> {
    let scheme = match &written.scheme_rewrite_specifier {
        None | Some(SchemeRewriteSpecifier::HttpsRedirect(false)) => "http",
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => "https",
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => match scheme.as_str() {
            "http" => "http",
            "https" => "https",
            other => return Err(Fault::new(format!("{other:?} is not supported")).within("scheme_redirect")),
        },
    };
    let host = match written.host_redirect.as_str() {
        "" => None,
        host => Some(authority(host).at("host_redirect")?.as_str().into()),
    };
    let port = match written.port_redirect {
        0 => None,
        port => {
            Some(u16::try_from(port).map_err(|_| Fault::new(format!("{port} is not a port")).within("port_redirect"))?)
        }
    };
    let path = match &written.path_rewrite_specifier {
        None => None,
        Some(PathRewriteSpecifier::PathRedirect(text)) => Some(PathRewrite::Full(path(text).at("path_redirect")?)),
        Some(PathRewriteSpecifier::PrefixRewrite(with)) => Some(prefix(with, matched).at("prefix_rewrite")?),
        Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => Some(whole(rewrite).at("regex_rewrite")?),
        Some(PathRewriteSpecifier::PathRewrite(_)) => return Err(Fault::new("is not supported").within("path_rewrite")),
    };
    let status = match RedirectResponseCode::try_from(written.response_code) {
        Ok(RedirectResponseCode::MovedPermanently) => StatusCode::MOVED_PERMANENTLY,
        Ok(RedirectResponseCode::Found) => StatusCode::FOUND,
        Ok(RedirectResponseCode::SeeOther) => StatusCode::SEE_OTHER,
        Ok(RedirectResponseCode::TemporaryRedirect) => StatusCode::TEMPORARY_REDIRECT,
        Ok(RedirectResponseCode::PermanentRedirect) => StatusCode::PERMANENT_REDIRECT,
        Err(_) => {
            return Err(Fault::new(format!("{} is not known", written.response_code)).within("response_code"));
        }
    };
    Ok(Redirect { scheme, host, port, path, strip_query: written.strip_query, status })
}

#[cfg(test)]
mod tests {
    use malla_xds::envoy::matcher::RegexMatcher;

    use super::*;

    fn option(key: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
        let header = core::HeaderValue { key: key.into(), value: value.into(), ..Default::default() };
        HeaderValueOption { header: Some(header), append_action: action.into(), ..Default::default() }
    }

    fn change(options: &[HeaderValueOption], remove: &[&str]) -> Result<HeaderChanges, Fault> {
        let remove: Vec<String> = remove.iter().map(ToString::to_string).collect();
        changes("request_headers_to_add", options, "request_headers_to_remove", &remove)
    }

    #[test]
    fn values_are_literals_with_doubled_percent_signs() {
        let decoded = change(&[option("X-A", "50%%", HeaderAppendAction::AppendIfExistsOrAdd)], &["x-b"]).unwrap();
        let mut headers = http::HeaderMap::new();
        headers.insert("x-b", HeaderValue::from_static("1"));
        decoded.apply(&mut headers);
        assert_eq!(headers.get("x-a").unwrap(), "50%");
        assert!(!headers.contains_key("x-b"));
        let fault = change(&[option("x", "%REQ(a)%", HeaderAppendAction::AppendIfExistsOrAdd)], &[]).unwrap_err();
        assert_eq!(
            fault.to_string(),
            "request_headers_to_add[0].header.value: format strings are not supported: write %% for a percent sign"
        );
    }

    #[test]
    fn refuses_headers_that_are_not_a_routes_to_change() {
        for name in ["host", ":path", "connection", "malla-http", "content-length", "a b"] {
            assert!(change(&[option(name, "x", HeaderAppendAction::OverwriteIfExistsOrAdd)], &[]).is_err(), "{name}");
            assert!(change(&[], &[name]).is_err(), "{name}");
        }
        assert!(change(&[option("x", "a\nb", HeaderAppendAction::OverwriteIfExistsOrAdd)], &[]).is_err());
    }

    #[test]
    fn refuses_rewrites_that_are_not_canonical() {
        let action = |with: &str| RouteAction { prefix_rewrite: with.into(), ..Default::default() };
        let matched = PathMatch::Prefix("/a/".into());
        for bad in ["b", "/b/../c", "/%2e%2E/", "/b?c", "/b c", "/."] {
            assert!(rewrite(&action(bad), &matched).is_err(), "{bad}");
        }
        let good = rewrite(&action("/b/"), &matched).unwrap();
        assert_eq!(good.path, Some(PathRewrite::Prefix { length: 3, with: "/b/".into() }));
        let regex = |pattern: &str, substitution: &str| RouteAction {
            regex_rewrite: Some(RegexMatchAndSubstitute {
                pattern: Some(RegexMatcher { regex: pattern.into(), ..Default::default() }),
                substitution: substitution.into(),
            }),
            ..Default::default()
        };
        assert!(rewrite(&regex("^/(.*)$", "/b"), &matched).is_err());
        assert!(rewrite(&regex(WHOLE_PATH, "/\\1"), &matched).is_err());
        assert_eq!(rewrite(&regex(WHOLE_PATH, "/b"), &matched).unwrap().path, Some(PathRewrite::Full("/b".into())));
        let host = |host: &str| RouteAction {
            host_rewrite_specifier: Some(HostRewriteSpecifier::HostRewriteLiteral(host.into())),
            ..Default::default()
        };
        assert!(rewrite(&host("a@b"), &matched).is_err() && rewrite(&host("a b"), &matched).is_err());
        assert_eq!(rewrite(&host("New.example"), &matched).unwrap().host.unwrap(), "new.example");
    }
}
