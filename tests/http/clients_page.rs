//! What the draft has a resource publish (section 2.5.2), made from the layer's settings: a page for people, and a fragment of
//! OpenAPI for generators.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use oneflight::http::layer::{Dialect, IdempotencyLayer, Recording, Requirement};
use oneflight::http::{Fingerprints, KeySource, kind};
use oneflight::idempotency::IdempotencyBuilder;
use oneflight::{Fingerprint, Idempotency, MemoryStore, Scope};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::Value;

fn over(set: impl FnOnce(IdempotencyBuilder<MemoryStore>) -> IdempotencyBuilder<MemoryStore>) -> IdempotencyLayer {
    IdempotencyLayer::new(set(Idempotency::builder(MemoryStore::new())).build()).unscoped()
}

fn layer() -> IdempotencyLayer {
    over(|builder| builder)
}

#[track_caller]
fn says(layer: &IdempotencyLayer, sentences: &[&str]) {
    let page = layer.client_page();
    for sentence in sentences {
        assert!(page.contains(sentence), "{sentence:?} is missing:\n{page}");
    }
}

#[test]
fn the_page_for_clients_states_the_retention() {
    says(
        &layer(),
        &["An answer is kept for 24 hours.", "After that the key is new"],
    );
    for (seconds, words) in [
        (90, "90 seconds"),
        (60, "1 minute"),
        (3600, "1 hour"),
        (7 * 86_400, "7 days"),
    ] {
        let layer = over(|builder| builder.retention(Duration::from_secs(seconds)));
        says(&layer, &[&format!("An answer is kept for {words}.")]);
    }
}

#[test]
fn the_page_for_clients_says_what_is_covered_and_how_keys_look() {
    let plain = layer();
    says(
        &plain,
        &[
            "Requests with the methods `POST` and `PATCH`. A key is optional.",
            "It stands in the header `Idempotency-Key`, once.",
            "Without quotes it is the same key.",
            "It has 1 to 255 of these characters: printable ASCII.",
            "for one method and one route",
            "JSON is compared as it is sent",
            "up to 2097152 bytes, and take up to 30 seconds",
            "A further one with the same key waits for it",
            "executed by another process of the service, the wait is up to 15 seconds",
            "Every answer, also one that reports a failure, but for 425, 429 and 503",
            "`Idempotency-Origin`",
        ],
    );
    let keys = KeySource::new()
        .alias(HeaderName::from_static("x-idempotency-key"))
        .field("order_key")
        .strict()
        .max_bytes(36)
        .alphabet(|character| character.is_ascii_hexdigit() || character == '-');
    let fingerprints = Fingerprints::new()
        .header(HeaderName::from_static("api-version"))
        .leave_out("csrf_token")
        .sorted_json();
    let set = over(|builder| builder.wait(Duration::from_secs(40)))
        .required()
        .methods([Method::POST, Method::PATCH, Method::DELETE])
        .scope(|_| Some(Scope::new("tenant-7")))
        .keys(keys)
        .fingerprints(fingerprints)
        .wait(Duration::ZERO)
        .recording(Recording::successes())
        .max_request_bytes(1000)
        .request_time(Duration::from_millis(1500))
        .documentation("https://shop.example/keys");
    says(
        &set,
        &[
            "`POST`, `PATCH` and `DELETE`. A key is required.",
            "the header `Idempotency-Key` or `X-Idempotency-Key`, or in the field `order_key` of a JSON or form body, once.",
            "In a header it is a string in double quotes",
            "It has 1 to 36 of these characters: `\\-0-9A-Fa-f`.",
            "It is valid for you, one method and one route.",
            "The members of JSON objects may stand in any order",
            "Also compared: the headers `Api-Version`, `If-Match` and `If-Unmodified-Since`.",
            "Not compared: the fields `csrf_token`.",
            "up to 1000 bytes, and take up to 1.5s",
            "is answered with a 409 at once",
            "the wait is up to 40 seconds",
            "Every answer below 400.",
            "See also <https://shop.example/keys>.",
        ],
    );
    assert!(!set.client_page().contains("Without quotes"));
    says(
        &layer().wait(Duration::from_secs(5)).when(|_| Requirement::Required),
        &[
            "Whether a key is required, or has no effect, is said with each operation.",
            "waits for up to 5 seconds, and is then answered with a 409",
        ],
    );
    says(
        &layer().key(|_, _| None::<String>),
        &["What the key of a request is, is said with each operation."],
    );
    says(
        &layer().fingerprint(|_, body| Ok(Fingerprint::of(body))),
        &["What is compared is said with each operation."],
    );
}

/// The rows of the table in the module `kind`: name, status, effect and advice.
fn documented() -> Vec<[String; 4]> {
    let source = include_str!("../../src/http/kind.rs");
    let rows = source.lines().filter_map(|line| line.strip_prefix("//! | [`"));
    let rows: Vec<_> = rows
        .map(|row| {
            let plain = row.replace("[`", "").replace("`]", "");
            let cells: Vec<_> = plain.trim_end_matches('|').split('|').map(str::trim).collect();
            [cells[0], cells[1], cells[2], cells[3]].map(str::to_owned)
        })
        .collect();
    assert_eq!(rows.len(), 16, "{rows:#?}");
    rows
}

#[test]
fn the_page_for_clients_lists_every_problem_of_the_layer() {
    let scoped = layer().scope(|_| Some(Scope::new("tenant-7")));
    let page = scoped.client_page();
    let row = |name: &str| {
        let uri = kind::KEY_MISSING.replace("KEY_MISSING", name);
        let begin = format!("| <{uri}> | ");
        let row = page.lines().find_map(|line| line.strip_prefix(&begin));
        row.map(|row| row.split('|').map(str::trim).map(str::to_owned).collect::<Vec<_>>())
    };
    for [name, status, effect, advice] in documented() {
        if name == "MEDIA_TYPE" {
            assert_eq!(row(&name), None, "it is a handler's");
            continue;
        }
        let cells = row(&name).unwrap_or_else(|| panic!("{name} is missing:\n{page}"));
        assert_eq!(cells[0], status, "{name}");
        assert!(!cells[1].is_empty(), "{name}");
        assert_eq!(cells[2], effect, "{name}");
        assert_eq!(cells[3].replace('`', ""), advice.replace('`', ""), "{name}");
    }
    // Without a scope nobody is asked who they are.
    assert!(!layer().client_page().contains("PRINCIPAL_MISSING"));

    // Where clients get Stripe's errors, these are listed.
    let stripe = layer().dialect(Dialect::Stripe);
    says(
        &stripe,
        &[
            "| `key_reused` | 400 | ",
            "| `idempotency_key_in_use` | 409 | ",
            "Idempotent-Replayed",
        ],
    );
    assert!(!stripe.client_page().contains("problem+json"));

    // Where they get gRPC's, its codes.
    let grpc = layer().dialect(Dialect::Grpc);
    says(&grpc, &["`grpc-status`", "| 3 | ", "| 9 | ", "| 14 | "]);
    assert!(!grpc.client_page().contains("problem+json"));
    assert_eq!(grpc.openapi()["components"]["responses"], serde_json::json!({}));
}

/// Every `$ref` below a value.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(to)) = members.get("$ref") {
                found.push(to.clone());
            }
            members.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn the_openapi_fragment_describes_the_header_and_its_answers() {
    for dialect in [Dialect::Draft, Dialect::Stripe] {
        let fragment = layer().dialect(dialect).openapi();
        let mut found = Vec::new();
        references(&fragment, &mut found);
        assert!(found.len() > 5, "{found:?}");
        for to in found {
            let pointer = to.strip_prefix('#').unwrap();
            assert!(fragment.pointer(pointer).is_some(), "{to} leads nowhere");
        }
    }
    let alias = KeySource::new().alias(HeaderName::from_static("x-idempotency-key"));
    let fragment = layer().required().openapi();
    let components = &fragment["components"];
    let key = &components["parameters"]["Idempotency-Key"];
    assert_eq!(
        (&key["name"], &key["in"], &key["required"]),
        (&"Idempotency-Key".into(), &"header".into(), &true.into())
    );
    assert_eq!(
        layer().openapi()["components"]["parameters"]["Idempotency-Key"]["required"],
        false
    );
    // One of two headers is enough, which a parameter cannot say.
    let two = layer().required().keys(alias).openapi();
    for name in ["Idempotency-Key", "X-Idempotency-Key"] {
        assert_eq!(two["components"]["parameters"][name]["required"], false, "{name}");
    }

    let responses: Vec<_> = components["responses"].as_object().unwrap().keys().collect();
    let expected = ["400", "408", "409", "413", "422", "500", "503"].map(|status| format!("Idempotency{status}"));
    assert_eq!(responses, expected.iter().collect::<Vec<_>>());
    let narrowed = |status: u16| {
        let response = &components["responses"][format!("Idempotency{status}")];
        let schema = &response["content"]["application/problem+json"]["schema"];
        schema["allOf"][1]["properties"]["type"]["enum"].clone()
    };
    assert_eq!(narrowed(409), serde_json::json!([kind::IN_PROGRESS, kind::IN_DOUBT]));
    assert_eq!(narrowed(422), serde_json::json!([kind::KEY_REUSED]));
    for (status, comes_back) in [(400, false), (409, true), (422, false), (503, true)] {
        let response = &components["responses"][format!("Idempotency{status}")];
        assert_eq!(response["headers"]["Retry-After"].is_object(), comes_back, "{status}");
    }
    let stripes = layer().dialect(Dialect::Stripe).openapi();
    assert!(stripes["components"]["responses"]["Idempotency422"].is_null());
    let schema = &stripes["components"]["responses"]["Idempotency400"]["content"]["application/json"]["schema"];
    let codes = &schema["allOf"][1]["properties"]["error"]["properties"]["code"]["enum"];
    assert!(codes.as_array().unwrap().contains(&"key_reused".into()), "{codes}");
}

#[test]
fn what_fits_the_pattern_of_the_openapi_fragment_is_a_key() {
    let uuid = |character: char| character.is_ascii_hexdigit() || character == '-';
    let mut runner = TestRunner::deterministic();
    for keys in [
        KeySource::new(),
        KeySource::new().strict().max_bytes(3),
        KeySource::new().max_bytes(1),
        KeySource::new().max_bytes(36).alphabet(uuid),
        KeySource::new().alphabet(|character| "\\ ^-]\"ab".contains(character)),
    ] {
        let fragment = layer().keys(keys.clone()).openapi();
        let pattern = &fragment["components"]["parameters"]["Idempotency-Key"]["schema"]["pattern"];
        let pattern = pattern.as_str().unwrap();
        let inside = pattern
            .strip_prefix('^')
            .and_then(|rest| rest.strip_suffix('$'))
            .unwrap();
        let strings = proptest::string::string_regex(inside).unwrap();
        for _ in 0..500 {
            let value = strings.new_tree(&mut runner).unwrap().current();
            let mut headers = HeaderMap::new();
            headers.insert("idempotency-key", HeaderValue::try_from(&value).unwrap());
            let key = keys.of_headers(&headers);
            assert!(matches!(key, Ok(Some(_))), "{pattern}: {value:?}: {key:?}");
        }
    }
}
