//! Stored results: arbitrary bytes are decoded as a slow reading of the layout's table says, what is encoded is decoded
//! again, and a store that holds arbitrary bytes is answered with a value or an error.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use oneflight::idempotency::{CodecError, ErrorKind, Idempotency, Origin};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, DecodeError, Decoded, HolderId, RecordedResult, Timestamp, Verdict};
use oneflight::store::{ClaimOutcome, ClaimRequest, MemoryStore, Store};
use serde_json::Value;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Arbitrary, Debug)]
enum Input {
    Stored(Vec<u8>),
    Encoded(Encoded),
    Replayed(Vec<u8>),
    Holder([u8; 16]),
    Time {
        at: u64,
        other: u64,
        seconds: u64,
        nanos: u32,
    },
}

#[derive(Arbitrary, Debug)]
enum Encoded {
    Value {
        refused: bool,
        json: bool,
        payload: Vec<u8>,
    },
    TooLarge {
        size: u64,
        limit: u64,
    },
    NotEncodable,
    Named {
        name: String,
        payload: Vec<u8>,
    },
}

/// What the layout's table says of these bytes.
fn reference(bytes: &[u8]) -> Result<Decoded<'_>, DecodeError> {
    let at = |position: usize| bytes.get(position).copied().ok_or(DecodeError::Truncated);
    let version = at(0)?;
    if version != 1 {
        return Err(DecodeError::UnknownVersion { version });
    }
    let (kind, codec) = (at(1)?, at(2)?);
    let payload = &bytes[3..];
    if kind == 2 && payload.len() != 16 {
        return Err(DecodeError::Truncated);
    }
    if kind == 2 {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let (size, limit) = (number(&payload[..8]), number(&payload[8..]));
        return Ok(Decoded::TooLarge { size, limit });
    }
    if kind == 3 {
        return Ok(Decoded::NotEncodable);
    }
    if kind > 3 {
        return Err(DecodeError::UnknownKind { kind });
    }
    let (codec, payload) = match codec {
        0 => (CodecId::None, payload),
        1 => (CodecId::Json, payload),
        2 => (CodecId::JsonLz4, payload),
        3 | 4 => {
            let length = usize::from(at(3)?);
            if payload.len() < 1 + length {
                return Err(DecodeError::Truncated);
            }
            let name = str::from_utf8(&payload[1..1 + length]).map_err(|_| DecodeError::CodecName)?;
            if matches!(name, "" | "json") {
                return Err(DecodeError::CodecName);
            }
            let named = CodecId::named(name).expect("1 to 255 bytes that are not JSON's name");
            let id = if codec == 3 { named } else { named.compressed() };
            (id, &payload[1 + length..])
        }
        codec => return Err(DecodeError::UnknownCodec { codec }),
    };
    Ok(Decoded::Value {
        verdict: if kind == 0 {
            Verdict::Performed
        } else {
            Verdict::Declined
        },
        codec,
        payload,
    })
}

fn stored(bytes: Vec<u8>) {
    let result = RecordedResult::from_stored(bytes.clone());
    assert_eq!(result.as_bytes(), bytes);
    let decoded = result.decode();
    assert_eq!(decoded, reference(&bytes));
    let Ok(decoded) = decoded else { return };
    let again = match decoded {
        Decoded::Value {
            verdict,
            codec,
            payload,
        } => {
            let again = RecordedResult::value(verdict, codec, payload);
            assert_eq!(again, result, "a value has one form");
            again
        }
        Decoded::TooLarge { size, limit } => RecordedResult::too_large(size, limit),
        Decoded::NotEncodable => RecordedResult::not_encodable(),
        other => panic!("a form that is not known here: {other:?}"),
    };
    assert_eq!(again.decode(), Ok(decoded));
}

fn wait<F: Future>(future: F) -> F::Output {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        let runtime = Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime")
    });
    RUNTIME.block_on(future)
}

/// A completed request whose record holds these bytes is not executed again, whatever they are.
fn replayed(bytes: Vec<u8>) {
    let store = MemoryStore::new();
    let id = RequestIdentity::new(Scope::new("fuzz"), "key").expect("a valid identity");
    let ClaimOutcome::Granted(claim) = wait(store.claim(ClaimRequest::new(&id, HOUR))).expect("a store in memory")
    else {
        panic!("a new identity is free");
    };
    let result = RecordedResult::from_stored(bytes);
    wait(store.complete(claim, result.clone(), HOUR)).expect("the claim is held");
    let idempotency = Idempotency::builder(store).build();
    let reply = wait(idempotency.run(id, |_| async { panic!("done before") as Value }));
    match (reply, result.decode()) {
        // Whatever is in there: an error or a value, and not for ever.
        (_, Ok(Decoded::Value { codec, .. })) if codec == codec.compressed() => {}
        (Ok(reply), Ok(Decoded::Value { codec, payload, .. })) => {
            assert_eq!(codec.name(), "json", "what another codec wrote is not read");
            assert_eq!(reply.origin(), Origin::Replayed);
            let payload = if codec == CodecId::Json { payload } else { b"null" };
            let expected: Value = serde_json::from_slice(payload).expect("it was decoded");
            assert_eq!(*reply, expected);
        }
        (Ok(_), _) => panic!("a value from nothing"),
        (
            Err(_),
            Ok(Decoded::Value {
                codec: CodecId::Json,
                payload,
                ..
            }),
        ) => {
            assert!(
                serde_json::from_slice::<Value>(payload).is_err(),
                "a value that is not replayed"
            );
        }
        (Err(error), Ok(Decoded::Value { codec, .. })) if codec.name() != "json" => {
            assert!(
                matches!(error.kind(), ErrorKind::Codec(CodecError::Foreign { .. })),
                "{error}"
            );
        }
        (Err(error), Ok(Decoded::Value { .. })) => panic!("null is a value: {error}"),
        (Err(error), _) => drop(error.to_string()),
    }
}

fuzz_target!(|input: Input| match input {
    Input::Stored(bytes) => stored(bytes),
    Input::Replayed(bytes) => replayed(bytes),
    Input::Encoded(encoded) => match encoded {
        Encoded::Value { refused, json, payload } => {
            let verdict = if refused { Verdict::Declined } else { Verdict::Performed };
            let codec = if json { CodecId::Json } else { CodecId::None };
            let result = RecordedResult::value(verdict, codec, &payload);
            let expected = [&[1, u8::from(refused), u8::from(json)], &payload[..]].concat();
            assert_eq!(result.as_bytes(), expected);
            stored(expected);
        }
        Encoded::TooLarge { size, limit } => {
            let expected = [&[1, 2, 0], &size.to_be_bytes()[..], &limit.to_be_bytes()].concat();
            assert_eq!(RecordedResult::too_large(size, limit).as_bytes(), expected);
            stored(expected);
        }
        Encoded::Named { name, payload } => match CodecId::named(&name) {
            None => assert!(name.is_empty() || name.len() > 255),
            Some(CodecId::Json) => assert_eq!(name, "json"),
            Some(codec) => {
                assert_eq!(codec.name(), name);
                for (number, codec) in [(3, codec), (4, codec.compressed())] {
                    let result = RecordedResult::value(Verdict::Performed, codec, &payload);
                    let expected = [&[1, 0, number, name.len() as u8], name.as_bytes(), &payload].concat();
                    assert_eq!(result.as_bytes(), expected);
                    stored(expected);
                }
            }
        },
        Encoded::NotEncodable => stored(RecordedResult::not_encodable().as_bytes().to_vec()),
    },
    Input::Holder(bytes) => {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let holder = HolderId::from_bytes(bytes);
        assert_eq!(holder.as_bytes(), &bytes);
        assert_eq!(format!("{holder:?}"), format!("HolderId({digits})"));
    }
    Input::Time {
        at,
        other,
        seconds,
        nanos,
    } => {
        let (from, to) = (Timestamp::from_millis(at), Timestamp::from_millis(other));
        assert_eq!(to.since(from).as_millis(), u128::from(other).saturating_sub(at.into()));
        let duration = Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into()));
        let later = u128::from(at) + duration.as_nanos().div_ceil(1_000_000);
        assert_eq!(u128::from(from.after(duration).as_millis()), later.min(u64::MAX.into()));
    }
});
