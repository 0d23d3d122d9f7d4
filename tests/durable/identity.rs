//! Promise 18: a key is valid only inside its scope. And: bad input is refused with an error that says the limit
//! and not the content.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::HashSet;

use oneflight::identity::{Fingerprint, IdempotencyKey, IdentityError, RequestIdentity, Scope};
use proptest::prelude::*;

fn id(scope: Scope, key: &str) -> RequestIdentity {
    RequestIdentity::new(scope, key).unwrap()
}

#[test]
fn a_key_is_one_to_255_bytes_of_printable_ascii() {
    for good in ["a", "a b", "\"quoted\"", "~!@#$%^&*()", &"k".repeat(255)] {
        assert_eq!(IdempotencyKey::new(good).unwrap().as_str(), good);
    }
    assert_eq!(IdempotencyKey::new(""), Err(IdentityError::KeyEmpty));
    let too_long = IdempotencyKey::new("k".repeat(256));
    assert_eq!(too_long, Err(IdentityError::KeyTooLong { bytes: 256, limit: 255 }));
    for (bad, position) in [
        ("\n", 0),
        ("ab\0", 2),
        ("tab\t", 3),
        ("ä", 0),
        ("del\x7f", 3),
        (" a", 0),
        ("a ", 1),
        (" ", 0),
    ] {
        assert_eq!(
            IdempotencyKey::new(bad),
            Err(IdentityError::KeyCharacter { position }),
            "{bad:?}"
        );
    }
}

#[test]
fn a_scope_has_no_empty_part_no_control_character_and_a_limit() {
    let of = |scope| RequestIdentity::new(scope, "k").map(drop);
    assert_eq!(
        of(Scope::new("")),
        Err(IdentityError::ScopePartEmpty { part: "namespace" })
    );
    assert_eq!(
        of(Scope::new("t").user("")),
        Err(IdentityError::ScopePartEmpty { part: "user" })
    );
    assert_eq!(
        of(Scope::new("t").route("a\u{1f}b")),
        Err(IdentityError::ScopeCharacter {
            part: "route",
            position: 1
        })
    );
    assert!(of(Scope::new("t".repeat(1024))).is_ok());
    assert!(matches!(
        of(Scope::new("t".repeat(1025))),
        Err(IdentityError::ScopeTooLong {
            bytes: 1025,
            limit: 1024
        })
    ));
    assert!(matches!(
        of(Scope::new("%".repeat(1000))),
        Err(IdentityError::ScopeTooLong { limit: 1024, .. })
    ));
}

#[test]
fn errors_say_the_limit_and_not_the_content() {
    let message = IdempotencyKey::new("hush".repeat(100)).unwrap_err().to_string();
    assert!(message.contains("400") && message.contains("255"), "{message}");
    assert!(!message.contains("hush"), "{message}");
    let message = IdempotencyKey::new("hush\n").unwrap_err().to_string();
    assert!(!message.contains("hush"), "{message}");
}

#[test]
fn a_log_shows_where_a_key_is_from_and_never_the_whole_key() {
    let key = "8e03978e-40d5-43e8-bc93-6894a57f9324";
    let request = id(Scope::new("tenant-7").route("POST /orders"), key);
    assert_eq!(
        request.redacted().to_string(),
        "8e03…238c5b6d [tenant-7|route=POST /orders]"
    );
    assert_eq!(request.to_string(), format!("{key} [tenant-7|route=POST /orders]"));
    let whole = IdempotencyKey::new(key).unwrap();
    for shown in [
        format!("{:?}", request.redacted()),
        format!("{request:?}"),
        format!("{whole:?}"),
    ] {
        assert!(
            shown.contains("8e03…238c5b6d") && !shown.contains("8e03978e"),
            "{shown}"
        );
    }
    // Of a short key, four characters would be all of it.
    for (key, shown) in [("a7f3", "a…"), ("cat", "…"), ("twelve-chars", "twe…")] {
        let told = id(Scope::new("t"), key).redacted().to_string();
        assert!(told.starts_with(shown) && !told.contains(key), "{told}");
        let digest = &Fingerprint::of(key).to_string()[..8];
        assert_eq!(told, format!("{shown}{digest} [t]"));
    }
}

#[test]
fn no_two_scopes_are_the_same() {
    let scopes = [
        Scope::new("a"),
        Scope::new("a").route("b"),
        Scope::new("a").user("b"),
        Scope::new("a|route=b"),
        Scope::new("a|user=b"),
        Scope::new("a%7Croute%3Db"),
        Scope::new("a").route("b|user=c"),
        Scope::new("a").route("b").user("c"),
        Scope::new("a").route("b=").user("c"),
    ];
    let different: HashSet<RequestIdentity> = scopes.iter().map(|scope| id(scope.clone(), "k")).collect();
    assert_eq!(different.len(), scopes.len());
    // The order in which the parts are given is of no account.
    assert_eq!(
        id(Scope::new("a").user("c").route("b"), "k"),
        id(Scope::new("a").route("b").user("c"), "k")
    );
}

#[test]
fn equality_and_hash_leave_the_fingerprint_out() {
    let bare = id(Scope::new("t"), "k");
    let with = bare.clone().with_fingerprint("body");
    assert_eq!(bare, with);
    assert_eq!(HashSet::from([bare.clone(), with.clone()]).len(), 1);
    assert_eq!(bare.fingerprint(), None);
    assert_eq!(with.fingerprint(), Some(Fingerprint::of("body")));
    assert_eq!(with.to_string(), "k [t]");
}

#[test]
fn a_fingerprint_is_sha_256_and_reads_what_it_prints() {
    let fingerprint = Fingerprint::of("abc");
    let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(fingerprint.to_string(), text);
    assert_eq!(text.parse(), Ok(fingerprint));
    assert_eq!(format!("{fingerprint:?}"), "Fingerprint(ba7816bf8f01cfea..)");
    for bad in ["", "ba", &text[1..], &text.replace('b', "g"), &format!("{text}00")] {
        assert_eq!(bad.parse::<Fingerprint>(), Err(IdentityError::FingerprintMalformed));
    }
}

#[test]
fn keys_and_fingerprints_are_validated_when_deserialized() {
    let key: IdempotencyKey = serde_json::from_str("\"abc\"").unwrap();
    assert_eq!(serde_json::to_string(&key).unwrap(), "\"abc\"");
    assert!(serde_json::from_str::<IdempotencyKey>("\"\"").is_err());
    let fingerprint = Fingerprint::of("abc");
    let text = serde_json::to_string(&fingerprint).unwrap();
    assert_eq!(serde_json::from_str::<Fingerprint>(&text).unwrap(), fingerprint);
}

proptest! {
    #[test]
    fn scope_and_key_come_back_and_different_ones_stay_different(
        one in ("[ -~]{1,9}", proptest::option::of("[|=%ab]{1,4}"), proptest::option::of("[|=%ab]{1,4}"), "[!-~]{1,9}"),
        other in ("[|=%ab]{1,4}", proptest::option::of("[|=%ab]{1,4}"), proptest::option::of("[|=%ab]{1,4}"), "[ab]{1,2}"),
    ) {
        let make = |(namespace, route, user, key): &(String, Option<String>, Option<String>, String)| {
            let mut scope = Scope::new(namespace);
            if let Some(route) = route { scope = scope.route(route); }
            if let Some(user) = user { scope = scope.user(user); }
            RequestIdentity::new(scope, key).unwrap()
        };
        let (a, b) = (make(&one), make(&other));
        prop_assert_eq!(a.key(), &one.3);
        prop_assert_eq!(a == b, one == other);
    }

    #[test]
    fn any_text_is_a_key_or_a_clear_error(text in any::<String>()) {
        match IdempotencyKey::new(text.clone()) {
            Ok(key) => prop_assert_eq!(key.as_str(), text),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}

#[test]
fn only_what_can_be_left_out_is_said_to_be() {
    let told = |scope| RequestIdentity::new(scope, "k").unwrap_err().to_string();
    assert!(!told(Scope::new("")).contains("leave"));
    assert!(told(Scope::new("")).contains("name"));
    assert!(told(Scope::new("tenant-7").user("")).contains("leave"));
    assert!(told(Scope::new("tenant-7").route("")).contains("leave"));
}
