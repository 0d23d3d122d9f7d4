//! The renewals of many leases, which a task of the user's runtime asks for.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures::future::join_all;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::super::SqliteStore;
use super::super::queue::Rank;
use super::id;
use super::shop::{LONG, MINUTE, Shop, end, granted};
use oneflight::record::FencingToken;
use oneflight::store::{ClaimRequest, Store, StoreError};

/// A renewal is for so much more than a claim.
const RENEWED: Duration = Duration::from_secs(120);

/// So many claims, of the keys `0` and those that follow.
async fn held(shop: &Shop, many: usize) -> Vec<FencingToken> {
    let keys: Vec<_> = (0..many).map(|n| n.to_string()).collect();
    let claims = join_all(keys.iter().map(|key| shop.granted(key))).await;
    claims.iter().map(|claim| claim.token()).collect()
}

async fn renewed(store: &SqliteStore, tokens: &[FencingToken]) -> Vec<Result<(), StoreError>> {
    let each = tokens.iter().enumerate().map(async |(n, token)| {
        let id = id(&n.to_string());
        store.renew(&id, *token, RENEWED).await
    });
    join_all(each).await
}

async fn remaining(shop: &Shop, n: usize) -> Duration {
    let record = shop.store.load(&id(&n.to_string())).await.unwrap().unwrap();
    record.lease_remaining().unwrap()
}

async fn until(holds: impl Fn() -> bool) {
    let waits = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, waits).await.expect("it never comes to that");
}

/// A runtime of one thread that has asked for renewals, and is blocked.
struct Blocked {
    goes_on: mpsc::Sender<()>,
    runs: JoinHandle<Vec<Result<(), StoreError>>>,
}

impl Blocked {
    /// Blocks when this holds.
    async fn when(holds: impl Fn(&Shop) -> bool + Send + 'static, shop: &Arc<Shop>, tokens: Vec<FencingToken>) -> Self {
        let (goes_on, blocks) = mpsc::channel();
        let (blocked, is_blocked) = oneshot::channel();
        let shop = Arc::clone(shop);
        let runs = thread::spawn(move || {
            one_thread().block_on(async {
                let store = shop.store.clone();
                let renewing = tokio::spawn(async move { renewed(&store, &tokens).await });
                until(|| holds(&shop) || renewing.is_finished()).await;
                blocked.send(()).unwrap();
                blocks.recv().unwrap();
                timeout(LONG, renewing).await.unwrap().unwrap()
            })
        });
        timeout(LONG, is_blocked).await.unwrap().unwrap();
        Self { goes_on, runs }
    }

    fn go_on(self) -> Vec<Result<(), StoreError>> {
        self.goes_on.send(()).unwrap();
        self.runs.join().unwrap()
    }
}

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// It would be handed the turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_blocks_while_its_renewals_wait_holds_nobody_up() {
    for shop in Shop::both().await {
        let shop = Arc::new(shop);
        let tokens = held(&shop, 4).await;
        let turn = shop.turn().await;
        let blocked = Blocked::when(|shop| shop.store.writer.queue.has_urgent(), &shop, tokens).await;
        end(turn);
        let _ = timeout(LONG, shop.granted("beside"))
            .await
            .expect("it waits for a worker");
        for n in 0..4 {
            assert!(remaining(&shop, n).await > MINUTE, "{n}");
        }
        assert!(blocked.go_on().iter().all(Result::is_ok));
    }
}

/// More rows than `sqlx` fetches ahead, so that the statement would not end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_blocks_while_its_renewals_are_made_keeps_no_lock() {
    for shop in Shop::both().await {
        let shop = Arc::new(shop);
        let tokens = held(&shop, 300).await;
        let elsewhere = SqliteStore::options().busy_deadline(LONG);
        let elsewhere = elsewhere.open(shop.folder.path().join("shop.db")).await.unwrap();
        let has_turn = |shop: &Shop| shop.store.writer.queue.try_enter(Rank::Lease).is_none();
        let blocked = Blocked::when(has_turn, &shop, tokens).await;
        let _ = granted(elsewhere.claim(ClaimRequest::new(&id("elsewhere"), MINUTE)).await);
        let _ = shop.granted("beside").await;
        for n in [0, 150, 299] {
            assert!(remaining(&shop, n).await > MINUTE, "{n}");
        }
        assert!(blocked.go_on().iter().all(Result::is_ok));
    }
}

/// Those of several runtimes with threads of their own are sent by a task of one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_blocks_keeps_no_answer_from_callers_elsewhere() {
    let shop = Arc::new(Shop::open().await);
    let tokens = held(&shop, 3).await;
    let lease = Duration::from_secs(5);
    let renews = |n: usize| {
        let (store, id, token) = (shop.store.clone(), id(&n.to_string()), tokens[n]);
        async move { store.renew(&id, token, lease).await }
    };
    let turn = shop.turn().await;
    let blocks = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    // It goes alone, and its runtime sends those that come within a window.
    let first = blocks.spawn(renews(0));
    until(|| shop.waiting(Rank::Lease) == 1).await;
    let here = [1, 2].map(|n| tokio::spawn(renews(n)));
    until(|| shop.waiting(Rank::Lease) == 2).await;
    let (goes_on, waits) = mpsc::channel::<()>();
    let (blocked, is_blocked) = oneshot::channel();
    blocks.spawn(async move {
        blocked.send(()).unwrap();
        let _ = waits.recv();
    });
    is_blocked.await.unwrap();
    end(turn);
    for renewed in here {
        timeout(LONG, renewed)
            .await
            .expect("it waits for a worker")
            .unwrap()
            .unwrap();
    }
    goes_on.send(()).unwrap();
    first.await.unwrap().unwrap();
    blocks.shutdown_background();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_ends_takes_its_renewals_out_of_the_line() {
    for shop in Shop::both().await {
        let shop = Arc::new(shop);
        let tokens = held(&shop, 4).await;
        let turn = shop.turn().await;
        let beside = Arc::clone(&shop);
        let ends = thread::spawn(move || {
            let runtime = one_thread();
            let store = beside.store.clone();
            runtime.spawn(async move { renewed(&store, &tokens).await });
            runtime.block_on(until(|| beside.waiting(Rank::Lease) == 1));
        });
        ends.join().unwrap();
        assert_eq!(shop.waiting(Rank::Lease), 0);
        end(turn);
        let _ = shop.granted("beside").await;
        assert!(remaining(&shop, 0).await <= MINUTE);
    }
}
