//! What a call asks for: which action, under which key, and the fingerprint of what the user sent.
//!
//! A fingerprint is taken of the action's id and of the user's own fields. These are left out, since they differ from send to send
//! of one intent: the boundary, all `$ACTION_…` fields, the previous state of `useActionState`, and bound arguments, whose
//! ciphertext is another one at each render. So a call by a script and one by the plain form have the same fingerprint.
//!
//! The id belongs to it: a form may have two buttons, with an action each, and one key. Ids change with a build, unless its
//! `NEXT_SERVER_ACTIONS_ENCRYPTION_KEY` stays the same. A retry across such a build is told that its key was used, and is not
//! executed.
//!
//! ```text
//! a script's call:  part 0 (or the whole body) [bound…, state, "$K1"]     fields _1_item, _1_key
//!                                              [bound…, {"item": …, "key": …}]
//! a form's:         $ACTION_REF_1, $ACTION_1:0 {"id": …}, $ACTION_1:1 […], $ACTION_KEY, or $ACTION_ID_…; fields item, key
//! ```

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, Method};
use oneflight::Fingerprint;
use oneflight::http::{KeySource, Problem};
use oneflight::identity::IdempotencyKey;
use serde_json::Value;

use super::parts::{self, Part};

const NEXT_ACTION: HeaderName = HeaderName::from_static("next-action");

/// Begins the names of React's own fields.
const REACT: &str = "$ACTION_";

/// By what an action is called, and so what its caller can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// A script of Next's.
    Fetch,
    /// A browser that sends a form.
    Form,
}

impl Call {
    /// Returns how a request would call an action, if it does.
    pub(super) fn of(method: &Method, lines: &HeaderMap) -> Option<Self> {
        let is_form = || content_type(lines).starts_with("multipart/form-data");
        match () {
            () if *method != Method::POST => None,
            () if lines.contains_key(NEXT_ACTION) => Some(Self::Fetch),
            () if is_form() => Some(Self::Form),
            () => None,
        }
    }
}

/// What a call asks for.
#[derive(Clone, Debug)]
pub(super) struct Intent {
    pub(super) call: Call,
    pub(super) key: Result<Option<IdempotencyKey>, Problem>,
    pub(super) fingerprint: Fingerprint,
}

impl Intent {
    /// Reads a request. `None` is one that calls no action.
    pub(super) async fn read(
        call: Call,
        lines: &HeaderMap,
        body: &Bytes,
        counts: &Counts,
    ) -> Result<Option<Self>, Unreadable> {
        let media_type = content_type(lines);
        let parts = match media_type.starts_with("multipart/form-data") {
            true => parts::read(media_type, body.clone()).await,
            false => None,
        };
        let asked = match call {
            Call::Form => match of_form(&parts.ok_or(Unreadable)?, counts)? {
                Some(asked) => asked,
                None => return Ok(None),
            },
            Call::Fetch => of_fetch(lines, body, parts, counts),
        };
        let key = counts
            .keys
            .of_headers(lines)
            .map_err(Problem::from)
            .and_then(|key| the_one(key, &asked.keys));
        Ok(Some(Self {
            call,
            key,
            fingerprint: counts.with_headers(asked.fingerprint, lines),
        }))
    }
}

/// Where the key of a call stands, and what of the rest counts.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) keys: KeySource,
    pub(super) field: String,
    /// Fields that differ from send to send.
    pub(super) leave_out: Vec<String>,
    /// Headers that tell two intents apart.
    pub(super) headers: Vec<HeaderName>,
}

impl Counts {
    /// Whether a field is the user's own.
    fn has(&self, name: &str) -> bool {
        !name.starts_with(REACT) && name != self.field && !self.leave_out.iter().any(|left| left == name)
    }

    fn with_headers(&self, fingerprint: Fingerprint, lines: &HeaderMap) -> Fingerprint {
        if self.headers.is_empty() {
            return fingerprint;
        }
        let mut all = Fingerprint::builder().part("intent", fingerprint.to_string());
        for name in &self.headers {
            for value in lines.get_all(name) {
                all = all.part(name.as_str(), value.as_bytes());
            }
        }
        all.build()
    }
}

/// A form of which nobody can say whether it calls an action.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unreadable;

/// What is read of a body.
struct Asked {
    /// The values of the field of the key, where they stand.
    keys: Vec<String>,
    fingerprint: Fingerprint,
}

fn content_type(lines: &HeaderMap) -> &str {
    let value = lines.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

/// Two places that disagree leave open which key is meant.
fn the_one(in_head: Option<IdempotencyKey>, in_body: &[String]) -> Result<Option<IdempotencyKey>, Problem> {
    let mut found = in_head;
    for text in in_body {
        let key = IdempotencyKey::new(text.as_str()).map_err(Problem::from)?;
        match &found {
            Some(known) if *known != key => {
                let problem = Problem::malformed_body("It has two idempotency keys that differ.");
                return Err(problem);
            }
            _ => found = Some(key),
        }
    }
    Ok(found)
}

/// Reads what a browser sends of a form. It names the action itself.
fn of_form(parts: &[Part], counts: &Counts) -> Result<Option<Asked>, Unreadable> {
    let named = parts.iter().rev().find_map(|part| named(part, parts));
    let Some((id, bound_to)) = named else {
        let is_of_react = |part: &Part| {
            ["$ACTION_ID_", "$ACTION_REF_"]
                .iter()
                .any(|name| part.name.starts_with(name))
        };
        return match parts.iter().any(is_of_react) {
            true => Err(Unreadable),
            false => Ok(None),
        };
    };
    let fields = || parts.iter().map(|part| (part.name.as_str(), part));
    Ok(Some(Asked {
        keys: keys_among(fields(), &counts.field),
        fingerprint: of_fields(&id, bound(&bound_to), fields(), counts),
    }))
}

/// Returns the id of the action that a field names, and what is bound to it. Of two that do, React takes the last one.
fn named(part: &Part, parts: &[Part]) -> Option<(String, Vec<Value>)> {
    if let Some(id) = part.name.strip_prefix("$ACTION_ID_") {
        return Some((id.to_owned(), Vec::new()));
    }
    let number = part.name.strip_prefix("$ACTION_REF_")?;
    let text_of = |row: u32| {
        let name = format!("{REACT}{number}:{row}");
        parts.iter().find(|part| part.name == name)?.text()
    };
    let described: Value = serde_json::from_str(text_of(0)?).ok()?;
    let id = described.get("id")?.as_str()?.to_owned();
    let bound = match described.get("bound").and_then(Value::as_str) {
        Some(row) => {
            let row = u32::from_str_radix(row.strip_prefix("$@")?, 16).ok()?;
            serde_json::from_str(text_of(row)?).ok()?
        }
        None => Vec::new(),
    };
    Some((id, bound))
}

/// Returns what counts of the arguments before the form, or before the object with the key. Next encrypts the first one if it is of
/// the scope in which the action is written. The last one may be the state of `useActionState`: one that is a text, a number or a
/// boolean counts all the same, as it may be what `bind(null, id)` has bound.
fn bound(before: &[Value]) -> &[Value] {
    let before = match before {
        [first, rest @ ..] if is_ciphertext(first) => rest,
        all => all,
    };
    match before {
        [rest @ .., last] if may_be_a_state(last) => rest,
        all => all,
    }
}

fn may_be_a_state(argument: &Value) -> bool {
    match argument {
        // What begins with one `$` stands for something else: `$undefined`, a map.
        Value::String(text) => text.starts_with('$') && !text.starts_with("$$"),
        Value::Number(_) | Value::Bool(_) => false,
        Value::Null | Value::Array(_) | Value::Object(_) => true,
    }
}

/// Reads what a script sends: arguments, as `encodeReply` writes them.
fn of_fetch(lines: &HeaderMap, body: &Bytes, parts: Option<Vec<Part>>, counts: &Counts) -> Asked {
    let id = lines
        .get(NEXT_ACTION)
        .map(|id| String::from_utf8_lossy(id.as_bytes()))
        .unwrap_or_default();
    let root = match &parts {
        Some(parts) => parts.iter().find(|part| part.name == "0").and_then(Part::text),
        None => str::from_utf8(body).ok(),
    };
    let arguments = root.and_then(|root| serde_json::from_str::<Vec<Value>>(root).ok());
    let (parts, arguments) = match (parts, arguments) {
        (parts, Some(arguments)) => (parts.unwrap_or_default(), arguments),
        // It is no call that React makes.
        (_, None) => {
            let fingerprint = Fingerprint::builder().part("action", &*id).part("bytes", body).build();
            let keys = Vec::new();
            return Asked { keys, fingerprint };
        }
    };
    let forms: Vec<String> = arguments.iter().filter_map(form_of).collect();
    if let Some(at) = arguments.iter().position(|argument| form_of(argument).is_some()) {
        let (before, after) = arguments.split_at(at);
        let others = after.iter().filter(|argument| form_of(argument).is_none());
        let others: Vec<Value> = bound(before).iter().chain(others).cloned().collect();
        let fields = || {
            let of = |form| {
                parts
                    .iter()
                    .filter_map(move |part| Some((within(form, &part.name)?, part)))
            };
            forms.iter().flat_map(move |form| of(form.as_str()))
        };
        return Asked {
            keys: keys_among(fields(), &counts.field),
            fingerprint: of_fields(&id, &others, fields(), counts),
        };
    }
    of_arguments(&id, arguments, &parts, counts)
}

/// Returns what the fields of a `FormData` begin with, if an argument is one: `$K1` stands for the fields `_1_…`.
fn form_of(argument: &Value) -> Option<String> {
    let number = u32::from_str_radix(argument.as_str()?.strip_prefix("$K")?, 16).ok()?;
    Some(format!("{number}_"))
}

/// Returns the name that the user's form has for a field of this `FormData`. React 18 wrote no underscore before.
fn within<'a>(form: &str, name: &'a str) -> Option<&'a str> {
    name.strip_prefix('_').unwrap_or(name).strip_prefix(form)
}

fn keys_among<'a>(fields: impl Iterator<Item = (&'a str, &'a Part)>, field: &str) -> Vec<String> {
    fields
        .filter(|(name, _)| *name == field)
        .map(|(_, part)| part.text().unwrap_or_default().to_owned())
        .collect()
}

/// Takes the fields that are the user's own, in their order, and what else the action is called with.
fn of_fields<'a>(
    id: &str,
    others: &[Value],
    fields: impl Iterator<Item = (&'a str, &'a Part)>,
    counts: &Counts,
) -> Fingerprint {
    let mut called = Fingerprint::builder().part("action", id);
    if !others.is_empty() {
        called = called.part("arguments", Value::from(others).to_string());
    }
    let own = fields.filter(|(name, _)| counts.has(name));
    own.fold(called, |parts, (name, part)| {
        let parts = parts.part("name", name);
        let parts = match &part.file {
            Some(file) => parts
                .part("file", file)
                .part("media type", part.media_type.as_deref().unwrap_or_default()),
            None => parts,
        };
        parts.part("bytes", &part.bytes)
    })
    .build()
}

/// Takes arguments that are no form, but for what is left out before the one that has the key; if none has, what Next has encrypted.
fn of_arguments(id: &str, mut arguments: Vec<Value>, parts: &[Part], counts: &Counts) -> Asked {
    let field = counts.field.as_str();
    let key_in = |argument: &Value| Some(unescaped(argument.as_object()?.get(field)?.as_str()?).to_owned());
    let keys: Vec<String> = arguments.iter().filter_map(key_in).collect();
    if let Some(at) = arguments.iter().position(|argument| key_in(argument).is_some()) {
        let after = arguments.split_off(at);
        arguments = bound(&arguments).iter().cloned().chain(after).collect();
    } else {
        let is_bound = arguments.first().is_some_and(is_ciphertext);
        arguments.drain(..usize::from(is_bound));
    }
    for argument in &mut arguments {
        if let Some(members) = argument.as_object_mut() {
            members.retain(|name, _| name != field && !counts.leave_out.contains(name));
        }
    }
    let root = Value::Array(arguments).to_string();
    let digest = Fingerprint::builder().part("action", id).part("arguments", root);
    // What arguments refer to: files, maps, streams.
    let others = parts
        .iter()
        .filter(|part| part.name != "0" && !part.name.contains(REACT));
    let digest = others.fold(digest, |digest, part| {
        digest.part("part", &part.name).part("bytes", &part.bytes)
    });
    Asked {
        keys,
        fingerprint: digest.build(),
    }
}

/// React writes a `$` twice with which a text begins.
fn unescaped(text: &str) -> &str {
    match text.strip_prefix("$$") {
        Some(_) => &text[1..],
        None => text,
    }
}

/// Whether this may be what Next encrypts of the scope in which an action is written: a vector of 16 bytes, the id of 42 and what is
/// bound, and a tag of 16, in base64.
fn is_ciphertext(argument: &Value) -> bool {
    const SHORTEST: usize = 100;
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    argument
        .as_str()
        .is_some_and(|text| text.len() >= SHORTEST && text.len() % 4 == 0 && text.bytes().all(is_base64))
}
