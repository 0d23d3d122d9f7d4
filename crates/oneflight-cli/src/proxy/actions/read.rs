//! The body of a request that may call an action, read within limits.

use std::pin::Pin;
use std::task::{Context, Poll};
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
    TooSlow,
    Broken,
}

/// Reads a body up to `limit` bytes, for so long.
pub(super) async fn read(mut body: Body, limit: usize, time: Duration) -> Read {
    let end = Instant::now() + time;
    let mut read = BytesMut::new();
    loop {
        match timeout_at(end, body.frame()).await {
            Err(_) => return Read::TooSlow,
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

/// Makes a body of what was read and of the rest.
fn resumed(begins: Bytes, rest: Body) -> Body {
    Body::from_body(Resumed {
        begins: Some(begins),
        rest,
    })
}

struct Resumed {
    begins: Option<Bytes>,
    rest: Body,
}

impl HttpBody for Resumed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.begins.take() {
            Some(begins) => Poll::Ready(Some(Ok(Frame::data(begins)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }
}
