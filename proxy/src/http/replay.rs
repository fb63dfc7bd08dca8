//! A request's body that can be sent again: what was read of it is kept, up to a limit, while it streams on.
//!
//! Nothing waits for the body to be complete, and a body that outgrows the limit streams on as any other: it is only lost for
//! a further try.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::body::{Body, BodyError};

/// Bytes of a body that are kept.
pub(crate) const LIMIT: usize = 64 * 1024;

/// A body and what was read of it.
#[derive(Debug)]
pub(crate) enum Replay {
    /// There is no body.
    Nothing,
    /// What all readers share; only the newest one reads.
    Kept(Arc<Mutex<Recording>>),
}

/// What was read, and what is still to come.
#[derive(Debug)]
pub(crate) struct Recording {
    source: Body,
    chunks: Vec<Bytes>,
    length: usize,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// It outgrew the limit, or broke: the beginning is gone.
    lost: bool,
    /// Who waits for all of it.
    watchers: Vec<oneshot::Sender<Body>>,
}

/// Reads a recorded body from its beginning.
#[derive(Debug)]
pub(crate) struct Reader {
    recording: Arc<Mutex<Recording>>,
    next: usize,
    ended: bool,
}

impl Replay {
    pub(crate) fn new(source: Body) -> Self {
        if source.is_end_stream() {
            return Replay::Nothing;
        }
        let recording = Recording {
            source,
            chunks: Vec::new(),
            length: 0,
            trailers: None,
            ended: false,
            lost: false,
            watchers: Vec::new(),
        };
        Replay::Kept(Arc::new(Mutex::new(recording)))
    }

    /// The body from its beginning; `None` if that is gone.
    pub(crate) fn body(&self) -> Option<Body> {
        match self {
            Replay::Nothing => Some(Body::empty()),
            Replay::Kept(recording) if recording.lock().lost => None,
            Replay::Kept(recording) => {
                Some(Body::replayed(Reader { recording: recording.clone(), next: 0, ended: false }))
            }
        }
    }
}

impl Replay {
    /// The body from its beginning, if all of it has come and is there: it can be read while another reader is under way.
    pub(crate) fn complete(&self) -> Option<Body> {
        match self {
            Replay::Nothing => Some(Body::empty()),
            Replay::Kept(recording) => {
                let ended = recording.lock().ended;
                if ended { self.body() } else { None }
            }
        }
    }

    /// A copy of the whole body, once it has been read to its end; never if that is beyond the limit.
    pub(crate) fn whole(&self) -> oneshot::Receiver<Body> {
        let (watcher, whole) = oneshot::channel();
        match self {
            Replay::Nothing => drop(watcher.send(Body::empty())),
            Replay::Kept(recording) => recording.lock().watchers.push(watcher),
        }
        whole
    }
}

impl Reader {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut recording = self.recording.lock();
        if let Some(chunk) = recording.chunks.get(self.next) {
            self.next = self.next.saturating_add(1);
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        if recording.ended {
            self.ended = true;
            return Poll::Ready(recording.trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let Some(polled) = ready!(Pin::new(&mut recording.source).poll_frame(cx)) else {
            recording.end(None);
            self.ended = true;
            return Poll::Ready(None);
        };
        match &polled {
            Ok(frame) => {
                if let Some(data) = frame.data_ref() {
                    recording.keep(data);
                    self.next = recording.chunks.len();
                    if recording.source.is_end_stream() {
                        recording.end(None);
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    recording.end(Some(trailers.clone()));
                    self.ended = true;
                }
            }
            Err(_) => recording.lose(),
        }
        Poll::Ready(Some(polled))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let recording = self.recording.lock();
        self.next >= recording.chunks.len()
            && (self.ended
                || (recording.ended && recording.trailers.is_none())
                || (!recording.ended && recording.source.is_end_stream()))
    }

    /// Known where the source knows it and nothing was read; the length is in `content-length` otherwise.
    pub(super) fn size_hint(&self) -> SizeHint {
        let recording = self.recording.lock();
        let rest = recording.source.size_hint();
        match rest.exact() {
            Some(rest) if !recording.lost => {
                let kept: usize = recording.chunks.iter().skip(self.next).map(Bytes::len).sum();
                SizeHint::with_exact(rest.saturating_add(kept as u64))
            }
            _ => rest,
        }
    }
}

impl Recording {
    fn keep(&mut self, data: &Bytes) {
        self.length = self.length.saturating_add(data.len());
        if self.length > LIMIT {
            self.lose();
        } else if !self.lost {
            self.chunks.push(data.clone());
        }
    }

    fn lose(&mut self) {
        self.lost = true;
        self.chunks = Vec::new();
        self.watchers = Vec::new();
    }

    fn end(&mut self, trailers: Option<HeaderMap>) {
        self.ended = true;
        self.trailers = trailers;
        for watcher in std::mem::take(&mut self.watchers) {
            let copy = Recording {
                source: Body::empty(),
                chunks: self.chunks.clone(),
                length: self.length,
                trailers: self.trailers.clone(),
                ended: true,
                lost: false,
                watchers: Vec::new(),
            };
            let reader = Reader { recording: Arc::new(Mutex::new(copy)), next: 0, ended: false };
            // Whoever does not wait any more has no use for it.
            let _ = watcher.send(Body::replayed(reader));
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn read(body: Body) -> Vec<u8> {
        body.collect().await.expect("whole").to_bytes().to_vec()
    }

    #[tokio::test]
    async fn a_body_is_read_again_from_its_beginning() {
        let replay = Replay::new(Body::text(Bytes::from_static(b"hello")));
        let first = replay.body().expect("nothing is lost");
        assert_eq!(first.size_hint().exact(), Some(5));
        assert_eq!(read(first).await, b"hello");
        let second = replay.body().expect("it is short");
        assert!(!second.is_end_stream());
        assert_eq!(second.size_hint().exact(), Some(5));
        assert_eq!(read(second).await, b"hello");
    }

    #[tokio::test]
    async fn a_try_that_read_a_part_leaves_all_to_the_next() {
        let replay = Replay::new(Body::text(Bytes::from_static(b"hello")));
        drop(replay.body());
        assert_eq!(read(replay.body().expect("untouched")).await, b"hello");
    }

    #[tokio::test]
    async fn a_long_body_streams_on_and_is_lost() {
        let long = vec![7; LIMIT + 1];
        let replay = Replay::new(Body::text(Bytes::from(long.clone())));
        assert_eq!(read(replay.body().expect("not read yet")).await, long);
        assert!(replay.body().is_none());
    }

    #[tokio::test]
    async fn a_body_is_complete_when_its_end_was_read() {
        let replay = Replay::new(Body::text(Bytes::from_static(b"hello")));
        let first = replay.body().expect("nothing is lost");
        assert!(replay.complete().is_none(), "nothing was read");
        assert_eq!(read(first).await, b"hello");
        assert_eq!(read(replay.complete().expect("all was read")).await, b"hello");
        let long = Replay::new(Body::text(Bytes::from(vec![7; LIMIT + 1])));
        read(long.body().expect("not read yet")).await;
        assert!(long.complete().is_none());
    }

    #[test]
    fn no_body_needs_no_recording() {
        let replay = Replay::new(Body::empty());
        assert!(matches!(replay, Replay::Nothing) && replay.body().is_some_and(|body| body.is_end_stream()));
    }
}
