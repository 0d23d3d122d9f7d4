//! Relays that come and go, and their leases.

use std::time::Duration;

use tokio::time::sleep;

use super::bench::{Bench, Checked, Inbox, LEASE, failing, options, quick, text};
use crate::failure::Failure;
use oneflight::outbox::{Cancelled, Delivery, DeliveryError, Postponed};
use oneflight::store::outbox::{
    Beat, Cursor, Failed, MessageId, OutboxStore, Parked, RelayToken, Settlement, Shard, StoredMessage,
};

pub(super) async fn a_slow_delivery_outlasts_the_lease_and_is_done_once<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    let slow = |inbox: &Inbox| {
        let inbox = inbox.clone();
        move |delivery: Delivery| {
            inbox.note(&delivery);
            async {
                sleep(LEASE * 3).await;
                Ok::<(), DeliveryError>(())
            }
        }
    };
    let one = bench.spawn(bench.builder().target("*", slow(&inbox)))?;
    bench
        .send((0..8).map(|number| text(&number.to_string())).collect())
        .await?;
    bench.until("all have begun", || inbox.texts().len() == 8).await?;
    let two = bench.spawn(bench.builder().target("*", slow(&inbox)))?;
    bench.until("all have ended", || one.health().delivered == 8).await?;
    sleep(LEASE).await;
    bench.require(
        inbox.texts().len() == 8,
        "a live relay's message was delivered by another one",
    )?;
    one.stop().await;
    two.stop().await;
    Ok(())
}

pub(super) async fn a_stop_counts_as_no_attempt_and_frees_the_shards<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    let inside = inbox.clone();
    let hangs = move |delivery: Delivery| {
        inside.note(&delivery);
        std::future::pending::<Result<(), DeliveryError>>()
    };
    // With leases so long that nobody would take over in time.
    let long = Duration::from_secs(600);
    let relay = bench.spawn(
        bench
            .builder()
            .lease(long)
            .grace(Duration::from_millis(50))
            .target("*", hangs),
    )?;
    bench.send_one(text("stopped")).await?;
    bench.until("it begins", || inbox.texts().len() == 1).await?;
    relay.stop().await;
    let keeps = inbox.clone();
    let keep = move |delivery: Delivery| {
        keeps.note(&delivery);
        async { Ok::<(), DeliveryError>(()) }
    };
    let relay = bench.spawn(bench.builder().lease(long).target("*", keep))?;
    bench.arrives(&inbox, &["stopped", "stopped"]).await?;
    let attempts: Vec<u32> = inbox.0.lock().iter().map(|(_, attempt, _)| *attempt).collect();
    bench.require(
        attempts == [1, 1],
        format!("a stop was counted as an attempt: {attempts:?}"),
    )?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn a_stop_keeps_what_some_targets_have<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let (good, bad) = (Inbox::default(), Inbox::default());
    let target = |inbox: &Inbox, hangs: bool| {
        let inbox = inbox.clone();
        move |delivery: Delivery| {
            inbox.note(&delivery);
            async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                Ok::<(), DeliveryError>(())
            }
        }
    };
    let both = |hangs: bool| {
        bench
            .builder()
            .grace(Duration::from_millis(100))
            .target_with("*", target(&good, false), options().name("good"))
            .target_with("*", target(&bad, hangs), options().name("bad"))
    };
    let relay = bench.spawn(both(true))?;
    bench.send_one(text("for all")).await?;
    bench
        .until("both have begun", || {
            good.count("for all") == 1 && bad.count("for all") == 1
        })
        .await?;
    relay.stop().await;
    let relay = bench.spawn(both(false))?;
    bench.until("it has ended", || relay.health().delivered == 1).await?;
    bench.require(good.count("for all") == 1, "a target that had it got it again")?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn what_is_being_delivered_is_dropped_with_its_shard<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let (begun, ended) = (Inbox::default(), Inbox::default());
    let (begins, ends) = (begun.clone(), ended.clone());
    let slow = move |delivery: Delivery| {
        let ends = ends.clone();
        begins.note(&delivery);
        async move {
            sleep(LEASE * 3 / 4).await;
            ends.note(&delivery);
            Ok::<(), DeliveryError>(())
        }
    };
    bench
        .send((0..8).map(|number| text(&number.to_string())).collect())
        .await?;
    let relay = bench.spawn(bench.builder().target_with("*", slow, options().batch(8)))?;
    bench.until("the first one begins", || begun.texts().len() == 1).await?;
    // Another takes it for dead, and takes over.
    let second = bench.ok(bench.store.beat(beat(None)).await)?;
    let mut takes_over = beat(Some(second.token));
    takes_over.dead = second.peers.clone();
    let mut second = bench.ok(bench.store.beat(takes_over).await)?;
    if second.shards.is_empty() {
        // It has shown a sign of life in between.
        let mut takes_over = beat(Some(second.token));
        takes_over.dead = second.peers.clone();
        second = bench.ok(bench.store.beat(takes_over).await)?;
    }
    bench.require(second.shards.len() == 64, "a dead relay's shards were not given away")?;
    bench.until("it is told", || relay.health().lost > 0).await?;
    let (begun_then, ended_then) = (begun.texts().len(), ended.texts().len());
    // The other one lives, so that the shards stay its own.
    for _ in 0..9 {
        bench.ok(bench.store.beat(beat(Some(second.token))).await)?;
        sleep(LEASE / 10).await;
    }
    bench.require(
        begun.texts().len() == begun_then && ended.texts().len() == ended_then,
        "a relay went on to deliver what is another's",
    )?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn relays_divide_the_messages_and_take_over_from_the_dead<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    let (one, two, three) = (bench.keeping(&inbox)?, bench.keeping(&inbox)?, bench.keeping(&inbox)?);
    let shares = || [&one, &two, &three].map(|relay| relay.health().shards);
    let fair = || shares().iter().all(|share| (20..=22).contains(share)) && shares().iter().sum::<usize>() == 64;
    bench.until("the shards are divided", fair).await?;
    bench
        .send((0..100).map(|number| text(&number.to_string())).collect())
        .await?;
    bench.until("all arrive", || inbox.texts().len() == 100).await?;
    let shared = || [&one, &two, &three].iter().all(|relay| relay.health().delivered > 0);
    bench
        .until("each relay that has shards has delivered something", shared)
        .await?;
    one.stop().await;
    two.stop().await;
    three.stop().await;
    // One joins, and dies without a word.
    let dies = bench.ok(bench.store.beat(beat(None)).await)?;
    bench.require(dies.shards.len() == 64, "a relay that is alone did not get all shards")?;
    let relay = bench.keeping(&inbox)?;
    bench.send_one(text("left behind")).await?;
    bench
        .until("another takes over", || inbox.count("left behind") == 1)
        .await?;
    relay.stop().await;
    Ok(())
}

pub(super) fn beat(token: Option<RelayToken>) -> Beat {
    Beat {
        group: "default".into(),
        token,
        share: 64,
        gives_back: Vec::new(),
        dead: Vec::new(),
        cursor: None,
        shards: Vec::new(),
    }
}

/// Reads everything, as a relay that is done by hand.
pub(super) async fn read_all<S: OutboxStore + Clone>(
    bench: &Bench<S>,
    shards: &[Shard],
    start: &Cursor,
) -> Result<Vec<(MessageId, i64)>, Failure> {
    let page = bench.ok(bench.store.fetch(shards, start, None, 1000).await)?;
    let named = |message: &StoredMessage| (message.id, message.position);
    Ok(page.messages.iter().map(named).collect())
}

pub(super) async fn an_answer_after_its_lease_is_refused<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    bench.send_one(text("taken twice")).await?;
    let first = bench.ok(bench.store.beat(beat(None)).await)?;
    let positions = read_all(bench, &first.shards, &first.start).await?;
    bench.require(
        positions.len() == 1,
        format!("one message was sent, and {} were read", positions.len()),
    )?;
    let (store, group) = (&bench.store, "default");
    let taken = bench.ok(store.take(group, first.token, &first.shards, &positions).await)?;
    bench.require(taken.lost.is_empty(), "the owner's taking was refused")?;
    let second = bench.ok(store.beat(beat(None)).await)?;
    bench.require(second.shards.is_empty(), "a live relay's shards were given away")?;
    let mut takes_over = beat(Some(second.token));
    takes_over.dead = second.peers.clone();
    let second = bench.ok(store.beat(takes_over).await)?;
    bench.require(second.shards.len() == 64, "a dead relay's shards were not given away")?;
    let delivered = Settlement {
        delivered: positions.iter().map(|(_, position)| *position).collect(),
        ..Settlement::default()
    };
    let refused = bench.ok(store.settle(group, first.token, &first.shards, &delivered).await)?;
    bench.require(refused.len() == 64, "a late acknowledgement was accepted")?;
    let refused = bench.ok(store.take(group, first.token, &first.shards, &positions).await)?;
    bench.require(!refused.lost.is_empty(), "an outdated relay has taken a message")?;
    let outdated = store.beat(beat(Some(first.token))).await;
    let is_outdated = matches!(outdated, Err(oneflight::store::StoreError::RelayOutdated));
    bench.require(is_outdated, "an outdated relay was not told")?;
    let again = read_all(bench, &second.shards, &second.start).await?;
    bench.require(again == positions, "the message is not there for the successor")?;
    let accepted = bench.ok(store.settle(group, second.token, &second.shards, &delivered).await)?;
    bench.require(accepted.is_empty(), "the successor was refused")?;
    bench.require(
        read_all(bench, &second.shards, &second.start).await?.is_empty(),
        "what has ended was read",
    )
}

pub(super) async fn what_has_come_back_elsewhere_counts_as_postponed<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let sent = bench
        .send(vec![
            text("first").ordering_key("one"),
            text("second").ordering_key("one"),
        ])
        .await?;
    let relay = bench.ok(bench.store.beat(beat(None)).await)?;
    let positions = read_all(bench, &relay.shards, &relay.start).await?;
    let postponed = bench.outbox.postpone(sent[0].id(), Duration::from_millis(1)).await;
    bench.require(
        bench.ok(postponed)? == Postponed::Postponed,
        "what waits could not be postponed",
    )?;
    sleep(Duration::from_millis(20)).await;
    // As another process does.
    bench.ok(bench.store.keep_house().await)?;
    let first = &positions[..1];
    let taken = bench.ok(bench.store.take("default", relay.token, &relay.shards, first).await)?;
    bench.require(
        taken.postponed == [first[0].1] && taken.cancelled.is_empty(),
        format!("what had come back counts as {taken:?}"),
    )?;
    let again = read_all(bench, &relay.shards, &relay.start).await?;
    bench.require(
        again.len() == 2
            && again
                .iter()
                .any(|(id, position)| *id == sent[0].id() && *position != first[0].1),
        "it has not come back in another place",
    )
}

pub(super) async fn a_settlement_that_is_recorded_twice_does_no_harm<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let id = bench.send_one(text("twice")).await?;
    let (store, group) = (&bench.store, "default");
    let relay = bench.ok(store.beat(beat(None)).await)?;
    let positions = read_all(bench, &relay.shards, &relay.start).await?;
    let position = positions[0].1;
    let take = async || {
        let taken = bench.ok(store.take(group, relay.token, &relay.shards, &positions).await)?;
        bench.require(
            taken.lost.is_empty() && taken.cancelled.is_empty(),
            "the owner's taking was refused",
        )
    };
    // Whose first answer was lost.
    let settle_again = async |settlement: &Settlement| {
        let refused = bench.ok(store.settle(group, relay.token, &relay.shards, settlement).await)?;
        bench.require(refused.is_empty(), "the owner was refused")
    };
    let failed = Settlement {
        failed: vec![Failed {
            position,
            pause: Duration::from_millis(1),
            error: "not now".to_owned(),
        }],
        ..Settlement::default()
    };
    take().await?;
    settle_again(&failed).await?;
    settle_again(&failed).await?;
    take().await?;
    let late = bench.ok(bench.outbox.cancel(id).await)?;
    bench.require(late == Cancelled::TooLate, "what is being delivered was cancelled")?;
    let released = Settlement {
        released: vec![position],
        ..Settlement::default()
    };
    settle_again(&released).await?;
    settle_again(&released).await?;
    let page = bench.ok(store.fetch(&relay.shards, &relay.start, None, 10).await)?;
    let attempts: Vec<u32> = page.messages.iter().map(|message| message.attempts).collect();
    bench.require(attempts == [1], format!("one attempt was counted as {attempts:?}"))?;
    let dead = Settlement {
        parked: vec![Parked {
            position,
            pause: None,
            blocks: false,
            attempts: 2,
            error: "no".to_owned(),
            done: Vec::new(),
        }],
        ..Settlement::default()
    };
    take().await?;
    settle_again(&dead).await?;
    bench.require(
        bench.ok(bench.outbox.redrive(id).await)?,
        "a dead letter could not be redriven",
    )?;
    settle_again(&dead).await?;
    let letters = bench.ok(bench.outbox.dead_letters(10, None).await)?;
    bench.require(letters.is_empty(), "what was redriven is dead again")?;
    bench.require(
        read_all(bench, &relay.shards, &relay.start).await?.len() == 1,
        "what was redriven is not there once",
    )
}

pub(super) async fn a_message_that_kills_its_relays_is_not_tried_for_ever<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    bench.send_one(text("deadly")).await?;
    for _ in 0..3 {
        let relay = bench.ok(bench.store.beat(beat(None)).await)?;
        let positions = read_all(bench, &relay.shards, &relay.start).await?;
        let taken = bench
            .store
            .take("default", relay.token, &relay.shards, &positions)
            .await;
        bench.ok(taken)?;
        // It died, and is gone at once.
        bench.ok(bench.store.leave("default", relay.token).await)?;
    }
    let inbox = Inbox::default();
    let relay = failing(bench, &inbox, "", 0, options().retry(quick().attempts(3)), |it| it)?;
    bench.until("it is dead", || relay.health().dead == 1).await?;
    bench.require(inbox.texts().is_empty(), "it was tried once more")?;
    relay.stop().await;
    Ok(())
}
