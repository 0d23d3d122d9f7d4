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

use http::header::{CONNECTION, HeaderMap};
use http::{StatusCode, Version};
use hyper::rt::{Read, ReadBufCursor, Write};
use parking_lot::Mutex;

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
        let mut state = self.0.lock();
        state.is_open = false;
        state.waiting.clear();
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
        let text = &mut state.waiting;
        text.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
        for (name, value) in lines.iter().filter(|(name, _)| **name != CONNECTION) {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value.as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"\r\n");
    }
}

/// A client's connection, on which interim answers are written between hyper's messages.
pub(super) struct WithInterim<T> {
    inner: T,
    interim: Interim,
}

impl<T: Write + Unpin> WithInterim<T> {
    pub(super) fn new(inner: T, interim: Interim) -> Self {
        Self { inner, interim }
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
}

impl<T: Read + Unpin> Read for WithInterim<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, into)
    }
}

impl<T: Write + Unpin> Write for WithInterim<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_waiting(cx))?;
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_waiting(cx))?;
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
