//! Fingerprints of bodies: two that are equal mean the same to a slow and obvious reading of their format, and forms that mean
//! the same are equal whatever their boundary.

#![no_main]

mod input;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use input::{Form, Input, Kind};
use libfuzzer_sys::fuzz_target;
use oneflight::http::{Fingerprints, KeySource};
use oneflight::identity::Fingerprint;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

const LEFT_OUT: &str = "csrf";

fn print(content_type: &str, body: &[u8], fingerprints: &Fingerprints) -> Fingerprint {
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_str(content_type).expect("a text"))]);
    let (key, body) = (KeySource::new().field("key"), Bytes::copy_from_slice(body));
    let _ = at_once(key.find(&headers, &body));
    at_once(fingerprints.of(&Method::POST, "/", None, &headers, &body, &key))
}

/// Neither keys nor fingerprints are waited for.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

/// Whether two different JSON bodies may have one fingerprint. Numbers that are one `f64` are equal here: the readings of two
/// bodies that say the same are equal, and not the other way round.
fn json(bodies: &[Vec<u8>; 2], leave_out: bool) -> bool {
    let read = |body: &Vec<u8>| {
        // What cannot be held stands for itself.
        let text = std::str::from_utf8(body).ok()?.replace("1e999", "\"1e999\"");
        let mut value: serde_json::Value = serde_json::from_str(&text).ok()?;
        if let Some(members) = value.as_object_mut() {
            members.remove("key");
            members.retain(|name, _| !(leave_out && name == LEFT_OUT));
        }
        Some(value)
    };
    let [one, other] = bodies.each_ref().map(read);
    // Half a surrogate pair is JSON by its grammar and can stand in a value that is taken as it was sent, or is left out.
    let is_half = |body: &Vec<u8>| body.windows(6).any(|text| text == b"\\ud800");
    one.is_some() && one == other || bodies.iter().any(is_half)
}

fn form(bodies: &[Vec<u8>; 2], leave_out: bool) -> bool {
    let read = |body: &Vec<u8>| -> Vec<(String, String)> {
        let fields = form_urlencoded::parse(body).into_owned();
        fields
            .filter(|(name, _)| name != "key" && !(leave_out && name == LEFT_OUT))
            .collect()
    };
    read(&bodies[0]) == read(&bodies[1])
}

/// The header fields of each part, sorted, and its bytes.
type Parts = Vec<(Vec<Vec<u8>>, Vec<u8>)>;

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|here| here == wanted)
}

fn multipart_parts(body: &[u8]) -> Option<Parts> {
    let mut parts = Vec::new();
    let body = body.strip_prefix(b"\r\n").unwrap_or(body);
    let mut rest = body.strip_prefix(b"--b")?;
    while !rest.starts_with(b"--") {
        let head = find(rest, b"\r\n\r\n")?;
        let line = &rest[..find(rest, b"\r\n")?];
        if line.iter().any(|byte| !b" \t".contains(byte)) {
            return None;
        }
        let mut fields = Vec::new();
        let mut lines = &rest[line.len()..head];
        while let Some(after) = lines.strip_prefix(b"\r\n") {
            let end = find(after, b"\r\n").unwrap_or(after.len());
            let colon = find(&after[..end], b":")?;
            let name = after[..colon].to_ascii_lowercase();
            fields.push([&name, &b":"[..], after[colon + 1..end].trim_ascii()].concat());
            lines = &after[end..];
        }
        fields.sort();
        let bytes = &rest[head + 4..];
        let end = find(bytes, b"\r\n--b")?;
        parts.push((fields, bytes[..end].to_vec()));
        rest = &bytes[end + 5..];
    }
    (rest == b"--" || rest == b"--\r\n").then_some(parts)
}

fn multipart(bodies: &[Vec<u8>; 2], leave_out: bool) -> bool {
    let read = |body: &Vec<u8>| {
        let mut parts = multipart_parts(body)?;
        let is_left_out = |(fields, _): &(Vec<Vec<u8>>, Vec<u8>)| {
            leave_out && fields.iter().any(|field| find(field, LEFT_OUT.as_bytes()).is_some())
        };
        parts.retain(|part| !is_left_out(part));
        Some(parts)
    };
    let [one, other] = bodies.each_ref().map(read);
    one.is_some() && one == other
}

fn bodies(kind: Kind, sorted: bool, leave_out: bool, bodies: &[Vec<u8>; 2]) {
    let mut fingerprints = Fingerprints::new();
    if sorted {
        fingerprints = fingerprints.sorted_json();
    }
    if leave_out {
        fingerprints = fingerprints.leave_out(LEFT_OUT);
    }
    let content_type = match kind {
        Kind::Json => "application/json",
        Kind::Form => "application/x-www-form-urlencoded",
        Kind::Multipart => "multipart/form-data; boundary=b",
        Kind::Text => "text/plain",
    };
    let [one, other] = bodies.each_ref().map(|body| print(content_type, body, &fingerprints));
    assert_eq!(one, print(content_type, &bodies[0], &fingerprints));
    if bodies[0] == bodies[1] {
        assert_eq!(one, other);
    } else if one == other {
        assert!(match kind {
            Kind::Json => json(bodies, leave_out),
            Kind::Form => form(bodies, leave_out),
            Kind::Multipart => multipart(bodies, leave_out),
            Kind::Text => false,
        });
    }
}

/// Writes a form whose names and file names were cut to what stands between quotes as it is.
fn write(form: &Form, boundary: &str) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file_name, bytes) in form {
        body.extend(format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"").bytes());
        if let Some(file_name) = file_name {
            body.extend(format!("; filename=\"{file_name}\"\r\nContent-Type: a/b").bytes());
        }
        body.extend(b"\r\n\r\n");
        body.extend(bytes);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{boundary}--\r\n").bytes());
    body
}

fn forms(mut forms: [Form; 2], boundaries: [u32; 2]) {
    for (name, file_name, _) in forms.iter_mut().flatten() {
        for text in [Some(name), file_name.as_mut()].into_iter().flatten() {
            text.retain(|character| !character.is_control() && !"\"\\".contains(character));
        }
    }
    if forms.iter().any(|form| form.len() > 1000) {
        return;
    }
    let [one, other] = [0, 1].map(|at| {
        // Longer than what stands in a field by chance.
        let boundary = format!("----boundary{:08x}{:08x}", boundaries[at], !boundaries[at]);
        let content_type = format!("multipart/form-data; boundary={boundary}");
        print(&content_type, &write(&forms[at], &boundary), &Fingerprints::new())
    });
    // The field of the key is left out, whatever it holds.
    let [left, right] = forms
        .each_ref()
        .map(|form| form.iter().filter(|(name, ..)| name != "key"));
    assert_eq!(one == other, left.eq(right));
}

fuzz_target!(|input: Input| match input {
    Input::Bodies {
        kind,
        sorted,
        leave_out,
        bodies,
    } => self::bodies(kind, sorted, leave_out, &bodies),
    Input::Forms { forms, boundaries } => self::forms(forms, boundaries),
});
