//! The body of an answer, which drives its connection, and gives it back at its end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::super::body::BoxError;
use super::connection::Connection;
use super::idle::Idle;

/// The body of an answer of a backend's. Dropped before its end, it ends the connection.
pub(super) struct AnswerBody {
    body: Incoming,
    /// `None` if another task drives it, or if it is over.
    connection: Option<Connection>,
    idle: Arc<Idle>,
}

impl AnswerBody {
    pub(super) fn new(body: Incoming, connection: Option<Connection>, idle: Arc<Idle>) -> Self {
        Self { body, connection, idle }
    }

    /// Gives the connection back if it has nothing more to do.
    fn finish(&mut self, cx: &mut Context<'_>) {
        if let Some(mut connection) = self.connection.take()
            && connection.poll(cx).is_pending()
            && connection.is_idle()
        {
            self.idle.put(connection);
        }
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let mut frame = Pin::new(&mut this.body).poll_frame(cx);
        if frame.is_pending()
            && let Some(connection) = &mut this.connection
        {
            if connection.poll(cx).is_ready() {
                this.connection = None;
            }
            frame = Pin::new(&mut this.body).poll_frame(cx);
        }
        match &frame {
            Poll::Ready(None) => this.finish(cx),
            Poll::Ready(Some(Ok(_))) if this.body.is_end_stream() => this.finish(cx),
            Poll::Ready(Some(Err(_))) => this.connection = None,
            _ => {}
        }
        frame.map(|frame| frame.map(|frame| frame.map_err(BoxError::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
