//! Promises 17 and 20, as a visitor has them: whatever is done to the page in a real browser, an intent is one order, and
//! the page says how its answer came to be.

#![cfg(unix)]

#[path = "../checkout_support/browser.rs"]
mod chromium;
#[path = "../checkout_support/proxy.rs"]
mod proxy;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::checkout_support::{Request, Server, hold};
use chromium::{Browser, Scripts};
use fantoccini::Locator;
use proxy::Proxy;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

/// The payment takes no time.
const AT_ONCE: &[&str] = &["--delay-ms", "0"];

/// A shop with a database of its own.
struct Shop {
    server: Server,
    db: PathBuf,
    _directory: tempfile::TempDir,
}

impl Shop {
    fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let db = directory.path().join("shop.db");
        Self {
            server: Server::start(&db, 0, AT_ONCE),
            db,
            _directory: directory,
        }
    }

    fn url(&self) -> String {
        url(self.server.address)
    }

    /// The rows in the database.
    fn orders(&self) -> u64 {
        self.server.orders()
    }

    fn figure(&self, name: &str) -> u64 {
        self.server.figure(name)
    }

    /// Waits until the shop has got so many requests.
    async fn until_requests(&self, count: u64) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.figure("requests") < count {
            assert!(Instant::now() < until, "{count} requests never came");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn hold(&self) -> SqliteConnection {
        hold(&self.db).await
    }

    async fn database(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(&self.db);
        options.busy_timeout(Duration::from_secs(10)).connect().await.unwrap()
    }
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}/")
}

const TEA: &str = "Order No. 1: 1 × tea";

/// What a result should be, beside how it came to be.
fn is(result: &(String, String), origins: &[&str], said: &str) {
    assert!(
        origins.contains(&result.0.as_str()),
        "{result:?} is none of {origins:?}"
    );
    assert_eq!(result.1, said);
}

#[tokio::test]
async fn a_double_click_is_sent_once() {
    let shop = Shop::open();
    let browser = Browser::start(Scripts::On).await;
    browser.open(&shop.url()).await;
    browser.picture("form").await;
    let key = browser.property("#key", "value").await;

    let hold = shop.hold().await;
    browser.click_twice("#order", Duration::ZERO).await;
    assert_eq!(browser.text("#order").await, "Processing…");
    assert_eq!(browser.property("#fields", "disabled").await, "true");
    browser.picture("processing").await;
    hold.close().await.unwrap();
    is(&browser.result().await, &["executed"], TEA);
    assert_eq!((shop.figure("requests"), shop.orders()), (1, 1));
    for figure in ["#requests", "#executions", "#records", "#orders"] {
        browser.until_text(figure, "1").await;
    }
    browser.picture("executed").await;

    // Asked again, and reloaded, it is the same order still.
    browser.click("#again").await;
    browser.until_text("#badge", "replayed").await;
    is(&browser.result().await, &["replayed"], TEA);
    browser.client.refresh().await.unwrap();
    is(&browser.result().await, &["replayed"], TEA);
    assert_eq!(browser.property("#key", "value").await, key);
    assert_eq!((shop.figure("requests"), shop.orders()), (2, 1));

    // Another order is another intent.
    browser.click("#new").await;
    assert_ne!(browser.property("#key", "value").await, key);
    browser.click("#order").await;
    is(&browser.result().await, &["executed"], "Order No. 2: 1 × tea");
    assert_eq!((shop.figure("requests"), shop.orders()), (3, 2));
}

#[tokio::test]
async fn twenty_at_once_are_executed_once() {
    let shop = Shop::open();
    let browser = Browser::start(Scripts::On).await;
    browser.client.set_window_size(400, 1900).await.unwrap();
    browser.open(&shop.url()).await;
    browser.picture("narrow-form").await;
    let hold = shop.hold().await;
    browser.click("#many").await;
    // A browser opens six connections, and the other requests wait for them.
    shop.until_requests(6).await;
    hold.close().await.unwrap();
    is(&browser.result().await, &["executed"], TEA);
    browser.until_text("#requests", "20").await;
    browser.until_text("#executions", "1").await;
    browser.picture("narrow-twenty").await;
    assert_eq!(browser.text("#tally").await, "20 requests, 1 order");
    let badges = browser
        .client
        .find_all(Locator::Css("#log .badge.collapsed, #log .badge.replayed"));
    assert_eq!(badges.await.unwrap().len(), 19);
    assert_eq!((shop.figure("executions"), shop.orders()), (1, 1));
}

#[tokio::test]
async fn without_scripts_the_form_is_redirected_and_nothing_sends_it_again() {
    let shop = Shop::open();
    let browser = Browser::start(Scripts::Off).await;
    browser.open(&shop.url()).await;
    browser.until_there("#plain").await;
    let key = browser.property("#key", "value").await;
    browser.click("#order").await;
    is(&browser.result().await, &["executed"], TEA);
    let address = browser.client.current_url().await.unwrap();
    assert_eq!(address.path(), "/orders/1");
    browser.picture("plain-result").await;

    // A reload of what came of it asks for the order, and sends none.
    browser.client.refresh().await.unwrap();
    is(&browser.result().await, &["executed"], TEA);
    assert_eq!((shop.figure("requests"), shop.orders()), (1, 1));

    // Back shows the form that was sent, under its key.
    browser.client.back().await.unwrap();
    browser.until_there("#form").await;
    assert_eq!(browser.property("#key", "value").await, key);
    browser.click("#order").await;
    is(&browser.result().await, &["replayed"], TEA);
    assert_eq!((shop.figure("requests"), shop.orders()), (2, 1));

    // It was answered: the next form is another order.
    browser.click("#new").await;
    browser.until_there("#form").await;
    assert_ne!(browser.property("#key", "value").await, key);
    assert_eq!(shop.figure("requests"), 2);
}

#[tokio::test]
async fn without_scripts_a_form_that_is_sent_twice_is_one_order() {
    let shop = Shop::open();
    let browser = Browser::start(Scripts::Off).await;
    browser.open(&shop.url()).await;
    let hold = shop.hold().await;
    // The page stands there all the time, and nothing on it says that it was heard.
    browser.click_twice("#order", Duration::from_millis(500)).await;
    shop.until_requests(2).await;
    hold.close().await.unwrap();
    is(&browser.result().await, &["collapsed"], TEA);
    assert_eq!(
        (shop.figure("requests"), shop.figure("executions"), shop.orders()),
        (2, 1, 1)
    );
}

#[tokio::test]
async fn without_scripts_a_reload_during_the_request_keeps_the_key() {
    let shop = Shop::open();
    let browser = Browser::start(Scripts::Off).await;
    browser.open(&shop.url()).await;
    let key = browser.property("#key", "value").await;
    let hold = shop.hold().await;
    browser.click("#order").await;
    shop.until_requests(1).await;
    browser.client.refresh().await.unwrap();
    // The figures are those of the page that came now.
    browser.until_text("#requests", "1").await;
    assert_eq!(browser.property("#key", "value").await, key);
    browser.click("#order").await;
    shop.until_requests(2).await;
    hold.close().await.unwrap();
    is(&browser.result().await, &["collapsed"], TEA);
    assert_eq!(
        (shop.figure("requests"), shop.figure("executions"), shop.orders()),
        (2, 1, 1)
    );
}

#[tokio::test]
async fn without_scripts_an_answer_that_was_cut_off_is_there_when_the_form_is_sent_again() {
    let shop = Shop::open();
    let proxy = Proxy::before(shop.server.address, u32::MAX).await;
    let browser = Browser::start(Scripts::Off).await;
    browser.open(&url(proxy.address)).await;
    browser.click("#order").await;
    // The browser sends it by itself on each connection that it has, and gives up. Now it is up to the visitor.
    browser.until_there("#main-frame-error").await;
    browser.picture("plain-cut").await;
    proxy.cut_no_more();
    browser.client.back().await.unwrap();
    browser.until_there("#form").await;
    browser.click("#order").await;
    is(&browser.result().await, &["replayed"], TEA);
    assert!(proxy.cut() > 0);
    assert_eq!(proxy.posts(), proxy.cut() + 1);
    assert_eq!((shop.figure("executions"), shop.orders()), (1, 1));
}

#[tokio::test]
async fn a_reload_during_the_request_asks_for_the_same_order() {
    let shop = Shop::open();
    let browser = Browser::start(Scripts::On).await;
    browser.open(&shop.url()).await;
    let hold = shop.hold().await;
    browser.click("#order").await;
    shop.until_requests(1).await;
    browser.client.refresh().await.unwrap();
    shop.until_requests(2).await;
    hold.close().await.unwrap();
    is(&browser.result().await, &["collapsed"], TEA);
    assert_eq!(
        (shop.figure("requests"), shop.figure("executions"), shop.orders()),
        (2, 1, 1)
    );

    // And so does back, to a page that was left.
    let hold = shop.hold().await;
    browser.click("#new").await;
    browser.click("#order").await;
    shop.until_requests(3).await;
    browser.client.goto(&format!("{}figures", shop.url())).await.unwrap();
    browser.until_there("pre").await;
    browser.client.back().await.unwrap();
    shop.until_requests(4).await;
    hold.close().await.unwrap();
    is(&browser.result().await, &["collapsed"], "Order No. 2: 1 × tea");
    assert_eq!((shop.figure("executions"), shop.orders()), (2, 2));
}

#[tokio::test]
async fn two_tabs_of_one_intent_are_one_order() {
    let shop = Shop::open();
    let browser = Browser::start(Scripts::On).await;
    browser.open(&shop.url()).await;
    let key = browser.property("#key", "value").await;
    let first = browser.client.window().await.unwrap();

    // A copy of the tab, as the browser makes it: with what the tab had in mind.
    browser
        .client
        .execute("window.open(location.href)", vec![])
        .await
        .unwrap();
    let windows = browser.client.windows().await.unwrap();
    let second = windows.into_iter().find(|window| *window != first).unwrap();
    browser.client.switch_to_window(second).await.unwrap();
    browser.until_there("#form").await;
    assert_eq!(browser.property("#key", "value").await, key);

    let hold = shop.hold().await;
    browser.click("#order").await;
    shop.until_requests(1).await;
    browser.client.switch_to_window(first).await.unwrap();
    browser.click("#order").await;
    shop.until_requests(2).await;
    hold.close().await.unwrap();
    is(&browser.result().await, &["collapsed"], TEA);
    assert_eq!(
        (shop.figure("requests"), shop.figure("executions"), shop.orders()),
        (2, 1, 1)
    );

    // A tab that is opened for another order is another intent.
    let third = browser.client.new_window(true).await.unwrap().handle;
    browser.client.switch_to_window(third).await.unwrap();
    browser.open(&shop.url()).await;
    assert_ne!(browser.property("#key", "value").await, key);
}

#[tokio::test]
async fn an_answer_that_was_cut_off_after_the_commit_is_asked_for_again() {
    let shop = Shop::open();
    let proxy = Proxy::before(shop.server.address, u32::MAX).await;
    let browser = Browser::start(Scripts::On).await;
    browser.open(&url(proxy.address)).await;
    browser.click("#order").await;
    // The browser sends a post again by itself on each connection that it has. After that, it is up to the page.
    browser.until_text("#badge", "waiting").await;
    proxy.cut_no_more();
    is(&browser.result().await, &["replayed"], TEA);
    assert!(proxy.cut() > 0);
    assert_eq!(proxy.posts(), proxy.cut() + 1);
    let tries: u32 = browser.text("#log td:nth-child(5)").await.parse().unwrap();
    assert!(tries > 1, "the page asked once");
    assert_eq!((shop.figure("executions"), shop.orders()), (1, 1));
}

#[tokio::test]
async fn a_service_that_is_killed_between_commit_and_answer_is_waited_for() {
    let mut shop = Shop::open();
    let mut database = shop.database().await;
    // No answer comes through before the kill, however late that is: the browser and the page may both ask again.
    let proxy = Proxy::before(shop.server.address, u32::MAX).await;
    let browser = Browser::start(Scripts::On).await;
    browser.open(&url(proxy.address)).await;
    browser.click("#order").await;
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM orders")
            .fetch_one(&mut database)
            .await
            .unwrap();
        if rows > 0 {
            break;
        }
        assert!(Instant::now() < until, "the order was never placed");
    }
    shop.server.process.kill();
    browser.until_text("#badge", "waiting").await;
    browser.picture("waiting").await;

    // What a process leaves that dies right after the row's commit: had it come further, that is undone.
    sqlx::query(
        "UPDATE oneflight_records SET state = 'in_progress', lease_expires_at = 0,
            completed_at = NULL, expires_at = NULL, result = NULL
         WHERE scope = 'shop|route=POST /orders'",
    )
    .execute(&mut database)
    .await
    .unwrap();
    proxy.cut_no_more();
    shop.server = Server::start(&shop.db, shop.server.address.port(), AT_ONCE);
    // The second process goes on with what the first has begun: executed, and still the one row.
    is(&browser.result().await, &["executed"], TEA);
    assert_eq!((shop.figure("executions"), shop.orders()), (1, 1));
}

#[tokio::test]
async fn a_shop_that_can_do_nothing_now_is_asked_again_when_it_says() {
    let shop = Shop::open();
    let mut database = shop.database().await;
    let rename = |from: &str, to: &str| sqlx::AssertSqlSafe(format!("ALTER TABLE {from} RENAME TO {to}"));
    let browser = Browser::start(Scripts::On).await;
    browser.open(&shop.url()).await;
    sqlx::raw_sql(rename("orders", "elsewhere"))
        .execute(&mut database)
        .await
        .unwrap();
    browser.click("#order").await;
    browser.until_text("#badge", "waiting").await;
    sqlx::raw_sql(rename("elsewhere", "orders"))
        .execute(&mut database)
        .await
        .unwrap();
    is(&browser.result().await, &["executed"], TEA);
    // The answers say `Retry-After: 1`. How long the page has left the shop alone is told by the browser, not by when it was seen
    // from here.
    let asked = "const asked = performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('/orders'));
                 return asked.slice(1).map((again, before) => again.startTime - asked[before].responseEnd);";
    let pauses = browser.client.execute(asked, vec![]).await.unwrap();
    let pauses: Vec<f64> = serde_json::from_value(pauses).unwrap();
    assert!(
        !pauses.is_empty() && pauses.iter().all(|pause| *pause >= 990.0),
        "{pauses:?}"
    );
    assert_eq!(shop.figure("requests"), 1 + pauses.len() as u64);
    assert_eq!(shop.orders(), 1);
}

#[tokio::test]
async fn a_problem_is_shown_and_only_a_definite_one_ends_the_intent() {
    let shop = Shop::open();
    let browser = Browser::start(Scripts::On).await;
    browser.open(&shop.url()).await;
    let key = browser.property("#key", "value").await;
    // Under the key that the page has, somebody orders something else.
    let other = Request::order().key(&key).json(r#"{"item": "cake", "quantity": 9}"#);
    assert_eq!(shop.server.send(&other).status, 201);
    browser.click("#order").await;
    let (status, _) = browser.result().await;
    assert_eq!(status, "422");
    browser.picture("problem").await;
    assert_ne!(browser.property("#key", "value").await, key);
    browser.click("#order").await;
    is(&browser.result().await, &["executed"], "Order No. 2: 1 × tea");

    // The same without scripts is a page.
    let form = format!("item=tea&quantity=1&idempotency_key={key}");
    let page = shop
        .server
        .send(&Request::order().header("Accept", "text/html").form(form));
    assert_eq!(page.status, 422);
    assert!(
        page.header("content-type").unwrap().starts_with("text/html"),
        "{page:?}"
    );
    assert!(page.body.contains(">422</span>"), "{page:?}");
    assert_eq!(shop.orders(), 2);
}
