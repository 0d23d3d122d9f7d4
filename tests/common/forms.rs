//! Forms as browsers send them, each in any of the ways that mean the same.

use std::fmt::Write;

/// A field of a form.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    name: String,
    file_name: Option<String>,
    bytes: Vec<u8>,
}

impl Field {
    pub fn text(name: &str, text: &str) -> Self {
        Self {
            name: name.to_owned(),
            file_name: None,
            bytes: text.into(),
        }
    }

    pub fn file(name: &str, file_name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            name: name.to_owned(),
            file_name: Some(file_name.to_owned()),
            bytes: bytes.into(),
        }
    }
}

/// Returns the body of a `multipart/form-data` request.
pub fn multipart(boundary: &str, fields: &[Field]) -> Vec<u8> {
    let mut body = Vec::new();
    for field in fields {
        let mut head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"",
            field.name
        );
        if let Some(file_name) = &field.file_name {
            let _ = write!(head, "; filename=\"{file_name}\"\r\nContent-Type: image/png");
        }
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(b"\r\n\r\n");
        body.extend_from_slice(&field.bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    body
}

/// Returns the body of a URL-encoded request, in which what need not be encoded is or is not.
#[allow(dead_code, reason = "not all tests send such forms")]
pub fn urlencoded(fields: &[Field], dice: &mut fastrand::Rng) -> String {
    let mut encode = |bytes: &[u8]| {
        let mut text = String::new();
        for &byte in bytes {
            match byte {
                b' ' if dice.bool() => text.push('+'),
                byte if byte.is_ascii_alphanumeric() && dice.bool() => text.push(char::from(byte)),
                byte if dice.bool() => _ = write!(text, "%{byte:02X}"),
                byte => _ = write!(text, "%{byte:02x}"),
            }
        }
        text
    };
    let pairs: Vec<_> = fields
        .iter()
        .map(|field| format!("{}={}", encode(field.name.as_bytes()), encode(&field.bytes)))
        .collect();
    pairs.join("&")
}
