//! An answer as others may have it, and the form in which it is recorded.
//!
//! ```text
//! the handler's response ──own──────────────────────────▶ the client whose request was executed
//!         │
//!         └──without what is of one client──▶ Answer ──▶ clients that share the flight
//!                                               │
//!                                               └──too large, streamed, secret: without its body──▶ record
//! ```
//!
//! The recorded form is a byte that counts its versions, and [postcard's](https://postcard.jamesmunns.com/wire-format.html) of
//! [`Wire`].

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue, LOCATION, TRAILER};
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::body::{FromBody, Whole};
use super::dialect::Dialect;
use super::headers::with_room;
use crate::http::kind::described;
use crate::http::problem::Problem;
use crate::idempotency::{Codec, Format, Json};
use crate::record::{HTTP, JSON};
use crate::telemetry::counts::Held;

/// An answer, without what belongs to one client.
#[derive(Clone)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// `None` if nobody but the client whose request was executed may have it, or if it is not known any more.
    pub(super) body: Option<Whole>,
    /// When it was given.
    pub(super) at: SystemTime,
    /// The body, as what is held in memory is counted.
    #[expect(dead_code, reason = "it is there to be dropped")]
    pub(super) held: Held,
}

impl Answer {
    /// Returns what is left of it where its body is not kept: the status, and where the result is.
    pub(super) fn outcome_only(&self) -> Self {
        let location = self.headers.get(LOCATION).cloned();
        Self {
            status: self.status,
            headers: location.map(|location| (LOCATION, location)).into_iter().collect(),
            body: None,
            at: self.at,
            held: Held::new(0),
        }
    }

    /// Returns the response for a client that did not have it executed.
    pub(super) fn response<B: FromBody<Error: Send>>(
        &self,
        dialect: Dialect,
        documentation: Option<&str>,
    ) -> Response<B> {
        let (mut response, body) = match &self.body {
            Some(body) => (Response::new(()), body.clone()),
            None if has_no_content(self.status) => (Response::new(()), Whole::default()),
            None => {
                let (parts, body) = dialect.told(not_kept(self), documentation).into_parts();
                let bytes = Bytes::from(body);
                (Response::from_parts(parts, ()), Whole { bytes, trailers: None })
            }
        };
        *response.status_mut() = self.status;
        match response.headers().is_empty() {
            true => *response.headers_mut() = self.headers.clone(),
            false => response.headers_mut().extend(self.headers.clone()),
        }
        // It was of the first connection, and HTTP/1.1 sends no trailers that are not announced.
        if let Some(announced) = body.trailers.as_ref().and_then(names) {
            response.headers_mut().insert(TRAILER, announced);
        }
        response.map(|()| body.into_body())
    }
}

/// The names of header lines, as the value of `Trailer` (RFC 9110, section 6.6.2).
fn names(lines: &HeaderMap) -> Option<HeaderValue> {
    let names: Vec<&str> = lines.keys().map(HeaderName::as_str).collect();
    HeaderValue::try_from(names.join(", "))
        .ok()
        .filter(|_| !names.is_empty())
}

/// RFC 9110, section 6.4.1.
fn has_no_content(status: StatusCode) -> bool {
    status.is_informational()
        || matches!(
            status,
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
        )
}

fn not_kept(answer: &Answer) -> Problem {
    let problem = Problem::of_kind(described::OUTCOME_ONLY).with_status(answer.status).with_detail(
        "The operation was carried out before, and answered with this status. The body of that answer is not kept: it was too \
         large, a stream, or secret, or was erased since. Do not repeat the operation under a new key.",
    );
    match answer.headers.get(LOCATION).and_then(|location| location.to_str().ok()) {
        Some(location) => problem.with_member("location", location),
        None => problem,
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

/// An answer that is not recorded, on its way to the callers of its flight as the reason why there is no result.
#[derive(Clone)]
pub(super) struct Answered(pub(super) Arc<Answer>);

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the handler answered {}", self.0.status)
    }
}

impl fmt::Debug for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Answered").field(&self.0.status).finish()
    }
}

impl Error for Answered {}

/// The name of the recorded form, unless a codec of the user's writes it.
const NAME: &str = HTTP;

/// Writes and reads answers: as they are, or by the user's codec for bytes.
pub(super) struct Answers<C> {
    codec: Arc<C>,
    /// Larger forms are recorded without their body. In bytes.
    limit: usize,
}

/// Writes answers as they are, however large.
pub(super) fn plain() -> Answers<Json> {
    Answers::new(Arc::new(Json), usize::MAX)
}

impl<C: Codec<Vec<u8>>> Answers<C> {
    pub(super) fn new(codec: Arc<C>, limit: usize) -> Self {
        Self { codec, limit }
    }

    fn write(&self, answer: &Answer) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        let wire = Wire::of(answer)?;
        let mut bytes = Vec::with_capacity(wire.room());
        bytes.push(VERSION);
        let bytes = postcard::to_extend(&wire, bytes)?;
        match is_plain::<C>() {
            true => Ok(bytes),
            false => self.codec.encode(&bytes),
        }
    }
}

/// JSON has no form for bytes that is worth its room.
const fn is_plain<C: Format>() -> bool {
    let (name, json) = (C::NAME.as_bytes(), JSON.as_bytes());
    let mut at = 0;
    while at < name.len() && at < json.len() && name[at] == json[at] {
        at += 1;
    }
    at == name.len() && at == json.len()
}

impl<C: Codec<Vec<u8>>> Format for Answers<C> {
    const NAME: &'static str = match is_plain::<C>() {
        true => NAME,
        false => C::NAME,
    };
}

impl<C: Codec<Vec<u8>>> Codec<Answer> for Answers<C> {
    fn encode(&self, answer: &Answer) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        let size = answer.body.as_ref().map_or(0, |body| body.bytes.len());
        if size <= self.limit {
            let bytes = self.write(answer)?;
            if bytes.len() <= self.limit {
                return Ok(bytes);
            }
        }
        let bytes = self.write(&answer.outcome_only())?;
        if bytes.len() <= self.limit {
            return Ok(bytes);
        }
        let headers = HeaderMap::new();
        self.write(&Answer {
            headers,
            ..answer.outcome_only()
        })
    }

    fn decode(&self, bytes: &[u8]) -> Result<Answer, Box<dyn Error + Send + Sync>> {
        match is_plain::<C>() {
            true => Wire::read(bytes),
            false => Wire::read(&self.codec.decode(bytes)?),
        }
    }

    fn decode_foreign(&self, name: &str, bytes: &[u8]) -> Option<Result<Answer, Box<dyn Error + Send + Sync>>> {
        let decoded = self.codec.decode_foreign(name, bytes)?;
        Some(decoded.and_then(|bytes| Wire::read(&bytes)))
    }
}

/// Header lines, in their order.
type Lines<'a> = Vec<(&'a str, &'a serde_bytes::Bytes)>;

/// The first byte of the recorded form. A change of it needs another one.
const VERSION: u8 = 1;

/// The recorded form, behind the byte of its version.
#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    status: u16,
    /// In milliseconds since the Unix epoch.
    at: u64,
    #[serde(borrow)]
    headers: Lines<'a>,
    #[serde(borrow)]
    body: Option<(&'a serde_bytes::Bytes, Option<Lines<'a>>)>,
}

impl<'a> Wire<'a> {
    fn of(answer: &'a Answer) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let since = answer.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            status: answer.status.as_u16(),
            at: u64::try_from(since.as_millis())?,
            headers: lines(&answer.headers),
            body: answer.body.as_ref().map(|body| {
                let trailers = body.trailers.as_ref().map(lines);
                (serde_bytes::Bytes::new(&body.bytes), trailers)
            }),
        })
    }

    /// About how many bytes the form has, and no less for answers of usual sizes: so it does not grow piece by piece.
    fn room(&self) -> usize {
        const NUMBERS: usize = 32;
        let of_lines = |lines: &Lines<'_>| {
            lines
                .iter()
                .map(|(name, value)| name.len() + value.len() + 4)
                .sum::<usize>()
        };
        let of_body = self.body.as_ref().map_or(0, |(bytes, trailers)| {
            bytes.len() + trailers.as_ref().map_or(0, of_lines)
        });
        NUMBERS + of_lines(&self.headers) + of_body
    }

    fn read(bytes: &'a [u8]) -> Result<Answer, Box<dyn Error + Send + Sync>> {
        let bytes = match bytes {
            [VERSION, bytes @ ..] => bytes,
            [version, ..] => return Err(format!("an answer of version {version} is not known here").into()),
            [] => return Err("it is empty".into()),
        };
        let wire: Self = postcard::from_bytes(bytes)?;
        let body = match wire.body {
            Some((bytes, trailers)) => Some(Whole {
                bytes: Bytes::copy_from_slice(bytes),
                trailers: trailers.map(headers).transpose()?,
            }),
            None => None,
        };
        let at = UNIX_EPOCH.checked_add(Duration::from_millis(wire.at));
        Ok(Answer {
            status: StatusCode::from_u16(wire.status)?,
            headers: headers(wire.headers)?,
            held: Held::new(body.as_ref().map_or(0, |body| body.bytes.len())),
            body,
            at: at.ok_or("its date is out of range")?,
        })
    }
}

fn lines(headers: &HeaderMap) -> Lines<'_> {
    let lines = headers.iter();
    lines
        .map(|(name, value)| (name.as_str(), serde_bytes::Bytes::new(value.as_bytes())))
        .collect()
}

fn headers(lines: Lines<'_>) -> Result<HeaderMap, Box<dyn Error + Send + Sync>> {
    let mut headers = with_room(lines.len());
    for (name, value) in lines {
        headers.try_append(
            HeaderName::from_bytes(name.as_bytes())?,
            HeaderValue::from_bytes(value)?,
        )?;
    }
    Ok(headers)
}
