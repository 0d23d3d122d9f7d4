//! The parts of a multipart form, as they were sent.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyDataStream, Full};

/// The maximum number of parts that are read.
const MAX_PARTS: usize = 1024;

/// A field or a file.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) name: String,
    /// The name of a file.
    pub(super) file: Option<String>,
    pub(super) media_type: Option<String>,
    pub(super) bytes: Bytes,
}

impl Part {
    /// Returns the text of a field. A file has none.
    pub(super) fn text(&self) -> Option<&str> {
        match self.file {
            None => str::from_utf8(&self.bytes).ok(),
            Some(_) => None,
        }
    }
}

/// Reads a body, or returns `None` if it is not what its media type says.
pub(super) async fn read(content_type: &str, body: Bytes) -> Option<Vec<Part>> {
    let boundary = multer::parse_boundary(content_type).ok()?;
    let stream = BodyDataStream::new(Full::new(body));
    let mut fields = multer::Multipart::new::<_, Bytes, Infallible, _>(stream, boundary);
    let mut parts = Vec::new();
    while let Some(field) = fields.next_field().await.ok()? {
        if parts.len() == MAX_PARTS {
            return None;
        }
        parts.push(Part {
            name: field.name()?.to_owned(),
            file: field.file_name().map(str::to_owned),
            media_type: field.content_type().map(ToString::to_string),
            bytes: field.bytes().await.ok()?,
        });
    }
    Some(parts)
}
