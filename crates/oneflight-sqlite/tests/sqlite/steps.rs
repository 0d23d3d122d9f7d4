//! Promise 16: a mutation of several steps, some of them in transactions of the store's.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use oneflight::idempotency::{StepError, Steps, Stopped};
use oneflight::{Error, ErrorKind, Idempotency, RequestIdentity, Rollback, Scope, Tx};
use oneflight_sqlite::SqliteStore;

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), key).unwrap()
}

async fn shop() -> (Idempotency<SqliteStore>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("shop.db")).await.unwrap();
    let table = sqlx::query("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT NOT NULL CHECK (item <> ''))");
    table.execute(store.pool()).await.unwrap();
    (Idempotency::builder(store).build(), folder)
}

async fn orders(idem: &Idempotency<SqliteStore>) -> i64 {
    let count = sqlx::query_scalar("SELECT count(*) FROM orders");
    count.fetch_one(idem.store().pool()).await.unwrap()
}

async fn insert(tx: &mut Tx<SqliteStore>, item: &str) -> Result<i64, sqlx::Error> {
    let insert = sqlx::query("INSERT INTO orders (item) VALUES (?)").bind(item.to_owned());
    Ok(insert.execute(&mut **tx).await?.last_insert_rowid())
}

fn stopped(error: &Error) -> &StepError {
    match error.kind() {
        ErrorKind::Stopped(stopped) => stopped,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_step_and_a_transaction_and_then_the_end() {
    async fn reserve(key: String) -> Result<usize, io::Error> {
        Ok(key.len())
    }

    let (idem, _folder) = shop().await;
    let input = "tea".to_owned();
    for _ in 0..2 {
        let item = input.clone();
        let reply = idem.run_steps(id("a"), &input, |steps| async move {
            let stock = steps.run("reserve", |ctx| reserve(ctx.downstream_key())).await?;
            steps
                .run_in_tx("book", move |mut tx| async move {
                    let order = insert(&mut tx, &item).await?;
                    Ok((stock, order))
                })
                .await
        });
        assert_eq!(*reply.await.unwrap(), (64, 1));
    }
    assert_eq!(orders(&idem).await, 1);
}

#[tokio::test]
async fn transactions_side_by_side_compile_and_run() {
    let (idem, _folder) = shop().await;
    let reply = idem.run_steps(id("a"), &(), |steps| async move {
        let tea = steps.run_in_tx("tea", |mut tx| async move { Ok(insert(&mut tx, "tea").await?) });
        let milk = steps.run_in_tx("milk", |mut tx| async move { Ok(insert(&mut tx, "milk").await?) });
        let mail = steps.run("mail", |_| async { Ok::<_, io::Error>(7) });
        let (tea, milk, mail) = tokio::join!(tea, milk, mail);
        Ok(tea? + milk? + mail?)
    });
    assert_eq!(*reply.await.unwrap(), 10);
    assert_eq!(orders(&idem).await, 2);
}

#[tokio::test]
async fn what_a_transaction_rolled_back_is_run_again_and_what_was_charged_is_not() {
    let (idem, _folder) = shop().await;
    let charged = Arc::new(AtomicUsize::new(0));
    let run = |item: &'static str| {
        let charged = Arc::clone(&charged);
        idem.run_steps(id("a"), &(), move |steps| async move {
            let charge = steps.run("charge", |_| async {
                Ok::<_, io::Error>(1 + charged.fetch_add(1, SeqCst))
            });
            let charge = charge.await?;
            let order = steps.run_in_tx("book", move |mut tx| async move { Ok(insert(&mut tx, item).await?) });
            Ok((charge, order.await?))
        })
    };
    let error = run("").await.unwrap_err();
    assert!(matches!(stopped(&error), StepError::RolledBack { .. }), "{error}");
    assert!(error.cause::<sqlx::Error>().is_some());
    assert_eq!(orders(&idem).await, 0);
    assert_eq!(*run("tea").await.unwrap(), (1, 1));
    assert_eq!(charged.load(SeqCst), 1);
}

#[tokio::test]
async fn what_is_declined_in_a_transaction_is_an_answer_without_rows() {
    let (idem, _folder) = shop().await;
    for attempt in 0..2 {
        let run = idem.run_steps(id("a"), &(), move |steps| async move {
            let book = steps.run_in_tx("book", move |mut tx| async move {
                insert(&mut tx, "tea").await?;
                Err(Rollback::Declined(format!("sold out, {attempt}")))
            });
            let declined: String = book.await?;
            match attempt {
                0 => Err(Stopped::because("later")),
                _ => Ok(declined),
            }
        });
        match attempt {
            0 => drop(run.await.unwrap_err()),
            _ => assert_eq!(*run.await.unwrap(), "sold out, 0"),
        }
    }
    assert_eq!(orders(&idem).await, 0);
}

#[tokio::test]
async fn a_panic_in_a_transaction_rolls_back_and_the_next_call_goes_on() {
    let (idem, _folder) = shop().await;
    for attempt in 0..2 {
        let run = idem.run_steps(id("a"), &(), move |steps| async move {
            let book = steps.run_in_tx("book", move |mut tx| async move {
                let order = insert(&mut tx, "tea").await?;
                assert!(attempt > 0, "the first time");
                Ok(order)
            });
            book.await
        });
        match attempt {
            0 => assert!(matches!(run.await.unwrap_err().kind(), ErrorKind::Panicked(_))),
            _ => assert_eq!(*run.await.unwrap(), 1),
        }
    }
    assert_eq!(orders(&idem).await, 1);
}

#[tokio::test]
async fn an_attempt_that_has_lost_its_lease_commits_nothing() {
    let (idem, folder) = shop().await;
    let other = SqliteStore::open(folder.path().join("shop.db")).await.unwrap();
    let other = Idempotency::builder(other).build();
    let fast = Idempotency::builder(idem.store().clone())
        .lease(Duration::from_millis(200))
        .build();
    let (says, begun) = tokio::sync::oneshot::channel();
    // Its runtime does not run while it is stalled, so its lease is over.
    let stalled = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            fast.run_steps(id("a"), &(), |steps| async move {
                steps.run("first", |_| async { Ok::<_, io::Error>(()) }).await?;
                says.send(()).unwrap();
                std::thread::sleep(Duration::from_millis(1_500));
                let late = steps.run_in_tx("book", |mut tx| async move { Ok(insert(&mut tx, "late").await?) });
                let late = late.await;
                assert!(matches!(late.as_ref().unwrap_err().reason(), StepError::LeaseLost));
                late
            })
            .await
        })
    });
    begun.await.unwrap();
    let reply = other.run_steps(id("a"), &(), |steps| async move {
        steps.run("first", |_| async { Err::<(), _>("it is recorded") }).await?;
        steps
            .run_in_tx("book", |mut tx| async move { Ok(insert(&mut tx, "tea").await?) })
            .await
    });
    assert_eq!(*reply.await.unwrap(), 1);
    let error = stalled.join().unwrap().unwrap_err();
    assert!(matches!(stopped(&error), StepError::LeaseLost), "{error}");
    assert_eq!(orders(&idem).await, 1);
}

#[tokio::test]
async fn a_resume_reads_all_steps_at_once() {
    async fn lines(steps: Steps<SqliteStore>, end: Result<(), &'static str>) -> Result<(), Stopped> {
        for line in 0..100 {
            steps
                .run_keyed("line", line, |_| async { Ok::<_, io::Error>(line) })
                .await?;
        }
        end.map_err(Stopped::because)
    }

    let (idem, _folder) = shop().await;
    let first = idem.run_steps(id("a"), &(), |steps| lines(steps, Err("later"))).await;
    first.unwrap_err();
    let known = idem.recorded_steps(&id("a")).await.unwrap().unwrap();
    assert_eq!(known.steps.len(), 100);
    let _ = idem
        .run_steps(id("a"), &(), |steps| lines(steps, Ok(())))
        .await
        .unwrap();
}

/// Nobody can renew a lease while a transaction of the attempt is the one writer, and nobody can take over either.
#[tokio::test]
async fn a_transaction_that_is_longer_than_the_lease_does_not_end_the_attempt() {
    let (idem, _folder) = shop().await;
    let fast = Idempotency::builder(idem.store().clone())
        .lease(Duration::from_millis(200))
        .build();
    let reply = fast.run_steps(id("a"), &(), |steps| async move {
        let book = steps.run_in_tx("book", |mut tx| async move {
            let order = insert(&mut tx, "tea").await?;
            // The whole runtime: nothing is renewed right after it either.
            std::thread::sleep(Duration::from_millis(600));
            Ok(order)
        });
        let order = book.await?;
        steps.run("mail", |_| async { Ok::<_, io::Error>(order) }).await
    });
    assert_eq!(*reply.await.unwrap(), 1);
}

#[tokio::test]
async fn a_step_within_the_transaction_of_another_is_refused_at_once() {
    let (idem, _folder) = shop().await;
    let begun = std::time::Instant::now();
    let run = idem.run_steps(id("a"), &(), |steps: Steps<SqliteStore>| async move {
        let within = steps.clone();
        steps
            .run_in_tx("book", |mut tx| async move {
                let order = insert(&mut tx, "tea").await?;
                let inner = within.run("charge", |_| async { Ok::<_, io::Error>(()) }).await;
                let inner = inner.map_err(|stopped| Rollback::failed(stopped.to_string()));
                inner.map(|()| order)
            })
            .await
    });
    let error = run.await.unwrap_err();
    assert!(
        matches!(stopped(&error), StepError::Within { step } if step.name() == "charge"),
        "{error}"
    );
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(orders(&idem).await, 0);
}
