//! Promise 17: of requests made by chance, those that mean the same have one fingerprint, and no others have.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::{Debug, Write};

use crate::forms::{Field, multipart, urlencoded};
use bytes::Bytes;
use futures::executor::block_on;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use oneflight::Fingerprint;
use oneflight::http::{Fingerprints, KeySource};
use proptest::prelude::*;

fn print(content_type: &str, body: impl AsRef<[u8]>, fingerprints: &Fingerprints) -> Fingerprint {
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap())]);
    let body = Bytes::copy_from_slice(body.as_ref());
    block_on(fingerprints.of(&Method::POST, "/", None, &headers, &body, &KeySource::new()))
}

fn name() -> impl Strategy<Value = String> + Clone {
    let is_sent_otherwise = |c: char| c.is_control() || matches!(c, '"' | '\\' | char::REPLACEMENT_CHARACTER);
    prop_oneof![
        "[ab=&+% é]{0,3}",
        any::<String>().prop_filter("it is sent as it stands", move |text| !text.contains(is_sent_otherwise)),
    ]
}

fn text_field() -> impl Strategy<Value = Field> + Clone {
    (name(), name()).prop_map(|(name, text)| Field::text(&name, &text))
}

fn field() -> impl Strategy<Value = Field> + Clone {
    let bytes = prop_oneof![prop::collection::vec(any::<u8>(), 0..6), Just(b"\r\n--".to_vec())];
    let file = (name(), "[ab;=. é]{0,3}", bytes);
    prop_oneof![
        text_field(),
        file.prop_map(|(name, file_name, bytes)| Field::file(&name, &file_name, bytes)),
    ]
}

/// Two lists that are equal, nearly equal, or have nothing to do with each other.
fn two<T: Clone + Debug>(item: impl Strategy<Value = T> + Clone) -> impl Strategy<Value = [Vec<T>; 2]> {
    let list = prop::collection::vec(item.clone(), 0..4);
    let change = (any::<prop::sample::Index>(), 0..5_u8);
    (list.clone(), list, item, change).prop_map(|(one, other, item, (at, change))| {
        let mut near = one.clone();
        let at = at.index(one.len() + 1);
        match change {
            0 => return [one, other],
            1 => near.insert(at, item),
            2 if at < one.len() => near[at] = item,
            3 if at > 0 && at < one.len() => near.swap(at - 1, at),
            _ => {}
        }
        [one, near]
    })
}

/// Long enough to stand in no field.
fn boundary() -> impl Strategy<Value = String> {
    "[0-9A-Za-z'+_-]{24,40}"
}

/// JSON by its meaning; numbers by their text.
#[derive(Clone, Debug, PartialEq)]
enum Json {
    Word(String),
    Text(String),
    List(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

fn json() -> impl Strategy<Value = Json> + Clone {
    let word = "(-?(0|[1-9][0-9]{0,25})([.][0-9]{1,3})?(e[0-9])?|true|false|null)";
    let text = prop_oneof!["[ab\"\\\\{},: ]{0,3}".boxed(), any::<String>().boxed()];
    let leaf = prop_oneof![word.prop_map(Json::Word), text.prop_map(Json::Text)];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::List),
            prop::collection::btree_map("[ab\"]{0,2}", inner, 0..4).prop_map(Json::Object),
        ]
    })
}

/// Writes JSON in one of the many ways that mean the same.
struct Writer {
    dice: fastrand::Rng,
    out: String,
}

impl Writer {
    fn write(json: &Json, seed: u64) -> String {
        let mut writer = Self {
            dice: fastrand::Rng::with_seed(seed),
            out: String::new(),
        };
        writer.value(json);
        writer.out
    }

    fn space(&mut self) {
        let spaces = ["", "", " ", "\n\t", "\r\n"];
        self.out.push_str(spaces[self.dice.usize(..spaces.len())]);
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            if self.dice.bool() || matches!(character, '"' | '\\') || character < ' ' {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    _ = write!(self.out, "\\u{unit:04x}");
                }
            } else {
                self.out.push(character);
            }
        }
        self.out.push('"');
    }

    fn value(&mut self, json: &Json) {
        self.space();
        match json {
            Json::Word(word) => self.out.push_str(word),
            Json::Text(text) => self.text(text),
            Json::List(items) => {
                self.out.push('[');
                for (at, item) in items.iter().enumerate() {
                    self.out.push_str(if at > 0 { "," } else { "" });
                    self.value(item);
                }
                self.space();
                self.out.push(']');
            }
            Json::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                self.dice.shuffle(&mut members);
                self.out.push('{');
                for (at, (name, value)) in members.into_iter().enumerate() {
                    self.out.push_str(if at > 0 { "," } else { "" });
                    self.space();
                    self.text(name);
                    self.space();
                    self.out.push(':');
                    self.value(value);
                }
                self.space();
                self.out.push('}');
            }
        }
        self.space();
    }
}

proptest! {
    #[test]
    fn of_multipart_forms(both in two(field()), boundaries in [boundary(), boundary()]) {
        let [one, other] = [0, 1].map(|at| {
            let content_type = format!("multipart/form-data; boundary=\"{}\"", boundaries[at]);
            print(&content_type, multipart(&boundaries[at], &both[at]), &Fingerprints::new())
        });
        prop_assert_eq!(one == other, both[0] == both[1]);
    }

    #[test]
    fn of_urlencoded_forms(both in two(text_field()), seeds in any::<[u64; 2]>()) {
        let [one, other] = [0, 1].map(|at| {
            let body = urlencoded(&both[at], &mut fastrand::Rng::with_seed(seeds[at]));
            print("application/x-www-form-urlencoded", body, &Fingerprints::new())
        });
        prop_assert_eq!(one == other, both[0] == both[1]);
    }

    #[test]
    fn of_sorted_json(both in two(json()), seeds in any::<[u64; 2]>()) {
        let [one, other] = [0, 1].map(|at| {
            let body = Writer::write(&Json::List(both[at].clone()), seeds[at]);
            print("application/json", body, &Fingerprints::new().sorted_json())
        });
        prop_assert_eq!(one == other, both[0] == both[1]);
    }

    #[test]
    fn of_anything_else(bodies in any::<[Vec<u8>; 2]>(), kind in 0..3_usize) {
        let kind = ["application/json", "multipart/form-data; boundary=a", "text/plain"][kind];
        let [one, other] = bodies.each_ref().map(|body| print(kind, body, &Fingerprints::new()));
        prop_assert_eq!(one == other, bodies[0] == bodies[1]);
        prop_assert_eq!(one, print(kind, &bodies[0], &Fingerprints::new()));
    }
}
