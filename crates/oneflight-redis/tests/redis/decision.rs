//! The claim decides in Lua, in one round trip. It must decide as `decide` does, in every case that there is.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use oneflight::record::FencingToken;
use redis::cmd;

#[path = "../../../../tests/common/decision.rs"]
mod cases;

use crate::server::{place, prefix, server, stored};
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
            let set: redis::RedisResult<()> = cmd("SET")
                .arg(key)
                .arg(stored(record, at))
                .query_async(&mut connection)
                .await;
            set.unwrap();
        },
    )
    .await;
}
