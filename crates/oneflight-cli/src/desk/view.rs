//! A record, as the desk prints it: its fields in JSON, and the words for people.

use std::time::Duration;

use oneflight::http::layer::RecordedAnswer;
use oneflight::record::{Decoded, RecordedResult, State, Verdict};
use oneflight::store::{RecordEntry, RecordState, hex};
use serde::Serialize;

use super::typed::AsTyped;
use crate::output::{counted, duration, instant, millis};

/// A record, as it is printed.
#[derive(Debug, Serialize)]
pub(super) struct RecordView {
    pub(super) key: String,
    pub(super) scope: String,
    /// `in-progress`, `in-doubt` or `completed`.
    pub(super) state: &'static str,
    /// Whether it waits for a person's decision, once its lease is over.
    pub(super) held: bool,
    pub(super) attempt: u32,
    pub(super) token: u64,
    pub(super) holder: String,
    pub(super) fingerprint: Option<String>,
    pub(super) correlation_id: Option<String>,
    pub(super) claimed: Option<String>,
    /// How long the lease still runs, while it is in progress.
    pub(super) lease_left_ms: Option<u64>,
    /// Since when its lease is over, if it is in doubt.
    pub(super) in_doubt_since: Option<String>,
    pub(super) in_doubt_ms: Option<u64>,
    pub(super) completed: Option<String>,
    /// Whether an operator has told the answer, and not the work.
    pub(super) settled: bool,
    pub(super) expires: Option<String>,
    pub(super) result: Option<ResultView>,
}

/// What is recorded of an answer.
#[derive(Debug, Serialize)]
pub(super) struct ResultView {
    /// `performed`, `declined`, `erased`, `too-large`, `not-encodable` or `unreadable`.
    pub(super) kind: &'static str,
    pub(super) codec: Option<String>,
    pub(super) compressed: bool,
    /// The size of what is kept of it.
    pub(super) bytes: u64,
    pub(super) http: Option<HttpView>,
    /// The value, if it was asked for and is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<Box<serde_json::value::RawValue>>,
    /// What else was asked for, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) body: Option<String>,
}

/// An answer of the HTTP layer.
#[derive(Debug, Serialize)]
pub(super) struct HttpView {
    pub(super) status: u16,
    pub(super) answered: String,
    pub(super) headers: Vec<(String, String)>,
    /// The size of the body, or none if only the outcome is kept.
    pub(super) body_bytes: Option<u64>,
}

/// Whether the answers themselves are shown, which are of the people who sent the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bodies {
    Hidden,
    Shown,
}

impl RecordView {
    pub(super) fn of(entry: &RecordEntry, bodies: Bodies) -> Self {
        let RecordEntry { id, record, .. } = entry;
        let is_doubt = entry.state == RecordState::InDoubt;
        let (over, completed, expires) = match &record.state {
            State::InProgress { lease_expires } => (Some(*lease_expires), None, None),
            State::Completed { completed, expires, .. } => (None, Some(instant(*completed)), Some(instant(*expires))),
            _ => (None, None, None),
        };
        let over = over.filter(|over| *over <= record.observed);
        Self {
            key: id.key().to_owned(),
            scope: id.scope().to_owned(),
            state: state(entry.state),
            held: record.held,
            attempt: record.attempt,
            token: record.token.get(),
            holder: hex(record.holder.as_bytes()),
            fingerprint: record.fingerprint.map(|it| it.to_string()),
            correlation_id: entry.correlation_id.as_ref().map(ToString::to_string),
            claimed: entry.claimed.map(instant),
            lease_left_ms: record.lease_remaining().filter(|left| !left.is_zero()).map(millis),
            in_doubt_since: over.filter(|_| is_doubt).map(instant),
            in_doubt_ms: over
                .filter(|_| is_doubt)
                .map(|over| millis(record.observed.since(over))),
            settled: completed.is_some() && record.holder.settles(),
            completed,
            expires,
            result: record.result().map(|result| ResultView::of(result, bodies)),
        }
    }

    /// What the record is, in a sentence's part.
    pub(super) fn told(&self) -> String {
        let told = |millis: u64| duration(Duration::from_millis(millis));
        match (self.state, self.in_doubt_ms, self.lease_left_ms) {
            (_, Some(since), _) if self.held => format!("in doubt for {}, held for a person", told(since)),
            (_, Some(since), _) => format!("in doubt for {}", told(since)),
            (_, _, Some(left)) if self.held => format!("in progress, lease left {}, held once it is over", told(left)),
            (_, _, Some(left)) => format!("in progress, lease left {}", told(left)),
            ("in-progress", ..) => "in progress: nobody goes on with its steps at the moment".to_owned(),
            ("completed", ..) if self.settled => "completed, settled by a person".to_owned(),
            (state, ..) => state.to_owned(),
        }
    }
}

/// The state, as it is typed and printed.
fn state(state: RecordState) -> &'static str {
    match state {
        RecordState::InProgress => "in-progress",
        RecordState::InDoubt => "in-doubt",
        RecordState::Completed => "completed",
        _ => "unknown",
    }
}

impl ResultView {
    pub(super) fn of(result: &RecordedResult, bodies: Bodies) -> Self {
        let none = |kind, bytes| Self {
            kind,
            codec: None,
            compressed: false,
            bytes,
            http: None,
            value: None,
            body: None,
        };
        let (verdict, codec, payload) = match result.decode() {
            Ok(Decoded::Value {
                verdict,
                codec,
                payload,
            }) => (verdict, codec, payload),
            // What was erased has no limit that it could have exceeded.
            Ok(Decoded::TooLarge { size, limit: 0 }) => return none("erased", size),
            Ok(Decoded::TooLarge { size, .. }) => return none("too-large", size),
            Ok(Decoded::NotEncodable) => return none("not-encodable", 0),
            Ok(_) | Err(_) => return none("unreadable", result.as_bytes().len() as u64),
        };
        let answer = RecordedAnswer::read(result).ok().flatten();
        // What is left of an erased answer of HTTP says so itself.
        let is_erased = result.erased().is_none();
        let mut view = Self {
            kind: match verdict {
                _ if is_erased => "erased",
                Verdict::Declined => "declined",
                _ => "performed",
            },
            codec: Some(codec.name().to_owned()),
            compressed: codec == codec.compressed(),
            bytes: payload.len() as u64,
            http: answer.as_ref().map(HttpView::of),
            value: None,
            body: None,
        };
        if bodies == Bodies::Shown {
            let shown = match answer {
                Some(answer) => answer.body.map(|body| body.to_vec()),
                None => result.read::<Vec<u8>, _>(&AsTyped).ok().flatten(),
            };
            view.show(shown, view.codec.as_deref() == Some("json"));
        }
        view
    }

    fn show(&mut self, bytes: Option<Vec<u8>>, is_json: bool) {
        let Some(bytes) = bytes else { return };
        match String::from_utf8(bytes) {
            Ok(text) if is_json => match serde_json::value::RawValue::from_string(text.clone()) {
                Ok(value) => self.value = Some(value),
                Err(_) => self.body = Some(text),
            },
            Ok(text) => self.body = Some(text),
            Err(error) => {
                self.body = Some(format!(
                    "{} bytes that are no text: {}",
                    error.as_bytes().len(),
                    hex(error.as_bytes())
                ))
            }
        }
    }

    /// What was asked to be shown, as text.
    pub(super) fn shown(&self) -> Option<&str> {
        let value = self.value.as_ref().map(|value| value.get());
        value.or(self.body.as_deref())
    }

    /// What is recorded of a value that is no answer of a request, in a line.
    pub(super) fn recorded(&self) -> String {
        match &self.codec {
            Some(codec) if self.kind != "erased" => format!(
                "{} of {codec}{}",
                counted(self.bytes, "byte"),
                if self.compressed { ", compressed" } else { "" }
            ),
            _ => self.kind.to_owned(),
        }
    }

    /// What is recorded, in a line.
    pub(super) fn told(&self) -> String {
        let bytes = counted(self.bytes, "byte");
        match (self.kind, &self.http) {
            ("erased", Some(http)) => format!(
                "it was done; its answer was erased, but for its status, {}",
                http.status
            ),
            ("erased", None) => "it was done; its answer was erased".to_owned(),
            ("too-large", _) => format!("it was done; its answer had {bytes}, which was too large to be kept"),
            ("not-encodable", _) => "it was done; its answer could not be encoded".to_owned(),
            ("unreadable", _) => format!("{bytes} that this version cannot read; upgrade it"),
            (kind, http) => {
                let codec = self.codec.as_deref().unwrap_or_default();
                let compressed = if self.compressed { ", compressed" } else { "" };
                match http {
                    Some(http) => format!("{kind}: HTTP {} ({bytes}{compressed})", http.status),
                    None => format!("{kind}: {bytes} of {codec}{compressed}"),
                }
            }
        }
    }
}

impl HttpView {
    fn of(answer: &RecordedAnswer) -> Self {
        let headers = answer.headers.iter();
        Self {
            status: answer.status.as_u16(),
            answered: humantime::format_rfc3339_millis(answer.at).to_string(),
            headers: headers
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                .collect(),
            body_bytes: answer.body.as_ref().map(|body| body.len() as u64),
        }
    }
}
