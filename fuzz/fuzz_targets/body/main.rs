//! Keys in bodies: `json_key`, `form_key` and `find_key`, over arbitrary bytes and over bodies that are nearly right, against a
//! slow and obvious reading of the same formats.

#![no_main]

mod input;
mod json;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use input::{Input, Request};
use json::{Json, Member};
use libfuzzer_sys::fuzz_target;
use oneflight::http::{
    BodyFormat, IDEMPOTENCY_KEY, KEY_FIELD, KeyError, KeyPlace, find_key, form_key, header_key, json_key,
};
use oneflight::identity::IdempotencyKey;

/// A result in a form that can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    None,
    Key(String),
    Missing,
    Repeated(KeyPlace),
    Header,
    NotAString,
    Invalid(KeyPlace),
    Differ(KeyPlace),
    Body,
}

impl From<Result<Option<IdempotencyKey>, KeyError>> for Answer {
    fn from(found: Result<Option<IdempotencyKey>, KeyError>) -> Self {
        match found {
            Ok(None) => Self::None,
            Ok(Some(key)) => Self::Key(key.into()),
            Err(error) => {
                let _ = error.to_string();
                match error {
                    KeyError::Missing { .. } => Self::Missing,
                    KeyError::Repeated { place } => Self::Repeated(place),
                    KeyError::Quoting { .. } | KeyError::Unquoted { .. } => Self::Header,
                    KeyError::NotAString { .. } => Self::NotAString,
                    KeyError::Invalid { place, .. } => Self::Invalid(place),
                    KeyError::Differ { other, .. } => Self::Differ(other),
                    KeyError::Body { .. } => Self::Body,
                    other => panic!("an error that is not known here: {other:?}"),
                }
            }
        }
    }
}

fn json_place() -> KeyPlace {
    KeyPlace::Json(KEY_FIELD.into())
}

fn form_place() -> KeyPlace {
    KeyPlace::Form(KEY_FIELD.into())
}

fn valid(text: &str, place: KeyPlace) -> Answer {
    match IdempotencyKey::new(text) {
        Ok(key) => Answer::Key(key.into()),
        Err(_) => Answer::Invalid(place),
    }
}

fn json_reference(body: &[u8]) -> Answer {
    let wanted = match Json::read(body) {
        None => return Answer::Body,
        Some(Json::Other) => return Answer::None,
        Some(Json::Object(members)) => members.into_iter().filter(|(name, _)| name == KEY_FIELD),
    };
    let wanted: Vec<_> = wanted.map(|(_, member)| member).collect();
    match &wanted[..] {
        [] | [Member::Null] => Answer::None,
        [Member::Text(text)] => valid(text, json_place()),
        [Member::Other] => Answer::NotAString,
        _ => Answer::Repeated(json_place()),
    }
}

fn percent_decode(text: &[u8]) -> String {
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let digits = text
            .get(at + 1..at + 3)
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        match (text[at], digits) {
            (b'%', Some(digits)) => {
                let digits = std::str::from_utf8(digits).expect("digits");
                bytes.push(u8::from_str_radix(digits, 16).expect("digits"));
                at += 3;
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn form_reference(body: &[u8]) -> Answer {
    let pairs = body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty());
    let fields = pairs.map(|pair| match pair.iter().position(|byte| *byte == b'=') {
        Some(at) => (percent_decode(&pair[..at]), percent_decode(&pair[at + 1..])),
        None => (percent_decode(pair), String::new()),
    });
    let values: Vec<_> = fields
        .filter(|(name, _)| name == KEY_FIELD)
        .map(|(_, value)| value)
        .collect();
    match &values[..] {
        [] => Answer::None,
        [value] => valid(value, form_place()),
        _ => Answer::Repeated(form_place()),
    }
}

fn format_reference(headers: &HeaderMap) -> Option<BodyFormat> {
    let values: Vec<_> = headers.get_all(CONTENT_TYPE).iter().collect();
    let [value] = values[..] else { return None };
    let text = value.to_str().ok()?.to_ascii_lowercase();
    let essence = text.split(';').next().expect("there is always one").trim();
    if essence == "application/x-www-form-urlencoded" {
        return Some(BodyFormat::Form);
    }
    if essence == "multipart/form-data" {
        return Some(BodyFormat::Multipart);
    }
    let subtype = essence.strip_prefix("application/")?;
    let json = subtype == "json" || (subtype.ends_with("+json") && subtype.len() > "+json".len());
    json.then_some(BodyFormat::Json)
}

fn request(request: &Request) {
    let mut headers = HeaderMap::new();
    for (name, values) in [(CONTENT_TYPE, &request.content_types), (IDEMPOTENCY_KEY, &request.keys)] {
        for value in values.iter().filter_map(|value| HeaderValue::from_bytes(value).ok()) {
            headers.append(&name, value);
        }
    }
    let format = format_reference(&headers);
    assert_eq!(BodyFormat::of(&headers), format);
    if format == Some(BodyFormat::Multipart) {
        // The target `fingerprint` reads such bodies; here nothing may panic.
        let _ = Answer::from(find_key(&headers, &request.body));
        return;
    }
    let in_header = Answer::from(header_key(&headers));
    let (place, in_body) = match format {
        Some(BodyFormat::Json) if !request.body.is_empty() => (json_place(), json_reference(&request.body)),
        Some(BodyFormat::Form) => (form_place(), form_reference(&request.body)),
        _ => (KeyPlace::Header(IDEMPOTENCY_KEY), Answer::None),
    };
    let expected = match (in_header, in_body) {
        (Answer::Key(one), Answer::Key(other)) if one != other => Answer::Differ(place),
        (Answer::None, in_body) => in_body,
        (Answer::Key(key), Answer::None | Answer::Key(_)) => Answer::Key(key),
        (Answer::Key(_), wrong) => wrong,
        (wrong, _) => wrong,
    };
    assert_eq!(Answer::from(find_key(&headers, &request.body)), expected);
}

fuzz_target!(|input: Input| match input {
    Input::Json(body) => assert_eq!(Answer::from(json_key(&body)), json_reference(&body)),
    Input::Form(body) => assert_eq!(Answer::from(form_key(&body)), form_reference(&body)),
    Input::Request(parts) => request(&parts),
});
