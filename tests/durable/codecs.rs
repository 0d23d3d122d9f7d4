//! Promise 11, for codecs of the user's: what is replayed is what was executed, however it is written; and what one codec
//! wrote is never taken for what another one did.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::error::Error as StdError;
use std::time::Duration;

use oneflight::idempotency::{
    Codec, CodecError, Effect, Error, ErrorKind, Format, Idempotency, Json, Origin, Recovery, Reply, Resolution,
};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, Decoded};
use oneflight::store::MemoryStore;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

type BoxError = Box<dyn StdError + Send + Sync>;

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

/// What has no serde: bytes, and what they are.
#[derive(Clone, Debug, PartialEq)]
struct Response {
    content_type: String,
    body: Vec<u8>,
}

fn image() -> Response {
    Response {
        content_type: "image/jpeg".to_owned(),
        body: vec![0xff, 0xd8, 0xff],
    }
}

/// The content type, a line break, the body.
struct Responses;

impl Format for Responses {
    const NAME: &'static str = "response.1";
}

impl Codec<Response> for Responses {
    fn encode(&self, value: &Response) -> Result<Vec<u8>, BoxError> {
        Ok([value.content_type.as_bytes(), b"\n", &value.body].concat())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Response, BoxError> {
        let at = bytes.iter().position(|byte| *byte == b'\n').ok_or("no content type")?;
        Ok(Response {
            content_type: String::from_utf8(bytes[..at].to_vec())?,
            body: bytes[at + 1..].to_vec(),
        })
    }
}

/// JSON with each byte changed, which also reads what was written before it was there.
#[derive(Clone, Copy)]
struct Masked;

impl Format for Masked {
    const NAME: &'static str = "masked";
}

fn mask(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| byte ^ 0x55).collect()
}

impl<T: Serialize + DeserializeOwned> Codec<T> for Masked {
    fn encode(&self, value: &T) -> Result<Vec<u8>, BoxError> {
        Ok(mask(&Json.encode(value)?))
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, BoxError> {
        Json.decode(&mask(bytes))
    }

    fn decode_foreign(&self, name: &str, bytes: &[u8]) -> Option<Result<T, BoxError>> {
        (name == Json::NAME).then(|| Json.decode(bytes))
    }
}

/// What is wrong with a codec that is.
#[derive(Clone, Copy, Debug)]
enum Defect {
    Refuses,
    Panics,
    CannotRead,
    PanicsWhenRead,
}

impl Format for Defect {
    const NAME: &'static str = "defect";
}

impl Codec<u32> for Defect {
    fn encode(&self, _: &u32) -> Result<Vec<u8>, BoxError> {
        match self {
            Self::Refuses => Err("not this one".into()),
            Self::Panics => panic!("a bug in the encoder"),
            Self::CannotRead | Self::PanicsWhenRead => Ok(b"written".to_vec()),
        }
    }

    fn decode(&self, _: &[u8]) -> Result<u32, BoxError> {
        match self {
            Self::PanicsWhenRead => panic!("a bug in the decoder"),
            _ => Err("not this one".into()),
        }
    }
}

fn foreign(error: &Error) -> (String, &'static str) {
    match error.kind() {
        ErrorKind::Codec(CodecError::Foreign { written, expected }) => (written.to_string(), expected),
        other => panic!("{other:?}"),
    }
}

fn codec_of<T>(reply: &Reply<T>) -> CodecId<'_> {
    match reply.recorded().decode() {
        Ok(Decoded::Value { codec, .. }) => codec,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_has_no_serde_is_recorded_and_replayed() {
    let idem = Idempotency::builder(MemoryStore::new()).codec(Responses).build();
    let first = idem.run(id("a"), |_| async { image() }).await.unwrap();
    assert_eq!(codec_of(&first).name(), "response.1");
    let again = idem.run(id("a"), |_| async { panic!("done before") }).await.unwrap();
    assert_eq!((again.value(), again.origin()), (&image(), Origin::Replayed));
    assert_eq!(again.recorded(), first.recorded());
}

#[tokio::test]
async fn what_another_codec_wrote_is_an_error_that_names_both_and_no_second_execution() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    let masked = idem.with_codec(Masked);
    let _ = masked.run(id("a"), |_| async { 7 }).await.unwrap();
    let error = idem.run(id("a"), |_| async { 8 }).await.unwrap_err();
    assert_eq!(foreign(&error), ("masked".to_owned(), "json"));
    assert_eq!(error.effect(), Effect::Done);
    assert!(
        error.to_string().contains("\"masked\"") && error.to_string().contains("\"json\""),
        "{error}"
    );

    let _ = idem.run(id("b"), |_| async { image().body }).await.unwrap();
    let error = idem
        .with_codec(Responses)
        .run(id("b"), |_| async { image() })
        .await
        .unwrap_err();
    assert_eq!(foreign(&error), ("json".to_owned(), "response.1"));
}

#[tokio::test]
async fn a_codec_that_takes_the_place_of_another_may_read_both() {
    let before = Idempotency::builder(MemoryStore::new()).build();
    let _ = before.run(id("a"), |_| async { 7 }).await.unwrap();
    let reply = before.with_codec(Masked).run(id("a"), |_| async { 8 }).await.unwrap();
    assert_eq!((*reply, reply.origin()), (7, Origin::Replayed));
}

#[tokio::test]
async fn calls_with_two_codecs_share_their_flights() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    let masked = idem.with_codec(Masked);
    let (go, goes) = oneshot::channel::<()>();
    let leader = masked.run(id("a"), |_| async {
        goes.await.unwrap();
        7_u32
    });
    let same_type = idem.run(id("a"), |_| async { 8_u32 });
    let other_type = masked.run(id("a"), |_| async { 9_u64 });
    let other_type_and_codec = idem.run(id("a"), |_| async { 9_u64 });
    // Polled last, when all have joined.
    let begin = async { go.send(()).unwrap() };
    let (leader, same_type, other_type, unreadable, ()) =
        tokio::join!(leader, same_type, other_type, other_type_and_codec, begin);
    let (leader, same_type, other_type) = (leader.unwrap(), same_type.unwrap(), other_type.unwrap());
    assert_eq!((*leader, leader.origin()), (7, Origin::Executed));
    assert_eq!((*same_type, same_type.origin()), (7, Origin::Collapsed));
    assert_eq!((*other_type, other_type.origin()), (7, Origin::Collapsed));
    assert_eq!(foreign(&unreadable.unwrap_err()), ("masked".to_owned(), "json"));
    assert_eq!(idem.stats().led, 1);
}

#[tokio::test]
async fn a_result_from_outside_is_taken_only_as_the_codec_in_use_writes_it() {
    let json = Idempotency::builder(MemoryStore::new()).build();
    let idem = json.with_codec(Masked);
    let died = idem
        .run(id("a"), |_| async { panic!("died") })
        .await
        .map(|reply: Reply<u32>| *reply);
    assert!(died.is_err());

    let error = idem
        .resolve(&id("a"), Resolution::completed(&7).unwrap())
        .await
        .unwrap_err();
    assert_eq!(foreign(&error), ("json".to_owned(), "masked"));
    let doubtful = idem.in_doubt(10, None).await.unwrap();
    assert_eq!((doubtful.len(), doubtful[0].attempt), (1, 1), "nothing has changed");

    let known = Resolution::completed_with(idem.codec(), &7_u32).unwrap();
    assert!(json.resolve(&id("a"), known.clone()).await.is_err());
    idem.resolve(&id("a"), known).await.unwrap();
    let reply = idem.run(id("a"), |_| async { 8_u32 }).await.unwrap();
    assert_eq!((*reply, codec_of(&reply).name()), (7, "masked"));
}

#[tokio::test]
async fn so_is_one_that_a_policy_answers_with() {
    let asked = |resolution: fn() -> Resolution| {
        Idempotency::builder(MemoryStore::new())
            .codec(Masked)
            .recovery(Recovery::ask(move |_| async move { resolution() }))
            .settle(Duration::ZERO)
            .build()
    };
    let wrong = asked(|| Resolution::completed(&7).unwrap());
    let right = asked(|| Resolution::completed_with(&Masked, &7_u32).unwrap());
    for idem in [&wrong, &right] {
        let died = idem
            .run(id("a"), |_| async { panic!("died") })
            .await
            .map(|reply: Reply<u32>| *reply);
        assert!(died.is_err());
    }
    for _ in 0..2 {
        let error = wrong.run(id("a"), |_| async { 8_u32 }).await.unwrap_err();
        assert_eq!(foreign(&error), ("json".to_owned(), "masked"));
        assert_eq!(error.effect(), Effect::Unknown);
        assert_eq!(wrong.in_doubt(10, None).await.unwrap()[0].attempt, 1);
    }
    assert_eq!(*right.run(id("a"), |_| async { 8_u32 }).await.unwrap(), 7);
}

#[tokio::test]
async fn a_codec_with_a_defect_is_found_out_the_first_time() {
    for defect in [
        Defect::Refuses,
        Defect::Panics,
        Defect::CannotRead,
        Defect::PanicsWhenRead,
    ] {
        let idem = Idempotency::builder(MemoryStore::new()).codec(defect).build();
        let first = idem.run(id("a"), |_| async { 7 }).await.unwrap_err();
        match (defect, first.kind()) {
            (Defect::Refuses | Defect::Panics, ErrorKind::Codec(CodecError::Encode(_))) => {}
            (Defect::CannotRead | Defect::PanicsWhenRead, ErrorKind::Codec(CodecError::Unreadable(_))) => {}
            _ => panic!("{defect:?}: {first:?}"),
        }
        assert_eq!(first.effect(), Effect::Done);
        let again = idem
            .run(id("a"), |_| async { panic!("done before") })
            .await
            .unwrap_err();
        assert!(
            matches!(again.kind(), ErrorKind::Codec(CodecError::NotRecorded)),
            "{again:?}"
        );
    }
}

#[tokio::test]
async fn the_limit_of_size_is_one_of_encoded_bytes() {
    let idem = Idempotency::builder(MemoryStore::new())
        .max_result_bytes("image/jpeg\n".len() + 2)
        .codec(Responses)
        .build();
    let error = idem.run(id("a"), |_| async { image() }).await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::ResultTooLarge { size: 14, limit: 13 }),
        "{error:?}"
    );
}

#[tokio::test]
async fn bytes_of_any_codec_are_compressed() {
    let idem = Idempotency::builder(MemoryStore::new())
        .compress_above(64)
        .codec(Responses)
        .build();
    let large = Response {
        body: vec![7; 10_000],
        ..image()
    };
    let value = large.clone();
    let first = idem.run(id("a"), |_| async { value }).await.unwrap();
    assert!(first.recorded().as_bytes().len() < 1_000);
    assert!(matches!(codec_of(&first), CodecId::NamedLz4 { .. }));
    assert_eq!(codec_of(&first).name(), "response.1");
    let again = idem.run(id("a"), |_| async { panic!("done before") }).await.unwrap();
    assert_eq!((again.value(), again.origin()), (&large, Origin::Replayed));
}
