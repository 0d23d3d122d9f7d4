//! Bodies and headers that are nearly right: pieces that matter, put together as the bytes say.

use arbitrary::{Arbitrary, Result, Unstructured};

pub enum Input {
    Json(Vec<u8>),
    Form(Vec<u8>),
    Request(Request),
}

pub struct Request {
    pub content_types: Vec<Vec<u8>>,
    pub keys: Vec<Vec<u8>>,
    pub body: Vec<u8>,
}

const JSON: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    " ",
    "\"idempotency_key\"",
    "\"idempotency\\u005fkey\"",
    "\"idempotency_key\":",
    "\"key\"",
    "\"a\":",
    "null",
    "true",
    "false",
    "0",
    "-1.5e3",
    "1e999",
    "\"\\ud83d\\ude00\"",
    "\"\\ud800\"",
    "\"\\n\"",
    "\"\"",
    "{\"idempotency_key\":\"order-17\"}",
    "\"order-17\"",
];

const FORM: &[&str] = &[
    "idempotency_key",
    "idempotency%5Fkey",
    "idempotency_key=",
    "&",
    "=",
    "+",
    "%20",
    "%",
    "%zz",
    "%ff",
    "order-17",
    "item=tea",
    "a=b&",
];

const TYPES: &[&str] = &[
    "application/json",
    "application/x-www-form-urlencoded",
    "Application/Problem+JSON",
    "application/json; charset=utf-8",
    "application/+json",
    "text/plain",
    " application/json ;a",
];

const KEYS: &[&str] = &[
    "order-17",
    "\"order-17\"",
    "\"order-18\";v=1",
    "order-17, order-18",
    "\"\"",
];

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.int_in_range(0..=5)? {
            0 => Self::Json(rest(u)),
            1 => Self::Json(pieces(u, JSON)?),
            2 => Self::Form(rest(u)),
            3 => Self::Form(pieces(u, FORM)?),
            _ => {
                let content_types = values(u, TYPES)?;
                let keys = values(u, KEYS)?;
                let body = match u.int_in_range(0..=2)? {
                    0 => rest(u),
                    1 => pieces(u, JSON)?,
                    _ => pieces(u, FORM)?,
                };
                Self::Request(Request {
                    content_types,
                    keys,
                    body,
                })
            }
        })
    }
}

fn rest(u: &mut Unstructured<'_>) -> Vec<u8> {
    let length = u.len();
    u.bytes(length).unwrap_or_default().to_vec()
}

/// Pieces one after the other, and now and then a byte of one's own.
fn pieces(u: &mut Unstructured<'_>, known: &[&str]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    while !u.is_empty() {
        match usize::from(u.arbitrary::<u8>()?) {
            piece if piece < 8 * known.len() => text.extend(known[piece % known.len()].bytes()),
            _ => text.push(u.arbitrary()?),
        }
    }
    Ok(text)
}

/// Mostly one value, mostly one that is known.
fn values(u: &mut Unstructured<'_>, known: &[&str]) -> Result<Vec<Vec<u8>>> {
    let count = *u.choose(&[1, 1, 1, 1, 0, 2])?;
    let mut values = Vec::new();
    for _ in 0..count {
        values.push(match u.int_in_range(0..=7)? {
            0 => u.arbitrary()?,
            _ => u.choose(known)?.bytes().collect(),
        });
    }
    Ok(values)
}

/// As text, which is what a reader wants to see of a failure.
impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Json(body) => write!(f, "JSON {}", body.escape_ascii()),
            Self::Form(body) => write!(f, "form {}", body.escape_ascii()),
            Self::Request(request) => {
                let text = |values: &[Vec<u8>]| {
                    values
                        .iter()
                        .map(|value| value.escape_ascii().to_string())
                        .collect::<Vec<_>>()
                };
                f.debug_struct("Request")
                    .field("content_types", &text(&request.content_types))
                    .field("keys", &text(&request.keys))
                    .field("body", &request.body.escape_ascii().to_string())
                    .finish()
            }
        }
    }
}
