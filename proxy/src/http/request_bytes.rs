//! The bytes of a request's head in HTTP/1, looked at before hyper does (RFC 9112 §2 to §6): what hyper would refuse without a word is
//! refused here in a sentence, and so are folded lines, and lengths and codings that two readers could read in two ways.
//!
//! A head comes in pieces, and each is handed on as soon as it is looked at: a byte that is wrong is refused before hyper sees it.

use http::Uri;

use super::framing::Violation;
use super::head::MOST_HEADERS;
use crate::pool::LARGEST_HEAD;

/// A head as far as it has come.
#[derive(Debug, Default)]
pub(super) struct RequestBytes {
    at: At,
    size: usize,
    headers: usize,
    /// The last byte was a CR, and what comes next is not known.
    returned: bool,
    /// The beginning of the name of the header that is being read.
    name: [u8; NAME],
    name_length: usize,
    old: bool,
    length: bool,
    coding: bool,
    /// Of a target: what is not ASCII, or the whole where it does not begin with a slash.
    odd: Vec<u8>,
}

/// The longest name that is looked for.
const NAME: usize = TRANSFER_ENCODING.len();
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding";
const CONTENT_LENGTH: &[u8] = b"content-length";
const CHUNKED: &[u8] = b"chunked";

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum At {
    /// Nothing but empty lines so far, which some clients send after a body.
    #[default]
    Start,
    Method,
    Target,
    Path,
    Query,
    Fragment,
    /// A target that is no path: `http://…`, `host:port`, `*`.
    Odd,
    /// So many bytes of it have come.
    Version(usize),
    LineStart,
    Name,
    Value,
    Length(Digits),
    Coding(Word),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Digits {
    Before,
    Within(u64),
    After,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Before,
    Within(usize),
    After,
}

const VERSION: &[u8] = b"HTTP/1.";
/// With the digit that is missing above.
const VERSION_LENGTH: usize = VERSION.len() + 1;

/// Where the digits are.
const MAJOR: usize = VERSION.len() - 2;
const MINOR: usize = VERSION.len();

const WRONG_TARGET: &str = "the target has a character or a form that no target has";
const LONG_LINE: &str = "the request line is longer than 64 KiB";
const CONTROL: &str = "a header's value has a control character in it";
const NO_LENGTH: &str = "the length is not a number of bytes";
const OTHER_CODING: &str = "the body has a transfer coding besides chunked";

/// Larger lengths are signs to hyper and to `client_io`.
const LARGEST_LENGTH: u64 = u64::MAX - 16;

/// What a byte may be part of.
static CLASSES: [u8; 256] = classes();
const TOKEN: u8 = 1;
const PATH: u8 = 2;
const QUERY: u8 = 4;
/// Of what comes after a path, which nobody forwards.
const FRAGMENT: u8 = 8;

const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut byte = 0_u8;
    loop {
        let token = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        // As the `http` crate takes them: somewhat more than RFC 3986 does.
        let query = matches!(byte, 0x21 | 0x24..=0x3b | 0x3d | 0x3f..=0x7e);
        let path = query && !matches!(byte, b'?' | b'`');
        let fragment = byte > b' ' && byte < 0x7f;
        #[allow(clippy::indexing_slicing, reason = "a byte is always within, and this runs while compiling")]
        {
            classes[byte as usize] = (if token { TOKEN } else { 0 })
                | (if path { PATH } else { 0 })
                | (if query { QUERY } else { 0 })
                | (if fragment { FRAGMENT } else { 0 });
        }
        if byte == u8::MAX {
            return classes;
        }
        byte = byte.saturating_add(1);
    }
}

fn is(byte: u8, class: u8) -> bool {
    CLASSES.get(usize::from(byte)).is_some_and(|of| of & class != 0)
}

/// How many of the first bytes are of this class.
fn run(bytes: &[u8], class: u8) -> usize {
    bytes.iter().position(|byte| !is(*byte, class)).unwrap_or(bytes.len())
}

impl RequestBytes {
    /// Whether nothing of it has come.
    pub(super) fn is_untouched(&self) -> bool {
        self.at == At::Start && !self.returned
    }

    /// Takes a piece of a line, without the line feed at its end.
    ///
    /// # Errors
    /// A byte is none that may be there.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<(), Violation> {
        let Some(last) = piece.last() else { return Ok(()) };
        self.grow(piece.len())?;
        if std::mem::take(&mut self.returned) {
            // No LF has followed it, so it is a byte like others, and nowhere is it one that may be there.
            self.read(b"\r")?;
        }
        self.returned = *last == b'\r';
        if !self.returned {
            return self.read(piece);
        }
        self.read(piece.get(..piece.len().saturating_sub(1)).unwrap_or_default())?;
        // Where a line cannot end, hyper refuses the CR already, which may come before its LF.
        self.may_end()
    }

    fn read(&mut self, mut rest: &[u8]) -> Result<(), Violation> {
        while !rest.is_empty() {
            let taken = self.step(rest)?;
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// The line has ended; whether the head has too.
    ///
    /// # Errors
    /// The line is not complete, or ends in a bare LF.
    pub(super) fn line_ended(&mut self) -> Result<bool, Violation> {
        self.grow(1)?;
        if !std::mem::take(&mut self.returned) {
            return Err(Violation::new("a line ends in LF without CR"));
        }
        self.may_end()?;
        match self.at {
            At::Start => Ok(false),
            At::LineStart => Ok(true),
            _ => {
                self.at = At::LineStart;
                Ok(false)
            }
        }
    }

    /// Whether nothing is missing in the line.
    fn may_end(&self) -> Result<(), Violation> {
        Err(Violation::new(match self.at {
            At::Start | At::LineStart | At::Version(VERSION_LENGTH) | At::Value => return Ok(()),
            At::Length(Digits::Within(_) | Digits::After) | At::Coding(Word::After) => return Ok(()),
            At::Coding(Word::Within(length)) if length == CHUNKED.len() => return Ok(()),
            At::Method | At::Target => "the request line has no target",
            At::Path | At::Query | At::Fragment | At::Odd => "the request line has no version",
            At::Version(_) => "the version is not complete",
            At::Name => "a header line has no colon",
            At::Length(Digits::Before) => NO_LENGTH,
            At::Coding(_) => OTHER_CODING,
        }))
    }

    fn grow(&mut self, by: usize) -> Result<(), Violation> {
        self.size = self.size.saturating_add(by);
        if self.size < LARGEST_HEAD as usize {
            return Ok(());
        }
        Err(match self.at {
            // An empty line has one byte besides its end.
            At::Start if by > 1 => Violation::too_large(414, LONG_LINE),
            At::Start | At::LineStart | At::Name | At::Value | At::Length(_) | At::Coding(_) => {
                Violation::too_large(431, "the head is larger than 64 KiB")
            }
            _ => Violation::too_large(414, LONG_LINE),
        })
    }

    /// Takes bytes of one thing; how many. There is at least one.
    fn step(&mut self, rest: &[u8]) -> Result<usize, Violation> {
        let first = rest.first().copied().unwrap_or_default();
        match self.at {
            At::Start => {
                self.at = At::Method;
                if is(first, TOKEN) { Ok(1) } else { Err(Violation::new("the request does not begin with a method")) }
            }
            At::Method => {
                let taken = run(rest, TOKEN);
                let Some(found) = rest.get(taken) else { return Ok(taken) };
                if *found != b' ' {
                    return Err(Violation::new("the method has a character that no method has"));
                }
                self.at = At::Target;
                Ok(taken.saturating_add(1))
            }
            At::Target => {
                self.at = match first {
                    b'/' => At::Path,
                    b' ' => return Err(Violation::new("the request line has a space too many")),
                    _ => At::Odd,
                };
                Ok(0)
            }
            At::Path => self.target(rest, PATH),
            At::Query => self.target(rest, QUERY),
            At::Fragment => self.target(rest, FRAGMENT),
            At::Odd => self.odd(rest),
            At::Version(length) => self.version(first, length),
            At::LineStart => {
                if matches!(first, b' ' | b'\t') {
                    return Err(Violation::new("a header line is folded"));
                }
                self.headers = self.headers.saturating_add(1);
                if self.headers > MOST_HEADERS {
                    return Err(Violation::too_large(431, "more than 100 headers"));
                }
                (self.at, self.name_length) = (At::Name, 0);
                Ok(0)
            }
            At::Name => self.name(rest),
            At::Value => {
                // No early end: this way the compiler looks at many bytes at a time.
                let wrong = |wrong, byte: &u8| wrong | (*byte < b' ') & (*byte != b'\t') | (*byte == 0x7f);
                if rest.iter().fold(false, wrong) { Err(Violation::new(CONTROL)) } else { Ok(rest.len()) }
            }
            At::Length(digits) => {
                self.at = At::Length(digits.and(first).ok_or_else(|| Violation::new(NO_LENGTH))?);
                Ok(1)
            }
            At::Coding(word) => {
                self.at = At::Coding(word.and(first).ok_or_else(|| Violation::new(OTHER_CODING))?);
                Ok(1)
            }
        }
    }

    /// Of a path, its query, or the fragment that some clients send too.
    fn target(&mut self, rest: &[u8], class: u8) -> Result<usize, Violation> {
        let high = rest.iter().take_while(|byte| !byte.is_ascii()).count();
        if high > 0 {
            self.odd.extend_from_slice(rest.get(..high).unwrap_or_default());
            return Ok(high);
        }
        if !self.odd.is_empty() && std::str::from_utf8(&std::mem::take(&mut self.odd)).is_err() {
            return Err(Violation::new(WRONG_TARGET));
        }
        let taken = run(rest, class);
        self.at = match (rest.get(taken), self.at) {
            // The next step is for what is not ASCII.
            (None | Some(0x80..), _) => return Ok(taken),
            (Some(b' '), _) => At::Version(0),
            (Some(b'?'), At::Path) => At::Query,
            (Some(b'#'), At::Path | At::Query) => At::Fragment,
            _ => return Err(Violation::new(WRONG_TARGET)),
        };
        Ok(taken.saturating_add(1))
    }

    fn odd(&mut self, rest: &[u8]) -> Result<usize, Violation> {
        let end = rest.iter().position(|byte| *byte == b' ');
        let piece = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        if piece.iter().any(|byte| *byte < b' ' || *byte == 0x7f) {
            return Err(Violation::new(WRONG_TARGET));
        }
        self.odd.extend_from_slice(piece);
        let Some(end) = end else { return Ok(piece.len()) };
        let target = std::mem::take(&mut self.odd);
        if std::str::from_utf8(&target).is_err() || Uri::try_from(&*target).is_err() {
            return Err(Violation::new(WRONG_TARGET));
        }
        self.at = At::Version(0);
        Ok(end.saturating_add(1))
    }

    fn version(&mut self, byte: u8, length: usize) -> Result<usize, Violation> {
        let expected = match VERSION.get(length) {
            Some(expected) => byte == *expected,
            None => length < VERSION_LENGTH && matches!(byte, b'0' | b'1'),
        };
        if !expected {
            // Both digits of a version are at places that only this can reach.
            let other = byte.is_ascii_digit() && matches!(length, MAJOR | MINOR);
            return Err(if other {
                Violation::version()
            } else {
                Violation::new("the request line has no valid version")
            });
        }
        self.old = length == MINOR && byte == b'0';
        self.at = At::Version(length.saturating_add(1));
        Ok(1)
    }

    fn name(&mut self, rest: &[u8]) -> Result<usize, Violation> {
        let taken = run(rest, TOKEN);
        for byte in rest.get(..taken).unwrap_or_default() {
            let Some(room) = self.name.get_mut(self.name_length) else {
                self.name_length = self.name_length.max(NAME).saturating_add(1);
                break;
            };
            *room = byte.to_ascii_lowercase();
            self.name_length = self.name_length.saturating_add(1);
        }
        let what = match rest.get(taken) {
            None => return Ok(taken),
            Some(b':') if self.name_length > 0 => {
                self.at = self.value()?;
                return Ok(taken.saturating_add(1));
            }
            Some(b':') => "a header has no name",
            Some(b' ' | b'\t') => "a header's name has a space in it or after it",
            Some(_) => "a header's name has a character that no name has",
        };
        Err(Violation::new(what))
    }

    /// What the value is, by the name.
    fn value(&mut self) -> Result<At, Violation> {
        let name = self.name.get(..self.name_length).unwrap_or_default();
        let at = match name {
            TRANSFER_ENCODING if self.old => {
                return Err(Violation::new("the request has a transfer coding in HTTP/1.0"));
            }
            TRANSFER_ENCODING if std::mem::replace(&mut self.coding, true) => return Err(Violation::new(OTHER_CODING)),
            TRANSFER_ENCODING => At::Coding(Word::Before),
            CONTENT_LENGTH if std::mem::replace(&mut self.length, true) => {
                return Err(Violation::new("the request has several lengths"));
            }
            CONTENT_LENGTH => At::Length(Digits::Before),
            _ => return Ok(At::Value),
        };
        if self.length && self.coding {
            return Err(Violation::new("the request has both a length and a transfer coding"));
        }
        Ok(at)
    }
}

impl Digits {
    fn and(self, byte: u8) -> Option<Digits> {
        let blank = matches!(byte, b' ' | b'\t');
        match self {
            Digits::Before if blank => Some(Digits::Before),
            Digits::Within(_) | Digits::After if blank => Some(Digits::After),
            Digits::Before => Digits::Within(0).and(byte),
            Digits::Within(before) => {
                let digit = char::from(byte).to_digit(10)?;
                let length = before.checked_mul(10)?.checked_add(u64::from(digit))?;
                (length <= LARGEST_LENGTH).then_some(Digits::Within(length))
            }
            Digits::After => None,
        }
    }
}

impl Word {
    fn and(self, byte: u8) -> Option<Word> {
        let blank = matches!(byte, b' ' | b'\t');
        match self {
            Word::Before if blank => Some(Word::Before),
            Word::Within(length) if blank => (length == CHUNKED.len()).then_some(Word::After),
            Word::After => blank.then_some(Word::After),
            Word::Before => Word::Within(0).and(byte),
            Word::Within(length) => {
                let expected = CHUNKED.get(length)?;
                byte.eq_ignore_ascii_case(expected).then_some(Word::Within(length.saturating_add(1)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::reading::{End, http1};
    use super::*;

    /// Why a head is refused, read in pieces of this size; nothing if it is whole and good.
    fn refused(head: &[u8], piece: usize) -> Option<Violation> {
        let mut bytes = RequestBytes::default();
        for piece in head.chunks(piece) {
            for (at, part) in piece.split(|byte| *byte == b'\n').enumerate() {
                match if at > 0 { bytes.line_ended() } else { Ok(false) } {
                    Ok(true) => return None,
                    Ok(false) => {}
                    Err(violation) => return Some(violation),
                }
                if let Err(violation) = bytes.take(part) {
                    return Some(violation);
                }
            }
        }
        panic!("neither refused nor whole: {:?}", String::from_utf8_lossy(head));
    }

    #[test]
    fn each_kind_of_wrong_bytes_has_its_sentence() {
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: 1\r\n".repeat(101));
        let large = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(1 << 16));
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 16));
        let empty_lines = "\r\n".repeat(1 << 15);
        for (head, status, what) in [
            ("\x16\x03\x01\r\n\r\n", 400, "the request does not begin with a method"),
            (" GET / HTTP/1.1\r\n\r\n", 400, "the request does not begin with a method"),
            ("\r\n\r\n\0", 400, "the request does not begin with a method"),
            ("G(T / HTTP/1.1\r\n\r\n", 400, "the method has a character that no method has"),
            ("GET\t/ HTTP/1.1\r\n\r\n", 400, "the method has a character that no method has"),
            ("GET\r\n\r\n", 400, "the request line has no target"),
            ("GET \r\n\r\n", 400, "the request line has no target"),
            ("GET  / HTTP/1.1\r\n\r\n", 400, "the request line has a space too many"),
            ("GET /\r\n\r\n", 400, "the request line has no version"),
            ("GET /a<b HTTP/1.1\r\n\r\n", 400, WRONG_TARGET),
            ("GET /a?b<c HTTP/1.1\r\n\r\n", 400, WRONG_TARGET),
            ("GET /a\0 HTTP/1.1\r\n\r\n", 400, WRONG_TARGET),
            ("GET /a#\x7f HTTP/1.1\r\n\r\n", 400, WRONG_TARGET),
            ("GET http:// HTTP/1.1\r\n\r\n", 400, WRONG_TARGET),
            ("GET http://a\0b/ HTTP/1.1\r\n\r\n", 400, WRONG_TARGET),
            ("CONNECT a:b:c HTTP/1.1\r\n\r\n", 400, WRONG_TARGET),
            ("GET / HTTP/2.0\r\n\r\n", 505, "the version is neither HTTP/1.1 nor HTTP/1.0"),
            ("GET / HTTP/1.7\r\n\r\n", 505, "the version is neither HTTP/1.1 nor HTTP/1.0"),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "the version is neither HTTP/1.1 nor HTTP/1.0"),
            ("GET / http/1.1\r\n\r\n", 400, "the request line has no valid version"),
            ("GET / HTTP/1.1 \r\n\r\n", 400, "the request line has no valid version"),
            ("GET / HTTP/1.11\r\n\r\n", 400, "the request line has no valid version"),
            ("GET / HTTP/1.\r\n\r\n", 400, "the version is not complete"),
            ("GET / HTTP/1.1\nhost: a\r\n\r\n", 400, "a line ends in LF without CR"),
            ("GET / HTTP/1.1\r\nhost: a\r\n\n", 400, "a line ends in LF without CR"),
            ("GET / HTTP/1.1\r\nhost: a\rb\r\n\r\n", 400, CONTROL),
            ("GET / HTTP/1.1\r\n\r\r\n", 400, "a header's name has a character that no name has"),
            ("GET / HTTP/1.1\r\nhost\r\n\r\n", 400, "a header line has no colon"),
            ("GET / HTTP/1.1\r\n: a\r\n\r\n", 400, "a header has no name"),
            ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", 400, "a header's name has a space in it or after it"),
            ("GET / HTTP/1.1\r\nx y: a\r\n\r\n", 400, "a header's name has a space in it or after it"),
            ("GET / HTTP/1.1\r\nx\0: a\r\n\r\n", 400, "a header's name has a character that no name has"),
            ("GET / HTTP/1.1\r\nx{: a\r\n\r\n", 400, "a header's name has a character that no name has"),
            ("GET / HTTP/1.1\r\né: a\r\n\r\n", 400, "a header's name has a character that no name has"),
            ("GET / HTTP/1.1\r\n x: a\r\n\r\n", 400, "a header line is folded"),
            ("GET / HTTP/1.1\r\nx: a\r\n b\r\n\r\n", 400, "a header line is folded"),
            ("GET / HTTP/1.1\r\nx: a\0\r\n\r\n", 400, CONTROL),
            ("GET / HTTP/1.1\r\nx: \x7f\r\n\r\n", 400, CONTROL),
            ("GET / HTTP/1.1\r\ncontent-length: +1\r\n\r\n", 400, NO_LENGTH),
            ("GET / HTTP/1.1\r\ncontent-length:\r\n\r\n", 400, NO_LENGTH),
            ("GET / HTTP/1.1\r\nContent-Length: 1 1\r\n\r\n", 400, NO_LENGTH),
            ("GET / HTTP/1.1\r\ncontent-length: 18446744073709551614\r\n\r\n", 400, NO_LENGTH),
            (
                "GET / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n",
                400,
                "the request has several lengths",
            ),
            ("GET / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n", 400, OTHER_CODING),
            ("GET / HTTP/1.1\r\ntransfer-encoding: chunked, chunked\r\n\r\n", 400, OTHER_CODING),
            ("GET / HTTP/1.1\r\ntransfer-encoding: chunke\r\n\r\n", 400, OTHER_CODING),
            ("GET / HTTP/1.1\r\ntransfer-encoding:\r\n\r\n", 400, OTHER_CODING),
            ("GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n", 400, OTHER_CODING),
            (
                "GET / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
                400,
                "the request has a transfer coding in HTTP/1.0",
            ),
            (
                "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
                400,
                "the request has both a length and a transfer coding",
            ),
            (&many, 431, "more than 100 headers"),
            (&large, 431, "the head is larger than 64 KiB"),
            (&empty_lines, 431, "the head is larger than 64 KiB"),
            (&long, 414, "the request line is longer than 64 KiB"),
        ] {
            for piece in [1, 2, 7, 1 << 20] {
                let violation = refused(head.as_bytes(), piece).map(Violation::failure);
                let told = violation.map(|failure| failure.last_words()).unwrap_or_default();
                let told = String::from_utf8(told).expect("ASCII");
                let head: String = head.chars().take(60).collect();
                assert!(told.starts_with(&format!("HTTP/1.1 {status} ")), "{head:?} by {piece}: {told}");
                assert!(told.contains(what), "{head:?} by {piece}: {told}");
            }
        }
    }

    #[test]
    fn what_is_http_is_taken() {
        let large = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat((1 << 16) - 24));
        for head in [
            "\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "x!#$%&'*+-.^_`|~1 /é?é#é HTTP/1.0\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
            "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n",
            "GET http://a/b?c HTTP/1.1\r\nhost: a\r\nempty:\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: \t CHUNKED \t\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length:\t 0005 \r\ncontent-lengthy: x\r\nx: \u{80}\u{ff}\t y\r\n\r\n",
            &large,
        ] {
            for piece in [1, 2, 7, 1 << 20] {
                assert_eq!(refused(head.as_bytes(), piece), None, "{head:?} by {piece}");
            }
        }
    }

    /// Hyper gets nothing that it refuses, or it would refuse without a word: each byte at each place of a head.
    #[test]
    fn hyper_takes_each_byte_that_is_taken_here() {
        let head = b"PUT /a?b#c HTTP/1.1\r\nhost: a\r\nx: y\r\ncontent-length: 1\r\n\r\nz";
        for at in 0..head.len() {
            for byte in 0..=u8::MAX {
                let (mut changed, mut more) = (head.to_vec(), head.to_vec());
                changed[at] = byte;
                more.insert(at, byte);
                for bytes in [changed, more] {
                    assert_ne!(http1(&bytes, usize::MAX).end, End::Unnamed, "{:?}", String::from_utf8_lossy(&bytes));
                }
            }
        }
    }

    #[test]
    fn hyper_takes_the_beginning_of_what_is_taken_here() {
        for head in [
            "GET\r\n\r\n",
            "GET /a\r\n\r\n",
            "GET x\u{98}\r\n\r\n",
            "GET / HTTP/1.\r\n\r\n",
            "GET / HTTP/1.1\r\nhost\r\n\r\n",
        ] {
            for piece in 1..=head.len() {
                assert_eq!(http1(head.as_bytes(), piece).end, End::Refused, "{head:?} by {piece}");
            }
        }
    }

    proptest! {
        #[test]
        fn hyper_takes_what_is_taken_here(
            method in "[A-Z(\\x00]{0,4}",
            target in "(/|\\*|http://|a:|\\?|)\\PC{0,8}[\\x00-\\x7f]{0,2}",
            version in "HTTP/1\\.[01]|[HTP/.0-9 ]{0,9}",
            headers in "((host|x|content-length|transfer-encoding|\\PC{0,3}):[ \\t]{0,2}(chunked|[0-9]{1,20}|\\PC{0,4})(, chunked)?\\r?\\n){0,4}",
            piece in 1_usize..40,
        ) {
            let text = format!("{method} {target} {version}\r\n{headers}\r\n");
            prop_assert_ne!(http1(text.as_bytes(), piece).end, End::Unnamed, "{:?}", text);
        }
    }
}
