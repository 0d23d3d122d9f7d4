//! Interim answers (1xx) on their way to a client of HTTP/1.1, for which hyper's server has no place.
//!
//! They are written between two messages of the connection: when hyper has written out what it has, and before the head of
//! the next answer. Where that moment cannot be told, an interim answer is dropped, which is allowed (RFC 8297, section 2).
//!
//! ```text
//! a request begins ─▶ Closed ──all before it is written──▶ Open ──interim answer──▶ waiting bytes ──next write──▶ client
//! ```

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{CONNECTION, HeaderMap};
use http::{StatusCode, Version};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use parking_lot::Mutex;
use tokio::time::{Sleep, sleep};

/// What waits to be written to a client, ahead of an answer.
#[derive(Clone, Default)]
pub(super) struct Interim(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    is_open: bool,
    waiting: Vec<u8>,
}

impl Interim {
    /// A request begins. What hyper still has to write belongs to the one before.
    pub(super) fn begins(&self) {
        self.0.lock().is_open = false;
    }

    /// Sends an interim answer, if its client is known to read it as such.
    pub(super) fn send(&self, version: Version, status: StatusCode, lines: &HeaderMap) {
        if version != Version::HTTP_11 {
            return;
        }
        let mut state = self.0.lock();
        if !state.is_open {
            return;
        }
        let reason = status.canonical_reason().unwrap_or("Interim");
        let mut text = Vec::new();
        text.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
        for (name, value) in lines.iter().filter(|(name, _)| **name != CONNECTION) {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value.as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"\r\n");
        // A client that reads nothing has no use for more.
        if state.waiting.len() + text.len() <= MOST_WAITING {
            state.waiting.extend_from_slice(&text);
        }
    }
}

/// How many bytes of interim answers wait for a client at most.
const MOST_WAITING: usize = 64 * 1024;

/// A client's connection, on which interim answers are written between hyper's messages.
///
/// What its first bytes are is waited for only so long: until they say which protocol is spoken, nothing else keeps the time.
pub(super) struct WithInterim<T> {
    inner: T,
    interim: Interim,
    /// `None` once the protocol is known.
    opening: Option<Opening>,
}

/// The first bytes of a connection, as far as they may still be those of HTTP/2.
struct Opening {
    read: usize,
    longest: Pin<Box<Sleep>>,
}

/// What a client of HTTP/2 begins with (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl<T: Write + Unpin> WithInterim<T> {
    /// Makes it of a connection that says within `longest` which protocol it speaks.
    pub(super) fn new(inner: T, interim: Interim, longest: Duration) -> Self {
        let opening = Opening {
            read: 0,
            longest: Box::pin(sleep(longest)),
        };
        Self {
            inner,
            interim,
            opening: Some(opening),
        }
    }

    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.interim.0.lock();
        while !state.waiting.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, &state.waiting))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                wrote => drop(state.waiting.drain(..wrote)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Until hyper has written all that it has, there is no place for an interim answer.
    fn is_in_a_message(&self) {
        self.interim.0.lock().is_open = false;
    }
}

impl<T: Read + Unpin> Read for WithInterim<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(opening) = &mut this.opening else {
            return Pin::new(&mut this.inner).poll_read(cx, into);
        };
        let rest = &PREFACE[opening.read..];
        let mut bytes = [0; PREFACE.len()];
        let mut bytes = ReadBuf::new(&mut bytes[..rest.len().min(into.remaining())]);
        if Pin::new(&mut this.inner).poll_read(cx, bytes.unfilled())?.is_pending() {
            ready!(opening.longest.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let bytes = bytes.filled();
        into.put_slice(bytes);
        opening.read += bytes.len();
        if !rest.starts_with(bytes) || bytes.len() == rest.len() {
            this.opening = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Write + Unpin> Write for WithInterim<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_waiting(cx))?;
        self.is_in_a_message();
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_waiting(cx))?;
        self.is_in_a_message();
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper has nothing left to write when it comes here.
        self.interim.0.lock().is_open = true;
        ready!(self.poll_waiting(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};

    use super::*;

    const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n";

    fn pair(room: usize) -> (WithInterim<TokioIo<DuplexStream>>, Interim, DuplexStream) {
        let (server, client) = duplex(room);
        let interim = Interim::default();
        let server = WithInterim::new(TokioIo::new(server), interim.clone(), Duration::from_secs(60));
        (server, interim, client)
    }

    fn hint(interim: &Interim) {
        let lines = HeaderMap::from_iter([(http::header::LINK, "</style.css>".parse().expect("a value"))]);
        interim.send(Version::HTTP_11, StatusCode::EARLY_HINTS, &lines);
    }

    async fn flush(server: &mut WithInterim<TokioIo<DuplexStream>>) {
        poll_fn(|cx| Pin::new(&mut *server).poll_flush(cx))
            .await
            .expect("an open connection");
    }

    /// Writes what fits now, and returns how much that was.
    async fn write(server: &mut WithInterim<TokioIo<DuplexStream>>, text: &str) -> Option<usize> {
        let wrote = poll_fn(|cx| Poll::Ready(Pin::new(&mut *server).poll_write(cx, text.as_bytes()))).await;
        match wrote {
            Poll::Ready(wrote) => Some(wrote.expect("an open connection")),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn hints_of_which_a_part_is_sent_are_sent_whole_before_anything_else() {
        let (mut server, interim, mut client) = pair(16);
        flush(&mut server).await;
        hint(&interim);
        assert_eq!(write(&mut server, "answer").await, None);
        interim.begins();
        let mut read = Vec::new();
        while write(&mut server, "answer").await.is_none() {
            client.read_buf(&mut read).await.expect("an open connection");
        }
        drop(server);
        client.read_to_end(&mut read).await.expect("its end");
        assert_eq!(String::from_utf8_lossy(&read), format!("{HINTS}answer"));
    }

    #[tokio::test]
    async fn in_a_message_there_is_no_place_for_hints() {
        let (mut server, interim, mut client) = pair(1024);
        flush(&mut server).await;
        assert_eq!(write(&mut server, "half").await, Some(4));
        hint(&interim);
        assert_eq!(write(&mut server, "half").await, Some(4));
        flush(&mut server).await;
        hint(&interim);
        flush(&mut server).await;
        drop(server);
        let mut read = String::new();
        client.read_to_string(&mut read).await.expect("its end");
        assert_eq!(read, format!("halfhalf{HINTS}"));
    }

    #[tokio::test]
    async fn hints_to_a_client_that_reads_none_do_not_heap_up() {
        let (mut server, interim, _client) = pair(16);
        flush(&mut server).await;
        for _ in 0..10_000 {
            hint(&interim);
        }
        assert!(interim.0.lock().waiting.len() <= MOST_WAITING);
    }
}
