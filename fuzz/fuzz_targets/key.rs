//! Everything that names a request and comes from strangers: idempotency keys, scopes, identities, fingerprints, correlation
//! ids, and the `Idempotency-Key` header with any bytes that HTTP lets through, once or several times.

#![no_main]

use arbitrary::Arbitrary;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use oneflight::http::{
    CorrelationId, IDEMPOTENCY_KEY, KeyError, KeyPlace, TRACEPARENT, X_CORRELATION_ID, X_REQUEST_ID, find_key,
    header_key, require_key,
};
use oneflight::identity::{Fingerprint, IdempotencyKey, IdentityError, RequestIdentity, Scope};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

#[derive(Arbitrary, Debug)]
enum Input {
    Key(String),
    Header(Vec<Vec<u8>>),
    /// A quoted key, with what may stand around it.
    Quoted {
        text: String,
        before: u8,
        after: Vec<u8>,
    },
    Identities([Names; 2]),
    Fingerprint(String),
    Digest([u8; 32]),
    Parts([Vec<(Vec<u8>, Vec<u8>)>; 2]),
    Correlation(Vec<Vec<u8>>, Vec<Vec<u8>>),
}

#[derive(Arbitrary, Debug, PartialEq)]
struct Names {
    namespace: String,
    route: Option<String>,
    user: Option<String>,
    key: String,
}

fn is_key(text: &str) -> bool {
    let printable = text.chars().all(|character| (' '..='~').contains(&character));
    printable && (1..=255).contains(&text.len()) && !text.starts_with(' ') && !text.ends_with(' ')
}

fn key(text: &str) {
    let key = IdempotencyKey::new(text);
    assert_eq!(key.is_ok(), is_key(text));
    assert_eq!(text.parse(), key);
    let json = serde_json::to_string(text).expect("a text");
    match key {
        Ok(key) => {
            assert_eq!(key.as_str(), text);
            assert_eq!(serde_json::from_str::<IdempotencyKey>(&json).ok().as_ref(), Some(&key));
            assert_eq!(serde_json::to_string(&key).expect("a text"), json);
            // As a structured field, and if possible as it stands, it is the same key.
            let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            let headers = headers(&[quoted.into_bytes()]);
            assert_eq!(header_key(&headers).ok().flatten().as_ref(), Some(&key));
            if !text.contains([' ', ',', ';', '"']) {
                let headers = self::headers(&[text.as_bytes().to_vec()]);
                assert_eq!(header_key(&headers).ok().flatten().as_ref(), Some(&key));
            }
        }
        Err(error) => {
            assert!(serde_json::from_str::<IdempotencyKey>(&json).is_err());
            if let IdentityError::KeyCharacter { position } = error {
                assert!(is_key(&text[..position]) || position == 0 || text[..position].ends_with(' '));
            }
        }
    }
}

fn headers(values: &[Vec<u8>]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(IDEMPOTENCY_KEY, value);
        }
    }
    headers
}

/// What stands between quotes, and what comes after; `None` if it is no string of RFC 8941.
fn unquote(bytes: &[u8]) -> Option<(String, &[u8])> {
    let mut rest = bytes.strip_prefix(b"\"")?;
    let mut text = String::new();
    loop {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        match byte {
            b'"' => return Some((text, rest)),
            b'\\' => {
                let (&escaped, after) = rest.split_first()?;
                rest = after;
                if escaped != b'"' && escaped != b'\\' {
                    return None;
                }
                text.push(char::from(escaped));
            }
            b' '..=b'~' => text.push(char::from(byte)),
            _ => return None,
        }
    }
}

fn header(values: &[Vec<u8>]) {
    let headers = headers(values);
    let found = header_key(&headers);
    let known: Vec<&[u8]> = headers
        .get_all(IDEMPOTENCY_KEY)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    match known[..] {
        [] => assert!(matches!(found, Ok(None))),
        [value] => one_value(value, &found),
        _ => assert!(matches!(
            found,
            Err(KeyError::Repeated {
                place: KeyPlace::Header(_)
            })
        )),
    }
    let required = require_key(&headers, b"");
    match (found, find_key(&headers, b"")) {
        (Ok(found), Ok(again)) => {
            assert_eq!(found, again);
            match required {
                Err(error) => assert!(found.is_none() && matches!(error, KeyError::Missing { .. })),
                Ok(key) => assert_eq!(found, Some(key)),
            }
        }
        (Err(_), Err(error)) => {
            assert!(required.is_err());
            let _ = error.to_string();
        }
        (found, again) => panic!("{found:?}, and then {again:?}"),
    }
}

fn one_value(value: &[u8], found: &Result<Option<IdempotencyKey>, KeyError>) {
    let value = value.trim_ascii();
    let expected = if value.starts_with(b"\"") {
        match unquote(value) {
            None => return assert!(matches!(found, Err(KeyError::Quoting { .. }))),
            // Parameters: well formed or not, they change nothing about the key.
            Some((text, rest)) if rest.starts_with(b";") => {
                if matches!(found, Err(KeyError::Quoting { .. })) {
                    return;
                }
                text
            }
            Some((text, b"")) => text,
            Some(_) => return assert!(matches!(found, Err(KeyError::Quoting { .. }))),
        }
    } else {
        let plain = |byte: &u8| (b'!'..=b'~').contains(byte) && !b",;\"".contains(byte);
        if !value.iter().all(plain) {
            return assert!(matches!(found, Err(KeyError::Unquoted { .. })));
        }
        value.iter().copied().map(char::from).collect()
    };
    match found {
        Ok(Some(key)) => assert_eq!((key.as_str(), true), (&*expected, is_key(&expected))),
        Err(KeyError::Invalid { place, .. }) => {
            assert!(*place == KeyPlace::Header(IDEMPOTENCY_KEY) && !is_key(&expected))
        }
        other => panic!("{other:?}"),
    }
}

impl Names {
    fn scope(&self) -> Scope {
        let mut scope = Scope::new(&*self.namespace);
        if let Some(route) = &self.route {
            scope = scope.route(&**route);
        }
        if let Some(user) = &self.user {
            scope = scope.user(&**user);
        }
        scope
    }

    /// Reads the canonical form back.
    fn read(id: &RequestIdentity) -> Self {
        let plain = |text: &str| text.replace("%7C", "|").replace("%3D", "=").replace("%25", "%");
        let mut parts = id.scope().split('|');
        let mut names = Self {
            namespace: plain(parts.next().expect("there is always one")),
            route: None,
            user: None,
            key: id.key().to_owned(),
        };
        for part in parts {
            match part.split_once('=') {
                Some(("route", route)) => names.route = Some(plain(route)),
                Some(("user", user)) => names.user = Some(plain(user)),
                other => panic!("{other:?}"),
            }
        }
        names
    }
}

fn identities(names: [Names; 2]) {
    let ids = names
        .each_ref()
        .map(|names| RequestIdentity::new(names.scope(), &*names.key));
    for (names, id) in names.iter().zip(&ids) {
        let parts = [Some(&names.namespace), names.route.as_ref(), names.user.as_ref()];
        let is_part = |part: &&String| !part.is_empty() && !part.chars().any(char::is_control);
        let valid = parts.iter().flatten().all(is_part) && is_key(&names.key);
        match id {
            Ok(id) => {
                assert!(valid && id.scope().len() <= Scope::MAX_BYTES);
                assert_eq!(Names::read(id), *names);
            }
            Err(IdentityError::ScopeTooLong { bytes, limit }) => assert!(bytes > limit),
            Err(_) => assert!(!valid),
        }
    }
    if let [Ok(one), Ok(other)] = &ids {
        assert_eq!(one == other, names[0] == names[1]);
        let hashes = BuildHasherDefault::<DefaultHasher>::default();
        assert!(one != other || hashes.hash_one(one) == hashes.hash_one(other));
    }
}

fn correlation(headers: &HeaderMap) {
    let usable = |name| {
        let values: Vec<_> = headers.get_all(name).iter().collect();
        let [value] = values[..] else { return None };
        let visible = value.as_bytes().iter().all(|byte| (b'!'..=b'~').contains(byte));
        (visible && (1..=CorrelationId::MAX_BYTES).contains(&value.len())).then_some(value)
    };
    let id = CorrelationId::from_headers(headers);
    match usable(X_CORRELATION_ID).or_else(|| usable(X_REQUEST_ID)) {
        Some(value) => assert_eq!(id.as_str().as_bytes(), value.as_bytes()),
        None => assert_eq!(id.as_str().len(), 36),
    }
    assert_eq!(id.to_header_value().as_bytes(), id.as_str().as_bytes());
}

/// Whatever stands in `traceparent`, the id is the trace id in it or a new one.
fn trace(values: &[Vec<u8>]) {
    let mut headers = HeaderMap::new();
    for value in values.iter().filter_map(|value| HeaderValue::from_bytes(value).ok()) {
        headers.append(TRACEPARENT, value);
    }
    let id = CorrelationId::from_headers(&headers);
    match id.as_str().len() {
        32 => assert_eq!(&headers[TRACEPARENT].as_bytes()[3..35], id.as_str().as_bytes()),
        length => assert_eq!(length, 36),
    }
}

fuzz_target!(|input: Input| match input {
    Input::Key(text) => key(&text),
    Input::Header(values) => header(&values),
    Input::Quoted { text, before, after } => {
        let quoted = format!("{}\"{text}\"", " ".repeat(usize::from(before % 3)));
        header(&[[quoted.as_bytes(), &after[..]].concat()]);
    }
    Input::Identities(names) => identities(names),
    Input::Fingerprint(text) => {
        let hexadecimal = text.len() == 64 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        match text.parse::<Fingerprint>() {
            Ok(fingerprint) => assert_eq!(
                (fingerprint.to_string(), true),
                (text.to_ascii_lowercase(), hexadecimal)
            ),
            Err(_) => assert!(!hexadecimal),
        }
    }
    Input::Digest(digest) => {
        let fingerprint = Fingerprint::from_digest(digest);
        assert_eq!(fingerprint.as_bytes(), &digest);
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        let json = serde_json::to_string(&fingerprint).expect("a text");
        assert_eq!(serde_json::from_str::<Fingerprint>(&json).ok(), Some(fingerprint));
    }
    Input::Parts(lists) => {
        let [one, other] = lists.each_ref().map(|parts| {
            let add = |builder: oneflight::identity::FingerprintBuilder, (name, value): &(Vec<u8>, Vec<u8>)| {
                builder.part(name, value)
            };
            parts.iter().fold(Fingerprint::builder(), add).build()
        });
        assert_eq!(one == other, lists[0] == lists[1]);
    }
    Input::Correlation(requests, correlations) => {
        trace(&requests);
        let mut headers = HeaderMap::new();
        for (name, values) in [(X_REQUEST_ID, requests), (X_CORRELATION_ID, correlations)] {
            for value in values.iter().filter_map(|value| HeaderValue::from_bytes(value).ok()) {
                headers.append(&name, value);
            }
        }
        correlation(&headers);
    }
});
