//! A process that dies in the middle of its work.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use oneflight::idempotency::Idempotency;
use oneflight::store::Store;
use tokio::runtime::Runtime;

use super::id;

/// Runs work that has an effect and then dies with its process: its runtime is dropped in the middle. Answers the
/// key that it sent downstream.
pub fn crash<S: Store + Clone>(store: &S, lease: Duration, key: &'static str) -> String {
    let idem = Idempotency::builder(store.clone()).lease(lease).build();
    let process = Runtime::new().unwrap();
    let (sent, sends) = std::sync::mpsc::channel();
    process.spawn(async move {
        let work = |context: oneflight::idempotency::Context| async move {
            sent.send(context.downstream_key("charge")).unwrap();
            std::future::pending::<String>().await
        };
        idem.run(id(key), work).await
    });
    let downstream = sends.recv().unwrap();
    drop(process);
    downstream
}
