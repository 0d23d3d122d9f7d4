//! The bodies of messages: as they come from a connection, or made here.
//!
//! A request that passes through has the body of its connection, unboxed. What the layer reads and makes again is boxed.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use oneflight::http::layer::FromBody;

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// The body of a request or of an answer.
pub(crate) struct Body(Kind);

enum Kind {
    Empty,
    Whole(Bytes),
    Incoming(Incoming),
    Boxed(UnsyncBoxBody<Bytes, BoxError>),
}

impl Body {
    pub(crate) fn empty() -> Self {
        Self(Kind::Empty)
    }

    pub(crate) fn incoming(body: Incoming) -> Self {
        Self(Kind::Incoming(body))
    }

    /// Whether it comes from a connection, as nobody has read it.
    pub(crate) fn is_incoming(&self) -> bool {
        matches!(self.0, Kind::Incoming(_))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self(Kind::Whole(Bytes::from(text)))
    }
}

impl FromBody for Body {
    fn from_body<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes, Error = BoxError> + Send + 'static,
    {
        Self(Kind::Boxed(body.boxed_unsync()))
    }

    fn broken(reason: BoxError) -> Option<BoxError> {
        Some(reason)
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Kind::Empty;
                Poll::Ready(
                    Some(bytes)
                        .filter(|bytes| !bytes.is_empty())
                        .map(|bytes| Ok(Frame::data(bytes))),
                )
            }
            Kind::Incoming(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(BoxError::from))),
            Kind::Boxed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Whole(bytes) => bytes.is_empty(),
            Kind::Incoming(body) => body.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Incoming(body) => body.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}
