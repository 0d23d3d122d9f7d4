//! A process renews all its leases in a few round trips, however many it holds. What gathers them is tested in the crate
//! `oneflight` (`tests/durable/renewals.rs`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, RecordedResult, Verdict};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Store, StoreError};
use oneflight_redis::RedisStore;
use redis::cmd;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::server::{Server, cluster, prefix, server};

const MINUTE: Duration = Duration::from_secs(60);

fn id(number: usize) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), format!("k{number}")).unwrap()
}

/// So many claims, of `id(0)` and those that follow.
async fn claims(store: &RedisStore, count: usize, lease: Duration) -> Vec<Claim> {
    let claim = async |number| match store.claim(ClaimRequest::new(&id(number), lease)).await.unwrap() {
        ClaimOutcome::Granted(claim) => claim,
        other @ ClaimOutcome::Denied(_) => panic!("{other:?}"),
    };
    futures::stream::iter(0..count).map(claim).buffered(64).collect().await
}

async fn remaining(store: &RedisStore, number: usize) -> Duration {
    let record = store.load(&id(number)).await.unwrap().unwrap();
    record.lease_remaining().unwrap()
}

/// What a server is asked for.
async fn watched(server: &Server) -> mpsc::UnboundedReceiver<String> {
    let monitor = server.client().get_async_monitor().await.unwrap();
    let (sends, lines) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut stream = Box::pin(monitor.into_on_message::<String>());
        while let Some(line) = stream.next().await {
            if !line.contains(" lua] ") && sends.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_leases_are_renewed_in_twenty_round_trips_a_third() {
    const LEASES: usize = 10_000;
    let server = Server::start(&[]);
    let store = server.store("shop:").await;
    let lease = Duration::from_secs(12);
    let claims = claims(&store, LEASES, lease).await;
    // Afterwards the server knows the script.
    store.renew(&id(0), claims[0].token(), lease).await.unwrap();
    tokio::time::sleep(lease / 48).await;

    let mut lines = watched(&server).await;
    let (third, begun) = (lease / 3, Instant::now());
    let mut renewing = JoinSet::new();
    for (number, claim) in claims.iter().enumerate() {
        let (store, token) = (store.clone(), claim.token());
        renewing.spawn(async move {
            tokio::time::sleep(third.mul_f64(fastrand::f64())).await;
            let asked = Instant::now();
            store.renew(&id(number), token, lease).await.unwrap();
            asked.elapsed()
        });
    }
    let waited = renewing.join_all().await.into_iter().max().unwrap();
    // On a busy machine it takes longer than a third.
    let thirds = begun.elapsed().as_secs_f64().max(third.as_secs_f64()) / third.as_secs_f64();
    let mut connection = server.connection().await;
    let _: String = cmd("ECHO").arg("the end").query_async(&mut connection).await.unwrap();
    let mut sent = Vec::new();
    while let Some(line) = lines.recv().await {
        if line.contains("the end") {
            break;
        }
        if line.contains(r#""EVALSHA""#) {
            let leases: usize = line.split('"').nth(5).unwrap().parse().unwrap();
            sent.push(leases);
        }
    }
    assert_eq!(sent.iter().sum::<usize>(), LEASES);
    // A message has scripts of 128 leases, and one of what is left.
    let round_trips = sent.iter().filter(|leases| **leases < 128).count();
    println!(
        "{LEASES} leases in {round_trips} round trips, {} scripts and {thirds:.2} thirds, none in more than {waited:?}",
        sent.len()
    );
    assert!(round_trips as f64 <= 20.0 * thirds, "{round_trips} in {thirds} thirds");
    for number in [0, LEASES / 2, LEASES - 1] {
        // Each lasts from a moment after this test began to renew them. Clocks are read to the millisecond.
        let lasts = remaining(&store, number).await + begun.elapsed();
        assert!(lasts + Duration::from_millis(5) >= lease, "{number}: {lasts:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_renewals_is_answered_for_itself() {
    let servers = cluster(3).await;
    let of_a_cluster = RedisStore::options()
        .open_cluster(servers.iter().map(Server::url))
        .await
        .unwrap();
    let of_one = server().store(&prefix()).await;
    for store in [of_one, of_a_cluster] {
        let claims = claims(&store, 700, MINUTE).await;
        let result = RecordedResult::value(Verdict::Performed, CodecId::Json, b"1");
        let tokens: Vec<_> = claims.iter().map(Claim::token).collect();
        for (number, claim) in claims.into_iter().enumerate() {
            match number {
                7 => store.complete(claim, result.clone(), MINUTE).await.unwrap(),
                300 => store.release(claim).await.unwrap(),
                _ => {}
            }
        }
        let renewed = tokens.iter().enumerate().map(async |(number, token)| {
            // Some for longer, and some for no longer than they have.
            let lease = MINUTE * u32::try_from(number % 3).unwrap();
            store.renew(&id(number), *token, lease).await
        });
        for (number, renewed) in join_all(renewed).await.into_iter().enumerate() {
            match number {
                7 | 300 => assert!(matches!(renewed, Err(StoreError::Outdated { .. })), "{renewed:?}"),
                _ => renewed.unwrap(),
            }
        }
        for (number, least) in [(0, MINUTE / 2), (1, MINUTE / 2), (2, MINUTE), (698, MINUTE)] {
            assert!(remaining(&store, number).await > least, "{number}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_hangs_holds_no_renewal_of_another_up() {
    const LEASES: usize = 600;
    let servers = cluster(3).await;
    let options = RedisStore::options().patience(Duration::from_secs(20));
    let store = options.open_cluster(servers.iter().map(Server::url)).await.unwrap();
    let claims = claims(&store, LEASES, MINUTE).await;
    servers[1].signal("STOP");
    let begun = Instant::now();
    let mut renewing: JoinSet<_> = claims
        .iter()
        .enumerate()
        .map(|(number, claim)| {
            let (store, token) = (store.clone(), claim.token());
            async move { store.renew(&id(number), token, MINUTE).await }
        })
        .collect();
    let mut renewed = 0;
    // Of those of the node, none is answered.
    while renewed < LEASES / 2 {
        let next = tokio::time::timeout(Duration::from_secs(5), renewing.join_next()).await;
        next.unwrap_or_else(|_| panic!("only {renewed} are renewed"))
            .unwrap()
            .unwrap()
            .unwrap();
        renewed += 1;
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    servers[1].signal("CONT");
    for renewed in renewing.join_all().await {
        renewed.unwrap();
    }
}
