//! Promise 20: an operator can look into Redis.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use oneflight::store::{Soundness, Upkeep};
use oneflight_conformance as conformance;
use oneflight_redis::RedisStore;

use crate::server::{Server, cluster, prefix, server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_can_look_into_it() {
    conformance::run_upkeep(async || server().store(&prefix()).await)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_can_look_into_a_cluster() {
    let nodes = cluster(3).await;
    let urls: Vec<String> = nodes.iter().map(Server::url).collect();
    conformance::run_upkeep(async || {
        let options = RedisStore::options().prefix(prefix());
        options.open_cluster(urls.iter().map(String::as_str)).await.unwrap()
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_breaks_a_promise_is_found() {
    let server = Server::start(&["--maxmemory", "500mb", "--maxmemory-policy", "allkeys-lru"]);
    let options = RedisStore::options().prefix(prefix()).accept_eviction();
    let store = options.from_client(server.client()).await.unwrap();
    let findings = store.findings().await.unwrap();
    for (name, verdict) in [
        ("eviction policy", Soundness::Broken),
        ("persistence", Soundness::Broken),
        ("version", Soundness::Sound),
        ("clock", Soundness::Sound),
        ("role of the server", Soundness::Sound),
        ("appendfsync", Soundness::Remarkable),
    ] {
        let found = findings.iter().find(|it| it.name == name).map(|it| it.verdict);
        assert_eq!(found, Some(verdict), "{name}: {findings:?}");
    }
}
