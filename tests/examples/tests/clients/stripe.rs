//! Stripe's own SDKs as clients of the layer: what they raise, what they send again by themselves, and that it is executed once.
//!
//! Both are installed from their registries into a temporary folder, and are driven through the same scenarios. They send a
//! request again twice, which is their default.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::process::Stdio;
use std::time::Duration;

use oneflight::http::layer::{Dialect, IdempotencyLayer};
use oneflight::{Idempotency, MemoryStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::shop::proxy::{Cut, Proxy};
use crate::shop::{Listener, SECRET, Shop, command, run, within};

/// The newest that runs on the Node.js of Debian 12.
const NODE: &str = "stripe@22.6.0";
const PYTHON: &str = "stripe==16.1.0";

/// An SDK, installed.
struct Sdk {
    folder: TempDir,
    program: &'static str,
    script: &'static str,
    /// What it calls its errors.
    idempotency_error: &'static str,
    api_error: &'static str,
    /// What it makes of a conflict in the draft's words, if it takes that for an error.
    drafts_conflict: Option<&'static str>,
}

/// A process that uses it.
struct Client {
    _process: Child,
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
}

async fn node() -> Sdk {
    let folder = tempfile::tempdir().unwrap();
    let mut install = command("npm");
    install.args([
        "install",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--no-package-lock",
    ]);
    run(install.arg("--prefix").arg(folder.path()).arg(NODE)).await;
    std::fs::write(folder.path().join("client.js"), include_str!("stripe.js")).unwrap();
    Sdk {
        folder,
        program: "node",
        script: "client.js",
        idempotency_error: "StripeIdempotencyError",
        api_error: "StripeAPIError",
        drafts_conflict: None,
    }
}

async fn python() -> Sdk {
    let folder = tempfile::tempdir().unwrap();
    run(command("python3").args(["-m", "venv"]).arg(folder.path())).await;
    let mut install = command(folder.path().join("bin/pip"));
    run(install.args([
        "install",
        "--quiet",
        "--no-compile",
        "--disable-pip-version-check",
        PYTHON,
    ]))
    .await;
    std::fs::write(folder.path().join("client.py"), include_str!("stripe.py")).unwrap();
    Sdk {
        folder,
        program: "bin/python",
        script: "client.py",
        idempotency_error: "IdempotencyError",
        api_error: "APIError",
        drafts_conflict: Some("APIError"),
    }
}

impl Sdk {
    fn client(&self) -> Client {
        let own = self.folder.path().join(self.program);
        let mut client: Command = match own.is_file() {
            true => command(own),
            false => command(self.program),
        };
        client.arg(self.script).current_dir(self.folder.path());
        let mut process = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Client {
            to: process.stdin.take().unwrap(),
            from: BufReader::new(process.stdout.take().unwrap()).lines(),
            _process: process,
        }
    }
}

impl Client {
    /// Makes a charge. Without a key, the SDK makes one.
    async fn charge(&mut self, port: u16, key: Option<&str>, amount: u64, source: &str) -> Value {
        let charge = json!({"port": port, "secret": SECRET, "key": key, "amount": amount, "source": source});
        self.to.write_all(format!("{charge}\n").as_bytes()).await.unwrap();
        let line = within(self.from.next_line()).await.unwrap();
        serde_json::from_str(&line.expect("the client goes on")).unwrap()
    }
}

async fn shop_of(dialect: Dialect) -> (Shop, Listener) {
    let shop = Shop::new();
    let idem = Idempotency::builder(MemoryStore::new()).build();
    let layer = IdempotencyLayer::new(idem).dialect(dialect).wait(Duration::ZERO);
    let listener = shop.listen(1, layer).await;
    (shop, listener)
}

async fn what_is_sent_again_is_replayed(client: &mut Client) {
    let (shop, at) = shop_of(Dialect::Stripe).await;
    let first = client.charge(at.port, Some("order-7"), 100, "tok_visa").await;
    let again = client.charge(at.port, Some("order-7"), 100, "tok_visa").await;
    assert_eq!(first, json!({"id": "ch_1", "replayed": null}));
    assert_eq!(again, json!({"id": "ch_1", "replayed": "true"}));
    assert_eq!((shop.executions(), shop.statuses()), (1, vec![200, 200]));
}

async fn another_payload_raises_the_idempotency_error(client: &mut Client, sdk: &Sdk) {
    let (shop, at) = shop_of(Dialect::Stripe).await;
    client.charge(at.port, Some("order-7"), 100, "tok_visa").await;
    let other = client.charge(at.port, Some("order-7"), 200, "tok_visa").await;
    assert_eq!(
        (&other["error"], &other["status"]),
        (&json!(sdk.idempotency_error), &json!(400)),
        "{other}"
    );
    assert!(
        other["message"].as_str().unwrap().contains("another payload"),
        "{other}"
    );
    assert_eq!((shop.executions(), shop.statuses()), (1, vec![200, 400]));

    // The draft's answer is none that they know. stripe-node takes it for a charge.
    let (shop, at) = shop_of(Dialect::Draft).await;
    client.charge(at.port, Some("order-7"), 100, "tok_visa").await;
    let other = client.charge(at.port, Some("order-7"), 200, "tok_visa").await;
    assert_eq!(
        (&other["id"], &other["error"]),
        (&Value::Null, &json!(sdk.drafts_conflict)),
        "{other}"
    );
    assert_eq!((shop.executions(), shop.statuses()), (1, vec![200, 422]));
}

async fn a_recorded_failure_is_raised_and_not_repeated(client: &mut Client, name: &str) {
    for (source, status) in [("tok_conflict", 409), ("tok_broken", 500)] {
        let raised = json!({"error": name, "status": status, "message": "Attempt 1."});
        let (ours, at) = shop_of(Dialect::Stripe).await;
        assert_eq!(client.charge(at.port, Some("order-7"), 100, source).await, raised);
        assert_eq!(ours.statuses(), [status]);
        assert_eq!(client.charge(at.port, Some("order-7"), 100, source).await, raised);
        assert_eq!((ours.executions(), ours.statuses()), (1, vec![status; 2]));

        // What the dialect is for: the SDK fetches the record again, as often as it is set to.
        let (drafts, at) = shop_of(Dialect::Draft).await;
        assert_eq!(client.charge(at.port, Some("order-7"), 100, source).await, raised);
        assert_eq!((drafts.executions(), drafts.statuses()), (1, vec![status; 3]));
    }
}

async fn what_was_not_begun_is_sent_again_with_the_same_key(client: &mut Client) {
    let (shop, at) = shop_of(Dialect::Stripe).await;
    let made = client.charge(at.port, None, 100, "tok_busy").await;
    // The handler's first call said that it did nothing.
    assert_eq!(made, json!({"id": "ch_2", "replayed": null}));
    assert_eq!(shop.statuses(), [503, 200]);
    let exchanges = shop.exchanges();
    assert!(!exchanges[0].key.is_empty());
    assert_eq!(exchanges[0].key, exchanges[1].key);
}

async fn an_answer_that_is_lost_is_fetched_again(client: &mut Client) {
    let (shop, at) = shop_of(Dialect::Stripe).await;
    let proxy = Proxy::before(at.port).await;
    proxy.cut("POST /v1/charges", Cut::AfterAnswer);
    let made = client.charge(proxy.port(), None, 100, "tok_visa").await;
    assert_eq!(made, json!({"id": "ch_1", "replayed": "true"}));
    assert_eq!((proxy.cuts(), shop.executions()), (1, 1));
    let exchanges = shop.exchanges();
    let [executed, replayed] = exchanges.as_slice() else {
        panic!("{exchanges:?}")
    };
    assert_eq!(executed.key, replayed.key);
    assert_eq!(
        (executed.origin.as_str(), replayed.origin.as_str()),
        ("executed", "replayed")
    );
}

async fn a_request_in_flight_is_asked_for_until_it_is_done(client: &mut Client, other: &mut Client) {
    let (shop, at) = shop_of(Dialect::Stripe).await;
    let late = async {
        shop.begun().await;
        let opened = async {
            shop.until(|exchange| exchange.status == 409).await;
            shop.open();
        };
        let (made, ()) = tokio::join!(other.charge(at.port, Some("order-7"), 100, "tok_slow"), opened);
        made
    };
    let (first, late) = tokio::join!(client.charge(at.port, Some("order-7"), 100, "tok_slow"), late);
    assert_eq!(first, json!({"id": "ch_1", "replayed": null}));
    assert_eq!(late, json!({"id": "ch_1", "replayed": "true"}));
    assert_eq!((shop.executions(), shop.statuses()[0]), (1, 409));
}

async fn all(sdk: &Sdk) {
    let (mut client, mut other) = (sdk.client(), sdk.client());
    what_is_sent_again_is_replayed(&mut client).await;
    another_payload_raises_the_idempotency_error(&mut client, sdk).await;
    a_recorded_failure_is_raised_and_not_repeated(&mut client, sdk.api_error).await;
    what_was_not_begun_is_sent_again_with_the_same_key(&mut client).await;
    an_answer_that_is_lost_is_fetched_again(&mut client).await;
    a_request_in_flight_is_asked_for_until_it_is_done(&mut client, &mut other).await;
}

#[tokio::test]
async fn stripe_node_charges_once_and_raises_what_it_is_told() {
    all(&node().await).await;
}

#[tokio::test]
async fn stripe_python_charges_once_and_raises_what_it_is_told() {
    all(&python().await).await;
}
