//! The store goes away, and comes back.

use crate::backend::{Backend, text, until};
use crate::client::{get, post};
use crate::proxy::{Home, Proxy};
use crate::redis::Server;

#[tokio::test]
async fn while_the_store_is_away_keys_fail_closed_or_pass_as_the_route_says() {
    let (home, redis) = (Home::new(), Server::start(&[]));
    let backend = Backend::by(|_| async { text("done") }).await;
    home.write_text(&format!(
        "listen = \"127.0.0.1:0\"\nupstream.url = \"http://{}\"\nadmin.listen = \"127.0.0.1:0\"\nstore.url = {:?}\n\
         [[route]]\nwait = \"1s\"\n[[route]]\npath = \"/pass\"\nwait = \"1s\"\nstore-away = \"pass\"\n",
        backend.address,
        redis.url()
    ));
    let proxy: Proxy = home.start();
    let sent = async |path: &str, key: &str| post(proxy.address, path, &[("idempotency-key", key)], "tea").await;
    assert_eq!(sent("/fail", "k").await.status, 200);
    assert_eq!(get(proxy.admin, "/readyz").await.status, 200);
    redis.kill();
    assert_eq!(get(proxy.admin, "/readyz").await.status, 503);
    let before = backend.count();
    let failed = sent("/fail", "k").await;
    assert_eq!(failed.status, 503, "{failed:?}");
    assert!(!failed.header("retry-after").is_empty(), "{failed:?}");
    assert_eq!(backend.count(), before, "it fails closed");
    assert_eq!(
        post(proxy.address, "/fail", &[], "tea").await.status,
        200,
        "without a key nothing is asked of the store"
    );
    assert_eq!(sent("/pass", "k").await.text(), "done");
    assert_eq!(sent("/pass", "k").await.text(), "done");
    assert_eq!(backend.count(), before + 3, "unprotected, as the route says");
    redis.start_again();
    proxy.wait_for_line("the store can be reached again");
    until(|| true).await;
    assert_eq!(sent("/pass", "k2").await.header("idempotency-origin"), "executed");
    assert_eq!(sent("/pass", "k2").await.header("idempotency-origin"), "replayed");
}
