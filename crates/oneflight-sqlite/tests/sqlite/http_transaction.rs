//! Promises 12 and 17: under the layer, what a handler writes is one commit with its recorded answer.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::post;
use futures::join;
use http_body_util::BodyExt;
use oneflight::http::layer::{Failure, IdempotencyLayer, Outcome, Recording};
use oneflight::http::{Problem, kind};
use oneflight::idempotency::Context;
use oneflight::{Idempotency, Tx};
use oneflight_sqlite::SqliteStore;
use tokio::sync::Semaphore;
use tower::ServiceExt;
use tower_http::timeout::TimeoutLayer;

struct Shop {
    app: Router,
    store: SqliteStore,
    _folder: tempfile::TempDir,
}

async fn insert(tx: &mut Tx<SqliteStore>, item: &str) -> i64 {
    let insert = sqlx::query("INSERT INTO orders (item) VALUES (?)").bind(item.to_owned());
    insert.execute(&mut **tx).await.unwrap().last_insert_rowid()
}

/// Writes a row, and answers as it is told to.
async fn place(mut tx: Tx<SqliteStore>, context: Context, body: String) -> Response {
    assert_eq!(context.downstream_key("mail"), tx.downstream_key("mail"));
    let order = insert(&mut tx, &body).await;
    match body.as_str() {
        "panic" => panic!("a bug"),
        "303" => Redirect::to(&format!("/orders/{order}")).into_response(),
        "500, recorded" => (StatusCode::INTERNAL_SERVER_ERROR, Outcome::Record, "order").into_response(),
        "404, nothing done" => (StatusCode::NOT_FOUND, Outcome::NothingDone, "order").into_response(),
        "escape" => {
            static KEPT: std::sync::Mutex<Option<Tx<SqliteStore>>> = std::sync::Mutex::new(None);
            *KEPT.lock().unwrap() = Some(tx);
            "escaped".into_response()
        }
        "large" => "x".repeat(1_000_000).into_response(),
        status => {
            let status = StatusCode::from_bytes(status.as_bytes()).unwrap();
            (status, format!("order {order}")).into_response()
        }
    }
}

async fn without(body: String) -> String {
    body
}

impl Shop {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("shop.db")).await.unwrap();
        sqlx::query("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT NOT NULL)")
            .execute(store.pool())
            .await
            .unwrap();
        let layer = IdempotencyLayer::transactional(Idempotency::builder(store.clone()).build()).unscoped();
        let app = Router::new()
            .route("/orders", post(place))
            .route("/none", post(without))
            .route("/json", post(place_json))
            .route("/fail", post(fail))
            .route("/maybe", post(maybe))
            .layer(layer);
        let _folder = folder;
        Self { app, store, _folder }
    }

    async fn send(&self, path: &str, key: Option<&str>, body: &str) -> (StatusCode, String, Bytes) {
        let request = Request::post(path);
        let request = match key {
            Some(key) => request.header("idempotency-key", key),
            None => request,
        };
        let response = self
            .app
            .clone()
            .oneshot(request.body(Body::from(body.to_owned())).unwrap())
            .await
            .unwrap();
        let origin = response
            .headers()
            .get("idempotency-origin")
            .map_or("", |it| it.to_str().unwrap());
        let (status, origin) = (response.status(), origin.to_owned());
        (status, origin, response.into_body().collect().await.unwrap().to_bytes())
    }

    async fn rows(&self) -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM orders");
        count.fetch_one(self.store.pool()).await.unwrap()
    }
}

#[tokio::test]
async fn rows_and_answer_are_one_commit() {
    for (told, status, rows, again) in [
        ("201", 201, 1, "replayed"),
        ("303", 303, 1, "replayed"),
        // Declined: the rows go, the answer stays.
        ("422", 422, 0, "replayed"),
        ("500, recorded", 500, 0, "replayed"),
        // Rolled back: the key is free.
        ("500", 500, 0, "executed"),
        ("503", 503, 0, "executed"),
        ("429", 429, 0, "executed"),
        ("404, nothing done", 404, 0, "executed"),
        // Its answer cannot be kept: that it was done can.
        ("large", 200, 1, "replayed"),
    ] {
        let shop = Shop::open().await;
        let (first, origin, body) = shop.send("/orders", Some("k"), told).await;
        assert_eq!(
            (first.as_u16(), origin.as_str(), shop.rows().await),
            (status, "executed", rows),
            "{told}"
        );
        let (second, origin, replayed) = shop.send("/orders", Some("k"), told).await;
        assert_eq!(
            (second.as_u16(), origin.as_str(), shop.rows().await),
            (status, again, rows),
            "{told}"
        );
        assert!(told == "large" || body == replayed, "{told}");
    }
}

async fn fail(mut tx: Tx<SqliteStore>, body: String) -> Result<String, Failure> {
    insert(&mut tx, &body).await;
    match body.as_str() {
        // It is there already.
        "violation" => {
            sqlx::query("INSERT INTO orders (id, item) SELECT id, item FROM orders")
                .execute(&mut *tx)
                .await?
        }
        "problem" => return Err(Problem::new(StatusCode::GONE).with_detail("There is none left.").into()),
        _ => return Err(Failure::because("the mail server is away")),
    };
    Ok(body)
}

#[tokio::test]
async fn a_handler_that_fails_rolls_back() {
    for (told, status, kind, again) in [
        ("other", 503, kind::NOT_DONE, ""),
        ("violation", 500, kind::INTERNAL, ""),
        ("problem", 410, "about:blank", "replayed"),
    ] {
        let shop = Shop::open().await;
        for _ in 0..2 {
            let (first, _, body) = shop.send("/fail", Some("k"), told).await;
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(
                (first.as_u16(), body["type"].as_str().unwrap()),
                (status, kind),
                "{told}"
            );
            assert!(!body.to_string().contains("mail server"));
            assert_eq!(shop.rows().await, 0);
        }
        assert_eq!(shop.send("/fail", Some("k"), told).await.1, again, "{told}");
        // Without a key.
        assert!(shop.send("/fail", None, told).await.0.is_client_error());
    }
}

#[tokio::test]
async fn a_key_is_not_poisoned_by_a_request_that_is_not_valid() {
    let shop = Shop::open().await;
    let (status, _, _) = shop.send("/json", Some("k"), "tea").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, origin, _) = shop.send("/json", Some("k"), "\"tea\"").await;
    assert_eq!(
        (status, origin.as_str(), shop.rows().await),
        (StatusCode::OK, "executed", 1)
    );
}

async fn place_json(mut tx: Tx<SqliteStore>, body: Bytes) -> Result<String, Failure> {
    let malformed = |_| Problem::malformed_body("It is not JSON.");
    let item: String = serde_json::from_slice(&body).map_err(malformed)?;
    Ok(insert(&mut tx, &item).await.to_string())
}

#[tokio::test]
async fn a_panic_rolls_back_and_frees_the_key() {
    let shop = Shop::open().await;
    let (status, _, _) = shop.send("/orders", Some("k"), "panic").await;
    assert_eq!((status, shop.rows().await), (StatusCode::INTERNAL_SERVER_ERROR, 0));
    let (status, _, _) = shop.send("/orders", Some("k"), "200").await;
    assert_eq!((status, shop.rows().await), (StatusCode::OK, 1));
}

#[tokio::test]
async fn duplicates_share_one_transaction() {
    let shop = Shop::open().await;
    let send = || shop.send("/orders", Some("k"), "201");
    let (one, two, three) = join!(send(), send(), send());
    assert_eq!([one.0, two.0, three.0], [StatusCode::CREATED; 3]);
    assert_eq!(shop.rows().await, 1);
}

#[tokio::test]
async fn without_a_key_there_is_no_transaction() {
    let shop = Shop::open().await;
    let (status, _, _) = shop.send("/orders", None, "201").await;
    assert_eq!((status, shop.rows().await), (StatusCode::BAD_REQUEST, 0));
}

async fn maybe(tx: Option<Tx<SqliteStore>>, body: String) -> String {
    match tx {
        Some(mut tx) => insert(&mut tx, &body).await.to_string(),
        None => "no key".to_owned(),
    }
}

#[tokio::test]
async fn a_handler_may_do_without_a_transaction() {
    let shop = Shop::open().await;
    assert_eq!(shop.send("/maybe", None, "tea").await.2, "no key");
    assert_eq!(shop.send("/maybe", Some("k"), "tea").await.2, "1");
}

#[tokio::test]
async fn a_key_where_the_layer_was_forgotten_is_the_services_fault() {
    let app: Router = Router::new().route("/orders", post(place));
    let request = Request::post("/orders")
        .header("idempotency-key", "k")
        .body(Body::from("201"))
        .unwrap();
    assert_eq!(
        app.oneshot(request).await.unwrap().status(),
        StatusCode::INTERNAL_SERVER_ERROR
    );
}

#[tokio::test]
async fn a_handler_need_not_take_the_transaction() {
    let shop = Shop::open().await;
    assert_eq!(shop.send("/none", Some("k"), "tea").await.2, "tea");
    assert_eq!(shop.send("/none", Some("k"), "tea").await.1, "replayed");
}

#[tokio::test]
async fn a_transaction_that_escapes_keeps_nothing() {
    let shop = Shop::open().await;
    let (status, _, _) = shop.send("/orders", Some("k"), "escape").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
}

/// A service whose handler writes a row and then waits for a permit, with a time-out on either side of the layer.
async fn timed(is_outside: bool) -> (Shop, Arc<Semaphore>) {
    let mut shop = Shop::open().await;
    let (gate, store) = (Arc::new(Semaphore::new(0)), shop.store.clone());
    let permits = Arc::clone(&gate);
    let handler = move |mut tx: Tx<SqliteStore>, body: String| async move {
        insert(&mut tx, &body).await;
        permits.acquire().await.unwrap().forget();
        body
    };
    let layer = IdempotencyLayer::transactional(Idempotency::builder(store).build()).unscoped();
    let timeout = TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_secs(1));
    let route = Router::new().route("/orders", post(handler));
    shop.app = match is_outside {
        true => route.layer(layer).layer(timeout),
        false => route.layer(timeout).layer(layer),
    };
    (shop, gate)
}

#[tokio::test]
async fn a_time_out_inside_of_the_layer_rolls_back_and_frees_the_key() {
    let (shop, gate) = timed(false).await;
    let (cut, origin, _) = shop.send("/orders", Some("k"), "tea").await;
    assert_eq!((cut.as_u16(), origin.as_str(), shop.rows().await), (408, "executed", 0));
    gate.add_permits(1);
    let (again, origin, body) = shop.send("/orders", Some("k"), "tea").await;
    assert_eq!(
        (again, origin.as_str(), shop.rows().await),
        (StatusCode::OK, "executed", 1)
    );
    assert_eq!(body, "tea");
}

#[tokio::test]
async fn a_time_out_outside_of_the_layer_ends_the_wait_and_not_the_transaction() {
    let (shop, gate) = timed(true).await;
    let (cut, origin, _) = shop.send("/orders", Some("k"), "tea").await;
    assert_eq!((cut.as_u16(), origin.as_str()), (408, ""));
    gate.add_permits(1);
    let (again, origin, body) = shop.send("/orders", Some("k"), "tea").await;
    assert_eq!((again, shop.rows().await), (StatusCode::OK, 1));
    assert_ne!(origin, "executed");
    assert_eq!(body, "tea");
}

#[tokio::test]
async fn the_page_for_clients_promises_what_a_rollback_gives() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("orders.db")).await.unwrap();
    let page = |recording: Recording| {
        let idempotency = Idempotency::builder(store.clone()).build();
        let layer = IdempotencyLayer::transactional(idempotency).unscoped();
        layer.recording(recording).client_page()
    };
    for recording in [Recording::answers(), Recording::successes()] {
        let page = page(recording);
        assert!(
            page.contains("answered with 408, or with 500 or above, is undone as a whole"),
            "{page}"
        );
        assert!(!page.contains("not known what was done"), "{page}");
    }
    let decided = page(Recording::by(|_| Outcome::Record));
    assert!(!decided.contains("answered with 408"), "{decided}");
    assert!(decided.contains("whose answer is not kept is undone"), "{decided}");
}
