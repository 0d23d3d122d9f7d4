//! A record that cannot be read does not hide the others that are in doubt.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../../../tests/common/in_doubt.rs"]
mod in_doubt;
use crate::server as redis_server;

use std::collections::HashMap;

use crate::server::{place, prefix};
use in_doubt::{five_in_doubt, id, the_others_are_listed};
use oneflight::store::Claim;
use redis::cmd;

#[tokio::test]
async fn redis_lists_what_it_can_read() {
    let prefix = prefix();
    let store = redis_server::server().store(&prefix).await;
    let mut connection = redis_server::server().connection().await;
    // Found by a claim that is given back.
    let mut places = HashMap::new();
    for number in 0..5 {
        places.insert(id(number), place(&store, &prefix, &id(number)).await.key);
    }
    let mut claims = five_in_doubt(&store).await;
    // Tokens are drawn shard by shard.
    claims.sort_by_key(Claim::token);
    // An attempt that is too large, and a text that is none of ours.
    for (number, spoil, place) in [(1, "SETRANGE", Some(17)), (3, "SET", None)] {
        let mut spoiled = cmd(spoil);
        spoiled.arg(&places[claims[number].id()]).arg(place);
        spoiled.arg("5000000000").exec_async(&mut connection).await.unwrap();
    }
    the_others_are_listed(&store, &claims).await;
}
