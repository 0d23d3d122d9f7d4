//! Claims and changes that are wanted at the same time: one commit, an answer each, and nobody holds the others up.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{FutureExt, join_all, poll_immediate};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::SqliteStore;
use super::super::change::Change;
use super::super::queue::Rank;
use super::id;
use super::shop::{LONG, MINUTE, Shop, end, granted, result};
use oneflight::idempotency::Idempotency;
use oneflight::record::{CodecId, FencingToken, RecordedResult, Verdict};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Denied, Store, StoreError};

#[tokio::test]
async fn claims_of_different_keys_are_one_commit_and_so_are_their_results() {
    for shop in Shop::each().await {
        let turn = shop.turn().await;
        let before = shop.commits();
        let keys: Vec<_> = (0..64).map(|n| format!("it's {n}")).collect();
        let mut claims: Vec<_> = keys.iter().map(|key| Box::pin(shop.claim(key))).collect();
        shop.lined_up(Rank::Business, 64, &mut claims).await;
        end(turn);
        let claims: Vec<_> = join_all(claims).await.into_iter().map(granted).collect();
        assert_eq!(shop.commits() - before, 1);

        let turn = shop.turn().await;
        let before = shop.commits();
        let complete = |(n, claim): (usize, Claim)| {
            let result = RecordedResult::value(Verdict::Performed, CodecId::Json, n.to_string().as_bytes());
            Box::pin(shop.store.complete(claim, result, MINUTE))
        };
        let mut completed: Vec<_> = claims.into_iter().enumerate().map(complete).collect();
        shop.lined_up(Rank::Lease, 64, &mut completed).await;
        end(turn);
        for completed in join_all(completed).await {
            completed.unwrap();
        }
        assert_eq!(shop.commits() - before, 1);
        for (n, key) in keys.iter().enumerate() {
            let record = shop.store.load(&id(key)).await.unwrap().unwrap();
            let expected = RecordedResult::value(Verdict::Performed, CodecId::Json, n.to_string().as_bytes());
            assert_eq!(record.result(), Some(&expected));
        }
    }
}

#[tokio::test]
async fn each_has_its_own_answer() {
    for shop in Shop::each().await {
        let mut held = Vec::new();
        for key in ["renewed", "ended", "released", "completed", "other"] {
            held.push(shop.granted(key).await);
        }
        let [renewed, ended, released, completed, other] = [0, 1, 2, 3, 4].map(|n: usize| held[n].token());
        let wrong = FencingToken::new(other.get() + 77);
        let renew = |key: &'static str, token| Change::Renew {
            id: id(key),
            token,
            lease: MINUTE * 3,
        };
        let end_lease = |key: &'static str, token| Change::EndLease {
            id: id(key),
            token,
            left: Duration::ZERO,
        };
        let before = shop.commits();
        let changes = vec![
            renew("renewed", renewed),
            renew("renewed", wrong),
            // The token is of another request.
            end_lease("renewed", other),
            end_lease("ended", ended),
            Change::Release {
                id: id("released"),
                token: released,
            },
            Change::Complete {
                id: id("completed"),
                token: completed,
                result: result(),
                retention: MINUTE,
            },
        ];
        let turn = shop.turn().await;
        let mut changes: Vec<_> = changes
            .into_iter()
            .map(|it| Box::pin(shop.store.writer.change(it)))
            .collect();
        shop.lined_up(Rank::Lease, 6, &mut changes).await;
        end(turn);
        let changed: Vec<_> = join_all(changes).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(changed, [1, 0, 0, 1, 1, 1]);
        assert_eq!(shop.commits() - before, 1);
        let left = async |key| shop.store.load(&id(key)).await.unwrap();
        let lease = async |key| left(key).await.unwrap().lease_remaining();
        assert!(lease("renewed").await > Some(MINUTE * 2));
        assert_eq!(lease("ended").await, Some(Duration::ZERO));
        assert_eq!(left("released").await, None);
        assert_eq!(left("completed").await.unwrap().result(), Some(&result()));
    }
}

#[tokio::test]
async fn many_renewals_are_a_handful_of_commits() {
    let shop = Shop::open().await;
    let turn = shop.turn().await;
    let keys: Vec<_> = (0..1_500).map(|n| format!("{n}")).collect();
    let mut claims: Vec<_> = keys.iter().map(|key| Box::pin(shop.claim(key))).collect();
    shop.lined_up(Rank::Business, 1_500, &mut claims).await;
    end(turn);
    let claims = join_all(claims).await.into_iter().map(granted);
    let changes = claims.map(|claim| Change::Renew {
        id: claim.id().clone(),
        token: claim.token(),
        lease: MINUTE * 2,
    });
    let turn = shop.turn().await;
    let before = shop.commits();
    let mut renewed: Vec<_> = changes.map(|it| Box::pin(shop.store.writer.change(it))).collect();
    shop.lined_up(Rank::Lease, 1_500, &mut renewed).await;
    end(turn);
    let renewed = join_all(renewed).await;
    assert!(renewed.into_iter().all(|it| it.unwrap() == 1));
    assert!(shop.commits() - before <= 3, "{}", shop.commits() - before);
}

#[tokio::test]
async fn claims_of_one_key_are_decided_one_after_the_other() {
    for shop in Shop::each().await {
        let turn = shop.turn().await;
        let mut claims: Vec<_> = (0..8).map(|_| Box::pin(shop.claim("one"))).collect();
        shop.lined_up(Rank::Business, 8, &mut claims).await;
        end(turn);
        let (mut granted, mut denied) = (0, 0);
        for outcome in join_all(claims).await {
            match outcome.unwrap() {
                ClaimOutcome::Granted(_) => granted += 1,
                ClaimOutcome::Denied(Denied::InProgress { attempt: 1, .. }) => denied += 1,
                ClaimOutcome::Denied(other) => panic!("{other:?}"),
            }
        }
        assert_eq!((granted, denied), (1, 7));
    }
}

#[tokio::test]
async fn what_was_claimed_by_another_process_meanwhile_is_seen() {
    let shop = Shop::open().await;
    let elsewhere = SqliteStore::open(shop.folder.path().join("shop.db")).await.unwrap();
    let turn = shop.turn().await;
    let mut claims: Vec<_> = ["theirs", "ours"].iter().map(|key| Box::pin(shop.claim(key))).collect();
    shop.lined_up(Rank::Business, 2, &mut claims).await;
    let theirs = granted(elsewhere.claim(ClaimRequest::new(&id("theirs"), MINUTE)).await);
    elsewhere.complete(theirs, result(), MINUTE).await.unwrap();
    end(turn);
    let mut outcomes = join_all(claims).await;
    let _ = granted(outcomes.remove(1));
    match outcomes.remove(0).unwrap() {
        ClaimOutcome::Denied(Denied::Completed(record)) => assert_eq!(record.result(), Some(&result())),
        other => panic!("{other:?}"),
    }
}

/// Neither callers that go away nor such as are kept and not polled change anything for the others.
#[tokio::test]
async fn a_caller_that_is_dropped_or_not_polled_changes_nothing_for_the_others() {
    for shop in Shop::each().await {
        let turn = shop.turn().await;
        let keys: Vec<_> = (0..12).map(|n| format!("{n}")).collect();
        let mut claims: Vec<_> = keys.iter().map(|key| Box::pin(shop.claim(key))).collect();
        shop.lined_up(Rank::Business, 12, &mut claims).await;
        let others = claims.split_off(8);
        let kept = claims.split_off(4);
        drop(claims);
        assert_eq!(shop.waiting(Rank::Business), 8);
        end(turn);
        for claim in join_all(others).await {
            let _ = granted(claim);
        }
        for (n, key) in keys.iter().enumerate() {
            let record = shop.store.load(&id(key)).await.unwrap();
            assert_eq!(record.is_some(), n >= 4, "{n}");
        }
        for claim in join_all(kept).await {
            let _ = granted(claim);
        }
    }
}

/// A caller whose call found the turn free has the turn, and is dropped or not polled any more.
#[tokio::test]
async fn a_caller_that_has_the_turn_and_is_not_polled_holds_nobody_up() {
    let shop = Shop::open().await;
    let asks = async |is_claim, key: &'static str| match is_claim {
        true => async { drop(shop.granted(key).await) }.boxed_local(),
        false => {
            let claim = shop.granted(key).await;
            async { shop.store.complete(claim, result(), MINUTE).await.unwrap() }.boxed_local()
        }
    };
    for (is_claim, is_kept) in [(true, true), (true, false), (false, true), (false, false)] {
        let begun = Instant::now();
        let mut keys = (0..).map(|n| &*format!("{is_claim} {is_kept} {n}").leak());
        // It may be over before it is seen to have the turn.
        let (key, has_turn) = 'has_turn: loop {
            assert!(begun.elapsed() < LONG, "it is never seen to have the turn");
            let key = keys.next().unwrap();
            let mut asks = asks(is_claim, key).await;
            while poll_immediate(&mut asks).await.is_none() {
                if shop.store.writer.queue.try_enter(Rank::Lease).is_none() {
                    break 'has_turn (key, asks);
                }
                tokio::task::yield_now().await;
            }
        };
        // Not polled from here on.
        let kept = is_kept.then_some(has_turn);
        let _ = shop.granted(format!("beside {key}").leak()).await;
        end(shop.turn().await);
        if let Some(kept) = kept {
            let record = shop.store.load(&id(key)).await.unwrap().unwrap();
            assert_eq!(record.result().is_some(), !is_claim);
            kept.await;
        }
    }
}

/// A store that has just been opened has no connection to write on yet.
#[tokio::test]
async fn the_first_caller_of_a_store_holds_nobody_up_when_it_is_not_polled() {
    for polls in 1..12 {
        for shop in [Shop::open().await, Shop::lent().await] {
            let mut first = Box::pin(shop.claim("first"));
            for _ in 0..polls {
                if poll_immediate(&mut first).await.is_some() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // Not polled from here on.
            let second = timeout(LONG, shop.claim("second")).await;
            let _ = granted(second.expect("the first one holds it up"));
            drop(first);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_rests_or_ends_takes_nothing_with_it() {
    let shop = Arc::new(Shop::open().await);
    let turn = shop.turn().await;
    let (sends, resting) = oneshot::channel::<Runtime>();
    let beside = Arc::clone(&shop);
    std::thread::spawn(move || {
        let [rests, ends] = [(); 2].map(|()| Builder::new_current_thread().enable_all().build().unwrap());
        for (runtime, name) in [(&rests, "rests"), (&ends, "ends")] {
            let before = beside.waiting(Rank::Business);
            for n in 0..4 {
                let shop = Arc::clone(&beside);
                runtime.spawn(async move { shop.granted(&format!("{name} {n}")).await });
            }
            runtime.block_on(async {
                while beside.waiting(Rank::Business) < before + 4 {
                    tokio::task::yield_now().await;
                }
            });
        }
        drop(ends);
        sends.send(rests).ok();
    });
    let rests = resting.await.unwrap();
    let mut claims = vec![Box::pin(shop.claim("here"))];
    assert_eq!(shop.waiting(Rank::Business), 4);
    shop.lined_up(Rank::Business, 5, &mut claims).await;
    end(turn);
    let _ = granted(claims.remove(0).await);
    for (key, is_there) in [
        ("rests 0", true),
        ("rests 3", true),
        ("ends 0", false),
        ("ends 3", false),
    ] {
        let record = shop.store.load(&id(key)).await.unwrap();
        assert_eq!(record.is_some(), is_there, "{key}");
    }
    rests.shutdown_background();
}

/// The order in which rows were written is that of a table that a trigger fills.
const JOURNAL: &str = "CREATE TABLE journal (n INTEGER PRIMARY KEY, what TEXT NOT NULL);
    CREATE TRIGGER journal_of_claims AFTER INSERT ON oneflight_records
        BEGIN INSERT INTO journal (what) VALUES ('claim'); END;
    CREATE TRIGGER journal_of_renewals AFTER UPDATE OF lease_expires_at ON oneflight_records
        WHEN NEW.state = 'in_progress' BEGIN INSERT INTO journal (what) VALUES ('renewal'); END;";

#[tokio::test]
async fn a_renewal_in_a_crowd_of_claims_goes_first() {
    let shop = Shop::open().await;
    let held = shop.granted("held").await;
    shop.run(JOURNAL).await;
    let turn = shop.turn().await;
    let keys: Vec<_> = (0..64).map(|n| format!("{n}")).collect();
    let mut claims: Vec<_> = keys.iter().map(|key| Box::pin(shop.claim(key))).collect();
    shop.lined_up(Rank::Business, 64, &mut claims).await;
    let request = id("held");
    let mut renewals = vec![Box::pin(shop.store.renew(&request, held.token(), MINUTE * 2))];
    shop.lined_up(Rank::Lease, 1, &mut renewals).await;
    end(turn);
    renewals.remove(0).await.unwrap();
    for claim in join_all(claims).await {
        let _ = granted(claim);
    }
    let first: String = sqlx::query_scalar("SELECT what FROM journal ORDER BY n LIMIT 1")
        .fetch_one(shop.store.pool())
        .await
        .unwrap();
    assert_eq!(first, "renewal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_work_beside_a_crowd_of_claims_waits_for_a_few_turns() {
    let shop = Arc::new(Shop::open().await);
    // As long as a snapshot of its beginning is open, the log does not begin anew.
    let mut reads = shop.store.pool().begin().await.unwrap();
    let look = sqlx::query("SELECT count(*) FROM oneflight_records");
    look.execute(&mut *reads).await.unwrap();
    let mut crowd = JoinSet::new();
    for client in 0..8 {
        let shop = Arc::clone(&shop);
        crowd.spawn(async move {
            for n in 0.. {
                let claim = shop.granted(&format!("{client}-{n}")).await;
                shop.store.complete(claim, result(), MINUTE).await.unwrap();
            }
        });
    }
    while shop.commits() < 20 {
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        let mut turn = pin!(shop.store.writer.turn(Rank::Business, None));
        let waits = poll_immediate(&mut turn).await;
        let before = shop.commits();
        let mut turn = match waits {
            Some(turn) => turn.unwrap(),
            None => turn.await.unwrap(),
        };
        let waited = shop.commits() - before;
        // What is done of leases between two turns of business is of the claims of one.
        assert!(waited <= 24, "{waited}");
        turn.connection.give_back();
    }
    crowd.shutdown().await;
}

/// What waits for the turn that it has would wait for itself.
#[tokio::test]
async fn work_that_has_the_turn_does_not_wait_in_line() {
    let shop = Shop::open().await;
    let store = shop.store.clone();
    let idem = Idempotency::builder(shop.store.clone()).build();
    let reply = idem.run_in_tx(id("outer"), |_| async move {
        let inner = store.claim(ClaimRequest::new(&id("inner"), MINUTE)).await;
        Ok(matches!(inner, Err(StoreError::Unsupported { .. })))
    });
    assert!(*reply.await.unwrap());
}
