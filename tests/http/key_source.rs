//! Promise 17: a key is looked for under the names that were set, within the limits that were set, and its error says so.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::forms::{Field, multipart};
use bytes::Bytes;
use futures::executor::block_on;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};

use oneflight::http::{BodyFormat, IDEMPOTENCY_KEY, KEY_FIELD, KeyError, KeyPlace, KeySource, Problem, find_key};
use oneflight::identity::{IdempotencyKey, IdentityError};

const ALIAS: HeaderName = HeaderName::from_static("x-idempotency-key");
const FORM: &str = "application/x-www-form-urlencoded";

fn with(headers: &[(HeaderName, &str)]) -> HeaderMap {
    let mut all = HeaderMap::new();
    for (name, value) in headers {
        all.append(name, HeaderValue::from_str(value).unwrap());
    }
    all
}

type Found = Result<Option<String>, KeyError>;

fn text(found: Result<Option<IdempotencyKey>, KeyError>) -> Found {
    found.map(|key| key.map(String::from))
}

fn in_headers(source: &KeySource, headers: &[(HeaderName, &str)]) -> Found {
    text(source.of_headers(&with(headers)))
}

fn in_body(source: &KeySource, content_type: &str, body: impl AsRef<[u8]>) -> Found {
    let body = Bytes::copy_from_slice(body.as_ref());
    text(block_on(source.find(&with(&[(CONTENT_TYPE, content_type)]), &body)))
}

fn in_parts(source: &KeySource, parts: &[Field]) -> Found {
    in_body(source, "multipart/form-data; boundary=b", multipart("b", parts))
}

#[test]
fn headers_that_agree_are_one_key() {
    let source = KeySource::new().alias(ALIAS).alias(ALIAS).alias(IDEMPOTENCY_KEY);
    assert_eq!(source.names().collect::<Vec<_>>(), [&IDEMPOTENCY_KEY, &ALIAS]);
    for headers in [
        &[(IDEMPOTENCY_KEY, "k-1")][..],
        &[(ALIAS, "k-1")],
        &[(ALIAS, "k-1"), (IDEMPOTENCY_KEY, "\"k-1\"")],
    ] {
        assert_eq!(in_headers(&source, headers).unwrap().as_deref(), Some("k-1"));
    }
    assert_eq!(in_headers(&source, &[]).unwrap(), None);
    assert_eq!(in_headers(&KeySource::new(), &[(ALIAS, "k-1")]).unwrap(), None);
}

#[test]
fn headers_that_differ_are_refused_and_so_is_one_that_is_not_valid() {
    let source = KeySource::new().alias(ALIAS);
    let error = in_headers(&source, &[(ALIAS, "k-1"), (IDEMPOTENCY_KEY, "k-2")]).unwrap_err();
    let KeyError::Differ { one, other } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*one, KeyPlace::Header(IDEMPOTENCY_KEY));
    assert_eq!(*other, KeyPlace::Header(ALIAS));
    assert!(
        error
            .to_string()
            .contains("the Idempotency-Key header and the X-Idempotency-Key header"),
        "{error}"
    );
    let place = |error: KeyError| match error {
        KeyError::Repeated { place } | KeyError::Invalid { place, .. } | KeyError::Unquoted { place } => place,
        other => panic!("{other:?}"),
    };
    for headers in [
        &[(ALIAS, "k-1"), (ALIAS, "k-1"), (IDEMPOTENCY_KEY, "k-1")][..],
        &[(ALIAS, ""), (IDEMPOTENCY_KEY, "k-1")],
        &[(ALIAS, "k-1, k-1"), (IDEMPOTENCY_KEY, "k-1")],
    ] {
        let error = in_headers(&source, headers).unwrap_err();
        assert_eq!(place(error), KeyPlace::Header(ALIAS));
    }
}

#[test]
fn strict_accepts_quoted_keys_only() {
    let strict = KeySource::new().alias(ALIAS).strict().field(KEY_FIELD);
    assert_eq!(
        in_headers(&strict, &[(IDEMPOTENCY_KEY, "\"k-1\"")]).unwrap().as_deref(),
        Some("k-1")
    );
    for name in [IDEMPOTENCY_KEY, ALIAS] {
        for bare in ["k-1", "", "k 1", "'k-1'", ":azE=:"] {
            let error = in_headers(&strict, &[(name.clone(), bare)]).unwrap_err();
            assert!(
                matches!(&error, KeyError::Bare { place: KeyPlace::Header(bad) } if *bad == name),
                "{error:?}"
            );
        }
    }
    // A field of a body has no quotes of its own.
    assert_eq!(
        in_body(&strict, FORM, "idempotency_key=k-1").unwrap().as_deref(),
        Some("k-1")
    );
}

#[test]
fn length_and_characters_can_be_limited() {
    let limited = KeySource::new()
        .field(KEY_FIELD)
        .max_bytes(4)
        .alphabet(|character| character.is_ascii_hexdigit());
    assert_eq!(
        in_headers(&limited, &[(IDEMPOTENCY_KEY, "a7f3")]).unwrap().as_deref(),
        Some("a7f3")
    );
    let too_long = |found: Found| {
        let error = found.unwrap_err();
        assert!(error.to_string().contains("up to 4 bytes"), "{error}");
        assert!(matches!(
            error,
            KeyError::Invalid {
                source: IdentityError::KeyTooLong { bytes: 5, limit: 4 },
                ..
            }
        ));
    };
    let other_letters = |found: Found| {
        let error = found.unwrap_err();
        assert!(matches!(error, KeyError::Alphabet { position: 2, .. }), "{error:?}");
        assert!(!error.to_string().contains("a7g"), "{error}");
    };
    for (key, check) in [("a7f30", &too_long as &dyn Fn(Found)), ("a7g3", &other_letters)] {
        check(in_headers(&limited, &[(IDEMPOTENCY_KEY, key)]));
        check(in_headers(&limited, &[(IDEMPOTENCY_KEY, &format!("\"{key}\""))]));
        check(in_body(&limited, FORM, format!("idempotency_key={key}")));
        check(in_body(
            &limited,
            "application/json",
            format!("{{\"idempotency_key\":\"{key}\"}}"),
        ));
        check(in_parts(&limited, &[Field::text(KEY_FIELD, key)]));
    }
}

#[test]
fn limits_that_make_no_sense_are_the_nearest_that_do() {
    let none = KeySource::new().max_bytes(0);
    assert_eq!(
        in_headers(&none, &[(IDEMPOTENCY_KEY, "k")]).unwrap().as_deref(),
        Some("k")
    );
    assert!(in_headers(&none, &[(IDEMPOTENCY_KEY, "kk")]).is_err());
    let any = KeySource::new().max_bytes(usize::MAX).alphabet(|_| true);
    let longest = "k".repeat(IdempotencyKey::MAX_BYTES);
    assert_eq!(
        in_headers(&any, &[(IDEMPOTENCY_KEY, &longest)]).unwrap(),
        Some(longest.clone())
    );
    for invalid in [longest + "k", "\"k \"".to_owned()] {
        let error = in_headers(&any, &[(IDEMPOTENCY_KEY, &invalid)]).unwrap_err();
        assert!(matches!(error, KeyError::Invalid { .. }), "{error:?}");
    }
}

#[test]
fn a_field_of_ones_own_is_found_in_every_format() {
    let source = KeySource::new().field("order_key");
    assert_eq!(source.field_name(), Some("order_key"));
    for (content_type, body) in [
        (FORM, "item=tea&order_key=k-1&idempotency_key=x"),
        ("application/json", r#"{"idempotency_key":"x","order_key":"k-1"}"#),
    ] {
        assert_eq!(in_body(&source, content_type, body).unwrap().as_deref(), Some("k-1"));
    }
    let parts = [
        Field::text("item", "tea"),
        Field::text("order_key", "k-1"),
        Field::file("photo", "order_key", b"k-2".as_slice()),
    ];
    assert_eq!(in_parts(&source, &parts).unwrap().as_deref(), Some("k-1"));
    // By its usual name as well, without settings of one's own.
    let headers = with(&[(CONTENT_TYPE, "multipart/form-data; boundary=b")]);
    let body = multipart("b", &[Field::text(KEY_FIELD, "k-1")]);
    assert_eq!(text(find_key(&headers, &body)).unwrap().as_deref(), Some("k-1"));
    // Without a field, a body carries none.
    assert_eq!(in_parts(&KeySource::new(), &parts).unwrap(), None);
    assert_eq!(in_body(&KeySource::new(), "application/json", "{").unwrap(), None);
}

#[test]
fn a_multipart_field_is_one_text() {
    let source = KeySource::new().field(KEY_FIELD);
    let key = Field::text(KEY_FIELD, "k-1");
    let multipart_place = KeyPlace::Multipart(KEY_FIELD.into());
    assert_eq!(in_parts(&source, &[]).unwrap(), None);
    assert_eq!(in_parts(&source, &[Field::text("item", "tea")]).unwrap(), None);
    assert!(matches!(
        in_parts(&source, &[key.clone(), key.clone()]),
        Err(KeyError::Repeated { place }) if place == multipart_place
    ));
    assert!(matches!(
        in_parts(&source, &[Field::file(KEY_FIELD, "k.txt", b"k-1".as_slice())]),
        Err(KeyError::NotAString { place }) if place == multipart_place
    ));
    for invalid in ["", " k-1", "k\r\n1", "é"] {
        assert!(
            matches!(
                in_parts(&source, &[Field::text(KEY_FIELD, invalid)]),
                Err(KeyError::Invalid { .. })
            ),
            "{invalid:?}"
        );
    }
    let whole = String::from_utf8(multipart("b", &[key])).unwrap();
    for (content_type, body) in [
        ("multipart/form-data", &*whole),
        ("multipart/form-data; boundary=\"\"", &whole),
        ("multipart/form-data; boundary=c", &whole),
        ("multipart/form-data; boundary=b", &whole[..whole.len() - 4]),
        ("multipart/form-data; boundary=b", ""),
    ] {
        let error = in_body(&source, content_type, body).unwrap_err();
        assert!(
            matches!(
                error,
                KeyError::Body {
                    format: BodyFormat::Multipart,
                    ..
                }
            ),
            "{content_type}"
        );
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("k-1") && !shown.contains(KEY_FIELD), "{shown}");
        assert_eq!(Problem::from(error).status(), 400);
    }
    let many = vec![Field::text("a", ""); 1025];
    assert!(in_parts(&source, &many).unwrap_err().to_string().contains("1024 parts"));
}

#[test]
fn only_bodies_that_can_carry_the_key_are_asked_for() {
    let source = KeySource::new().field(KEY_FIELD);
    let formats = [
        FORM,
        "application/json",
        "application/a+json",
        "multipart/form-data; boundary=b",
    ];
    for content_type in formats {
        let headers = with(&[(CONTENT_TYPE, content_type)]);
        assert!(source.is_in_body_of(&headers), "{content_type}");
        assert!(!KeySource::new().is_in_body_of(&headers), "{content_type}");
        let encoded = with(&[(CONTENT_TYPE, content_type), (CONTENT_ENCODING, "gzip")]);
        assert!(!source.is_in_body_of(&encoded), "{content_type}");
        // It is not looked into, whatever it looks like.
        let body = Bytes::from_static(b"idempotency_key=k-1");
        assert_eq!(text(block_on(source.find(&encoded, &body))).unwrap(), None);
    }
    for other in ["text/plain", "application/octet-stream", ""] {
        assert!(!source.is_in_body_of(&with(&[(CONTENT_TYPE, other)])), "{other}");
    }
    assert!(!source.is_in_body_of(&HeaderMap::new()));
}

#[test]
fn a_header_of_a_mebibyte_is_refused_and_never_repeated() {
    let long = "k".repeat(1 << 20);
    for value in [
        long.clone(),
        format!("\"{long}\""),
        format!("\"{long}"),
        format!("\"k\";{long}=\"{long}"),
    ] {
        let error = in_headers(&KeySource::new(), &[(IDEMPOTENCY_KEY, &value)]).unwrap_err();
        let shown = format!("{error} {error:?} {}", Problem::from(error.clone()));
        assert!(shown.len() < 2000 && !shown.contains("kkk"), "{}", &shown[..2000]);
    }
}

#[test]
fn errors_name_the_places_that_were_set() {
    let missing = |source: KeySource| source.missing().to_string();
    let says = |text: String, places: &str| assert!(text.contains(&format!("send one in {places}. ")), "{text}");
    says(missing(KeySource::new()), "the Idempotency-Key header");
    says(
        missing(KeySource::new().alias(ALIAS)),
        "the Idempotency-Key header or the X-Idempotency-Key header",
    );
    says(
        missing(KeySource::new().alias(ALIAS).field("order_key")),
        "the Idempotency-Key header, the X-Idempotency-Key header, or in the field order_key of a JSON or form body",
    );
    let source = KeySource::new().alias(ALIAS).field("order_key");
    for (error, place) in [
        (
            in_headers(&source, &[(ALIAS, "")]),
            "the X-Idempotency-Key header is not valid",
        ),
        (
            in_headers(&source, &[(ALIAS, "\"")]),
            "the X-Idempotency-Key header is not a quoted",
        ),
        (
            in_headers(&source, &[(ALIAS, "k 1")]),
            "the X-Idempotency-Key header has no quotes",
        ),
        (
            in_body(&source, FORM, "order_key="),
            "the field order_key of the form is not valid",
        ),
        (
            in_body(&source, "application/json", r#"{"order_key":1}"#),
            "the member order_key of the JSON body is not a string",
        ),
        (
            in_parts(&source, &[Field::text("order_key", "")]),
            "the field order_key of the multipart form is not valid",
        ),
        (
            in_body(&source, "application/json", "{"),
            "the body is not valid as JSON",
        ),
    ] {
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with(place), "{error}");
    }
}
