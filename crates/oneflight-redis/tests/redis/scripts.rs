//! What scripts do where a clock or a key is not as they expect it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Denied, Store, StoreError, StoreFailure, Takeover};
use oneflight_redis::RedisStore;
use redis::cmd;

use crate::server::{LAST_TOKEN, Place, Server, place, prefix, server};
use crate::together::{MINUTE, claim_all, complete_all, granted, id, result};

const CLAIM: &str = concat!(
    // The script believes that this is the server's clock: some seconds before there were ten digits of them.
    "local server = redis\n",
    "local redis = { pcall = server.pcall, call = function(name, ...)\n",
    "    if name == 'TIME' then return { '999999999', '7' } end\n",
    "    return server.call(name, ...)\n",
    "end }\n",
    include_str!("../../src/scripts/prelude.lua"),
    include_str!("../../src/scripts/rewrite.lua"),
    include_str!("../../src/scripts/claim.lua"),
);

#[tokio::test]
async fn a_token_has_all_its_digits_whatever_the_clock_says() {
    let mut connection = server().connection().await;
    let prefix = prefix();
    let mut claim = cmd("EVAL");
    claim.arg(CLAIM).arg(2);
    for key in ["{1}:k", "{1}.open"] {
        claim.arg(format!("{prefix}{key}"));
    }
    claim.arg(&["0", "1000", "never", "0000000000000000", "holder-of-16-by.0000"]);
    let token: String = claim.query_async(&mut connection).await.unwrap();
    assert_eq!(token, "0999999999000007");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_list_that_is_none_is_told_to_those_alone_whose_it_is() {
    let prefix = prefix();
    let store = server().store(&prefix).await;
    let mut connection = server().connection().await;
    let spoiled = place(&store, &prefix, &id("spoiled")).await;
    let list = spoiled.list();
    let spoil = cmd("SET").arg(&list).arg("x").exec_async(&mut connection).await;
    spoil.unwrap();
    let mut claims = claim_all(&store, &["one", "two", "spoiled", "three"].map(id)).await;
    let refused = claims.remove(2);
    assert!(matches!(refused, Err(StoreError::Corrupt { .. })), "{refused:?}");
    assert!(store.load(&id("spoiled")).await.unwrap().is_none());
    let mut claims: Vec<_> = claims.into_iter().map(|claim| granted(claim.unwrap())).collect();

    // Of what is held, it is spoiled later.
    cmd("DEL").arg(&list).exec_async(&mut connection).await.unwrap();
    let mut later = claim_all(&store, &["four", "five", "spoiled"].map(id)).await;
    claims.insert(2, granted(later.remove(2).unwrap()));
    let token = claims[2].token();
    let again = || Claim::new(id("spoiled"), token, 1, None);
    let (given_back, later) = (again(), again());
    let spoil = cmd("SET").arg(&list).arg("x").exec_async(&mut connection).await;
    spoil.unwrap();
    let mut completed = complete_all(&store, claims).await;
    for refused in [completed.remove(2), store.release(given_back).await] {
        assert!(matches!(refused, Err(StoreError::Corrupt { .. })), "{refused:?}");
    }
    assert!(completed.iter().all(Result::is_ok), "{completed:?}");
    // Nothing was written of it, so it goes on once the list is gone.
    cmd("DEL").arg(&list).exec_async(&mut connection).await.unwrap();
    store.complete(later, result(), MINUTE).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_taken_over_stays_listed_as_it_was() {
    let prefix = prefix();
    let store = server().store(&prefix).await;
    let mut connection = server().connection().await;
    let place = place(&store, &prefix, &id("k")).await;
    let dead = granted(store.claim(ClaimRequest::new(&id("k"), Duration::ZERO)).await.unwrap());
    let mut spoil = cmd("ZADD");
    spoil.arg(place.list()).arg("inf").arg(LAST_TOKEN);
    spoil.exec_async(&mut connection).await.unwrap();
    let takes_over = ClaimRequest::new(&id("k"), MINUTE).takeover(Takeover::Expired);
    let refused = store.claim(takes_over).await;
    assert!(matches!(refused, Err(StoreError::Corrupt { .. })), "{refused:?}");
    let doubtful = store.in_doubt(10, None).await.unwrap();
    let [doubtful] = &doubtful[..] else {
        panic!("{doubtful:?}")
    };
    assert_eq!((&doubtful.id, doubtful.token), (dead.id(), dead.token()));
}

/// The record may be gone without its place in the list: it was evicted, or an operator has deleted it.
#[tokio::test]
async fn a_token_is_above_the_last_one_although_the_record_is_listed_above_the_clock() {
    const HOUR: u64 = 3_600_000_000;
    let prefix = prefix();
    let mut connection = server().connection().await;
    let before = server().store(&prefix).await;
    let place = place(&before, &prefix, &id("k")).await;
    let gone = granted(before.claim(ClaimRequest::new(&id("k"), MINUTE)).await.unwrap());
    // As if the clock had been set back by an hour since.
    let ahead = gone.token().get() / 1024 + HOUR;
    let mut lists = cmd("ZADD");
    lists
        .arg(place.list())
        .arg(ahead)
        .arg(LAST_TOKEN)
        .arg(ahead)
        .arg(&place.key);
    lists.exec_async(&mut connection).await.unwrap();
    cmd("DEL").arg(&place.key).exec_async(&mut connection).await.unwrap();

    // Another process, which has not seen that token.
    let store = server().store(&prefix).await;
    let dead = granted(store.claim(ClaimRequest::new(&id("k"), Duration::ZERO)).await.unwrap());
    assert_eq!(dead.token().get() / 1024, ahead + 1);
    assert_eq!(store.setbacks(), 0);
    // It is listed by its own token, so an operator sees it.
    let doubtful = store.in_doubt(10, None).await.unwrap();
    let [doubtful] = &doubtful[..] else {
        panic!("{doubtful:?}")
    };
    assert_eq!((&doubtful.id, doubtful.token), (dead.id(), dead.token()));
}

/// Such as that of two claims of a shard in one script, which come in the same microsecond.
#[tokio::test]
async fn a_token_beyond_the_clock_needs_no_other_rights_than_one_by_the_clock() {
    let server = Server::start(&[]);
    let store = server.store("shop:").await;
    let mut connection = server.connection().await;
    let place = place(&store, "shop:", &id("k")).await;
    let mut acl = cmd("ACL");
    acl.arg(&["SETUSER", "default", "-zscore"]);
    acl.exec_async(&mut connection).await.unwrap();
    let first = granted(store.claim(ClaimRequest::new(&id("k"), MINUTE)).await.unwrap());
    let ahead = first.token().get() / 1024 + 3_600_000_000;
    store.release(first).await.unwrap();
    let mut moves = cmd("ZADD");
    moves.arg(place.list()).arg(ahead).arg(LAST_TOKEN);
    moves.exec_async(&mut connection).await.unwrap();
    let second = granted(store.claim(ClaimRequest::new(&id("k"), MINUTE)).await.unwrap());
    assert_eq!(second.token().get() / 1024, ahead + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_script_may_not_do_leaves_no_record() {
    let server = Server::start(&[]);
    let store = server.store("shop:").await;
    let mut connection = server.connection().await;
    let mut acl = cmd("ACL");
    acl.arg(&["SETUSER", "default", "-zadd", "-zrem"]);
    acl.exec_async(&mut connection).await.unwrap();
    for refused in claim_all(&store, &["one", "two", "three", "four"].map(id)).await {
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    }
    let keys: Vec<String> = cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
    assert!(keys.is_empty(), "{keys:?}");
    let mut acl = cmd("ACL");
    acl.arg(&["SETUSER", "default", "+zadd"]);
    acl.exec_async(&mut connection).await.unwrap();
    let claims = claim_all(&store, &["one", "two", "three", "four"].map(id)).await;
    let claims: Vec<_> = claims.into_iter().map(|claim| granted(claim.unwrap())).collect();
    for refused in complete_all(&store, claims).await {
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    }
    assert!(store.load(&id("one")).await.unwrap().unwrap().result().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_without_memory_still_says_what_it_knows() {
    let server = Server::start(&[]);
    let store = server.store("shop:").await;
    let mut before = claim_all(&store, &["held", "done"].map(id)).await.into_iter();
    let held = granted(before.next().unwrap().unwrap());
    let done = granted(before.next().unwrap().unwrap());
    store.complete(done, result(), MINUTE).await.unwrap();
    let mut connection = server.connection().await;
    let set = cmd("CONFIG")
        .arg(&["SET", "maxmemory", "1"])
        .exec_async(&mut connection)
        .await;
    set.unwrap();
    let asked = ["alone", "done", "new", "held", "another"].map(id);
    let [alone, replayed, new, in_progress, another] = claim_all(&store, &asked).await.try_into().unwrap();
    for refused in [alone, new, another] {
        let is_full = matches!(
            refused,
            Err(StoreError::Failed {
                failure: StoreFailure::Full,
                ..
            })
        );
        assert!(is_full, "{refused:?}");
    }
    assert!(
        matches!(replayed, Ok(ClaimOutcome::Denied(Denied::Completed(_)))),
        "{replayed:?}"
    );
    assert!(
        matches!(in_progress, Ok(ClaimOutcome::Denied(Denied::InProgress { .. }))),
        "{in_progress:?}"
    );
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_script_may_not_do_for_one_is_done_for_others() {
    let server = Server::start(&[]);
    // It waits for replicas, of which none has to acknowledge.
    let options = RedisStore::options().acknowledged_by(0, MINUTE);
    let store = server.store_with(options).await;
    let done = granted(claim_all(&store, &[id("done")]).await.remove(0).unwrap());
    store.complete(done, result(), MINUTE).await.unwrap();
    let mut connection = server.connection().await;
    let mut acl = cmd("ACL");
    acl.arg(&["SETUSER", "default", "-pexpireat"]);
    acl.exec_async(&mut connection).await.unwrap();
    let mut claims = claim_all(&store, &["one", "two", "done", "three"].map(id)).await;
    let refused = claims.remove(2);
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    for claim in claims {
        drop(granted(claim.unwrap()));
    }
}

/// What a user may do is changed while there is something in progress.
async fn allow(connection: &mut redis::aio::MultiplexedConnection, rules: &[&str]) {
    let mut acl = cmd("ACL");
    acl.arg(&["SETUSER", "default"]).arg(rules);
    acl.exec_async(connection).await.unwrap();
}

/// How much is listed as in progress in the shard of a record.
async fn listed(connection: &mut redis::aio::MultiplexedConnection, place: &Place) -> u64 {
    let mut listed = cmd("ZRANGE");
    listed.arg(place.list()).arg("0").arg("-1");
    let listed: Vec<Vec<u8>> = listed.query_async(connection).await.unwrap();
    listed.iter().filter(|it| **it != LAST_TOKEN).count() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_may_not_be_ended_stays_in_the_list_of_what_is_in_progress() {
    let server = Server::start(&[]);
    let store = server.store("shop:").await;
    let mut connection = server.connection().await;
    let one = place(&store, "shop:", &id("one")).await;
    let claims = claim_all(&store, &["one", "two", "three"].map(id)).await;
    let claims: Vec<_> = claims.into_iter().map(|claim| granted(claim.unwrap())).collect();
    let token = claims[0].token();
    let again = || Claim::new(id("one"), token, 1, None);

    allow(&mut connection, &["-set"]).await;
    for refused in complete_all(&store, claims).await {
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    }
    assert_eq!(listed(&mut connection, &one).await, 1);
    allow(&mut connection, &["+set", "-del"]).await;
    let refused = store.release(again()).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    assert_eq!(listed(&mut connection, &one).await, 1);

    allow(&mut connection, &["+del"]).await;
    store.release(again()).await.unwrap();
    assert_eq!(listed(&mut connection, &one).await, 0);
}
