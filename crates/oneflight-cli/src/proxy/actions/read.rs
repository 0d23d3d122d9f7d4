//! The body of a request that may call an action, read within limits.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use oneflight::http::layer::FromBody;
use tokio::time::{Instant, timeout_at};

use super::super::body::{Body, BoxError};

/// What was read.
pub(super) enum Read {
    Whole(Bytes),
    /// It is larger than the limit. This begins with what was read, and goes on.
    Over {
        begins: Bytes,
        body: Body,
    },
    /// It was not there in time. This begins with what was read, and goes on.
    TooSlow {
        begins: Bytes,
        body: Body,
    },
    Broken,
}

/// Reads a body up to `limit` bytes, for so long.
pub(super) async fn read(mut body: Body, limit: usize, time: Duration) -> Read {
    let end = Instant::now() + time;
    let mut read = BytesMut::new();
    loop {
        match timeout_at(end, body.frame()).await {
            Err(_) => {
                let begins = read.freeze();
                let body = resumed(begins.clone(), body);
                return Read::TooSlow { begins, body };
            }
            Ok(None) => return Read::Whole(read.freeze()),
            Ok(Some(Err(_))) => return Read::Broken,
            // A form has no trailers.
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    read.extend_from_slice(&data);
                }
            }
        }
        if read.len() > limit {
            let begins = read.freeze();
            let body = resumed(begins.clone(), body);
            return Read::Over { begins, body };
        }
    }
}

/// The name of a field by which a form calls an action.
const ACTION: &[u8] = b"\"$ACTION_";

/// Whether this may be of a form that calls an action.
pub(super) fn names_action(bytes: &[u8]) -> bool {
    bytes.windows(ACTION.len()).any(|bytes| bytes == ACTION)
}

/// Makes a body of what was read and of the rest.
fn resumed(begins: Bytes, rest: Body) -> Body {
    Body::from_body(Resumed {
        begins: Some(begins).filter(|begins| !begins.is_empty()),
        last: Vec::new(),
        rest,
    })
}

/// A body that was not read to its end, and so calls no action: it breaks off where it would.
struct Resumed {
    begins: Option<Bytes>,
    /// The end of what has passed, in which a name may begin.
    last: Vec<u8>,
    rest: Body,
}

impl Resumed {
    fn passes(&mut self, bytes: &[u8]) -> Result<(), BoxError> {
        let at_most = ACTION.len() - 1;
        self.last.extend_from_slice(&bytes[..bytes.len().min(at_most)]);
        if names_action(&self.last) || names_action(bytes) {
            return Err("a form that calls an action was not read in time, or is too long".into());
        }
        if bytes.len() >= at_most {
            self.last.clear();
            self.last.extend_from_slice(&bytes[bytes.len() - at_most..]);
        } else {
            self.last.drain(..self.last.len().saturating_sub(at_most));
        }
        Ok(())
    }
}

impl HttpBody for Resumed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match self.begins.take() {
            Some(begins) => Some(Ok(Frame::data(begins))),
            None => ready!(Pin::new(&mut self.rest).poll_frame(cx)),
        };
        let Some(Ok(frame)) = frame else {
            return Poll::Ready(frame);
        };
        let passes = frame.data_ref().map_or(Ok(()), |data| self.passes(data));
        Poll::Ready(Some(passes.map(|()| frame)))
    }
}
