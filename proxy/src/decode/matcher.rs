//! Conditions: strings, regular expressions, headers, query parameters, paths.

use std::sync::Arc;

use malla_xds::envoy::matcher::string_matcher::MatchPattern;
use malla_xds::envoy::matcher::{RegexMatcher, StringMatcher};
use malla_xds::envoy::route::header_matcher::HeaderMatchSpecifier;
use malla_xds::envoy::route::query_parameter_matcher::QueryParameterMatchSpecifier;
use malla_xds::envoy::route::route_match::PathSpecifier;
use malla_xds::envoy::route::{self, HeaderMatcher, QueryParameterMatcher};

use super::fault::{At, Fault, each};
use super::unsupported;
use crate::snapshot::{PathMatch, RouteMatch, ValueMatch};

/// Compiled size of one regular expression, in bytes.
const REGEX_SIZE: usize = 1 << 20;

/// The conditions of a route.
pub(super) fn route_match(written: &route::RouteMatch) -> Result<RouteMatch, Fault> {
    unsupported("case_sensitive", written.case_sensitive.as_ref().is_some_and(|sensitive| !sensitive.value))?;
    unsupported("runtime_fraction", written.runtime_fraction.is_some())?;
    unsupported("cookies", !written.cookies.is_empty())?;
    unsupported("grpc", written.grpc.is_some())?;
    unsupported("tls_context", written.tls_context.is_some())?;
    unsupported("dynamic_metadata", !written.dynamic_metadata.is_empty())?;
    unsupported("filter_state", !written.filter_state.is_empty())?;
    let mut matcher = RouteMatch {
        path: path(written.path_specifier.as_ref())?,
        method: None,
        headers: Vec::new(),
        query: each("query_parameters", &written.query_parameters, query_parameter)?,
    };
    for (index, header) in written.headers.iter().enumerate() {
        let condition = condition(header).at(format_args!("headers[{index}]"))?;
        match condition {
            Condition::Header(name, value) => matcher.headers.push((name, value)),
            Condition::Host(_) => {
                return Err(Fault::new("is matched by the domains of virtual hosts")
                    .within(":authority")
                    .within("headers"));
            }
            Condition::Method(method) if matcher.method.is_none() => matcher.method = Some(method),
            Condition::Method(_) => {
                return Err(Fault::new("there is more than one condition on :method").within("headers"));
            }
        }
    }
    Ok(matcher)
}

fn path(written: Option<&PathSpecifier>) -> Result<PathMatch, Fault> {
    match written {
        Some(PathSpecifier::Prefix(prefix)) if prefix.is_empty() || prefix == "/" => Ok(PathMatch::Any),
        Some(PathSpecifier::Prefix(prefix)) => Ok(PathMatch::Prefix(prefix.as_str().into())),
        Some(PathSpecifier::Path(path)) => Ok(PathMatch::Exact(path.as_str().into())),
        Some(PathSpecifier::SafeRegex(written)) => Ok(PathMatch::Regex(regex(written).at("safe_regex")?)),
        Some(PathSpecifier::PathSeparatedPrefix(_)) => {
            Err(Fault::new("is not supported: write path and prefix with a trailing slash")
                .within("path_separated_prefix"))
        }
        Some(PathSpecifier::ConnectMatcher(_)) => Err(Fault::new("is not supported").within("connect_matcher")),
        Some(PathSpecifier::PathMatchPolicy(_)) => Err(Fault::new("is not supported").within("path_match_policy")),
        None => Err(Fault::new("is missing").within("path_specifier")),
    }
}

pub(super) enum Condition {
    Header(http::HeaderName, ValueMatch),
    Method(http::Method),
    /// In lower case, without its port.
    Host(ValueMatch),
}

/// How a condition on `:authority` ends that leaves the port open.
const ANY_PORT: &str = "(:[0-9]+)?";

#[allow(deprecated, reason = "the deprecated forms mean the same and are still sent")]
pub(super) fn condition(written: &HeaderMatcher) -> Result<Condition, Fault> {
    unsupported("invert_match", written.invert_match)?;
    unsupported("treat_missing_header_as_empty", written.treat_missing_header_as_empty)?;
    let value = match written.header_match_specifier.as_ref() {
        Some(HeaderMatchSpecifier::StringMatch(string)) => self::string(string).at("string_match")?,
        Some(HeaderMatchSpecifier::ExactMatch(text)) => ValueMatch::Exact(text.as_str().into()),
        Some(HeaderMatchSpecifier::SafeRegexMatch(written)) => {
            ValueMatch::Regex(regex(written).at("safe_regex_match")?)
        }
        Some(HeaderMatchSpecifier::PrefixMatch(text)) => pattern("", text, ".*").at("prefix_match")?,
        Some(HeaderMatchSpecifier::SuffixMatch(text)) => pattern(".*", text, "").at("suffix_match")?,
        Some(HeaderMatchSpecifier::ContainsMatch(text)) => pattern(".*", text, ".*").at("contains_match")?,
        Some(HeaderMatchSpecifier::PresentMatch(true)) | None => ValueMatch::Present,
        Some(HeaderMatchSpecifier::PresentMatch(false)) => {
            return Err(Fault::new("a condition on absence is not supported").within("present_match"));
        }
        Some(HeaderMatchSpecifier::RangeMatch(_)) => return Err(Fault::new("is not supported").within("range_match")),
    };
    if written.name == ":method" {
        let ValueMatch::Exact(method) = value else {
            return Err(Fault::new("only an exact match is supported for :method"));
        };
        let method = method.parse().map_err(|_| Fault::new(format!("{method:?} is not a method")))?;
        return Ok(Condition::Method(method));
    }
    if written.name == ":authority" {
        // Hosts are compared without their port: a condition on the port too would be met by others than are meant.
        let open = match &written.header_match_specifier {
            Some(HeaderMatchSpecifier::StringMatch(string)) => match &string.match_pattern {
                Some(MatchPattern::SafeRegex(pattern)) => pattern.regex.ends_with(ANY_PORT),
                _ => false,
            },
            _ => false,
        };
        let problem =
            || Fault::new(format!("only a regular expression that ends in {ANY_PORT} is supported for :authority"));
        return if open { Ok(Condition::Host(value)) } else { Err(problem()) };
    }
    let name = http::HeaderName::from_bytes(written.name.as_bytes())
        .map_err(|_| Fault::new(format!("{:?} is not the name of a header", written.name)).within("name"))?;
    Ok(Condition::Header(name, value))
}

fn query_parameter(written: &QueryParameterMatcher) -> Result<(Arc<str>, ValueMatch), Fault> {
    let value = match written.query_parameter_match_specifier.as_ref() {
        Some(QueryParameterMatchSpecifier::StringMatch(written)) => string(written).at("string_match")?,
        Some(QueryParameterMatchSpecifier::PresentMatch(true)) | None => ValueMatch::Present,
        Some(QueryParameterMatchSpecifier::PresentMatch(false)) => {
            return Err(Fault::new("a condition on absence is not supported").within("present_match"));
        }
    };
    if written.name.is_empty() {
        return Err(Fault::new("is missing").within("name"));
    }
    Ok((written.name.as_str().into(), value))
}

pub(super) fn string(written: &StringMatcher) -> Result<ValueMatch, Fault> {
    unsupported("ignore_case", written.ignore_case)?;
    match written.match_pattern.as_ref() {
        Some(MatchPattern::Exact(text)) => Ok(ValueMatch::Exact(text.as_str().into())),
        Some(MatchPattern::SafeRegex(written)) => Ok(ValueMatch::Regex(regex(written).at("safe_regex")?)),
        Some(MatchPattern::Prefix(text)) => pattern("", text, ".*").at("prefix"),
        Some(MatchPattern::Suffix(text)) => pattern(".*", text, "").at("suffix"),
        Some(MatchPattern::Contains(text)) => pattern(".*", text, ".*").at("contains"),
        Some(MatchPattern::Custom(_)) => Err(Fault::new("is not supported").within("custom")),
        None => Err(Fault::new("is missing").within("match_pattern")),
    }
}

/// A literal with something around it, as a regular expression.
fn pattern(before: &str, text: &str, after: &str) -> Result<ValueMatch, Fault> {
    if text.is_empty() {
        return Err(Fault::new("is empty"));
    }
    compile(&format!("(?s:{before}{}{after})", regex::escape(text))).map(ValueMatch::Regex)
}

fn regex(written: &RegexMatcher) -> Result<regex::Regex, Fault> {
    if written.regex.is_empty() {
        return Err(Fault::new("is empty").within("regex"));
    }
    compile(&written.regex).at("regex")
}

/// Full match: the whole value, not a part of it. The expression is compiled alone first, so that one like `a)|(b` cannot escape
/// from the anchors.
fn compile(text: &str) -> Result<regex::Regex, Fault> {
    let build = |text: &str| {
        let problem = |cause| Fault::new(format!("{text:?} is not a regular expression that can be used: {cause}"));
        regex::RegexBuilder::new(text).size_limit(REGEX_SIZE).build().map_err(problem)
    };
    build(text)?;
    build(&format!("^(?:{text})$"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn safe(text: &str) -> RegexMatcher {
        RegexMatcher { regex: text.to_owned(), ..Default::default() }
    }

    #[test]
    fn regular_expressions_match_the_whole_value() {
        let matcher = regex(&safe("a|bc")).expect("compiles");
        assert!(matcher.is_match("a") && matcher.is_match("bc"));
        assert!(!matcher.is_match("ac") && !matcher.is_match("a\n") && !matcher.is_match("xbc"));
    }

    #[test]
    fn refuses_regular_expressions_that_are_broken_escape_their_anchors_or_explode() {
        for bad in ["(", "a)|(b", "", "(?:(?:a{1000}){1000}){1000}"] {
            assert!(regex(&safe(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn conditions_on_the_method_are_exact() {
        let written = |pattern| HeaderMatcher {
            name: ":method".into(),
            header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
                match_pattern: Some(pattern),
                ..Default::default()
            })),
            ..Default::default()
        };
        assert!(matches!(
            condition(&written(MatchPattern::Exact("GET".into()))),
            Ok(Condition::Method(method)) if method == http::Method::GET
        ));
        assert!(condition(&written(MatchPattern::Prefix("G".into()))).is_err());
    }

    #[test]
    fn conditions_on_the_host_leave_its_port_open() {
        let written = |pattern| HeaderMatcher {
            name: ":authority".into(),
            header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
                match_pattern: Some(pattern),
                ..Default::default()
            })),
            ..Default::default()
        };
        let host = condition(&written(MatchPattern::SafeRegex(safe("cart\\.example(:[0-9]+)?"))));
        let Ok(Condition::Host(ValueMatch::Regex(host))) = host else { panic!("a host") };
        assert!(host.is_match("cart.example") && !host.is_match("cartxexample"));
        assert!(condition(&written(MatchPattern::Exact("cart.example".into()))).is_err());
        assert!(condition(&written(MatchPattern::SafeRegex(safe("cart(:80)?")))).is_err());
    }

    #[test]
    fn an_inverted_condition_is_refused_by_name() {
        let written = HeaderMatcher { name: "x".into(), invert_match: true, ..Default::default() };
        let fault = condition(&written).err().expect("refused");
        assert_eq!(fault.to_string(), "invert_match: is not supported by this sidecar");
    }
}
