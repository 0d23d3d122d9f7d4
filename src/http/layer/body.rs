//! Bodies: read within limits, and made again of what was read.
//!
//! ```text
//! body ──ends within the limits──▶ Whole: bytes and trailers
//!      ├──too large, too slow────▶ Part: what was read, and the rest to read on
//!      └──breaks off─────────────▶ Broken
//! ```
//!
//! How one goes to a client while it is read, is `through.rs`'s affair.
//!
//! This file knows frames and limits. It does not know what the bytes are for.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::time::Instant;

use super::headers;
use crate::timer::{after, until};

/// A body that can be made of any other body of the same errors, as a box can.
///
/// The layer reads bodies and gives the service, or the client, what it has read. So the type of bodies stays what it is, and
/// a request that passes through costs nothing. It is implemented for `axum::body::Body`, under the feature `axum`, and for
/// [`UnsyncBoxBody`], into which hyper's and others can be boxed:
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
/// use oneflight::http::layer::FromBody;
/// use std::convert::Infallible;
///
/// let body: UnsyncBoxBody<Bytes, Infallible> = FromBody::from_body(Full::from("tea"));
/// # let _ = body;
/// ```
pub trait FromBody: Body<Data = Bytes> + Send + Unpin + 'static {
    /// Makes it of another body.
    fn from_body<B>(body: B) -> Self
    where
        B: Body<Data = Bytes, Error = Self::Error> + Send + 'static;

    /// Makes an error by which such a body breaks off for a reason of the layer's.
    ///
    /// The default is `None`: there is no such error. Then an answer is never
    /// [streamed through](super::IdempotencyLayer::stream_through), since its client could not be told that it is not recorded. For
    /// [`UnsyncBoxBody`] there is one if its errors are of the type [`io::Error`], or boxed.
    fn broken(_reason: Box<dyn Error + Send + Sync>) -> Option<Self::Error> {
        None
    }
}

impl<E: 'static> FromBody for UnsyncBoxBody<Bytes, E> {
    fn from_body<B>(body: B) -> Self
    where
        B: Body<Data = Bytes, Error = E> + Send + 'static,
    {
        body.boxed_unsync()
    }

    fn broken(reason: Box<dyn Error + Send + Sync>) -> Option<E> {
        let mut error: Option<E> = None;
        let of_any_type: &mut dyn Any = &mut error;
        if let Some(error) = of_any_type.downcast_mut::<Option<Box<dyn Error + Send + Sync>>>() {
            *error = Some(reason);
        } else if let Some(error) = of_any_type.downcast_mut::<Option<io::Error>>() {
            *error = Some(io::Error::other(reason));
        }
        error
    }
}

#[cfg(feature = "axum")]
impl FromBody for axum_core::body::Body {
    fn from_body<B>(body: B) -> Self
    where
        B: Body<Data = Bytes, Error = axum_core::Error> + Send + 'static,
    {
        Self::new(body)
    }

    fn broken(reason: Box<dyn Error + Send + Sync>) -> Option<axum_core::Error> {
        Some(axum_core::Error::new(reason))
    }
}

/// What was read of a body.
pub(super) enum Read<B: Body> {
    /// All of it.
    Whole(Whole),
    /// What came before a limit was met.
    Part(Part<B>),
    /// It broke off.
    Broken(B::Error),
}

/// A body that was read as a whole.
#[derive(Clone, Default)]
pub(super) struct Whole {
    pub(super) bytes: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

/// A body that was read in part.
pub(super) struct Part<B> {
    read: Pieces,
    rest: B,
}

/// More trailers than this many bytes are over any limit.
const MAX_TRAILERS: usize = 64 * 1024;

/// Reads a body until its end, up to `limit` bytes, for so long.
pub(super) async fn read<B>(mut body: B, limit: usize, time: Duration) -> Read<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut read = Pieces::default();
    match collect(&mut body, &mut read, limit, time).await {
        Ended::End(trailers) => {
            let bytes = read.joined();
            Read::Whole(Whole { bytes, trailers })
        }
        Ended::Limit => Read::Part(Part { read, rest: body }),
        Ended::Broken(error) => Read::Broken(error),
    }
}

/// Where the pieces of a body go that is read.
pub(super) trait Collect {
    fn push(&mut self, data: Bytes);

    /// Returns how many bytes there are.
    fn size(&self) -> usize;
}

/// How reading ended.
pub(super) enum Ended<E> {
    /// The body is over.
    End(Option<HeaderMap>),
    /// It met a limit, and may go on.
    Limit,
    Broken(E),
}

/// Reads the pieces of a body until its end, up to `limit` bytes, for so long.
pub(super) async fn collect<B, C>(body: &mut B, read: &mut C, limit: usize, time: Duration) -> Ended<B::Error>
where
    B: Body<Data = Bytes> + Unpin,
    C: Collect,
{
    let mut trailers: Option<HeaderMap> = None;
    // What says itself that it is too large is not read.
    if body.size_hint().lower() > limit as u64 {
        return Ended::Limit;
    }
    let end = after(time);
    loop {
        let frame = match until(end, body.frame()).await {
            Some(Some(Ok(frame))) => frame,
            Some(Some(Err(error))) => return Ended::Broken(error),
            Some(None) => return Ended::End(trailers),
            None => return Ended::Limit,
        };
        match frame.into_data() {
            Ok(data) => read.push(data),
            Err(frame) => {
                if let Ok(more) = frame.into_trailers() {
                    trailers.get_or_insert_default().extend(more);
                }
            }
        }
        // Of frames that are always ready, none waits for the time to be over.
        let is_late = !body.is_end_stream() && Instant::now() >= end;
        if is_late || read.size() > limit || trailers.as_ref().is_some_and(|it| size(it) > MAX_TRAILERS) {
            return Ended::Limit;
        }
        tokio::task::coop::consume_budget().await;
    }
}

fn size(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum()
}

/// What was read: one piece as it came, or more of them joined. However small they are, they take no more than their bytes.
#[derive(Default)]
pub(super) struct Pieces {
    first: Bytes,
    rest: BytesMut,
}

impl Collect for Pieces {
    fn push(&mut self, data: Bytes) {
        match (self.first.is_empty(), self.rest.is_empty()) {
            (true, true) => self.first = data,
            _ => self.rest.extend_from_slice(&data),
        }
    }

    fn size(&self) -> usize {
        self.first.len().saturating_add(self.rest.len())
    }
}

impl Pieces {
    /// Returns up to `longest` of the bytes behind the first `from` ones, or none if these are all.
    pub(super) fn piece(&self, from: usize, longest: usize) -> Bytes {
        match from.checked_sub(self.first.len()) {
            None => self.first.slice(from..),
            Some(from) => {
                let rest = self.rest.get(from..).unwrap_or_default();
                Bytes::copy_from_slice(&rest[..rest.len().min(longest)])
            }
        }
    }

    pub(super) fn joined(self) -> Bytes {
        if self.rest.is_empty() {
            return self.first;
        }
        let mut all = BytesMut::with_capacity(self.size());
        all.extend_from_slice(&self.first);
        all.extend_from_slice(&self.rest);
        all.freeze()
    }

    /// The pieces that are there, in their order.
    fn into_pieces(self) -> std::vec::IntoIter<Bytes> {
        let mut pieces = vec![self.first, self.rest.freeze()];
        pieces.retain(|piece| !piece.is_empty());
        pieces.into_iter()
    }
}

impl Whole {
    /// Returns what others may have of it.
    pub(super) fn for_others(&self) -> Self {
        Self {
            bytes: self.bytes.clone(),
            trailers: self.trailers.as_ref().map(|trailers| headers::sorted(trailers).shared),
        }
    }

    /// Returns a body of this, whose errors are of the type `E` and never occur.
    pub(super) fn into_body<B: FromBody<Error: Send>>(self) -> B {
        B::from_body(Again {
            bytes: Some(self.bytes).filter(|bytes| !bytes.is_empty()),
            trailers: self.trailers,
            error: PhantomData,
        })
    }
}

impl<B: FromBody> Part<B> {
    pub(super) fn new(read: Pieces, rest: B) -> Self {
        Self { read, rest }
    }

    /// A body of which nothing was read.
    pub(super) fn unread(rest: B) -> Self {
        Self {
            read: Pieces::default(),
            rest,
        }
    }

    /// Returns a body that begins with what was read, and goes on with the rest.
    pub(super) fn into_body(self) -> B {
        let read = self.read.into_pieces();
        if read.len() == 0 {
            return self.rest;
        }
        B::from_body(Resumed { read, rest: self.rest })
    }
}

impl fmt::Debug for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Whole")
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// The body of a [`Whole`].
struct Again<E> {
    bytes: Option<Bytes>,
    trailers: Option<HeaderMap>,
    error: PhantomData<fn() -> E>,
}

impl<E> Body for Again<E> {
    type Data = Bytes;
    type Error = E;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        let data = self.bytes.take().map(Frame::data);
        let frame = data.or_else(|| self.trailers.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let size = self.bytes.as_ref().map_or(0, Bytes::len) as u64;
        match self.trailers {
            None => SizeHint::with_exact(size),
            // A server would send a `Content-Length`, after which HTTP/1.1 has no place for trailers.
            Some(_) => {
                let mut hint = SizeHint::new();
                hint.set_lower(size);
                hint
            }
        }
    }
}

/// The body of a [`Part`].
struct Resumed<B> {
    read: std::vec::IntoIter<Bytes>,
    rest: B,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Resumed<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.read.next() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.len() == 0 && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let read: u64 = self.read.as_slice().iter().map(|data| data.len() as u64).sum();
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint
    }
}
