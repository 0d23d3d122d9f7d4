//! Promise 17: of what a client sends, exactly one valid key is understood, and anything else is refused.
//!
//! `http/key_source.rs` shows the same for names and limits of one's own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use oneflight::http::{
    BodyFormat, IDEMPOTENCY_KEY, KeyError, KeyPlace, find_key, form_key, header_key, json_key, require_key,
};
use proptest::prelude::*;

fn with_key(value: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_bytes(value).unwrap());
    headers
}

fn with_type(content_type: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers
}

fn header(value: &[u8]) -> Result<String, KeyError> {
    header_key(&with_key(value)).map(|key| key.unwrap().as_str().to_owned())
}

#[test]
fn a_quoted_and_a_bare_value_are_the_same_key() {
    for value in [
        "\"8e03978e-40d5\"",
        "8e03978e-40d5",
        "  \"8e03978e-40d5\"  ",
        "\"8e03978e-40d5\";attempt=2;note=\"x, y\"",
    ] {
        assert_eq!(header(value.as_bytes()).unwrap(), "8e03978e-40d5", "{value}");
    }
}

#[test]
fn escapes_in_a_quoted_value_are_undone() {
    assert_eq!(header(br#""a\"b\\c""#).unwrap(), r#"a"b\c"#);
    assert_eq!(header(br#""a, b; c""#).unwrap(), "a, b; c");
}

#[test]
fn a_bare_value_may_look_like_any_other_structured_field() {
    // Clients that do not quote do not think of structured fields at all: these are texts.
    for value in ["42", "1.5", "?1", "@17", "order:17/a", "YWJj+/=="] {
        assert_eq!(header(value.as_bytes()).unwrap(), value);
    }
}

#[test]
fn a_quoted_value_that_is_no_structured_string_is_refused() {
    for value in [
        &b"\"open"[..],
        b"\"a\" \"b\"",
        b"\"a\", \"b\"",
        b"\"a\";;",
        b"\"a\\n\"",
        b"\"a\tb\"",
        b"\"caf\xc3\xa9\"",
        b"\"",
    ] {
        assert!(
            matches!(header(value), Err(KeyError::Quoting { .. })),
            "{value:?}: {:?}",
            header(value)
        );
    }
}

#[test]
fn a_bare_value_that_could_be_read_in_two_ways_is_refused() {
    for value in [
        &b"a, b"[..],
        b"a,b",
        b"a;v=1",
        b"a b",
        b"a\"b\"",
        b"caf\xc3\xa9",
        b"\xff",
    ] {
        assert!(
            matches!(header(value), Err(KeyError::Unquoted { .. })),
            "{value:?}: {:?}",
            header(value)
        );
    }
}

#[test]
fn no_header_is_no_key_but_an_empty_one_is_an_invalid_key() {
    assert!(header_key(&HeaderMap::new()).unwrap().is_none());
    for value in [&b""[..], b"  ", b"\"\""] {
        assert!(
            matches!(
                header(value),
                Err(KeyError::Invalid {
                    place: KeyPlace::Header(_),
                    ..
                })
            ),
            "{value:?}"
        );
    }
}

#[test]
fn the_longest_key_is_accepted_and_a_longer_one_is_not() {
    let longest = "k".repeat(255);
    assert_eq!(header(longest.as_bytes()).unwrap(), longest);
    let longer = "k".repeat(256);
    let error = header(longer.as_bytes()).unwrap_err();
    assert!(matches!(error, KeyError::Invalid { .. }));
    assert!(error.to_string().contains("255"), "{error}");
    assert!(!error.to_string().contains("kkk"), "{error}");
}

#[test]
fn two_headers_are_refused_even_if_they_agree() {
    let mut headers = with_key(b"\"a\"");
    headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static("\"a\""));
    assert!(matches!(
        header_key(&headers),
        Err(KeyError::Repeated {
            place: KeyPlace::Header(_)
        })
    ));
}

#[test]
fn a_json_key_is_a_top_level_string() {
    let found = |body: &str| json_key(body.as_bytes()).map(|key| key.map(|key| key.as_str().to_owned()));
    assert_eq!(
        found(r#"{"a": [1, {"idempotency_key": "no"}], "idempotency_key": "k-1", "b": null}"#).unwrap(),
        Some("k-1".to_owned())
    );
    // Escaped names and values mean the same.
    assert_eq!(
        found(r#"{"idempotency\u005fkey": "k\u002d1"}"#).unwrap(),
        Some("k-1".to_owned())
    );
    for none in [
        "{}",
        "[]",
        r#"["idempotency_key"]"#,
        "\"idempotency_key\"",
        "17",
        "-1",
        "1.5",
        "true",
        "null",
        r#"{"idempotency_key": null}"#,
        r#"{"order": {"idempotency_key": "k-1"}}"#,
    ] {
        assert_eq!(found(none).unwrap(), None, "{none}");
    }
    for number in ["1", "true", "[\"k\"]", "{\"k\": 1}"] {
        let body = format!(r#"{{"idempotency_key": {number}}}"#);
        assert!(matches!(found(&body), Err(KeyError::NotAString { .. })), "{body}");
    }
    for twice in [
        r#"{"idempotency_key": "a", "idempotency_key": "a"}"#,
        r#"{"idempotency_key": null, "idempotency_key": "a"}"#,
        r#"{"idempotency_key": 1, "idempotency_key": "a"}"#,
    ] {
        assert!(
            matches!(
                found(twice),
                Err(KeyError::Repeated {
                    place: KeyPlace::Json(_)
                })
            ),
            "{twice}"
        );
    }
    assert!(matches!(
        found(r#"{"idempotency_key": "two\nlines"}"#),
        Err(KeyError::Invalid {
            place: KeyPlace::Json(_),
            ..
        })
    ));
}

#[test]
fn broken_json_is_an_error_and_never_a_missing_key() {
    let deep = "[".repeat(100_000);
    for body in [
        "",
        "{",
        "{]",
        r#"{"a": 1} x"#,
        r#"{"idempotency_key": "k"} {}"#,
        deep.as_str(),
    ] {
        assert!(matches!(json_key(body.as_bytes()), Err(KeyError::Body { .. })));
    }
    assert!(matches!(json_key(b"{\"a\": \"\xff\"}"), Err(KeyError::Body { .. })));
}

#[test]
fn a_form_key_is_decoded_and_stands_once() {
    let found = |body: &str| form_key(body.as_bytes()).map(|key| key.map(|key| key.as_str().to_owned()));
    assert_eq!(found("item=tea").unwrap(), None);
    assert_eq!(
        found("item=tea&idempotency%5Fkey=k%2D1").unwrap(),
        Some("k-1".to_owned())
    );
    assert!(matches!(
        found("idempotency_key=a&idempotency_key=a"),
        Err(KeyError::Repeated {
            place: KeyPlace::Form(_)
        })
    ));
    for invalid in ["idempotency_key=", "idempotency_key=%00", "idempotency_key=%ff"] {
        assert!(
            matches!(
                found(invalid),
                Err(KeyError::Invalid {
                    place: KeyPlace::Form(_),
                    ..
                })
            ),
            "{invalid}"
        );
    }
}

#[test]
fn header_and_body_may_both_carry_the_key_if_they_agree() {
    let mut headers = with_type("application/json");
    headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_static("\"k-1\""));
    let same = br#"{"idempotency_key": "k-1"}"#;
    let other = br#"{"idempotency_key": "k-2"}"#;
    assert_eq!(require_key(&headers, same).unwrap().as_str(), "k-1");
    assert_eq!(require_key(&headers, b"{}").unwrap().as_str(), "k-1");
    let error = require_key(&headers, other).unwrap_err();
    assert!(matches!(
        error,
        KeyError::Differ {
            other: KeyPlace::Json(_),
            ..
        }
    ));
    assert!(!error.to_string().contains("k-1"), "{error}");
    assert!(
        error
            .to_string()
            .contains("Idempotency-Key header and the member idempotency_key"),
        "{error}"
    );
}

#[test]
fn the_member_may_stand_beside_anything_that_is_json() {
    // Beyond the grammar, nothing is asked of what is not the key: half a surrogate pair, a number beyond `f64`, depth.
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for other in ["\"\\ud800\"", "1e999", "\"\\\"}\"", "{\"}\": \"]\"}", &deep] {
        for body in [
            format!("{{\"a\": {other}, \"idempotency_key\": \"k-1\"}}"),
            format!(" {{ \"idempotency_key\"\n:\"k-1\" , \"a\":{other} }} "),
        ] {
            assert_eq!(json_key(body.as_bytes()).unwrap().unwrap().as_str(), "k-1");
        }
    }
    for unreadable in [r#"{"\ud800": 1}"#, r#"{"idempotency_key": "\ud800"}"#] {
        assert!(
            matches!(json_key(unreadable.as_bytes()), Err(KeyError::Body { .. })),
            "{unreadable}"
        );
    }
    let member = format!("{{\"idempotency_key\": {deep}}}");
    assert!(matches!(json_key(member.as_bytes()), Err(KeyError::NotAString { .. })));
}

#[test]
fn a_body_is_read_as_its_content_type_says() {
    let form = b"idempotency_key=k-1";
    assert!(
        find_key(&with_type("application/x-www-form-urlencoded"), form)
            .unwrap()
            .is_some()
    );
    for other in ["text/plain", "multipart/mixed; boundary=x", "nonsense"] {
        assert!(find_key(&with_type(other), form).unwrap().is_none(), "{other}");
    }
    assert!(find_key(&HeaderMap::new(), form).unwrap().is_none());
    assert!(find_key(&with_type("application/json"), b"").unwrap().is_none());
    assert!(matches!(
        require_key(&with_type("application/json"), b""),
        Err(KeyError::Missing { .. })
    ));
}

#[test]
fn content_types_are_told_apart() {
    for multipart in ["multipart/form-data", "Multipart/Form-Data; boundary=b"] {
        assert_eq!(
            BodyFormat::of(&with_type(multipart)),
            Some(BodyFormat::Multipart),
            "{multipart}"
        );
    }
    for json in [
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/json;",
        "application/vnd.shop.order+json",
    ] {
        assert_eq!(BodyFormat::of(&with_type(json)), Some(BodyFormat::Json), "{json}");
    }
    for none in [
        "",
        "application/jsonp",
        "text/json",
        "application/+json",
        "json",
        ";application/json",
    ] {
        assert_eq!(BodyFormat::of(&with_type(none)), None, "{none}");
    }
    let mut twice = with_type("application/json");
    twice.append(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    assert_eq!(BodyFormat::of(&twice), None);
}

proptest! {
    #[test]
    fn whatever_the_header_holds_the_key_is_valid_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            let mut headers = HeaderMap::new();
            headers.insert(IDEMPOTENCY_KEY, value);
            if let Ok(Some(key)) = header_key(&headers) {
                let text = key.as_str();
                prop_assert!((1..=255).contains(&text.len()));
                prop_assert!(text.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            }
        }
    }

    #[test]
    fn a_key_survives_quoting(key in "[!-~]([ -~]{0,100}[!-~])?") {
        let quoted = format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
        prop_assert_eq!(header(quoted.as_bytes()).unwrap(), key);
    }

    #[test]
    fn whatever_the_body_holds_nothing_panics(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = json_key(&body);
        let _ = form_key(&body);
    }
}
