//! Topics that are paused and resumed, and what that does to messages and relays.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::bench::{Bench, Checked, Inbox, WATCH, options, text};
use crate::failure::Failure;
use oneflight::outbox::{Delivery, DeliveryError, Message, RelayHandle};
use oneflight::store::outbox::{MessageQuery, OutboxUpkeep};

const PAUSED: &str = "mail.receipt";

fn mail(content: &str) -> Message {
    Message::text(PAUSED, content)
}

/// Messages of one ordering key.
fn one(message: Message) -> Message {
    message.ordering_key("one")
}

async fn learns<S: OutboxUpkeep + Clone>(bench: &Bench<S>, relay: &RelayHandle, topics: &[&str]) -> Checked {
    let what = format!("a relay learns that {topics:?} are paused");
    bench.until(&what, || relay.health().paused == topics).await
}

/// A relay whose target waits for a permit, fails if it is told so, and keeps every attempt.
fn waiting<S: OutboxUpkeep + Clone>(
    bench: &Bench<S>,
    inbox: &Inbox,
    permits: &Arc<Semaphore>,
    fails: &'static str,
) -> Result<RelayHandle, Failure> {
    let (inbox, permits) = (inbox.clone(), Arc::clone(permits));
    let target = move |delivery: Delivery| {
        inbox.note(&delivery);
        let permits = Arc::clone(&permits);
        async move {
            if let Ok(permit) = permits.acquire().await {
                permit.forget();
            }
            match delivery.payload() == fails.as_bytes() && delivery.attempt() == 1 {
                true => Err(DeliveryError::retry("not now")),
                false => Ok(()),
            }
        }
    };
    bench.spawn(bench.builder().target_with("*", target, options()))
}

pub(super) async fn a_pause_and_a_resume_are_told_once<S: OutboxUpkeep + Clone>(bench: &Bench<S>) -> Checked {
    let told = [
        bench.ok(bench.store.pause(PAUSED).await)?,
        bench.ok(bench.store.pause(PAUSED).await)?,
        bench.ok(bench.store.pause("charge").await)?,
    ];
    bench.require(told == [true, false, true], format!("pausing was told as {told:?}"))?;
    let topics = bench.ok(bench.store.paused().await)?;
    let named: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
    bench.require(named == ["charge", PAUSED], format!("{named:?} are said to be paused"))?;
    bench.send_one(mail("waits")).await?;
    let backlog = bench.ok(bench.outbox.backlog().await)?;
    let shown: Vec<_> = backlog
        .iter()
        .map(|it| (&*it.topic, it.waiting, it.is_paused))
        .collect();
    bench.require(
        shown == [("charge", 0, true), (PAUSED, 1, true)],
        format!("the backlog of paused topics is said to be {shown:?}"),
    )?;
    let told = [
        bench.ok(bench.outbox.resume(PAUSED).await)?,
        bench.ok(bench.outbox.resume(PAUSED).await)?,
    ];
    bench.require(told == [true, false], format!("resuming was told as {told:?}"))?;
    let topics = bench.ok(bench.store.paused().await)?;
    bench.require(topics.len() == 1, format!("{topics:?} are said to be paused"))
}

pub(super) async fn a_relay_of_this_process_learns_of_a_pause_at_once<S: OutboxUpkeep + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    let inside = inbox.clone();
    let keep = move |delivery: Delivery| {
        inside.note(&delivery);
        async { Ok::<(), DeliveryError>(()) }
    };
    // It shows a sign of life every 200 s by itself, but for those after it has joined.
    let relay = bench.spawn(bench.builder().lease(Duration::from_secs(600)).target("*", keep))?;
    bench.send_one(text("it runs")).await?;
    bench.arrives(&inbox, &["it runs"]).await?;
    for topics in [&[PAUSED][..], &[]] {
        match topics.is_empty() {
            false => bench.ok(bench.outbox.pause(PAUSED).await)?,
            true => bench.ok(bench.outbox.resume(PAUSED).await)?,
        };
        learns(bench, &relay, topics).await?;
    }
    relay.stop().await;
    Ok(())
}

pub(super) async fn a_paused_topic_waits_and_others_are_delivered<S: OutboxUpkeep + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    let (first, second) = (bench.keeping(&inbox)?, bench.keeping(&inbox)?);
    // Past the bell: a relay learns of it with its next sign of life.
    bench.ok(bench.store.pause(PAUSED).await)?;
    learns(bench, &first, &[PAUSED]).await?;
    learns(bench, &second, &[PAUSED]).await?;
    let sent = bench
        .send((0..20).map(|number| mail(&number.to_string())).collect())
        .await?;
    bench.send_one(text("another topic")).await?;
    bench.arrives(&inbox, &["another topic"]).await?;
    sleep(WATCH).await;
    bench.require(inbox.texts().len() == 1, "a message of a paused topic was delivered")?;
    let attempts = first.health().attempts + second.health().attempts;
    bench.require(attempts == 1, "a message of a paused topic counts as tried")?;
    let id = Some(sent[7].id());
    let found = bench.outbox.messages(MessageQuery {
        id,
        limit: 1,
        ..MessageQuery::default()
    });
    let found = bench.ok(found.await)?;
    let is_untouched = found
        .first()
        .is_some_and(|it| it.attempts == 0 && it.taken_by.is_none());
    bench.require(
        is_untouched,
        format!("a message of a paused topic is shown as {found:?}"),
    )?;
    bench.ok(bench.store.resume(PAUSED).await)?;
    bench
        .until("what was paused arrives", || inbox.texts().len() == 21)
        .await?;
    let once = inbox.0.lock().iter().all(|(_, attempt, _)| *attempt == 1);
    bench.require(once, "a pause counts as an attempt")?;
    first.stop().await;
    second.stop().await;
    Ok(())
}

pub(super) async fn a_relay_that_begins_while_a_topic_is_paused_leaves_it_alone<S: OutboxUpkeep + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    bench.ok(bench.outbox.pause(PAUSED).await)?;
    bench
        .send(vec![
            mail("paused"),
            one(mail("first of its key")),
            one(text("second of its key")),
        ])
        .await?;
    for _ in 0..2 {
        let relay = bench.keeping(&inbox)?;
        learns(bench, &relay, &[PAUSED]).await?;
        sleep(WATCH).await;
        relay.stop().await;
    }
    bench.require(inbox.texts().is_empty(), "a relay that began delivered what is paused")?;
    bench.ok(bench.outbox.resume(PAUSED).await)?;
    let relay = bench.keeping(&inbox)?;
    bench
        .until("what was paused arrives", || inbox.texts().len() == 3)
        .await?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn what_is_paused_holds_up_its_ordering_key_and_no_other<S: OutboxUpkeep + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    let permits = Arc::new(Semaphore::new(0));
    let relay = waiting(bench, &inbox, &permits, "")?;
    bench
        .send(vec![one(mail("1")), one(text("2")), one(mail("3")), one(text("4"))])
        .await?;
    bench.until("the first one begins", || inbox.texts() == ["1"]).await?;
    // While it is being delivered: it goes on.
    bench.ok(bench.outbox.pause(PAUSED).await)?;
    learns(bench, &relay, &[PAUSED]).await?;
    permits.add_permits(100);
    bench.until("it goes on", || relay.health().delivered == 2).await?;
    bench.send_one(text("of another key").ordering_key("two")).await?;
    bench
        .until("another key goes on", || inbox.count("of another key") == 1)
        .await?;
    sleep(WATCH).await;
    bench.require(
        inbox.texts() == ["1", "2", "of another key"],
        format!("behind a paused message, these were delivered: {:?}", inbox.texts()),
    )?;
    bench.ok(bench.outbox.resume(PAUSED).await)?;
    bench.arrives(&inbox, &["1", "2", "of another key", "3", "4"]).await?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn what_fails_while_its_topic_is_paused_is_tried_again_once_it_is_resumed<S: OutboxUpkeep + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    let permits = Arc::new(Semaphore::new(0));
    let relay = waiting(bench, &inbox, &permits, "fails once")?;
    bench.send_one(mail("fails once")).await?;
    bench.until("it begins", || inbox.texts().len() == 1).await?;
    bench.ok(bench.outbox.pause(PAUSED).await)?;
    learns(bench, &relay, &[PAUSED]).await?;
    permits.add_permits(100);
    bench.until("it has failed", || relay.health().in_flight == 0).await?;
    sleep(WATCH).await;
    bench.require(
        inbox.texts().len() == 1,
        "what had failed was tried again while it is paused",
    )?;
    bench.ok(bench.outbox.resume(PAUSED).await)?;
    bench.arrives(&inbox, &["fails once", "fails once"]).await?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn what_expires_while_its_topic_is_paused_lets_its_key_go_on<S: OutboxUpkeep + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    let relay = bench.keeping(&inbox)?;
    bench.ok(bench.outbox.pause(PAUSED).await)?;
    learns(bench, &relay, &[PAUSED]).await?;
    let short = Duration::from_millis(200);
    bench
        .send(vec![one(mail("expires")).expires_after(short), one(text("next"))])
        .await?;
    bench.arrives(&inbox, &["next"]).await?;
    bench.until("it has expired", || relay.health().expired == 1).await?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn another_topic_is_not_held_up_by_what_fills_the_memory<S: OutboxUpkeep + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    let inside = inbox.clone();
    let keep = move |delivery: Delivery| {
        inside.note(&delivery);
        async { Ok::<(), DeliveryError>(()) }
    };
    bench.ok(bench.outbox.pause(PAUSED).await)?;
    let messages = (0..300).map(|number| match number % 3 {
        0 => mail("paused").ordering_key(number.to_string()),
        _ => mail("paused"),
    });
    bench.send(messages.collect()).await?;
    let relay = bench.spawn(bench.builder().buffer(10, 1000).target_with("*", keep, options()))?;
    bench.send_one(text("another topic")).await?;
    bench.arrives(&inbox, &["another topic"]).await?;
    bench.require(
        relay.health().backlog <= 101,
        "what nothing waits for is kept in the memory while it is paused",
    )?;
    bench.ok(bench.outbox.resume(PAUSED).await)?;
    bench.until("all arrive", || inbox.texts().len() == 301).await?;
    relay.stop().await;
    Ok(())
}
