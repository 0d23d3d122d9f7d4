//! What an answer means: [`Verdict`].

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};

/// What a target makes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It is delivered.
    Delivered,
    /// It is tried again, after this long if the answer says so.
    Retry(Option<Duration>),
    /// It is a dead letter.
    Reject,
    /// Nobody is there any more: it is a dead letter, and nothing is sent to this URL any more.
    Gone,
}

/// The answer of a service.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answered<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: &'a HeaderMap,
}

/// The longest time that a `Retry-After` is believed.
const LONGEST: Duration = Duration::from_secs(86_400);

impl Answered<'_> {
    /// Returns the verdict unless a policy of yours has another one:
    ///
    /// | status | verdict |
    /// | --- | --- |
    /// | 2xx | delivered |
    /// | 3xx | tried again: a redirect is not followed, since it would take the payload elsewhere |
    /// | 408, 409, 423, 425, 429, 5xx | tried again, after `Retry-After` |
    /// | 410 | gone |
    /// | other 4xx | rejected |
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.status.as_u16() {
            200..=299 => Verdict::Delivered,
            410 => Verdict::Gone,
            408 | 409 | 423 | 425 | 429 => Verdict::Retry(self.retry_after()),
            400..=499 => Verdict::Reject,
            _ => Verdict::Retry(self.retry_after()),
        }
    }

    /// Returns what `Retry-After` asks for ([RFC 9110, section 10.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3)),
    /// up to a day.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let text = self.headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
        let after = match text.parse() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => httpdate::parse_http_date(text)
                .ok()?
                .duration_since(SystemTime::now())
                .unwrap_or_default(),
        };
        Some(after.min(LONGEST))
    }
}
