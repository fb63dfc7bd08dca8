//! What the HTTP/2 library tells clients and not us: it resets streams that break the rules (RFC 9113 §8.1.1) before there is a request.
//! Its frames are watched on their way out, so that these requests are counted as others are that were refused.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Connection;
use super::exchange::begin;
use super::failure::Failure;
use crate::reason::Reason;

/// A connection whose outgoing frames are watched.
pub(super) struct Verdicts<IO> {
    io: IO,
    frames: Frames,
    streams: Arc<Streams>,
}

/// Streams of a connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// Those that became requests last, which have records of their own.
    accepted: Mutex<VecDeque<u32>>,
    /// Those that the library has reset for what the client did, and nobody has looked at.
    reset: Mutex<Vec<u32>>,
}

/// How many of them are remembered: more than are open as a rule.
const REMEMBERED: usize = 128;

impl Streams {
    pub(super) fn accepted(&self, stream: h2::StreamId) {
        let mut accepted = self.accepted.lock();
        if accepted.len() >= REMEMBERED {
            accepted.pop_front();
        }
        accepted.push_back(stream.into());
    }

    /// Counts the requests that came to nothing; what has been accepted must be known before.
    pub(super) fn count_refused(&self, connection: &Connection) {
        let reset = std::mem::take(&mut *self.reset.lock());
        for stream in reset {
            if !self.accepted.lock().contains(&stream) {
                let failure = Failure::new(Reason::ProtocolError, "the stream breaks the rules of HTTP/2");
                let what = failure.what.clone();
                begin(connection, &Err(failure)).failed(Reason::ProtocolError, &what);
            }
        }
    }
}

impl<IO> Verdicts<IO> {
    pub(super) fn new(io: IO, streams: Arc<Streams>) -> Self {
        Verdicts { io, frames: Frames::default(), streams }
    }

    fn written(&mut self, bytes: &[u8]) {
        self.frames.read(bytes, |stream, code| {
            let of_client = [h2::Reason::PROTOCOL_ERROR, h2::Reason::FLOW_CONTROL_ERROR, h2::Reason::FRAME_SIZE_ERROR];
            if of_client.contains(&h2::Reason::from(code)) {
                self.streams.reset.lock().push(stream);
            }
        });
    }
}

/// Where in the outgoing bytes we are.
#[derive(Debug, Default)]
struct Frames {
    /// The head of a frame, and the code if it is a reset.
    start: [u8; HEAD + CODE],
    length: usize,
    /// Bytes of a frame that are of no interest.
    left: usize,
}

const HEAD: usize = 9;
const CODE: usize = 4;
const RST_STREAM: u8 = 3;

impl Frames {
    /// Reads on; tells stream and code of each reset.
    fn read(&mut self, mut bytes: &[u8], mut reset: impl FnMut(u32, u32)) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                self.left = self.left.saturating_sub(skipped);
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            let wanted = if self.length < HEAD { HEAD } else { HEAD + CODE };
            let taken = wanted.saturating_sub(self.length).min(bytes.len());
            let (piece, rest) = bytes.split_at_checked(taken).unwrap_or_default();
            let end = self.length.saturating_add(taken);
            if let Some(room) = self.start.get_mut(self.length..end) {
                room.copy_from_slice(piece);
            }
            (self.length, bytes) = (end, rest);
            let [a, b, c, kind, _, s1, s2, s3, s4, code @ ..] = self.start;
            if self.length == HEAD && kind != RST_STREAM {
                (self.length, self.left) = (0, u32::from_be_bytes([0, a, b, c]) as usize);
            } else if self.length == HEAD + CODE {
                self.length = 0;
                reset(u32::from_be_bytes([s1, s2, s3, s4]), u32::from_be_bytes(code));
            }
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Verdicts<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Verdicts<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.written(bytes.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
        let mut left = written;
        for slice in slices {
            let of_slice = left.min(slice.len());
            self.written(slice.get(..of_slice).unwrap_or_default());
            left = left.saturating_sub(of_slice);
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_found_however_frames_are_cut() {
        let mut bytes = b"\0\0\x05\0\0\0\0\0\x01\0\0\x04\x03\0".to_vec(); // data that looks like a reset
        bytes.extend_from_slice(b"\0\0\x04\x03\0\0\0\0\x07\0\0\0\x01"); // a reset
        bytes.extend_from_slice(b"\0\0\0\x04\x01\0\0\0\0"); // SETTINGS, acknowledged
        bytes.extend_from_slice(b"\0\0\x04\x03\0\0\0\x01\x09\0\0\0\x08"); // a reset
        for piece in [1, 2, 9, 10, 13, 100] {
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for piece in bytes.chunks(piece) {
                frames.read(piece, |stream, code| found.push((stream, code)));
            }
            assert_eq!(found, [(7, 1), (265, 8)], "in pieces of {piece}");
        }
    }
}
