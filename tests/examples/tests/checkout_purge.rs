//! Promise: the service deletes what is past its retention, and nothing else.

mod checkout_support;

use std::time::{Duration, Instant};

use checkout_support::{Request, Server};
use oneflight::idempotency::Idempotency;
use oneflight::identity::{RequestIdentity, Scope};
use oneflight_sqlite::SqliteStore;

#[tokio::test(flavor = "multi_thread")]
async fn expired_records_go_and_the_others_stay() {
    let directory = tempfile::tempdir().unwrap();
    let db = directory.path().join("shop.db");
    let order = Request::order().key("k-1").json(r#"{"item": "tea", "quantity": 2}"#);
    let server = Server::start(&db, 0, &["--delay-ms", "0"]);
    let placed = server.send(&order).json();
    drop(server);

    let store = SqliteStore::open(&db).await.unwrap();
    let count = || async {
        sqlx::query_as::<_, (i64, i64)>(
            "SELECT count(*) FILTER (WHERE scope = 'expired'), count(*) FILTER (WHERE scope <> 'expired')
             FROM oneflight_records",
        )
        .fetch_one(store.pool())
        .await
        .unwrap()
    };
    let short = Idempotency::builder(store.clone())
        .retention(Duration::from_millis(1))
        .build();
    // More than one batch.
    for number in 0..450 {
        let id = RequestIdentity::new(Scope::new("expired"), format!("old-{number}")).unwrap();
        let reply = short.run_in_tx(id, move |_| async move { Ok(number) });
        assert_eq!(*reply.await.unwrap(), number);
    }
    let (expired, kept) = count().await;
    assert_eq!(expired, 450);
    assert!(kept > 0);

    let mut server = Server::start(&db, 0, &["--delay-ms", "0"]);
    let until = Instant::now() + Duration::from_secs(30);
    while count().await.0 > 0 {
        assert!(Instant::now() < until, "{} are still there", count().await.0);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(count().await, (0, kept));
    let again = server.send(&order);
    assert_eq!(again.header("idempotency-origin"), Some("replayed"));
    assert_eq!(again.json()["order_id"], placed["order_id"]);

    // The purge is not in the way of the end.
    server.process.terminate();
    assert!(server.process.wait(Duration::from_secs(10)).success());
}
