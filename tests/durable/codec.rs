//! Promise 11: what is replayed is what was executed. A result that does not survive its own JSON is not recorded as if
//! it did.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oneflight::idempotency::{CodecError, Effect, Error, ErrorKind, Idempotency};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, Decoded, RecordedResult};
use oneflight::store::{ClaimOutcome, ClaimRequest, MemoryStore, Store};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

#[test]
fn every_number_is_replayed_as_it_was_executed() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let keys = AtomicU32::new(0);
    let idem = Idempotency::builder(MemoryStore::new()).build();
    proptest!(|(number in any::<f64>().prop_filter("JSON has no others", |it| it.is_finite()))| {
        let id = id(&keys.fetch_add(1, Ordering::Relaxed).to_string());
        let replayed = runtime.block_on(async {
            let _ = idem.run(id.clone(), move |_| async move { number }).await.unwrap();
            *idem.run(id, |_| async { 0.0_f64 }).await.unwrap()
        });
        prop_assert_eq!(replayed.to_bits(), number.to_bits());
    });
}

/// Nested deeper than what is read.
#[derive(Debug, Serialize, Deserialize)]
struct Nested(Option<Box<Nested>>, Vec<Nested>);

fn nested(depth: u32) -> Nested {
    (0..depth).fold(Nested(None, vec![]), |inner, _| Nested(Some(Box::new(inner)), vec![]))
}

#[tokio::test]
async fn a_result_that_cannot_be_read_again_is_known_as_that_the_first_time() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    let executions = Arc::new(AtomicU32::new(0));
    let unreadable =
        |error: &Error| matches!(error.kind(), ErrorKind::Codec(source) if !matches!(source, CodecError::NotRecorded));
    for round in 0..3 {
        let counted = Arc::clone(&executions);
        let work = move |_| async move {
            counted.fetch_add(1, Ordering::SeqCst);
            f64::NAN
        };
        let error = idem.run(id("nan"), work).await.unwrap_err();
        assert_eq!(
            (error.effect(), unreadable(&error)),
            (Effect::Done, round == 0),
            "{error:?}"
        );
        let error = idem.run(id("nested"), |_| async { nested(200) }).await.unwrap_err();
        assert_eq!(
            (error.effect(), unreadable(&error)),
            (Effect::Done, round == 0),
            "{error:?}"
        );
    }
    assert_eq!(executions.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_limit_that_a_result_was_too_large_for_is_the_one_of_then() {
    let store = MemoryStore::new();
    let small = Idempotency::builder(store.clone()).max_result_bytes(10).build();
    let now = Idempotency::builder(store).max_result_bytes(1_000).build();
    for idem in [&small, &now] {
        let error = idem.run(id("large"), |_| async { "x".repeat(20) }).await.unwrap_err();
        assert!(
            matches!(
                error.kind(),
                ErrorKind::ResultTooLarge {
                    size: 22,
                    limit: 10,
                    ..
                }
            ),
            "{error:?}"
        );
    }
}

/// Words that repeat, as those of an answer do.
fn page(lines: usize) -> Vec<String> {
    (0..lines)
        .map(|line| format!("{line} cups of green tea, please"))
        .collect()
}

#[tokio::test]
async fn large_results_are_compressed_and_replayed_as_they_were() {
    let store = MemoryStore::new();
    let plain = Idempotency::builder(store.clone()).build();
    let idem = Idempotency::builder(store.clone()).compress_above(1_000).build();
    for (key, lines, is_compressed) in [("small", 10, false), ("large", 1_000, true)] {
        let first = idem.run(id(key), move |_| async move { page(lines) }).await.unwrap();
        let json = serde_json::to_vec(first.value()).unwrap().len();
        let kept = first.recorded().as_bytes().len();
        assert_eq!(kept * 2 < json, is_compressed, "{key}: {kept} of {json} bytes");
        // A codec that knows how reads it, whatever it writes itself.
        for idem in [&idem, &plain] {
            let again = idem.run(id(key), |_| async { page(0) }).await.unwrap();
            assert_eq!(*again, page(lines));
            assert_eq!(again.recorded(), first.recorded());
        }
    }
    // What does not get smaller stays as it is.
    let noise: String = (0..2_000).map(|_| fastrand::alphanumeric()).collect();
    let kept = noise.clone();
    let first = idem.run(id("noise"), |_| async move { kept }).await.unwrap();
    let decoded = first.recorded().decode().unwrap();
    assert!(
        matches!(
            decoded,
            Decoded::Value {
                codec: CodecId::Json,
                ..
            }
        ),
        "{decoded:?}"
    );
    // The bound is that of the value, not of what is kept.
    let bounded = Idempotency::builder(store)
        .compress_above(1_000)
        .max_result_bytes(5_000)
        .build();
    let error = bounded.run(id("bounded"), |_| async { page(1_000) }).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::ResultTooLarge { .. }), "{error:?}");
}

#[tokio::test]
async fn a_damaged_compressed_result_is_an_error_and_takes_no_memory() {
    let idem = Idempotency::builder(MemoryStore::new()).compress_above(100).build();
    let whole = idem.run(id("whole"), |_| async { page(100) }).await.unwrap();
    let bytes = whole.recorded().as_bytes().to_vec();
    // The header has three bytes, the length four.
    for cut in 3..bytes.len() {
        let _ = unreadable(&bytes[..cut]).await;
    }
    let mut long = bytes;
    long[3..7].copy_from_slice(&u32::MAX.to_le_bytes());
    let reason = unreadable(&long).await;
    assert!(reason.contains("cannot be true"), "{reason}");
}

/// Why it is not replayed.
async fn unreadable(bytes: &[u8]) -> String {
    let store = MemoryStore::new();
    let request = id("damaged");
    let claimed = store
        .claim(ClaimRequest::new(&request, Duration::from_secs(60)))
        .await
        .unwrap();
    let ClaimOutcome::Granted(claim) = claimed else {
        panic!("{claimed:?}")
    };
    let damaged = RecordedResult::from_stored(bytes);
    store.complete(claim, damaged, Duration::from_secs(60)).await.unwrap();
    let idem = Idempotency::builder(store).build();
    let error = idem.run(request, |_| async { page(0) }).await.unwrap_err();
    match (error.kind(), error.effect()) {
        (ErrorKind::Codec(CodecError::Decode(reason)), Effect::Done) => reason.to_string(),
        _ => panic!("{error:?}"),
    }
}
