//! The parts of a `multipart/form-data` body (RFC 7578).
//!
//! `multer` reads them. It is lenient where readers differ: text before the first boundary and after the last, and a
//! header field that a part has twice. What it would pass over, another reader may take for content. So the body is
//! walked along beside it, and a body that is not its parts and nothing else is an error.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyDataStream, Full};

/// The maximum number of parts that are read.
const MAX_PARTS: usize = 1024;

/// A part, which is a field or a file.
pub(crate) struct Part {
    pub(crate) name: Option<String>,
    pub(crate) is_file: bool,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
}

/// Why a body is not the parts that its `Content-Type` promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    Boundary,
    TooMany,
    Malformed,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boundary => f.write_str("its Content-Type names no boundary"),
            Self::TooMany => write!(f, "it has more than {MAX_PARTS} parts"),
            Self::Malformed => f.write_str("it is not parts between boundaries, from its first byte to its last"),
        }
    }
}

impl Error for Unreadable {}

/// Gives each part to `see`, in order.
pub(crate) fn each_part(headers: &HeaderMap, body: Bytes, see: impl FnMut(Part)) -> Result<(), Unreadable> {
    // The whole body is there: a reader that had to wait would wait for ever.
    match pin!(read(headers, body, see)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(read) => read,
        Poll::Pending => Err(Unreadable::Malformed),
    }
}

async fn read(headers: &HeaderMap, body: Bytes, mut see: impl FnMut(Part)) -> Result<(), Unreadable> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let boundary = multer::parse_boundary(content_type.unwrap_or_default()).map_err(|_| Unreadable::Boundary)?;
    if boundary.is_empty() {
        return Err(Unreadable::Boundary);
    }
    let delimiter = format!("--{boundary}");
    let mut walk = Walk {
        rest: body.strip_prefix(b"\r\n").unwrap_or(&body),
        delimiter: delimiter.as_bytes(),
    };
    let stream = BodyDataStream::new(Full::new(body.clone()));
    let mut parts = multer::Multipart::new::<_, Bytes, Infallible, _>(stream, boundary);
    // The error of the reader is left out: some of them repeat what the client sent.
    let malformed = |_| Unreadable::Malformed;
    let mut count = 0;
    while let Some(field) = parts.next_field().await.map_err(malformed)? {
        count += 1;
        if count > MAX_PARTS {
            return Err(Unreadable::TooMany);
        }
        let name = field.name().map(str::to_owned);
        let is_file = field.file_name().is_some();
        let headers = field.headers().clone();
        let bytes = field.bytes().await.map_err(malformed)?;
        walk.part(headers.len(), &bytes).ok_or(Unreadable::Malformed)?;
        see(Part {
            name,
            is_file,
            headers,
            bytes,
        });
    }
    walk.end().ok_or(Unreadable::Malformed)
}

/// What of the body is not yet accounted for. It begins with the next delimiter.
struct Walk<'a> {
    rest: &'a [u8],
    delimiter: &'a [u8],
}

impl Walk<'_> {
    /// Steps over a part with so many header fields and these bytes.
    fn part(&mut self, fields: usize, bytes: &[u8]) -> Option<()> {
        let rest = self.rest.strip_prefix(self.delimiter)?;
        // It may be padded with white space (RFC 2046, section 5.1.1).
        let padding = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let mut rest = rest[padding..].strip_prefix(b"\r\n")?;
        for _ in 0..fields {
            rest = &rest[rest.windows(2).position(|end| end == b"\r\n")? + 2..];
        }
        let rest = rest.strip_prefix(b"\r\n")?.strip_prefix(bytes)?;
        self.rest = rest.strip_prefix(b"\r\n")?;
        Some(())
    }

    /// Steps over the last delimiter, behind which nothing may stand but a line's end.
    fn end(&self) -> Option<()> {
        let rest = self.rest.strip_prefix(self.delimiter)?.strip_prefix(b"--")?;
        (rest.is_empty() || rest == b"\r\n").then_some(())
    }
}
