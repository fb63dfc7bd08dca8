//! How an HTTP/1 client's bytes are framed, read alongside hyper and more strictly: what two readers could take for two
//! different things is refused (RFC 9112 §2.2, §5.2, §6.3, §11.2).
//!
//! Heads are looked at in [`request_bytes`](super::request_bytes), the lines of chunked bodies here. Bytes are handed to hyper head by
//! head, so that a pipelined head is seen here before it is taken for one there. What comes after a request for an upgrade waits until the
//! upstream has answered: before that nobody knows whether it is HTTP (RFC 9110 §7.8).

use std::fmt;

use memchr::memchr;

use super::failure::Failure;
use super::request_bytes::RequestBytes;
use crate::reason::Reason;

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follows {
    /// A body of this length, or none.
    Length(u64),
    /// A chunked body.
    Chunked,
    /// Another protocol if the upstream switches, else HTTP.
    Undecided,
}

/// Why the client's bytes are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Violation {
    reason: Reason,
    status: u16,
    what: &'static str,
}

impl Violation {
    /// The bytes are no request, or could be read as two.
    pub(super) const fn new(what: &'static str) -> Self {
        Violation { reason: Reason::ProtocolError, status: Reason::ProtocolError.status(), what }
    }

    /// It is HTTP, of a version that is not spoken here.
    pub(super) const fn version() -> Self {
        Violation { status: 505, ..Violation::new("the version is neither HTTP/1.1 nor HTTP/1.0") }
    }

    pub(super) const fn too_large(status: u16, what: &'static str) -> Self {
        Violation { reason: Reason::HeadersTooLarge, status, what }
    }

    pub(super) fn failure(self) -> Failure {
        Failure::new(self.reason, self.what).with_status(self.status)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }
}

/// Where in the client's bytes we are.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    line: Line,
    /// What comes next is refused; what came before it has been handed on.
    refused: Option<Violation>,
}

#[derive(Debug)]
enum State {
    Head(RequestBytes),
    /// The head is complete; hyper says what follows.
    Between,
    Data(u64),
    Chunk(Chunk),
    /// The upstream is asked for another protocol and has not answered.
    Undecided,
    /// Not HTTP any more.
    Switched,
}

#[derive(Debug)]
enum Chunk {
    Size,
    Data(u64),
    /// The line end after a chunk's data.
    End,
    Trailers,
}

/// A line whose end has not come yet: its beginning, its length, its last byte.
#[derive(Debug, Default)]
struct Line {
    start: [u8; KEPT],
    length: usize,
    last: u8,
}

/// Bytes of a line that matter: a chunk's size.
const KEPT: usize = 18;

impl Default for Framing {
    fn default() -> Self {
        Framing { state: State::Head(RequestBytes::default()), line: Line::default(), refused: None }
    }
}

impl Framing {
    /// Whether the next thing needed is [`Framing::begin`].
    #[cfg(test)]
    fn awaits_request(&self) -> bool {
        matches!(self.state, State::Between)
    }

    /// Hyper has read the head.
    pub(super) fn begin(&mut self, follows: Follows) {
        self.state = match follows {
            Follows::Length(0) => State::Head(RequestBytes::default()),
            Follows::Length(length) => State::Data(length),
            Follows::Chunked => State::Chunk(Chunk::Size),
            Follows::Undecided => State::Undecided,
        };
    }

    /// The upstream did not switch: HTTP goes on.
    pub(super) fn resume(&mut self) {
        if matches!(self.state, State::Between | State::Undecided) {
            *self = Framing::default();
        }
    }

    /// The upstream switched: whatever comes now is not looked at.
    pub(super) fn switch(&mut self) {
        self.state = State::Switched;
    }

    /// Whether what the last head began has come in whole; `None` until it is known what that is.
    pub(super) fn complete(&self) -> Option<bool> {
        match &self.state {
            State::Between => None,
            State::Head(head) => Some(head.is_untouched()),
            State::Data(_) | State::Chunk(_) | State::Undecided | State::Switched => Some(false),
        }
    }

    /// Whether the next bytes are of a body.
    pub(super) fn in_body(&self) -> bool {
        matches!(self.state, State::Data(_) | State::Chunk(_))
    }

    /// How many of these bytes may be handed on now; the rest after what they begin is understood. What precedes bytes that are refused is
    /// handed on first: it may end a request that is whole.
    ///
    /// # Errors
    /// The bytes are refused.
    pub(super) fn admit(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        if let Some(violation) = self.refused {
            return Err(violation);
        }
        let mut admitted = 0;
        while let Some(rest) = bytes.get(admitted..).filter(|rest| !rest.is_empty()) {
            let taken = match &mut self.state {
                State::Between | State::Undecided => return Ok(admitted),
                State::Switched => rest.len(),
                State::Data(left) | State::Chunk(Chunk::Data(left)) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left = left.saturating_sub(taken as u64);
                    taken
                }
                State::Head(_) | State::Chunk(_) => {
                    let end = memchr(b'\n', rest);
                    if let Err(violation) = self.take(rest.get(..end.unwrap_or(rest.len())).unwrap_or_default(), end) {
                        self.refused = Some(violation);
                        return if admitted == 0 { Err(violation) } else { Ok(admitted) };
                    }
                    end.map_or(rest.len(), |end| end.saturating_add(1))
                }
            };
            admitted = admitted.saturating_add(taken);
            match self.state {
                State::Data(0) => self.state = State::Head(RequestBytes::default()),
                State::Chunk(Chunk::Data(0)) => self.state = State::Chunk(Chunk::End),
                _ => {}
            }
        }
        Ok(admitted)
    }

    /// Takes a piece of a line, and its end if that has come.
    fn take(&mut self, piece: &[u8], end: Option<usize>) -> Result<(), Violation> {
        match &mut self.state {
            State::Head(head) => {
                head.take(piece)?;
                if end.is_some() && head.line_ended()? {
                    self.state = State::Between;
                }
            }
            State::Chunk(chunk) => {
                self.line.extend(piece);
                if end.is_some() && chunk.line_ended(&std::mem::take(&mut self.line))? {
                    self.state = State::Head(RequestBytes::default());
                }
            }
            State::Between | State::Data(_) | State::Undecided | State::Switched => {}
        }
        Ok(())
    }
}

impl Chunk {
    /// Whether the body has ended.
    fn line_ended(&mut self, line: &Line) -> Result<bool, Violation> {
        let Some(length) = line.length.checked_sub(1).filter(|_| line.last == b'\r') else {
            return Err(Violation::new("a line ends in LF without CR"));
        };
        match self {
            Chunk::Size => {
                *self = match line.chunk_size().ok_or(Violation::new("a chunk has no valid size"))? {
                    0 => Chunk::Trailers,
                    size => Chunk::Data(size),
                };
            }
            Chunk::End if length == 0 => *self = Chunk::Size,
            Chunk::End => return Err(Violation::new("a chunk is longer than its size")),
            Chunk::Trailers => return Ok(length == 0),
            Chunk::Data(_) => {}
        }
        Ok(false)
    }
}

impl Line {
    fn extend(&mut self, bytes: &[u8]) {
        if let Some(room) = self.start.get_mut(self.length..) {
            let kept = room.len().min(bytes.len());
            if let (Some(room), Some(bytes)) = (room.get_mut(..kept), bytes.get(..kept)) {
                room.copy_from_slice(bytes);
            }
        }
        self.length = self.length.saturating_add(bytes.len());
        self.last = bytes.last().copied().unwrap_or(self.last);
    }

    /// The size before extensions, of at most 16 digits: readers differ on more.
    fn chunk_size(&self) -> Option<u64> {
        let kept = self.start.get(..self.length.min(KEPT))?;
        let digits = kept.iter().position(|byte| !byte.is_ascii_hexdigit()).filter(|digits| *digits <= 16)?;
        let end = kept.get(digits)?;
        let text = std::str::from_utf8(kept.get(..digits)?).ok()?;
        if matches!(end, b'\r' | b';' | b' ' | b'\t') { u64::from_str_radix(text, 16).ok() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    /// Admits a text in pieces of this size; the pieces that were handed on, or why it was refused.
    fn read(text: &str, piece: usize, follows: &[Follows]) -> Result<Vec<String>, Violation> {
        let mut framing = Framing::default();
        let (mut handed, mut current, mut next) = (Vec::new(), String::new(), follows.iter());
        for bytes in text.as_bytes().chunks(piece) {
            let mut rest = bytes;
            while !rest.is_empty() {
                let admitted = framing.admit(rest)?;
                current.push_str(std::str::from_utf8(&rest[..admitted]).expect("ASCII"));
                rest = &rest[admitted..];
                if framing.awaits_request() {
                    handed.push(std::mem::take(&mut current));
                    framing.begin(*next.next().unwrap_or(&Follows::Length(0)));
                }
            }
        }
        handed.push(current);
        Ok(handed)
    }

    #[test]
    fn heads_are_handed_on_one_by_one_however_they_come() {
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let body = "5;x=1\r\nhello\r\n1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nx-t: 1\r\n\r\n";
        let sized = "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n";
        let text = format!("{GET}{chunked}{body}{sized}a\nb\n\r\n{GET}");
        let follows = [Follows::Length(0), Follows::Chunked, Follows::Length(4)];
        let expected =
            [GET.to_owned(), chunked.to_owned(), format!("{body}{sized}"), format!("a\nb\n\r\n{GET}"), String::new()];
        for piece in [1, 2, 3, 7, 64, 1000] {
            assert_eq!(read(&text, piece, &follows).as_deref(), Ok(&expected[..]), "in pieces of {piece}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let chunked = &[Follows::Chunked][..];
        for (text, follows) in [
            ("GET / HTTP/1.1\nhost: a\r\n\r\n", &[][..]),
            ("GET / HTTP/1.1\r\nhost: a\r\n\n", &[]),
            ("GET / HTTP/1.1\r\nhost: a\r\n b\r\n\r\n", &[]),
            ("POST / HTTP/1.1\r\ncontent-length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", &[]),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nContent-Length : 1\r\n\r\n", &[]),
            ("POST / HTTP/1.1\r\ncontent-length: 1\r\nContent-Length: 1\r\n\r\n", &[]),
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\nhost: a\r\n\r\n", &[]),
            ("P / HTTP/1.1\r\nt: c\r\n\r\nxyz\r\n", chunked),
            ("P / HTTP/1.1\r\nt: c\r\n\r\n5\nhello\r\n", chunked),
            ("P / HTTP/1.1\r\nt: c\r\n\r\n5\r\nhelloworld\r\n", chunked),
            ("P / HTTP/1.1\r\nt: c\r\n\r\n11111111111111111\r\n", chunked),
        ] {
            for piece in [1, 5, 1000] {
                assert!(read(text, piece, follows).is_err(), "{text:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn what_follows_an_upgrade_waits_for_the_answer() {
        let asked = || {
            let mut framing = Framing::default();
            assert_eq!(framing.admit(GET.as_bytes()), Ok(GET.len()));
            framing.begin(Follows::Undecided);
            assert_eq!(framing.admit(b"GET / HTTP/1.1\n\n"), Ok(0), "nobody knows yet what it is");
            framing
        };
        let mut switched = asked();
        switched.switch();
        assert_eq!(switched.admit(b"\n\n\nanything"), Ok(11), "it is not looked at");
        let mut refused = asked();
        refused.resume();
        assert!(refused.admit(b"GET / HTTP/1.1\n\n").is_err(), "it is HTTP, and read as strictly as any");
    }

    #[test]
    fn an_answer_may_come_before_it_is_known_what_follows() {
        let mut framing = Framing::default();
        assert_eq!(framing.admit(GET.as_bytes()), Ok(GET.len()));
        framing.resume();
        assert_eq!(framing.admit(GET.as_bytes()), Ok(GET.len()));
    }
}
