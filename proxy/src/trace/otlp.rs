//! Spans as OTLP has them (`opentelemetry.proto.trace.v1.Span`), written field by field.
//!
//! By hand because a request that is followed pays for it: building the message of owned keys and values first, to write it once and
//! throw it away, costs several times as much as the writing.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::encoding::{WireType, encoded_len_varint};

/// Longest text of an attribute or a name in bytes; of longer ones the beginning is told. Clients choose how long a path is, and many
/// spans may wait for a collector.
pub(super) const LONGEST: usize = 1024;

/// Where a span usually has room.
const USUAL: usize = 768;

/// What every span has.
pub(super) struct Frame<'a> {
    pub(super) trace: u128,
    pub(super) span: u64,
    pub(super) parent: Option<u64>,
    /// Of the trace context: whether the trace is followed.
    pub(super) sampled: bool,
    pub(super) name: &'a str,
    pub(super) kind: SpanKind,
    /// Nanoseconds since the epoch.
    pub(super) started: u64,
    pub(super) ended: u64,
}

/// A span that is being written.
#[derive(Debug)]
pub(super) struct Span {
    bytes: Vec<u8>,
}

/// Numbers of the fields of `Span`.
mod field {
    pub(super) const TRACE: u32 = 1;
    pub(super) const SPAN: u32 = 2;
    pub(super) const PARENT: u32 = 4;
    pub(super) const NAME: u32 = 5;
    pub(super) const KIND: u32 = 6;
    pub(super) const STARTED: u32 = 7;
    pub(super) const ENDED: u32 = 8;
    pub(super) const ATTRIBUTE: u32 = 9;
    pub(super) const STATUS: u32 = 15;
    pub(super) const FLAGS: u32 = 16;
}

/// `SpanFlags`: it is known whether the parent is of another program, and it is.
const PARENT_IS_KNOWN: u32 = 0x100;
const PARENT_IS_REMOTE: u32 = 0x200;

impl Span {
    pub(super) fn new(frame: &Frame<'_>) -> Span {
        let mut span = Span { bytes: Vec::with_capacity(USUAL) };
        span.bytes_of(field::TRACE, &frame.trace.to_be_bytes());
        span.bytes_of(field::SPAN, &frame.span.to_be_bytes());
        if let Some(parent) = frame.parent {
            span.bytes_of(field::PARENT, &parent.to_be_bytes());
        }
        let remote = if frame.parent.is_some() { PARENT_IS_REMOTE } else { 0 };
        let flags = u32::from(frame.sampled) | PARENT_IS_KNOWN | remote;
        span.key(field::FLAGS, WireType::ThirtyTwoBit);
        span.bytes.extend_from_slice(&flags.to_le_bytes());
        span.bytes_of(field::NAME, beginning(frame.name).as_bytes());
        span.varint(field::KIND, frame.kind as u64);
        for (field, at) in [(field::STARTED, frame.started), (field::ENDED, frame.ended)] {
            span.key(field, WireType::SixtyFourBit);
            span.bytes.extend_from_slice(&at.to_le_bytes());
        }
        span
    }

    pub(super) fn text(&mut self, key: &str, value: &str) {
        const STRING: u32 = 1;
        let value = beginning(value);
        self.attribute(key, length_of(value.len()));
        self.bytes_of(STRING, value.as_bytes());
    }

    pub(super) fn flag(&mut self, key: &str, value: bool) {
        const BOOL: u32 = 2;
        self.attribute(key, 2);
        self.varint(BOOL, u64::from(value));
    }

    pub(super) fn number(&mut self, key: &str, value: u64) {
        const INTEGER: u32 = 3;
        self.attribute(key, 1 + encoded_len_varint(value));
        self.varint(INTEGER, value);
    }

    /// It has failed, for this reason.
    pub(super) fn error(&mut self, message: &str) {
        const MESSAGE: u32 = 2;
        const CODE: u32 = 3;
        let message = beginning(message);
        self.length(field::STATUS, length_of(message.len()) + 2);
        self.bytes_of(MESSAGE, message.as_bytes());
        self.varint(CODE, StatusCode::Error as u64);
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// An attribute up to its value, which has so many bytes.
    fn attribute(&mut self, key: &str, value: usize) {
        const KEY: u32 = 1;
        const VALUE: u32 = 2;
        self.length(field::ATTRIBUTE, length_of(key.len()) + length_of(value));
        self.bytes_of(KEY, key.as_bytes());
        self.length(VALUE, value);
    }

    fn bytes_of(&mut self, field: u32, value: &[u8]) {
        self.length(field, value.len());
        self.bytes.extend_from_slice(value);
    }

    fn length(&mut self, field: u32, length: usize) {
        self.key(field, WireType::LengthDelimited);
        self.raw_varint(length as u64);
    }

    fn varint(&mut self, field: u32, value: u64) {
        self.key(field, WireType::Varint);
        self.raw_varint(value);
    }

    fn key(&mut self, field: u32, kind: WireType) {
        self.raw_varint(u64::from(field << 3 | kind as u32));
    }

    fn raw_varint(&mut self, value: u64) {
        let mut rest = value;
        while rest >= 0x80 {
            self.bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.bytes.push(rest as u8);
    }
}

/// Bytes of a field that holds so many, where its number is below 16: with its key and its length.
fn length_of(content: usize) -> usize {
    1 + encoded_len_varint(content as u64) + content
}

/// What is told of a text.
fn beginning(text: &str) -> &str {
    text.get(..text.floor_char_boundary(LONGEST)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::trace::v1::Span as Message;
    use prost::Message as _;

    use super::*;

    fn frame(name: &str) -> Frame<'_> {
        let (trace, span, parent) = (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0x00f0_67aa_0ba9_02b7, Some(5));
        Frame { trace, span, parent, sampled: true, name, kind: SpanKind::Server, started: 1, ended: u64::MAX }
    }

    fn read(span: Span) -> Message {
        Message::decode(&*span.finish()).expect("it is a span")
    }

    #[test]
    fn others_read_what_was_written() {
        let long = "a".repeat(200);
        let mut span = Span::new(&frame("GET cart.shop"));
        span.text("some.text", "of a kind");
        span.text("empty", "");
        span.text(&long, &long);
        span.flag("yes", true);
        span.flag("no", false);
        span.number("small", 80);
        span.number("large", i64::MAX as u64);
        span.error("connect_refused: 10.0.0.1:80");
        let read = read(span);
        assert_eq!(read.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
        assert_eq!(read.span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
        assert_eq!(read.parent_span_id, 5_u64.to_be_bytes());
        assert_eq!((read.name.as_str(), read.kind()), ("GET cart.shop", SpanKind::Server));
        assert_eq!((read.start_time_unix_nano, read.end_time_unix_nano), (1, u64::MAX));
        assert_eq!(read.flags, 0x301);
        let status = read.status.as_ref().expect("it has failed");
        assert_eq!((status.message.as_str(), status.code()), ("connect_refused: 10.0.0.1:80", StatusCode::Error));
        let text = |text: &str| Value::StringValue(text.to_owned());
        let expected = [
            ("some.text", text("of a kind")),
            ("empty", text("")),
            (&long, text(&long)),
            ("yes", Value::BoolValue(true)),
            ("no", Value::BoolValue(false)),
            ("small", Value::IntValue(80)),
            ("large", Value::IntValue(i64::MAX)),
        ];
        let attributes = read.attributes.iter().map(|one| {
            let value = one.value.clone().and_then(|value| value.value);
            (one.key.as_str(), value.expect("each has a value"))
        });
        assert_eq!(attributes.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_trace_that_begins_here_has_no_parent() {
        let read = read(Span::new(&Frame { parent: None, sampled: false, ..frame("TCP db") }));
        assert_eq!((read.parent_span_id.as_slice(), read.flags, read.status), (&[][..], 0x100, None));
    }

    #[test]
    fn of_what_clients_may_make_long_the_beginning_is_told() {
        let long = "ü".repeat(60_000);
        let mut span = Span::new(&frame(&long));
        span.text("url.path", &long);
        span.error(&long);
        let bytes = span.finish();
        assert!(bytes.len() < 3 * LONGEST + 200, "{}", bytes.len());
        let read = Message::decode(&*bytes).expect("it is a span");
        assert_eq!(read.name, "ü".repeat(LONGEST / 2));
    }
}
