//! Promise 17: two requests have one fingerprint if, and only if, they mean the same.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::forms::{Field, multipart};
use bytes::Bytes;
use futures::executor::block_on;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use oneflight::Fingerprint;
use oneflight::http::{Fingerprints, IDEMPOTENCY_KEY, KEY_FIELD, KeySource};

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// A request to one path, in what a fingerprint can see of it.
#[derive(Clone)]
struct Request {
    headers: HeaderMap,
    body: Bytes,
}

impl Request {
    fn new(content_type: &str, body: impl AsRef<[u8]>) -> Self {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap())]);
        let body = Bytes::copy_from_slice(body.as_ref());
        Self { headers, body }
    }

    fn multipart(boundary: &str, fields: &[Field]) -> Self {
        let content_type = format!("multipart/form-data; boundary={boundary}");
        Self::new(&content_type, multipart(boundary, fields))
    }

    fn header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.append(name, HeaderValue::from_static(value));
        self
    }

    fn by(&self, fingerprints: &Fingerprints) -> Fingerprint {
        self.by_with(fingerprints, &KeySource::new())
    }

    fn by_with(&self, fingerprints: &Fingerprints, key: &KeySource) -> Fingerprint {
        let Self { headers, body } = self;
        block_on(fingerprints.of(&Method::POST, "/orders", None, headers, body, key))
    }
}

/// All of these are one request.
fn same(fingerprints: &Fingerprints, requests: &[Request]) {
    let prints: Vec<_> = requests.iter().map(|request| request.by(fingerprints)).collect();
    for (at, print) in prints.iter().enumerate() {
        assert_eq!(*print, prints[0], "{at}: {:?}", requests[at].body);
    }
}

/// Each two of these are two requests.
fn differ(fingerprints: &Fingerprints, requests: &[Request]) {
    let prints: Vec<_> = requests.iter().map(|request| request.by(fingerprints)).collect();
    for (at, print) in prints.iter().enumerate() {
        let other = prints[..at].iter().position(|other| other == print);
        assert_eq!(other, None, "{at}: {:?}", requests[at].body);
    }
}

fn json(bodies: &[&str]) -> Vec<Request> {
    bodies.iter().map(|body| Request::new(JSON, body)).collect()
}

fn forms(bodies: &[&str]) -> Vec<Request> {
    bodies.iter().map(|body| Request::new(FORM, body)).collect()
}

#[test]
fn method_path_and_query_are_part_of_it() {
    let all = [
        (Method::POST, "/orders", None),
        (Method::PATCH, "/orders", None),
        (Method::POST, "/order", Some("s")),
        (Method::POST, "/orders", Some("")),
        (Method::POST, "/orders", Some("a=1&b=2")),
        (Method::POST, "/orders", Some("b=2&a=1")),
        (Method::POST, "/orders?a=1&b=2", None),
    ];
    let print = |(method, path, query): &(Method, &str, Option<&str>)| {
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        block_on(Fingerprints::new().of(method, path, *query, &headers, &body, &KeySource::new()))
    };
    for (at, one) in all.iter().enumerate() {
        assert_eq!(print(one), print(&one.clone()));
        for other in &all[..at] {
            assert_ne!(print(one), print(other), "{one:?} {other:?}");
        }
    }
}

#[test]
fn a_browsers_form_posted_twice_is_one_request() {
    let fields = [
        Field::text("item", "tea\r\n--and more"),
        Field::text("amount", "1"),
        Field::file("photo", "tea.png", b"\x89PNG\r\n\x00\r\n--".as_slice()),
    ];
    same(
        &Fingerprints::new(),
        &[
            Request::multipart("----WebKitFormBoundaryO5quBRiT4G7Vm3R7", &fields),
            Request::multipart("----geckoformboundary1c5a6b0e4b8f", &fields),
            Request::new(
                "Multipart/Form-Data; charset=UTF-8; Boundary=\"a (b)\"",
                multipart("a (b)", &fields),
            ),
        ],
    );
}

#[test]
fn a_part_that_changed_is_another_request() {
    let fields = |name: &str, file_name: &str, bytes: &[u8]| {
        vec![
            Field::text("item", "tea"),
            Field::text(name, "1"),
            Field::file("photo", file_name, bytes),
        ]
    };
    let mut requests = vec![
        fields("amount", "tea.png", b"\x89PNG"),
        fields("number", "tea.png", b"\x89PNG"),
        fields("amount", "cup.png", b"\x89PNG"),
        fields("amount", "tea.png", b"\x89PNH"),
        fields("amount", "tea.png", b"\x89PNG\r\n"),
        fields("amount", "tea.png", b""),
        vec![],
    ];
    // Another order, one part less, and a text in place of a file.
    let [one, two, three] = fields("amount", "tea.png", b"tea").try_into().ok().unwrap();
    requests.push(vec![two.clone(), one.clone(), three.clone()]);
    requests.push(vec![one.clone(), two.clone()]);
    requests.push(vec![one, two, Field::text("photo", "tea")]);
    let mut requests: Vec<_> = requests.iter().map(|fields| Request::multipart("b", fields)).collect();
    let typed = |line: &str| {
        let body = format!("--b\r\nContent-Disposition: form-data; name=\"a\"\r\n{line}\r\n1\r\n--b--\r\n");
        Request::new("multipart/form-data; boundary=b", body)
    };
    requests.push(typed(""));
    requests.push(typed("Content-Type: text/plain\r\n"));
    requests.push(typed("Content-Type: text/csv\r\n"));
    requests.push(typed("Content-Type: text/csv\r\nContent-Type: text/plain\r\n"));
    differ(&Fingerprints::new(), &requests);
    same(
        &Fingerprints::new(),
        &[typed("Content-Type: text/csv\r\n"), typed("content-type:text/csv\r\n")],
    );
}

#[test]
fn what_readers_of_multipart_may_read_in_two_ways_is_taken_by_its_bytes() {
    let part = |value: &str| format!("Content-Disposition: form-data; name=\"a\"\r\n\r\n{value}\r\n");
    let (one, two) = (part("1"), part("2"));
    let bodies = [
        format!("--b\r\n{one}--b--\r\n"),
        // Before the first boundary, and behind the last.
        format!("text\r\n--b\r\n{one}--b--\r\n"),
        format!("--b\r\n{one}--b--\r\n--b\r\n{two}--b--\r\n"),
        format!("--b\r\n{one}--b--\r\n\r\n"),
        // A header twice, of which readers take the first or the last.
        format!("--b\r\nContent-Disposition: form-data; name=\"z\"\r\n{one}--b--\r\n"),
        format!("--b\r\nContent-Disposition: form-data; name=\"y\"\r\n{one}--b--\r\n"),
        // No end, no parts, no headers, no line's end of its kind.
        format!("--b\r\n{one}"),
        format!("--b\r\n{one}--b"),
        "--b\r\n\r\n1\r\n--b--\r\n".to_owned(),
        "--b\r\n\r\n2\r\n--b--\r\n".to_owned(),
        format!("--b\n{}--b--\n", one.replace("\r\n", "\n")),
        String::new(),
        "text".to_owned(),
    ];
    let of = |boundary: &str| -> Vec<_> {
        let content_type = format!("multipart/form-data; boundary={boundary}");
        bodies.iter().map(|body| Request::new(&content_type, body)).collect()
    };
    differ(&Fingerprints::new(), &of("b"));
    // By their bytes, the boundary is what tells such bodies apart.
    differ(&Fingerprints::new(), &[of("b").remove(1), of("bb").remove(1)]);
    let without = Request::new("multipart/form-data", &bodies[0]);
    differ(
        &Fingerprints::new(),
        &[without, of("b").remove(0), of("\"\"").remove(0)],
    );
    // The last line's end is not always sent.
    let [open, closed] = [format!("--b\r\n{one}--b--"), format!("\r\n--b  \r\n{one}--b--\r\n")];
    let content_type = "multipart/form-data; boundary=b";
    same(
        &Fingerprints::new(),
        &[
            Request::new(content_type, open),
            Request::new(content_type, closed),
            of("b").remove(0),
        ],
    );
}

#[test]
fn more_parts_than_anybody_sends_are_taken_by_their_bytes() {
    let many = |count| vec![Field::text("a", "1"); count];
    let both = |count| {
        [
            Request::multipart("b", &many(count)),
            Request::multipart("c", &many(count)),
        ]
    };
    same(&Fingerprints::new(), &both(1024));
    differ(&Fingerprints::new(), &both(1025));
}

#[test]
fn a_form_is_its_pairs_in_order() {
    let fingerprints = Fingerprints::new();
    same(
        &fingerprints,
        &forms(&[
            "item=green+tea&note=%C3%A9",
            "item=green%20tea&note=%c3%a9",
            "i%74em=green tea&&note=é&",
        ]),
    );
    same(&fingerprints, &forms(&["a&b=1", "a=&b=1"]));
    differ(
        &fingerprints,
        &forms(&[
            "",
            "a=1",
            "a=1&b=2",
            "b=2&a=1",
            "a=1&b=2&b=2",
            "a=1%26b=2",
            "a%3D1&b=2",
            "a=1&a=b%3D2",
            "A=1&b=2",
            "a=1+&b=2",
            // What is not UTF-8 is not all the same.
            "a=%ff",
            "a=%fe",
            "a=%EF%BF%BD",
            "%ff=a",
            "%fe=a",
        ]),
    );
}

#[test]
fn json_is_taken_as_it_was_sent() {
    let bodies = [
        r#"{"item":"tea","amount":1}"#,
        r#"{"amount":1,"item":"tea"}"#,
        r#"{"item": "tea", "amount": 1}"#,
        r#"{"item":"tea","amount":1.0}"#,
    ];
    differ(&Fingerprints::new(), &json(&bodies));
    same(&Fingerprints::new(), &json(&[bodies[0]; 2]));
}

#[test]
fn json_members_may_be_reordered_if_that_is_wanted() {
    let sorted = Fingerprints::new().sorted_json();
    same(
        &sorted,
        &json(&[
            r#"{"item":"té","order":{"b":[1,{"d":null,"c":""}],"a":true}}"#,
            " {\"order\" : {\"a\":true,\r\n\"b\":[1, {\"c\":\"\", \"d\":null } ]},\t\"it\\u0065m\":\"t\\u00E9\"}\n",
        ]),
    );
    same(&sorted, &json(&[r#"["\ud83d\ude00\/\n"]"#, "[\"\u{1f600}/\\u000a\"]"]));
    differ(
        &sorted,
        &json(&[
            "{}",
            "[]",
            "[[]]",
            "[{}]",
            "[1,2]",
            "[2,1]",
            "[12]",
            "[\"1\",2]",
            "\"\"",
            "null",
            "\"null\"",
            r#"{"a":1,"b":2}"#,
            r#"{"a":2,"b":1}"#,
            r#"{"a":{"b":2}}"#,
            r#"{"a":{},"b":2}"#,
            r#"{"a":[],"b":2}"#,
            r#"{"a":"1,\"b\":2"}"#,
            // A name twice, of which parsers take the first or the last.
            r#"{"a":1,"a":2}"#,
            r#"{"a":2,"a":1}"#,
            r#"{"a":1}"#,
            r#"{"a":2}"#,
            r#"[{"a":1,"a":2}]"#,
            r#"[{"a":2,"a":1}]"#,
            r#"{"a":1,"b":0,"a":2}"#,
            r#"{"b":0,"a":1,"a":2}"#,
            // No JSON, and no text.
            "{",
            "{ ",
            r#"["\ud800"]"#,
            r#"["\ud801"]"#,
        ]),
    );
}

#[test]
fn no_two_numbers_are_one() {
    let numbers = [
        "9007199254740992",
        "9007199254740993",
        "18446744073709551616",
        "18446744073709551617",
        "0.1",
        "0.1000000000000000055511151231257827",
        "1e400",
        "1e401",
        "-0",
        "0",
        "1",
    ];
    for fingerprints in [
        Fingerprints::new(),
        Fingerprints::new().sorted_json(),
        Fingerprints::new().leave_out("csrf"),
        Fingerprints::new().leave_out("csrf").sorted_json(),
    ] {
        let bodies: Vec<_> = numbers.iter().map(|number| format!("{{\"n\":[{number}]}}")).collect();
        let requests: Vec<_> = bodies.iter().map(|body| Request::new(JSON, body)).collect();
        differ(&fingerprints, &requests);
    }
}

#[test]
fn fields_are_left_out_by_name_in_every_format() {
    let fingerprints = Fingerprints::new().leave_out("csrf_token").leave_out("$ACTION_KEY");
    same(
        &fingerprints,
        &forms(&[
            "a=1&b=2",
            "csrf_token=x&a=1&%24ACTION_KEY=k1&b=2",
            "a=1&csrf%5Ftoken=y&csrf_token=z&b=2",
        ]),
    );
    same(
        &fingerprints,
        &json(&[
            r#"{"a":1,"b":"2"}"#,
            r#"{"csrf_token":{"a":[1]},"a":1,"b":"2"}"#,
            r#"{ "a" :1, "b":"2" , "csrf\u005ftoken" : "}" , "$ACTION_KEY":1e999 }"#,
        ]),
    );
    let fields = [Field::text("a", "1"), Field::text("b", "2")];
    let [a, b] = fields.clone();
    same(
        &fingerprints,
        &[
            Request::multipart("b", &fields),
            Request::multipart("c", &[Field::text("csrf_token", "x"), a.clone(), b.clone()]),
            Request::multipart("d", &[a, Field::file("$ACTION_KEY", "x", b"y".as_slice()), b]),
        ],
    );
    differ(
        &fingerprints,
        &json(&[
            r#"{"a":1,"b":"2"}"#,
            r#"{"b":"2","a":1}"#,
            r#"{"a":1,"b":"3"}"#,
            r#"{"a": 1,"b": "2","c":{"csrf_token":1}}"#,
            r#"{"a": 1,"b": "2","c":{"csrf_token":2}}"#,
            // Not an object, or not one that is read in one way only.
            r#"["csrf_token"]"#,
            r#"["csrf_token" ]"#,
            r#"{"a":1,"a":2}"#,
            r#"{"a":2,"a":1}"#,
            r#"{"a":2}"#,
            r#"{"csrf_token":1,"csrf_token":2}"#,
            r#"{"csrf_token":1}"#,
        ]),
    );
    let sorted = fingerprints.clone().sorted_json();
    same(
        &sorted,
        &json(&[
            r#"{"a":1,"b":[{"c":1,"d":2}]}"#,
            r#"{"csrf_token":{"deep":[1]},"b":[{"d":2,"c":1}],"a":1}"#,
        ]),
    );
    differ(&sorted, &json(&[r#"{"a":{}}"#, r#"{"a":{"csrf_token":1}}"#]));
}

#[test]
fn the_keys_own_field_is_left_out_wherever_the_key_stands() {
    let key = KeySource::new().field(KEY_FIELD);
    let print = |request: &Request| request.by_with(&Fingerprints::new(), &key);
    let in_header = |request: Request| request.header(IDEMPOTENCY_KEY, "\"k-1\"");
    for [without, with] in [
        [
            Request::new(JSON, r#"{"item":"tea"}"#),
            Request::new(JSON, r#"{"idempotency_key":"k-1","item":"tea"}"#),
        ],
        [
            Request::new(FORM, "item=tea"),
            Request::new(FORM, "item=tea&idempotency_key=k-1"),
        ],
        [
            Request::multipart("b", &[Field::text("item", "tea")]),
            Request::multipart("c", &[Field::text(KEY_FIELD, "k-1"), Field::text("item", "tea")]),
        ],
    ] {
        assert_eq!(print(&in_header(without.clone())), print(&with));
        // Where no key is looked for, the field is the application's own.
        assert_ne!(without.by(&Fingerprints::new()), with.by(&Fingerprints::new()));
    }
}

#[test]
fn chosen_headers_are_part_of_it_and_others_are_not() {
    let version = HeaderName::from_static("api-version");
    let request = || Request::new(JSON, "{}");
    let plain = Fingerprints::new();
    same(
        &plain,
        &[
            request(),
            request().header(version.clone(), "1"),
            request().header(ACCEPT, "text/html"),
        ],
    );
    let chosen = Fingerprints::new().header(version.clone()).header(ACCEPT);
    differ(
        &chosen,
        &[
            request(),
            request().header(version.clone(), ""),
            request().header(version.clone(), "1"),
            request().header(ACCEPT, "1"),
            request().header(version.clone(), "2"),
            request().header(version.clone(), "1, 2"),
            request().header(version.clone(), "1").header(version.clone(), "2"),
            request().header(version.clone(), "2").header(version.clone(), "1"),
            request().header(version.clone(), "1").header(ACCEPT, "2"),
        ],
    );
    // The order in which they were chosen says nothing, and neither does a repetition.
    let request = request().header(version.clone(), "1").header(ACCEPT, "2");
    let other = Fingerprints::new()
        .header(ACCEPT)
        .header(version.clone())
        .header(ACCEPT);
    assert_eq!(request.by(&chosen), request.by(&other));
}

#[test]
fn the_media_type_is_part_of_it_as_far_as_it_says_something() {
    let of = |types: &[&str]| -> Vec<_> {
        let body = r#"{"a":1}"#;
        types
            .iter()
            .map(|content_type| Request::new(content_type, body))
            .collect()
    };
    same(
        &Fingerprints::new(),
        &of(&[
            JSON,
            "application/json;",
            "Application/JSON;charset=\"UTF-8\"",
            "application/json; Charset=utf-8",
        ]),
    );
    same(
        &Fingerprints::new(),
        &of(&[
            "text/plain; version=1; charset=LATIN1",
            "text/plain;charset=latin1;VERSION=1",
        ]),
    );
    let mut requests = of(&[
        JSON,
        "application/json; version=2",
        "application/json; version=\"2 \"",
        "application/json; charset=latin1",
        "application/vnd.shop+json",
        FORM,
        "text/plain",
        "text/plain; charset=latin1",
        "",
        "nonsense",
    ]);
    let mut untyped = requests[0].clone();
    untyped.headers.clear();
    requests.push(untyped);
    requests.push(Request::new(JSON, r#"{"a":1}"#).header(CONTENT_TYPE, JSON));
    differ(&Fingerprints::new(), &requests);
}

#[test]
fn an_encoded_body_is_taken_by_its_bytes() {
    let fingerprints = Fingerprints::new().sorted_json();
    let [one, other] = [r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#].map(|body| Request::new(JSON, body));
    same(
        &fingerprints,
        &[
            one.clone(),
            other.clone().header(CONTENT_ENCODING, "identity"),
            other.clone().header(CONTENT_ENCODING, ""),
        ],
    );
    differ(
        &fingerprints,
        &[
            one.clone(),
            one.clone().header(CONTENT_ENCODING, "gzip"),
            other.clone().header(CONTENT_ENCODING, "gzip"),
            one.clone().header(CONTENT_ENCODING, "br"),
            one.clone().header(CONTENT_ENCODING, "gzip, br"),
            one.clone().header(CONTENT_ENCODING, "br, gzip"),
        ],
    );
    same(
        &fingerprints,
        &[
            one.clone()
                .header(CONTENT_ENCODING, "gzip")
                .header(CONTENT_ENCODING, "BR"),
            one.clone().header(CONTENT_ENCODING, "gzip,identity ,br"),
        ],
    );
}

#[test]
fn no_body_of_one_format_is_one_of_another() {
    let body = "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--b--\r\n";
    let types = [FORM, JSON, "multipart/form-data; boundary=b", "text/plain"];
    for body in ["", "a=1", "{}", body] {
        let requests: Vec<_> = types
            .iter()
            .map(|content_type| Request::new(content_type, body))
            .collect();
        differ(&Fingerprints::new().sorted_json(), &requests);
    }
}

#[test]
fn what_is_nested_deeply_or_is_not_utf_8_overflows_nothing() {
    let deep = |depth: usize, inner: &str| {
        let body = format!("{}{{{inner}}}{}", "[".repeat(depth), "]".repeat(depth));
        Request::new(JSON, body)
    };
    for fingerprints in [
        Fingerprints::new(),
        Fingerprints::new().sorted_json(),
        Fingerprints::new().sorted_json().leave_out("a"),
    ] {
        for depth in [126, 127, 128, 100_000] {
            let requests = [deep(depth, ""), deep(depth, "\"a\":1"), deep(depth + 1, "")];
            differ(&fingerprints, &requests);
        }
        let endless = Request::new(JSON, "{\"a\":".repeat(100_000));
        let bytes = [b"{\"a\":\"\xff\"}", b"{\"a\":\"\xfe\"}"].map(|body| Request::new(JSON, body));
        let [one, other] = bytes;
        differ(&fingerprints, &[endless, one, other]);
    }
    // Members are sorted down to the depth that `serde_json` reads, and taken as they were sent below.
    let sorted = Fingerprints::new().sorted_json();
    let both = |depth| [deep(depth, r#""a":1,"b":2"#), deep(depth, r#""b":2,"a":1"#)];
    same(&sorted, &both(127));
    differ(&sorted, &both(128));
}

#[test]
fn settings_show_no_payload() {
    let shown = format!(
        "{:?}",
        Fingerprints::new().leave_out("csrf").header(ACCEPT).sorted_json()
    );
    assert!(shown.contains("csrf") && shown.contains("accept"), "{shown}");
}
