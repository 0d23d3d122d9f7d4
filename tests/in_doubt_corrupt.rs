//! A record that cannot be read does not hide the others that are in doubt.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::time::Duration;

use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, PostgresStore, SqliteStore, Store};
use redis::cmd;

#[path = "common/postgres.rs"]
mod postgres;
#[path = "common/redis.rs"]
mod redis_server;

use redis_server::{place, prefix};

fn id(number: usize) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), format!("k{number}")).unwrap()
}

async fn five_in_doubt<S: Store>(store: &S) -> Vec<Claim> {
    let mut claims = Vec::new();
    for number in 0..5 {
        let request = id(number);
        match store.claim(ClaimRequest::new(&request, Duration::ZERO)).await.unwrap() {
            ClaimOutcome::Granted(claim) => claims.push(claim),
            other => panic!("{other:?}"),
        }
    }
    claims
}

/// Two of the five cannot be read: the second and the fourth, in the order of the tokens.
async fn the_others_are_listed<S: Store>(store: &S, claims: &[Claim]) {
    let listed = async |limit, after| {
        let listed = store.in_doubt(limit, after).await.unwrap();
        listed.iter().map(|it| it.token).collect::<Vec<_>>()
    };
    let mut tokens: Vec<_> = [0, 2, 4].map(|number| claims[number].token()).to_vec();
    tokens.sort();
    assert_eq!(listed(10, None).await, tokens);
    // A page is as full as if they were not there.
    assert_eq!(listed(2, None).await, tokens[..2]);
    assert_eq!(listed(2, Some(tokens[1])).await, tokens[2..]);
    assert_eq!(listed(1, Some(tokens[0])).await, tokens[1..2]);
}

#[tokio::test]
async fn sqlite_lists_what_it_can_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("x.db")).await.unwrap();
    let claims = five_in_doubt(&store).await;
    for spoil in [
        "UPDATE oneflight_records SET attempt = 5000000000 WHERE key = 'k1'",
        "UPDATE oneflight_records SET key = '' WHERE key = 'k3'",
    ] {
        sqlx::query(spoil).execute(store.pool()).await.unwrap();
    }
    the_others_are_listed(&store, &claims).await;
}

#[tokio::test]
async fn postgres_lists_what_it_can_read() {
    let schema = postgres::server().schema().await;
    let store = PostgresStore::open(schema.pool(1)).await.unwrap();
    let claims = five_in_doubt(&store).await;
    for spoil in [
        "UPDATE oneflight_records SET attempt = 5000000000 WHERE key = 'k1'",
        "UPDATE oneflight_records SET key = '' WHERE key = 'k3'",
    ] {
        sqlx::query(spoil).execute(store.pool()).await.unwrap();
    }
    the_others_are_listed(&store, &claims).await;
}

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
    for (number, spoil) in [(1, "HSET"), (3, "SET")] {
        let mut spoiled = cmd(spoil);
        spoiled.arg(&places[claims[number].id()]);
        if spoil == "HSET" {
            spoiled.arg("attempt");
        }
        spoiled.arg("5000000000").exec_async(&mut connection).await.unwrap();
    }
    the_others_are_listed(&store, &claims).await;
}
