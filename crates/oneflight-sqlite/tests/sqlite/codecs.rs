//! Promise 11, for codecs of the user's: what is recorded in the commit of a transaction is replayed as it was executed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::error::Error;

use oneflight::idempotency::{Codec, ErrorKind, Format, Idempotency, Origin, Rollback};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight_sqlite::SqliteStore;

/// Bytes as they are.
struct Plain;

impl Format for Plain {
    const NAME: &'static str = "bytes";
}

impl Codec<Vec<u8>> for Plain {
    fn encode(&self, value: &Vec<u8>) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        Ok(value.clone())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        Ok(bytes.to_vec())
    }
}

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

#[tokio::test]
async fn what_has_no_json_is_recorded_in_a_transaction_be_it_declined() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("codecs.db")).await.unwrap();
    let idem = Idempotency::builder(store)
        .max_result_bytes(4)
        .build()
        .with_codec(Plain);
    let image = [0xff, 0xd8, 0xff];
    for origin in [Origin::Executed, Origin::Replayed] {
        let done = idem
            .run_in_tx(id("done"), move |_| Box::pin(async move { Ok(image.to_vec()) }))
            .await
            .unwrap();
        assert_eq!((&done[..], done.origin()), (&image[..], origin));
        let declined = idem
            .run_in_tx(id("declined"), move |_| {
                Box::pin(async move { Err(Rollback::Declined(image.to_vec())) })
            })
            .await
            .unwrap();
        assert!(declined.is_declined());
        assert_eq!((&declined[..], declined.origin()), (&image[..], origin));
    }
    let error = idem
        .run_in_tx(id("large"), |_| Box::pin(async { Ok(vec![0; 5]) }))
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::ResultTooLarge { size: 5, limit: 4 }),
        "{error:?}"
    );
    assert!(idem.status(&id("large")).await.unwrap().is_none(), "rolled back");
}
