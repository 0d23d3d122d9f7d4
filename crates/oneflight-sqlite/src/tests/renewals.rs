//! The renewals of many leases, which a task of the user's runtime asks for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::super::SqliteStore;
use super::super::queue::Rank;
use super::super::writer::Connections;
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
    for shop in Shop::each().await {
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
    for shop in Shop::each().await {
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
    for shop in Shop::each().await {
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

/// In its caller's place it is shared, so that others see to it that it goes on. What the user's pool lends is not.
#[tokio::test]
async fn a_renewal_alone_is_made_in_its_callers_place_unless_the_users_pool_has_to_lend_a_connection() {
    for shop in Shop::each().await {
        let tokens = held(&shop, 1).await;
        let writer = &shop.store.writer;
        let has_thread = || writer.gathered.has_thread.load(Ordering::SeqCst);
        assert!(!has_thread());
        assert!(renewed(&shop.store, &tokens).await.iter().all(Result::is_ok));
        assert_eq!(has_thread(), writer.connections == Connections::Users);
        assert!(remaining(&shop, 0).await > MINUTE);
    }
}

#[tokio::test]
async fn of_many_renewals_one_that_is_rejected_fails_alone() {
    for shop in Shop::each().await {
        let tokens = held(&shop, 20).await;
        shop.run(
            "CREATE TRIGGER rejects BEFORE UPDATE ON oneflight_records WHEN NEW.key = '7'
             BEGIN SELECT RAISE(ABORT, 'not this one'); END",
        )
        .await;
        for (n, renewed) in renewed(&shop.store, &tokens).await.into_iter().enumerate() {
            match n {
                7 => assert!(renewed.unwrap_err().to_string().contains("not this one")),
                _ => renewed.unwrap(),
            }
            assert_eq!(remaining(&shop, n).await > MINUTE, n != 7, "{n}");
        }
    }
}

/// Neither in line nor in a turn.
#[tokio::test]
async fn many_renewals_beside_a_pool_wait_for_none_of_its_connections() {
    let shop = Shop::lent().await;
    let tokens = held(&shop, 20).await;
    let mut users = Vec::new();
    for _ in 0..3 {
        users.push(shop.store.pool().acquire().await.unwrap());
    }
    let turn = shop.turn().await;
    let mut renews = vec![Box::pin(renewed(&shop.store, &tokens))];
    shop.lined_up(Rank::Lease, 1, &mut renews).await;
    end(turn);
    let waits = Instant::now();
    assert!(renews.remove(0).await.iter().all(Result::is_ok));
    assert!(waits.elapsed() < LONG / 2, "{:?}", waits.elapsed());
    drop(users);
    for n in 0..20 {
        assert!(remaining(&shop, n).await > MINUTE, "{n}");
    }
}
