//! Promise 10 on PostgreSQL: a call that waits two seconds is answered after two, also by a server that has fallen
//! silent.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use crate::postgres::server;
use crate::proxy::{Cut, Proxy};
use oneflight::idempotency::{Context, Effect, ErrorKind, Idempotency};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight_postgres::PostgresStore;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_silent_is_waited_for_no_longer_than_the_caller_said() {
    let schema = server().schema().await;
    let proxy = Proxy::before(server().port()).await;
    // The store's own patience is ten seconds for each try.
    let store = PostgresStore::from_pool(schema.pool_through(proxy.port(), 4))
        .await
        .unwrap();
    let idem = Idempotency::builder(store).wait(Duration::from_secs(2)).build();
    for in_tx in [false, true] {
        let id = RequestIdentity::new(Scope::new("tenant-7"), format!("silent-{in_tx}")).unwrap();
        let call = async || match in_tx {
            true => idem.run_in_tx(id.clone(), |_| async { Ok(1) }).await,
            false => {
                let work = |context: Context| async move { context.attempt() };
                idem.run(id.clone(), work).await
            }
        };
        proxy.cut_times("silent-", Cut::Swallowed, 100);
        let asked = Instant::now();
        let error = call().await.unwrap_err();
        let took = asked.elapsed();
        assert!(matches!(error.kind(), ErrorKind::Store(_)), "{error:?}");
        // A transaction that is not answered is rolled back; a claim may be granted still, and is given back then.
        let effect = if in_tx { Effect::Nothing } else { Effect::Unknown };
        assert_eq!(error.effect(), effect);
        assert!(
            took >= Duration::from_secs(2) && took < Duration::from_secs(8),
            "{took:?}"
        );
        proxy.disarm();
        assert_eq!(*call().await.unwrap(), 1, "it is free when the server answers again");
    }
}
