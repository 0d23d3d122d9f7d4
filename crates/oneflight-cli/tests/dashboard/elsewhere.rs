//! The same page over PostgreSQL and Redis.

use std::path::Path;
use std::time::Duration;

use oneflight::correlation::{self, CorrelationId};
use oneflight::store::Upkeep;
use oneflight::{Idempotency, Message, Origin, ResultExt};
use oneflight_postgres::PostgresStore;
use serde_json::json;

use crate::fill::{ORDER, SECRET, id};
use crate::support::{Dashboard, TOKEN};
use crate::{postgres, redis};

/// A doubt is shown, and recorded as an answer.
async fn a_doubt_is_settled<S: Upkeep + Clone>(store: &S, dashboard: &Dashboard) {
    let idem = Idempotency::builder(store.clone()).settle(Duration::ZERO).build();
    let call = idem.try_run(id("8e03"), |_| async {
        Ok(Err::<u32, _>("the line broke off").or_unknown()?)
    });
    let _ = call.await.map(|_| ()).unwrap_err();
    let session = dashboard.log_in();
    let told = session.get("/api/records?state=in_doubt").send().json();
    let row = &told["rows"][0];
    assert_eq!(row["key"], "8e03", "{told:#}");
    let change = |how| json!({ "scope": row["scope"], "key": row["key"], "token": row["token"], "how": how });
    for how in [json!("hold"), json!({ "recorded": { "json": "7" } })] {
        let answer = session.post("/api/change/resolve", &change(how)).send();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let reply = idem.run(id("8e03"), |_| async { 8 }).await.unwrap();
    assert_eq!((*reply, reply.origin()), (7, Origin::Replayed));
    assert!(store.load(&id("8e03")).await.unwrap().is_some());
    let story = session.get("/api/story?key=8e03").send().json();
    assert_eq!(story["stories"][0]["record"]["state"], "completed", "{story:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_postgresql() {
    let (server, user) = (postgres::server(), postgres::SUPERUSER);
    let schema = server.schema().await.name;
    let url = format!("postgres://{user}@127.0.0.1:{}/postgres?sslmode=disable", server.port());
    let store = PostgresStore::options().schema(&schema).open(&url).await.unwrap();
    let dashboard = Dashboard::start(Path::new(&url), &["--schema", &schema], Some(TOKEN));
    a_doubt_is_settled(&store, &dashboard).await;
    let idem = Idempotency::builder(store.clone()).build();
    let call = idem.run_in_tx(id("a7f3"), |mut tx| async move {
        let _ = tx.send(Message::text("mail.receipt", SECRET)).await?;
        Ok(SECRET.to_owned())
    });
    let _ = correlation::scope(CorrelationId::new(ORDER).unwrap(), call)
        .await
        .unwrap();
    let session = dashboard.log_in();
    let paused = session
        .post("/api/change/pause", &json!({ "topic": "mail.receipt" }))
        .send();
    assert_eq!(paused.status, 200, "{paused:?}");
    let outbox = session.get("/api/outbox").send().json();
    let topic = &outbox["topics"][0];
    assert_eq!(
        (&topic["topic"], &topic["waiting"], &topic["paused"]),
        (&json!("mail.receipt"), &json!(1), &json!(true))
    );
    for path in [
        "/api/story?key=a7f3".to_owned(),
        format!("/api/story?correlation_id={ORDER}"),
    ] {
        let story = session.get(&path).send();
        assert!(!story.body.contains(SECRET));
        let story = story.json();
        assert_eq!(
            story["stories"][0]["messages"][0]["topic"], "mail.receipt",
            "{path}: {story:#}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_redis_and_what_it_does_not_keep_is_told() {
    let (server, prefix) = (redis::server(), redis::prefix());
    let dashboard = Dashboard::start(Path::new(&server.url()), &["--prefix", &prefix], Some(TOKEN));
    a_doubt_is_settled(&server.store(&prefix).await, &dashboard).await;
    let session = dashboard.log_in();
    for path in ["/api/outbox", "/api/dead", "/api/steps"] {
        assert_eq!(
            session.get(path).send().problem(),
            (501, "unsupported".to_owned()),
            "{path}"
        );
    }
    let change = session
        .post("/api/change/pause", &json!({ "topic": "mail.receipt" }))
        .send();
    assert_eq!(change.problem(), (501, "unsupported".to_owned()));
    let step = json!({ "scope": id("8e03").scope(), "key": "8e03", "token": "1", "step": "charge", "how": "not_done" });
    let change = session.post("/api/change/settle-step", &step).send();
    assert_eq!(change.problem(), (501, "unsupported".to_owned()));
}
