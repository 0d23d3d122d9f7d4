//! `RedisStore` keeps what every store promises: on one server, over connections of the caller's, and in a cluster.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::error::Error;

use oneflight_conformance::{self as conformance, Failure};
use oneflight_redis::RedisStore;

use crate::server;

use crate::server::{cluster, prefix, server};

fn kept(checked: Result<(), Failure>) {
    if let Err(failure) = checked {
        panic!("{failure}: {:?}", failure.source());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_what_every_store_promises() {
    kept(conformance::run(async || server().store(&prefix()).await).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_them_over_connections_of_the_callers() {
    kept(
        conformance::run(async || {
            let connection = server().connection().await;
            let options = RedisStore::options().prefix(prefix()).listen_with(server().client());
            options.from_connection(connection).await.unwrap()
        })
        .await,
    );
    kept(
        conformance::run(async || {
            let manager = server().client().get_connection_manager().await.unwrap();
            RedisStore::options()
                .prefix(prefix())
                .from_connection(manager)
                .await
                .unwrap()
        })
        .await,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_them_in_the_third_protocol() {
    let url = format!("{}?protocol=resp3", server().url());
    kept(
        conformance::run(async || {
            let client = redis::Client::open(url.as_str()).unwrap();
            RedisStore::options()
                .prefix(prefix())
                .from_client(client)
                .await
                .unwrap()
        })
        .await,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_them_in_a_cluster() {
    for nodes in [1, 3] {
        let servers = cluster(nodes).await;
        kept(
            conformance::run(async || {
                let nodes = servers.iter().map(server::Server::url);
                let options = RedisStore::options().prefix(prefix());
                options.open_cluster(nodes).await.unwrap()
            })
            .await,
        );
    }
}
