//! What is sent, and what arrives.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use super::bench::{Bench, Checked, Inbox, WATCH, text};
use oneflight::outbox::{Delivery, DeliveryError, Message, SendError, SendErrorKind, Sent};
use oneflight::store::outbox::OutboxStore;
use oneflight::{Drive, Idempotency, OnAbandon, RequestIdentity, Rollback, Scope};

pub(super) async fn what_is_committed_is_delivered_and_what_is_rolled_back_is_not<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    let relay = bench.keeping(&inbox)?;
    let id = bench.ok(RequestIdentity::new(Scope::new("outbox"), "fails"))?;
    let failed = bench.idem.run_in_tx(id, |mut tx| async move {
        let _ = tx.send(text("never")).await?;
        Err::<(), _>(Rollback::failed("the work fails"))
    });
    bench.require(failed.await.is_err(), "work that fails was answered")?;
    bench.send_one(text("kept")).await?;
    bench.arrives(&inbox, &["kept"]).await?;
    relay.stop().await;
    // What had been delivered is not delivered again.
    let again = bench.keeping(&inbox)?;
    bench.send_one(text("later")).await?;
    bench.arrives(&inbox, &["kept", "later"]).await?;
    again.stop().await;
    Ok(())
}

pub(super) async fn what_was_sent_arrives_as_it_was<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let seen = Arc::new(Mutex::new(None::<Delivery>));
    let sees = Arc::clone(&seen);
    let keep = move |delivery: Delivery| {
        *sees.lock() = Some(delivery);
        async { Ok::<(), DeliveryError>(()) }
    };
    let relay = bench.spawn(bench.builder().target("*", keep))?;
    let bytes: Vec<u8> = (0..=u8::MAX).collect();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let message = Message::bytes("data.all", "application/octet-stream", bytes.clone())
        .key("my key")
        .ordering_key("größe '\\")
        .header("x-one", "1")
        .header("x-two", "zwei; \"2\"")
        .correlation_id(bench.ok("edge-5f2c".parse())?)
        .trace_parent(bench.ok(oneflight::outbox::TraceParent::new(parent))?);
    let id = bench.send_one(message).await?;
    bench.until("it arrives", || seen.lock().is_some()).await?;
    let Some(delivery) = seen.lock().clone() else {
        return bench.failure("nothing arrived");
    };
    bench.require(
        delivery.id() == id && delivery.topic() == "data.all",
        "id or topic differ",
    )?;
    bench.require(delivery.payload() == bytes, "the payload differs")?;
    bench.require(
        delivery.content_type() == "application/octet-stream",
        "the content type differs",
    )?;
    bench.require(delivery.key() == "my key", "the key differs")?;
    bench.require(delivery.ordering_key() == Some("größe '\\"), "the ordering key differs")?;
    let headers = [("x-one", "1"), ("x-two", "zwei; \"2\"")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    bench.require(delivery.headers() == headers, "the headers differ")?;
    bench.require(
        delivery.correlation_id().is_some_and(|it| it.as_str() == "edge-5f2c"),
        "the correlation id differs",
    )?;
    bench.require(
        delivery.trace_parent().is_some_and(|it| it.as_str() == parent),
        "the trace differs",
    )?;
    bench.require(delivery.attempt() == 1, "the attempt is not the first")?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn a_key_is_sent_once<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let twice = vec![text("first").key("k"), text("second").key("k"), text("other")];
    let sent = bench.send(twice).await?;
    let [Sent::New(first), Sent::Duplicate(again), Sent::New(_)] = sent.as_slice() else {
        return bench.failure(format!("expected new, duplicate, new; got {sent:?}"));
    };
    bench.require(first == again, "a duplicate has another id")?;
    let later = bench.send(vec![text("third").key("k")]).await?;
    bench.require(
        later == [Sent::Duplicate(*first)],
        format!("a duplicate of another request: {later:?}"),
    )?;
    let elsewhere = bench.send(vec![Message::text("other", "elsewhere").key("k")]).await?;
    bench.require(
        matches!(elsewhere.as_slice(), [Sent::New(_)]),
        format!("the same key of another topic: {elsewhere:?}"),
    )?;
    let parked = text("parked").key("p").not_before(Duration::from_secs(600));
    let sent = bench.send(vec![parked.clone(), parked]).await?;
    let is_duplicate = matches!(sent.as_slice(), [Sent::New(first), Sent::Duplicate(again)] if first == again);
    bench.require(is_duplicate, format!("a duplicate of what is parked: {sent:?}"))?;
    let inbox = Inbox::default();
    let relay = bench.keeping(&inbox)?;
    bench.until("all arrive", || inbox.texts().len() >= 3).await?;
    sleep(WATCH).await;
    let once = ["first", "other", "elsewhere"].iter().all(|it| inbox.count(it) == 1) && inbox.texts().len() == 3;
    bench.require(once, format!("got {:?}", inbox.texts()))?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn a_step_is_sent_once_in_a_request<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let id = bench.ok(RequestIdentity::new(Scope::new("outbox"), "loop"))?;
    let refused = bench.idem.run_in_tx(id, |mut tx| async move {
        let _ = tx.send(text("a").step("ship")).await?;
        let again = tx.send_all([text("b"), text("c").step("ship")]).await;
        let is_invalid = |error: &SendError| matches!(error.kind(), SendErrorKind::Invalid { .. });
        if !again.as_ref().is_err_and(is_invalid) {
            return Err(Rollback::failed(format!("a step was sent twice: {again:?}")));
        }
        // The transaction is as it was.
        tx.send_all([text("b"), text("c").step("ship 2"), text("d").key("own").step("ship")])
            .await?;
        Ok(())
    });
    let _ = bench.ok(refused.await)?;
    let inbox = Inbox::default();
    let relay = bench.keeping(&inbox)?;
    bench.until("all arrive", || inbox.texts().len() == 4).await?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn a_key_of_the_request_is_the_same_when_it_runs_again<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let keys = Arc::new(Mutex::new(Vec::new()));
    let keeps = Arc::clone(&keys);
    let keep = move |delivery: Delivery| {
        keeps.lock().push(delivery.key().to_owned());
        async { Ok::<(), DeliveryError>(()) }
    };
    let relay = bench.spawn(bench.builder().target("*", keep))?;
    let id = bench.ok(RequestIdentity::new(Scope::new("outbox"), "again"))?;
    let expected = Arc::new(Mutex::new(Vec::new()));
    for attempt in 0..2 {
        let expects = Arc::clone(&expected);
        let reply = bench.idem.run_in_tx(id.clone(), move |mut tx| {
            let expects = Arc::clone(&expects);
            async move {
                tx.send_all([text("a"), text("b"), text("c").step("named")]).await?;
                expects.lock().push(tx.downstream_key("message 1 of note.plain"));
                if attempt == 0 {
                    Err(Rollback::failed("not yet"))
                } else {
                    Ok(())
                }
            }
        });
        bench.require(
            reply.await.is_ok() == (attempt == 1),
            "the work ended otherwise than it said",
        )?;
    }
    bench.until("all arrive", || keys.lock().len() == 3).await?;
    let mut keys = keys.lock().clone();
    let expected = expected.lock().clone();
    bench.require(
        expected[0] == expected[1] && keys.contains(&expected[0]),
        "the key is not that of the step",
    )?;
    keys.sort();
    keys.dedup();
    bench.require(keys.len() == 3, "two messages of one request have one key")?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn a_call_that_is_dropped_while_it_commits_rings<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let idem = Idempotency::builder(bench.store.clone())
        .drive(Drive::InPlace)
        .on_abandon(OnAbandon::Cancel)
        .build();
    let mut committed = 0;
    // How many polls a call takes differs from one to the next.
    for number in 0..400 {
        if committed > 2 {
            return Ok(());
        }
        let polls = 1 + number % 20;
        let id = bench.ok(RequestIdentity::new(Scope::new("dropped"), number.to_string()))?;
        let run = || {
            idem.run_in_tx(id.clone(), |mut tx| async move {
                let _ = tx.send(text("dropped")).await?;
                Ok(())
            })
        };
        let mut bell = bench.store.bell().listen();
        let first = at_most(polls, run()).await;
        let has_rung = timeout(Duration::from_millis(50), bell.rung()).await.is_ok();
        if first.is_some() {
            continue;
        }
        let again = bench.ok(run().await)?;
        if again.is_cached() {
            committed += 1;
            bench.require(has_rung, "a call was dropped, was committed, and rang for nobody")?;
        }
    }
    bench.failure(format!("{committed} drops fell into a commit"))
}

/// Polls a future so often and no more, and drops it.
async fn at_most<F: Future>(mut polls: usize, future: F) -> Option<F::Output> {
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
