//! The claim decides in Lua, in one round trip. It must decide as `decide` does, in every case that there is.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use oneflight::record::{FencingToken, State};
use redis::cmd;

#[path = "../../../../tests/common/decision.rs"]
mod cases;

use crate::server::{place, prefix, server};
use cases::offset;

#[tokio::test]
async fn the_script_decides_as_the_function_does() {
    let prefix = prefix();
    let store = server().store(&prefix).await;
    let connection = server().connection().await;
    cases::agrees(
        &store,
        &[false, true],
        async |id, number| {
            let shard = place(&store, &prefix, id).await.shard;
            FencingToken::new((1_000_000 + number) * 1024 + shard)
        },
        async |id, record| {
            let mut connection = connection.clone();
            let key = place(&store, &prefix, id).await.key;
            let (seconds, micros): (i64, i64) = cmd("TIME").query_async(&mut connection).await.unwrap();
            let at = |instant| seconds * 1000 + micros / 1000 + offset(record, instant);
            let mut put = cmd("HSET");
            put.arg(key).arg("token").arg(record.token.get() / 1024);
            put.arg("holder").arg(record.holder.as_bytes());
            put.arg("attempt").arg(record.attempt);
            if let Some(fingerprint) = &record.fingerprint {
                put.arg("fingerprint").arg(fingerprint.as_bytes());
            }
            if record.held {
                put.arg("held").arg(1);
            }
            match &record.state {
                State::InProgress { lease_expires } => put.arg("lease_expires").arg(at(*lease_expires)),
                State::Completed {
                    result,
                    completed,
                    expires,
                } => put
                    .arg("completed")
                    .arg(at(*completed))
                    .arg("expires")
                    .arg(at(*expires))
                    .arg("result")
                    .arg(result.as_bytes()),
                other => panic!("{other:?}"),
            };
            put.exec_async(&mut connection).await.unwrap();
        },
    )
    .await;
}
