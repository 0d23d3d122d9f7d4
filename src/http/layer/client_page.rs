//! The page for clients: what they have to know of the layer, made from its settings.
//!
//! draft-ietf-httpapi-idempotency-key-header, section 2.5.2, has a resource publish a specification with its expiration policy,
//! and RFC 9457, section 4, has the types of problems documented. What is made from the settings cannot be out of date. It says
//! nothing about the service itself.

use std::fmt::{Display, Write};
use std::time::Duration;

use super::IdempotencyLayer;
use super::dialect::{self, Dialect};
use super::settings::{Requirement, Settings, Undone};
use crate::http::kind::{self, Kind, described};

impl IdempotencyLayer {
    /// Returns a page for the clients of the service, in Markdown: which requests are covered, how keys look, for how long an
    /// answer is replayed, and every problem with what to do about it.
    ///
    /// It is made from the settings. What functions of yours decide, such as whether a key is required, it leaves to your own
    /// documentation.
    ///
    /// ```
    /// use oneflight::http::layer::IdempotencyLayer;
    /// use oneflight::{Idempotency, MemoryStore};
    ///
    /// let idem = Idempotency::builder(MemoryStore::new()).build();
    /// let page = IdempotencyLayer::new(idem).unscoped().client_page();
    /// assert!(page.contains("An answer is kept for 24 hours."));
    /// ```
    #[must_use]
    pub fn client_page(&self) -> String {
        let settings = &self.settings;
        let sections = [
            ("Which requests", covered(settings)),
            ("The key", key(settings)),
            ("What makes a request the same", compared(settings)),
            ("For how long", retention(settings)),
            ("While a request is being executed", in_flight(settings)),
            ("Which answers are kept", recorded(settings)),
            ("How an answer is marked", marks(settings)),
            ("Problems", problems(settings)),
        ];
        let mut page = "# Sending a request again\n\nA request with an idempotency key may be sent again under the same key: it is \
                        executed once, and each time it is sent it gets the answer of that execution.\n"
            .to_owned();
        for (title, text) in sections {
            page += &format!("\n## {title}\n\n{text}\n");
        }
        page
    }
}

fn covered(settings: &Settings) -> String {
    let methods = listed(settings.methods.iter().map(|method| format!("`{method}`")), "and");
    let demand = match (&settings.when, settings.requirement) {
        (Some(_), _) => "Whether a key is required, or has no effect, is said with each operation.",
        (None, Requirement::Required) => "A key is required.",
        (None, Requirement::Optional) => "A key is optional. A request without one is executed as often as it is sent.",
        (None, Requirement::Off) => "A key has no effect.",
    };
    format!(
        "Requests with the methods {methods}. {demand} A key of a request with another method has no effect.\n\n\
         The body may have up to {} bytes, and take up to {} to arrive.",
        settings.max_request_bytes,
        spelled(settings.request_time),
    )
}

fn key(settings: &Settings) -> String {
    if settings.key.is_some() {
        return format!(
            "What the key of a request is, is said with each operation. {}",
            validity(settings)
        );
    }
    let keys = &settings.keys;
    let headers = listed(keys.names().map(|name| format!("`{}`", spelt(name.as_str()))), "or");
    let mut text = format!("It stands in the header {headers}");
    if let Some(field) = keys.field_name() {
        let _ = write!(text, ", or in the field `{field}` of a JSON or form body");
    }
    text += ", once. If it stands in several places, it is the same in all.\n\n";
    text += match keys.is_strict() {
        true => "In a header it is a string in double quotes, such as `\"8e03978e-40d5-43dd-bc93-6894a57f9324\"`.\n",
        false => {
            "In a header it is a string in double quotes, such as `\"8e03978e-40d5-43dd-bc93-6894a57f9324\"`. Without quotes it \
             is the same key.\n"
        }
    };
    let _ = write!(
        text,
        "It has 1 to {} of these characters: {}. It neither begins nor ends with a space.\n\n\
         Make a new one for each operation, a random UUID for example, and keep it for every time that you send the operation \
         again. {}",
        keys.longest(),
        characters(settings),
        validity(settings),
    );
    text
}

fn validity(settings: &Settings) -> &'static str {
    match settings.scope {
        Some(_) => "It is valid for you, one method and one route.",
        None => "It is valid for one method and one route, and is the same for all clients.",
    }
}

fn compared(settings: &Settings) -> String {
    if settings.fingerprint.is_some() {
        return "What is compared is said with each operation. A request with a used key that differs in it is not executed."
            .to_owned();
    }
    let of = &settings.fingerprints;
    let mut text =
        "Method, path, query and body. A request with a used key and another of these is not executed. ".to_owned();
    text += match of.sorts_json() {
        true => "The members of JSON objects may stand in any order; the pairs of a form may not. ",
        false => "JSON is compared as it is sent, and the pairs of a form in their order. ",
    };
    text += "The boundary of a multipart body may be another.";
    if !of.chosen().is_empty() {
        let chosen = listed(
            of.chosen().iter().map(|name| format!("`{}`", spelt(name.as_str()))),
            "and",
        );
        let _ = write!(text, "\n\nAlso compared: the headers {chosen}.");
    }
    if !of.left_out().is_empty() {
        let left_out = listed(of.left_out().iter().map(|field| format!("`{field}`")), "and");
        let _ = write!(text, "\n\nNot compared: the fields {left_out}.");
    }
    text
}

fn retention(settings: &Settings) -> String {
    format!(
        "An answer is kept for {}. After that the key is new, and a request with it is executed again.",
        spelled(settings.terms.retention)
    )
}

fn in_flight(settings: &Settings) -> String {
    let here = match settings.wait() {
        None => "A further one with the same key waits for it, and gets the same answer.".to_owned(),
        Some(wait) if wait.is_zero() => "A further one with the same key is answered with a 409 at once.".to_owned(),
        Some(wait) => format!(
            "A further one with the same key waits for up to {}, and is then answered with a 409.",
            spelled(wait)
        ),
    };
    format!(
        "{here} Where the first one is executed by another process of the service, the wait is up to {}. After a 409, wait for \
         the time in `Retry-After`, and send the request again with the same key. Hanging up stops nothing.",
        spelled(settings.terms.wait)
    )
}

fn recorded(settings: &Settings) -> String {
    let recording = &settings.recording;
    let (unknown, undone) = match settings.terms.undone {
        Undone::Nothing => (recording.unknown_in_words(), ""),
        Undone::Failures => ("", recording.undone_in_words()),
    };
    format!(
        "{}{unknown}.{undone} An answer that is too large, a stream or secret is kept as its status and `Location`, without its \
         body. Cookies are not kept.",
        recording.in_words()
    )
}

fn marks(settings: &Settings) -> String {
    let mut text = "| header | says |\n| --- | --- |\n\
         | `Idempotency-Origin` | `executed`: for this request; `collapsed`: for another one that was in flight; `replayed`: earlier |\n\
         | `Idempotency-Replayed` | `true` if it was given earlier |\n\
         | `Idempotency-Original-Date` | when it was given, if that was earlier |"
        .to_owned();
    if settings.dialect == Dialect::Stripe {
        text += "\n| `Idempotent-Replayed` | `true` if it was given earlier |\
                 \n| `Stripe-Should-Retry` | whether sending the request again can have another answer |";
    }
    text
}

fn problems(settings: &Settings) -> String {
    let mut text = match settings.dialect {
        Dialect::Draft => {
            "A problem is `application/problem+json` (RFC 9457). Decide by its `type`, never by its words. An operation may have answers of its own with the same status.\n\n"
        }
        Dialect::Stripe => "A problem is `{\"error\": {\"type\", \"code\", \"message\", \"doc_url\"}}`. Decide by its `code`.\n\n",
        Dialect::Grpc => {
            "A problem is an answer of gRPC's without a message. Decide by its `grpc-status`, which stands before each.\n\n"
        }
    }
    .to_owned();
    if let Some(uri) = &settings.documentation {
        let _ = write!(text, "See also <{uri}>.\n\n");
    }
    text +=
        "| problem | status | title | did anything happen? | what the client does |\n| --- | --- | --- | --- | --- |";
    for kind in told(settings) {
        let status = match status(settings, kind) {
            Some(status) => status.to_string(),
            None => "the first answer's".to_owned(),
        };
        let _ = write!(
            text,
            "\n| {} | {status} | {} | {} | {} |",
            name(settings, kind),
            kind.title,
            kind.effect,
            kind.advice,
        );
    }
    text
}

fn name(settings: &Settings, kind: &Kind) -> String {
    match settings.dialect {
        Dialect::Draft => format!("<{}>", kind.uri),
        Dialect::Stripe => format!("`{}`", dialect::code(kind.uri).unwrap_or_default()),
        Dialect::Grpc => dialect::grpc_status(kind.uri, kind.status.unwrap_or_default()).to_string(),
    }
}

/// The problems that the layer answers with.
pub(super) fn told(settings: &Settings) -> impl Iterator<Item = &'static Kind> {
    let has_scope = settings.scope.is_some();
    described::ALL.iter().filter(move |kind| match kind.uri {
        // A handler's.
        kind::MEDIA_TYPE => false,
        kind::PRINCIPAL_MISSING => has_scope,
        _ => true,
    })
}

pub(super) fn status(settings: &Settings, kind: &Kind) -> Option<u16> {
    let status = settings.dialect.status(kind.uri, kind.status?);
    Some(status.as_u16())
}

fn characters(settings: &Settings) -> String {
    let all: String = settings.keys.characters().collect();
    match all.len() {
        95 => "printable ASCII".to_owned(),
        _ => format!("`{}`", ranges(all.chars())),
    }
}

/// The characters, in ascending order, as the inside of a class of a regular expression.
pub(super) fn ranges(characters: impl Iterator<Item = char>) -> String {
    let mut ranges: Vec<(char, char)> = Vec::new();
    for next in characters {
        match ranges.last_mut() {
            Some((_, last)) if u32::from(*last) + 1 == u32::from(next) => *last = next,
            _ => ranges.push((next, next)),
        }
    }
    let mut text = String::new();
    for (first, last) in ranges {
        push(&mut text, first);
        if u32::from(last) - u32::from(first) > 1 {
            text.push('-');
        }
        if last != first {
            push(&mut text, last);
        }
    }
    text
}

fn push(text: &mut String, character: char) {
    if matches!(character, '\\' | ']' | '[' | '^' | '-') {
        text.push('\\');
    }
    text.push(character);
}

/// A header's name as it is mostly written.
pub(super) fn spelt(name: &str) -> String {
    let words = name.split('-').map(|word| {
        let mut word = word.to_owned();
        if let Some(first) = word.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        word
    });
    words.collect::<Vec<_>>().join("-")
}

/// "a, b and c".
fn listed(items: impl Iterator<Item = String>, joint: &str) -> String {
    let mut items: Vec<_> = items.collect();
    match (items.pop(), items.len()) {
        (None, _) => "(none)".to_owned(),
        (Some(last), 0) => last,
        (Some(last), _) => format!("{} {joint} {last}", items.join(", ")),
    }
}

/// A time in the largest unit that it is a whole number of.
fn spelled(time: Duration) -> String {
    let of = |count: u64, unit: &dyn Display| match count {
        1 => format!("1 {unit}"),
        _ => format!("{count} {unit}s"),
    };
    let seconds = time.as_secs();
    match seconds {
        _ if time.subsec_nanos() > 0 => format!("{time:?}"),
        0 => of(0, &"second"),
        _ if seconds > 86_400 && seconds.is_multiple_of(86_400) => of(seconds / 86_400, &"day"),
        _ if seconds.is_multiple_of(3600) => of(seconds / 3600, &"hour"),
        _ if seconds.is_multiple_of(60) => of(seconds / 60, &"minute"),
        _ => of(seconds, &"second"),
    }
}
