//! Steps that send messages in their transactions, over any store that keeps both.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::Poll;
use std::time::Duration;

use oneflight::idempotency::{Steps, Stopped};
use oneflight::outbox::{Delivery, DeliveryError, Relay};
use oneflight::store::{OutboxStore, TransactionalStepStore};
use oneflight::{Idempotency, Message, RequestIdentity, Rollback, Scope};
use tokio::time::{sleep, timeout};

/// Polls a future so often and no more, and drops it.
pub async fn at_most<F: Future>(mut polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(move |cx| {
        if polls == 0 {
            return Poll::Ready(None);
        }
        polls -= 1;
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), key).unwrap()
}

async fn notify<S: OutboxStore + TransactionalStepStore>(
    steps: &Steps<S>,
    step: &'static str,
    fails: bool,
) -> Result<(), Stopped> {
    let sends = steps.run_in_tx(step, move |mut tx| async move {
        let _ = tx.send(Message::text("mail", step)).await?;
        match fails {
            true => Err(Rollback::failed("after it was sent")),
            false => Ok(()),
        }
    });
    sends.await
}

/// Each step's message has a key of its own, and the same one whenever the step is run again.
pub async fn two_steps_that_send_on_one_topic_deliver_two_messages<S>(store: S)
where
    S: OutboxStore + TransactionalStepStore + Clone,
{
    let arrived: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
    let arrives = Arc::clone(&arrived);
    let keep = move |delivery: Delivery| {
        let text = String::from_utf8(delivery.payload().to_vec()).unwrap();
        arrives.lock().unwrap().push((text, delivery.key().to_owned()));
        async { Ok::<(), DeliveryError>(()) }
    };
    let relay = Relay::builder(store.clone())
        .target("mail", keep)
        .build()
        .unwrap()
        .spawn();
    let idem = Idempotency::builder(store).build();
    for attempt in 0..4 {
        let run = idem.run_steps(id("a"), &7, move |steps| async move {
            notify(&steps, "to the customer", false).await?;
            // The first attempt rolls it back, and the second one sends it.
            notify(&steps, "to the shop", attempt == 0).await?;
            match attempt {
                3 => Ok(()),
                _ => Err(Stopped::because("it stops")),
            }
        });
        assert_eq!(run.await.is_ok(), attempt == 3, "{attempt}");
    }
    let two = timeout(Duration::from_secs(20), async {
        while arrived.lock().unwrap().len() < 2 {
            sleep(Duration::from_millis(5)).await;
        }
    });
    two.await.expect("both arrive");
    sleep(Duration::from_millis(300)).await;
    relay.stop().await;
    let mut arrived = arrived.lock().unwrap().clone();
    arrived.sort();
    let texts: Vec<_> = arrived.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(texts, ["to the customer", "to the shop"]);
    assert_ne!(arrived[0].1, arrived[1].1, "two messages have one key");
}

/// Nobody asks for it any more, and its message is there: a relay would find it only when it looks by itself.
pub async fn a_step_that_is_dropped_while_it_commits_rings<S>(store: S)
where
    S: OutboxStore + TransactionalStepStore + Clone,
{
    let idem = Idempotency::builder(store.clone()).build();
    let mut committed = 0;
    // How many polls a step takes differs from one to the next.
    for number in 0..400 {
        if committed > 2 {
            return;
        }
        let polls = 1 + number % 20;
        let ran = Arc::new(AtomicUsize::new(0));
        let run = |limit: usize| {
            let ran = Arc::clone(&ran);
            idem.run_steps(id(&format!("dropped {number}")), &7, move |steps| async move {
                let sends = steps.run_in_tx("notify", move |mut tx| async move {
                    ran.fetch_add(1, SeqCst);
                    let _ = tx.send(Message::text("mail", "text")).await?;
                    Ok(())
                });
                let answered = at_most(limit, sends).await.transpose()?;
                answered.ok_or_else(|| Stopped::because("it was dropped"))
            })
        };
        let mut bell = store.bell().listen();
        let first = run(polls).await;
        let has_rung = timeout(Duration::from_millis(50), bell.rung()).await.is_ok();
        if first.is_ok() {
            assert!(has_rung);
            continue;
        }
        let before = ran.load(SeqCst);
        let _ = run(usize::MAX).await.unwrap();
        if ran.load(SeqCst) == before {
            committed += 1;
            assert!(
                has_rung,
                "it was dropped after {polls} polls, and committed, and nothing rang"
            );
        }
    }
    panic!("{committed} drops fell into a commit: this test no longer finds it");
}
