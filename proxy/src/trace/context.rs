//! The trace context that a request brings and takes along: W3C Trace Context and B3, in text.
//!
//! What is malformed is taken out of the headers: it counts as absent, and nobody further on takes it for valid. `tracestate`
//! and `baggage` are passed on as they came; the sidecar adds nothing to them.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// Members of a `tracestate` (W3C Trace Context §3.3.1.1).
const MOST_MEMBERS: usize = 32;

/// What a request says of the trace that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Incoming {
    /// The trace and the span within which the request was made.
    pub(crate) parent: Option<Parent>,
    /// The decision of those before us, if they made one.
    pub(crate) sampled: Option<bool>,
    /// How it was written.
    pub(crate) form: Form,
}

/// A span somewhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) trace: u128,
    pub(crate) span: u64,
}

/// How a context was written, and so must be answered for. W3C is always written as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Form {
    /// `traceparent`, or nothing.
    #[default]
    W3c,
    /// `b3`.
    B3Single,
    /// `x-b3-…`.
    B3Multi,
}

/// Reads the context, `traceparent` before `b3` before `x-b3-…`, and removes those that are malformed.
pub(crate) fn read(headers: &mut HeaderMap) -> Incoming {
    let present = Present::of(headers);
    let mut found = Incoming::default();
    if present.b3_multi
        && let Some(multi) = take(headers, &[B3_TRACE, B3_SPAN, B3_SAMPLED, B3_FLAGS, B3_PARENT], b3_multi)
    {
        found = multi;
    }
    if present.b3_single
        && let Some(single) = take(headers, &[B3], |headers| b3_single(only(headers, &B3)?))
    {
        found = single;
    }
    let mut w3c = None;
    if present.traceparent {
        w3c = take(headers, &[TRACEPARENT], |headers| traceparent(only(headers, &TRACEPARENT)?));
    }
    if present.tracestate && (w3c.is_none() || !is_tracestate(headers)) {
        headers.remove(TRACESTATE);
    }
    if let Some((parent, sampled)) = w3c {
        found = Incoming { parent: Some(parent), sampled: Some(sampled), form: found.form };
    }
    found
}

/// Which contexts there are: most requests have none or one, and are not asked for each header of the others.
#[derive(Debug, Default)]
struct Present {
    traceparent: bool,
    tracestate: bool,
    b3_single: bool,
    b3_multi: bool,
}

impl Present {
    fn of(headers: &HeaderMap) -> Present {
        let mut present = Present::default();
        for name in headers.keys() {
            match name.as_str().as_bytes() {
                b"traceparent" => present.traceparent = true,
                b"tracestate" => present.tracestate = true,
                b"b3" => present.b3_single = true,
                [b'x', b'-', b'b', b'3', b'-', ..] => present.b3_multi = true,
                _ => {}
            }
        }
        present
    }
}

/// What `read` makes of these headers; they are removed if that is nothing.
fn take<T>(headers: &mut HeaderMap, names: &[HeaderName], read: impl FnOnce(&HeaderMap) -> Option<T>) -> Option<T> {
    let found = read(headers);
    if found.is_none() {
        for name in names {
            headers.remove(name);
        }
    }
    found
}

/// Writes the context for the next hop: the request is made within `span`.
pub(crate) fn write(headers: &mut HeaderMap, span: Parent, sampled: bool, incoming: &Incoming) {
    let (trace, id) = (trace_digits(span.trace), digits(span.span));
    let flags: &[u8] = if sampled { b"01" } else { b"00" };
    insert(headers, TRACEPARENT, &[b"00-", &trace, b"-", &id, b"-", flags]);
    let decision: &[u8] = if sampled { b"1" } else { b"0" };
    let parent = incoming.parent.map(|parent| digits(parent.span));
    match (incoming.form, parent) {
        (Form::W3c, _) => {}
        (Form::B3Single, None) => insert(headers, B3, &[&trace, b"-", &id, b"-", decision]),
        (Form::B3Single, Some(parent)) => insert(headers, B3, &[&trace, b"-", &id, b"-", decision, b"-", &parent]),
        (Form::B3Multi, parent) => {
            insert(headers, B3_SAMPLED, &[decision]);
            insert(headers, B3_TRACE, &[&trace]);
            insert(headers, B3_SPAN, &[&id]);
            match parent {
                Some(parent) => insert(headers, B3_PARENT, &[&parent]),
                None => drop(headers.remove(B3_PARENT)),
            }
        }
    }
}

/// Sensitive, so that HPACK does not index it: a value that never comes again would only push others out of the table.
fn insert(headers: &mut HeaderMap, name: HeaderName, parts: &[&[u8]]) {
    // Of exactly its length it becomes the value without another copy: each request that has no context gets one.
    if let Ok(mut value) = HeaderValue::from_maybe_shared(Bytes::from(parts.concat())) {
        value.set_sensitive(true);
        headers.insert(name, value);
    }
}

/// A number in hexadecimal digits. By hand: `{:016x}` costs ten times as much, and `{:032x}` divides 128-bit numbers besides.
fn digits(number: u64) -> [u8; 16] {
    let mut rest = number;
    let mut text = [0; 16];
    for digit in text.iter_mut().rev() {
        let half = (rest & 15) as u8;
        *digit = if half < 10 { half.wrapping_add(b'0') } else { half.wrapping_sub(10).wrapping_add(b'a') };
        rest >>= 4;
    }
    text
}

fn trace_digits(trace: u128) -> [u8; 32] {
    let mut text = [0; 32];
    let (high, low) = text.split_at_mut(16);
    high.copy_from_slice(&digits((trace >> 64) as u64));
    low.copy_from_slice(&digits(trace as u64));
    text
}

/// The value of a header that must not be repeated.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// W3C Trace Context §3.2: of version 00 exactly, of later ones what version 00 knows.
fn traceparent(text: &str) -> Option<(Parent, bool)> {
    let mut rest = text.as_bytes();
    let version = number(field(&mut rest, 2)?, false)?;
    dash(&mut rest)?;
    let trace = trace_id(field(&mut rest, 32)?, false)?;
    dash(&mut rest)?;
    let span = number(field(&mut rest, 16)?, false)?;
    dash(&mut rest)?;
    let flags = number(field(&mut rest, 2)?, false)?;
    let ends = rest.is_empty() || (version > 0 && dash(&mut rest).is_some());
    (ends && version != 0xff && trace != 0 && span != 0).then_some((Parent { trace, span }, flags & 1 == 1))
}

/// The next so many bytes.
fn field<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (field, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(field)
}

fn dash(rest: &mut &[u8]) -> Option<()> {
    *rest = rest.strip_prefix(b"-")?;
    Some(())
}

/// `{trace}-{span}[-{sampled}[-{parent}]]`, or the decision alone.
fn b3_single(text: &str) -> Option<Incoming> {
    let form = Form::B3Single;
    if let Some(sampled) = decision(text) {
        return Some(Incoming { parent: None, sampled: Some(sampled), form });
    }
    let mut fields = text.split('-');
    let parent = b3_parent(fields.next()?, fields.next()?)?;
    let sampled = match fields.next() {
        None => None,
        Some(field) => Some(decision(field)?),
    };
    if let Some(of_parent) = fields.next() {
        span_id(of_parent)?;
    }
    fields.next().is_none().then_some(Incoming { parent: Some(parent), sampled, form })
}

fn b3_multi(headers: &HeaderMap) -> Option<Incoming> {
    let form = Form::B3Multi;
    let sampled = match headers.contains_key(B3_SAMPLED) {
        true => Some(decision(only(headers, &B3_SAMPLED)?)?),
        false => None,
    };
    let debug = match headers.contains_key(B3_FLAGS).then(|| only(headers, &B3_FLAGS)) {
        None | Some(Some("0")) => false,
        Some(Some("1")) => true,
        Some(_) => return None,
    };
    if headers.contains_key(B3_PARENT) {
        span_id(only(headers, &B3_PARENT)?)?;
    }
    let sampled = if debug { Some(true) } else { sampled };
    if !headers.contains_key(B3_TRACE) && !headers.contains_key(B3_SPAN) {
        return sampled.map(|sampled| Incoming { parent: None, sampled: Some(sampled), form });
    }
    let parent = b3_parent(only(headers, &B3_TRACE)?, only(headers, &B3_SPAN)?)?;
    Some(Incoming { parent: Some(parent), sampled, form })
}

fn b3_parent(trace: &str, span: &str) -> Option<Parent> {
    let trace = match trace.len() {
        16 => number(trace.as_bytes(), true)?.into(),
        _ => trace_id(trace.as_bytes(), true)?,
    };
    let span = span_id(span)?;
    (trace != 0 && span != 0).then_some(Parent { trace, span })
}

fn span_id(text: &str) -> Option<u64> {
    (text.len() == 16).then(|| number(text.as_bytes(), true))?
}

/// Accept, deny or debug; some old clients write booleans.
fn decision(text: &str) -> Option<bool> {
    match text {
        "1" | "d" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

fn trace_id(text: &[u8], upper: bool) -> Option<u128> {
    let (high, low) = text.split_at_checked(16).filter(|(_, low)| low.len() == 16)?;
    Some(u128::from(number(high, upper)?) << 64 | u128::from(number(low, upper)?))
}

/// A number of at most 16 hexadecimal digits; W3C permits lower case alone.
fn number(text: &[u8], upper: bool) -> Option<u64> {
    text.iter().try_fold(0_u64, |number, b| {
        let digit = match b {
            b'0'..=b'9' => b.wrapping_sub(b'0'),
            b'a'..=b'f' => b.wrapping_sub(b'a').wrapping_add(10),
            b'A'..=b'F' if upper => b.wrapping_sub(b'A').wrapping_add(10),
            _ => return None,
        };
        Some(number << 4 | u64::from(digit))
    })
}

/// Whether the `tracestate` headers make a valid list (W3C Trace Context §3.3.1).
fn is_tracestate(headers: &HeaderMap) -> bool {
    let mut members = 0_usize;
    headers.get_all(TRACESTATE).iter().all(|value| {
        let Ok(text) = value.to_str() else { return false };
        text.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty()).all(
            |member| {
                members = members.saturating_add(1);
                members <= MOST_MEMBERS
                    && member.split_once('=').is_some_and(|(key, value)| is_key(key) && is_value(value))
            },
        )
    })
}

/// W3C Trace Context (Level 1) §3.3.1.3.1: a name, or `tenant@system`.
fn is_key(key: &str) -> bool {
    let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'*' | b'/');
    let is_name = |name: &str, longest: usize, digit_first: bool| {
        let starts = |c: char| c.is_ascii_lowercase() || (digit_first && c.is_ascii_digit());
        name.len() <= longest && name.starts_with(starts) && name.bytes().all(valid)
    };
    match key.split_once('@') {
        None => is_name(key, 256, true),
        Some((tenant, system)) => is_name(tenant, 241, true) && is_name(system, 14, false),
    }
}

fn is_value(value: &str) -> bool {
    (1..=256).contains(&value.len()) && value.bytes().all(|b| (0x20..=0x7e).contains(&b) && b != b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
    const SPAN: u64 = 0x00f0_67aa_0ba9_02b7;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let header = |(name, value): &(&str, &str)| {
            (HeaderName::try_from(*name).expect("a name"), HeaderValue::from_str(value).expect("a value"))
        };
        let mut headers = HeaderMap::new();
        for (name, value) in pairs.iter().map(header) {
            headers.append(name, value);
        }
        headers
    }

    /// The test cases of the W3C's own test suite (trace-context, `test/test.py`), as far as they concern what is received.
    #[test]
    fn traceparents_are_read_as_the_specification_says() {
        let valid = "0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7";
        for (text, sampled) in [
            (format!("00-{valid}-01"), Some(true)),
            (format!("00-{valid}-00"), Some(false)),
            (format!("00-{valid}-03"), Some(true)),
            (format!("00-{valid}-fe"), Some(false)),
            (format!("cc-{valid}-01"), Some(true)),
            (format!("cc-{valid}-01-what-the-future-will-be-like"), Some(true)),
            (format!("cc-{valid}-01.what-the-future-will-be-like"), None),
            (format!("ff-{valid}-01"), None),
            (format!("00-{valid}-01-extra"), None),
            (format!("00-{valid}-1"), None),
            (format!("00-{valid}-.0"), None),
            (format!("0-{valid}-01"), None),
            (format!(".0-{valid}-01"), None),
            (format!("00-{valid}"), None),
            (format!("00-{}-01", valid.to_uppercase()), None),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01".to_owned(), None),
            ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01".to_owned(), None),
            ("00-0af7651916cd43dd8448eb211c8031-00f067aa0ba902b7-01".to_owned(), None),
            ("00-.af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01".to_owned(), None),
            (String::new(), None),
        ] {
            let mut headers = headers(&[("traceparent", &text), ("tracestate", "a=1")]);
            let read = read(&mut headers);
            let expected = sampled.map(|_| Parent { trace: TRACE, span: SPAN });
            assert_eq!((read.parent, read.sampled), (expected, sampled), "{text}");
            assert_eq!(
                headers.len(),
                if sampled.is_some() { 2 } else { 0 },
                "{text}: what is malformed goes no further"
            );
        }
        let twice = format!("00-{valid}-01");
        let mut headers = headers(&[("traceparent", &twice), ("traceparent", &twice)]);
        assert_eq!(read(&mut headers), Incoming::default());
    }

    #[test]
    fn tracestates_pass_unchanged_or_not_at_all() {
        let parent = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01");
        let many = (0..33).map(|n| format!("k{n}=1")).collect::<Vec<_>>().join(",");
        for (text, passes) in [
            ("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", true),
            ("a=1 , b=2,,", true),
            ("1a-2f@vendor=x", true),
            ("a", false),
            ("A=1", false),
            ("a=", false),
            ("a=1=2", false),
            ("a@b@c=1", false),
            ("a@=1", false),
            ("@a=1", false),
            ("a@1=1", false),
            ("a@bcdefghijklmno=1", true),
            ("a@bcdefghijklmnop=1", false),
            (many.as_str(), false),
        ] {
            let mut headers = headers(&[parent, ("tracestate", text)]);
            assert!(read(&mut headers).parent.is_some());
            assert_eq!(headers.get("tracestate").map(|value| value == text), passes.then_some(true), "{text}");
        }
        let mut alone = headers(&[("tracestate", "a=1")]);
        read(&mut alone);
        assert!(alone.is_empty(), "without a traceparent it means nothing");
    }

    /// The examples of the B3 specification (openzipkin/b3-propagation).
    #[test]
    fn b3_is_read_in_both_forms() {
        let parent = Some(Parent { trace: 0x80f1_98ee_5634_3ba8_64fe_8b2a_57d3_eff7, span: 0xe457_b5a2_e4d8_6bd1 });
        let single = "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1";
        for (text, expected) in [
            (format!("{single}-1-05e3ac9a4f6e3b90"), Some((parent, Some(true)))),
            (format!("{single}-d"), Some((parent, Some(true)))),
            (format!("{single}-0"), Some((parent, Some(false)))),
            (single.to_owned(), Some((parent, None))),
            ("0".to_owned(), Some((None, Some(false)))),
            (format!("{single}-2"), None),
            (format!("{single}-1-05e3"), None),
            ("80f198ee56343ba8-".to_owned(), None),
        ] {
            let mut headers = headers(&[("b3", &text)]);
            let read = read(&mut headers);
            let expected = expected.map(|(parent, sampled)| Incoming { parent, sampled, form: Form::B3Single });
            assert_eq!(read, expected.unwrap_or_default(), "{text}");
            assert_eq!(headers.is_empty(), expected.is_none());
        }
        let mut multi = headers(&[
            ("x-b3-traceid", "64fe8b2a57d3eff7"),
            ("x-b3-spanid", "e457b5a2e4d86bd1"),
            ("x-b3-sampled", "1"),
        ]);
        let short = Some(Parent { trace: 0x64fe_8b2a_57d3_eff7, span: 0xe457_b5a2_e4d8_6bd1 });
        assert_eq!(read(&mut multi), Incoming { parent: short, sampled: Some(true), form: Form::B3Multi });
        let ids = [("x-b3-traceid", "64fe8b2a57d3eff7"), ("x-b3-spanid", "e457b5a2e4d86bd1")];
        for (name, value, sampled) in [
            ("x-b3-flags", "1", Some(Some(true))),
            ("x-b3-flags", "0", Some(None)),
            ("x-b3-flags", "yes", None),
            ("x-b3-parentspanid", "05e3ac9a4f6e3b90", Some(None)),
            ("x-b3-parentspanid", "05e3", None),
            ("x-b3-sampled", "2", None),
        ] {
            let mut more = headers(&[ids[0], ids[1], (name, value)]);
            let read = read(&mut more);
            assert_eq!((read.parent, read.sampled), (sampled.and(short), sampled.flatten()), "{name}: {value}");
            assert_eq!(more.is_empty(), sampled.is_none(), "{name}: {value}");
        }
        let mut half = headers(&[("x-b3-traceid", "64fe8b2a57d3eff7"), ("x-b3-sampled", "1")]);
        assert_eq!(read(&mut half), Incoming::default());
        assert!(half.is_empty());
    }

    #[test]
    fn the_answer_is_in_the_form_of_the_question_and_in_w3c() {
        let span = Parent { trace: TRACE, span: 1 };
        let mut single = headers(&[("b3", "0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-1")]);
        let incoming = read(&mut single);
        write(&mut single, span, true, &incoming);
        assert_eq!(single["traceparent"], "00-0af7651916cd43dd8448eb211c80319c-0000000000000001-01");
        assert_eq!(single["b3"], "0af7651916cd43dd8448eb211c80319c-0000000000000001-1-00f067aa0ba902b7");
        let mut multi = headers(&[("x-b3-sampled", "0")]);
        let incoming = read(&mut multi);
        assert_eq!(incoming.sampled, Some(false));
        write(&mut multi, span, false, &incoming);
        assert_eq!(multi["x-b3-spanid"], "0000000000000001");
        assert_eq!(multi["traceparent"], "00-0af7651916cd43dd8448eb211c80319c-0000000000000001-00");
        let again = read(&mut multi);
        assert_eq!((again.parent, again.sampled, again.form), (Some(span), Some(false), Form::B3Multi));
    }
}
