//! Order within a key, pauses and dead letters included.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::sleep;

use super::bench::{Bench, Checked, Inbox, WATCH, failing, options, ordered, quick, text};
use oneflight::outbox::{Cancelled, Delivery, DeliveryError, Message, OnDead, RelayBuilder};
use oneflight::store::outbox::OutboxStore;

pub(super) async fn messages_of_an_ordering_key_arrive_in_order<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let inbox = Inbox::default();
    let relay = bench.keeping(&inbox)?;
    for round in 0..10 {
        let messages = (0..5).flat_map(|key| {
            (0..2).map(move |part| text(&format!("{key} {}", round * 2 + part)).ordering_key(format!("key-{key}")))
        });
        bench.send(messages.collect()).await?;
    }
    bench.until("all arrive", || inbox.texts().len() == 100).await?;
    let mut next: HashMap<String, u32> = HashMap::new();
    for arrived in inbox.texts() {
        let Some((key, number)) = arrived.split_once(' ') else {
            return bench.failure("something else arrived");
        };
        let expected = next.entry(key.to_owned()).or_default();
        bench.require(
            number == expected.to_string(),
            format!("{arrived} where {expected} was next"),
        )?;
        *expected += 1;
    }
    relay.stop().await;
    Ok(())
}

pub(super) async fn a_message_in_back_off_is_not_overtaken<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let inbox = Inbox::default();
    let relay = failing(bench, &inbox, "first", 2, options(), |it| it)?;
    bench.send(vec![ordered("first"), ordered("second")]).await?;
    bench.arrives(&inbox, &["first", "first", "first", "second"]).await?;
    let attempts: Vec<u32> = inbox.0.lock().iter().map(|(_, attempt, _)| *attempt).collect();
    bench.require(
        attempts == [1, 2, 3, 1],
        format!("attempts were counted as {attempts:?}"),
    )?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn a_long_back_off_is_parked_and_keeps_its_place<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let inbox = Inbox::default();
    let parks = |it: RelayBuilder<S>| it.park_after(Duration::ZERO);
    let relay = failing(bench, &inbox, "first", 2, options(), parks)?;
    bench.send(vec![ordered("first"), ordered("second")]).await?;
    bench.arrives(&inbox, &["first", "first", "first", "second"]).await?;
    let attempts: Vec<u32> = inbox.0.lock().iter().map(|(_, attempt, _)| *attempt).collect();
    bench.require(
        attempts == [1, 2, 3, 1],
        format!("attempts were counted as {attempts:?}"),
    )?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn a_dead_letter_holds_its_key_up_until_it_is_redriven<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    let twice = options().retry(quick().attempts(2));
    let relay = failing(bench, &inbox, "first", 2, twice.clone(), |it| it)?;
    let sent = bench.send(vec![ordered("first"), ordered("second")]).await?;
    bench.until("it is dead", || relay.health().dead == 1).await?;
    sleep(WATCH).await;
    bench.require(inbox.texts() == ["first", "first"], "a dead letter was overtaken")?;
    let dead = bench.ok(bench.outbox.dead_letters(10, None).await)?;
    let [letter] = dead.as_slice() else {
        return bench.failure(format!("expected one dead letter, got {dead:?}"));
    };
    bench.require(
        letter.id == sent[0].id() && letter.attempts == 2,
        "the dead letter is another one",
    )?;
    bench.require(
        letter.error.contains("not now") && letter.blocks,
        "the dead letter does not tell why it died",
    )?;
    relay.stop().await;
    // Another relay knows it as well.
    let relay = failing(bench, &inbox, "first", 0, twice, |it| it)?;
    sleep(WATCH).await;
    bench.require(inbox.texts().len() == 2, "a dead letter was overtaken after a restart")?;
    bench.require(
        bench.ok(bench.outbox.redrive(letter.id).await)?,
        "a dead letter could not be redriven",
    )?;
    bench.arrives(&inbox, &["first", "first", "first", "second"]).await?;
    bench.require(
        !bench.ok(bench.outbox.redrive(letter.id).await)?,
        "what is no dead letter was redriven",
    )?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn a_dead_letter_that_is_cancelled_lets_its_key_go_on<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    let relay = failing(bench, &inbox, "first", 9, options().retry(quick().attempts(1)), |it| it)?;
    let sent = bench.send(vec![ordered("first"), ordered("second")]).await?;
    bench.until("it is dead", || relay.health().dead == 1).await?;
    let cancelled = bench.ok(bench.outbox.cancel(sent[0].id()).await)?;
    bench.require(
        cancelled == Cancelled::Cancelled,
        "a dead letter could not be cancelled",
    )?;
    bench.arrives(&inbox, &["first", "second"]).await?;
    bench.require(relay.health().expired == 0, "what was cancelled counts as expired")?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn a_dead_letter_is_overtaken_where_its_topic_says_so<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    let skips = options().retry(quick().attempts(1)).on_dead(OnDead::Skip);
    let relay = failing(bench, &inbox, "first", 9, skips, |it| it)?;
    bench.send(vec![ordered("first"), ordered("second")]).await?;
    bench.arrives(&inbox, &["first", "second"]).await?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn a_dead_letter_of_a_topic_that_is_left_alone_holds_nothing_up<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    let relay = failing(bench, &inbox, "first", 9, options().retry(quick().attempts(1)), |it| it)?;
    let other = Message::text("other", "first").ordering_key("one");
    bench.send(vec![other, ordered("second")]).await?;
    bench.until("it is dead", || relay.health().dead == 1).await?;
    sleep(WATCH).await;
    bench.require(inbox.texts() == ["first"], "a dead letter was overtaken")?;
    relay.stop().await;
    let keeps = inbox.clone();
    let keep = move |delivery: Delivery| {
        keeps.note(&delivery);
        async { Ok::<(), DeliveryError>(()) }
    };
    let relay = bench.spawn(bench.builder().target("note.*", keep))?;
    bench.arrives(&inbox, &["first", "second"]).await?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn a_poisonous_message_blocks_nobody_but_its_own_key<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    // So few that those which wait would fill the memory.
    let small = |it: RelayBuilder<S>| it.buffer(4, 1024 * 1024);
    let relay = failing(bench, &inbox, "poison", u64::MAX, options(), small)?;
    bench.send(vec![ordered("poison")]).await?;
    bench
        .send((0..20).map(|number| ordered(&format!("behind {number}"))).collect())
        .await?;
    bench
        .send(vec![text("free"), text("other").ordering_key("two")])
        .await?;
    bench
        .until("others arrive", || {
            inbox.count("free") == 1 && inbox.count("other") == 1
        })
        .await?;
    bench.require(
        !inbox.texts().iter().any(|text| text.starts_with("behind")),
        "a message was overtaken",
    )?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn not_before_keeps_its_place_in_its_key<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    for park_after in [Duration::ZERO, Duration::from_secs(60)] {
        let inbox = Inbox::default();
        let relay = failing(bench, &inbox, "", 0, options(), |it| it.park_after(park_after))?;
        bench
            .send(vec![
                ordered("later").not_before(Duration::from_millis(500)),
                ordered("behind"),
            ])
            .await?;
        bench.arrives(&inbox, &["later", "behind"]).await?;
        let attempts: Vec<u32> = inbox.0.lock().iter().map(|(_, attempt, _)| *attempt).collect();
        bench.require(
            attempts == [1, 1],
            format!("waiting was counted as an attempt: {attempts:?}"),
        )?;
        relay.stop().await;
    }
    Ok(())
}

pub(super) async fn what_is_due_before_it_is_parked_keeps_its_place<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    // So short that the pause is often over between the reading and the parking.
    let relay = failing(bench, &inbox, "", 0, options(), |it| it.park_after(Duration::ZERO))?;
    let messages = (0..40).flat_map(|number| {
        let key = format!("key {number}");
        let soon = Duration::from_millis(1 + number / 4);
        let later = text(&format!("{number} later")).ordering_key(&key).not_before(soon);
        [later, text(&format!("{number} behind")).ordering_key(&key)]
    });
    bench.send(messages.collect()).await?;
    bench.until("all arrive", || inbox.texts().len() == 80).await?;
    let texts = inbox.texts();
    for number in 0..40 {
        let place = |what: &str| texts.iter().position(|text| *text == format!("{number} {what}"));
        bench.require(
            place("later") < place("behind"),
            format!("message {number} was overtaken"),
        )?;
    }
    relay.stop().await;
    Ok(())
}

pub(super) async fn what_has_come_back_is_not_overtaken_by_what_is_read_before_it<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let behind = || (0..6).map(|number| ordered(&format!("behind {number}")));
    let arrive = ["behind 0", "behind 1", "behind 2", "behind 3", "behind 4", "behind 5"];
    // So little that it reads the later messages of the key, which stand before it, by themselves.
    let small = |it: RelayBuilder<S>| it.buffer(2, 1024 * 1024);
    for is_cancelled in [false, true] {
        let inbox = Inbox::default();
        let once = options().retry(quick().attempts(1));
        let relay = failing(bench, &inbox, "first", 1, once, |it| it)?;
        let sent = bench
            .send([ordered("first")].into_iter().chain(behind()).collect())
            .await?;
        bench.until("it is dead", || relay.health().dead == 1).await?;
        relay.stop().await;
        let redriven = bench.ok(bench.outbox.redrive(sent[0].id()).await)?;
        bench.require(redriven, "a dead letter could not be redriven")?;
        if is_cancelled {
            let cancelled = bench.ok(bench.outbox.cancel(sent[0].id()).await)?;
            bench.require(
                cancelled == Cancelled::Cancelled,
                "what was redriven could not be cancelled",
            )?;
        }
        let inbox = Inbox::default();
        let relay = failing(bench, &inbox, "", 0, options(), small)?;
        let first = (!is_cancelled).then_some("first");
        let expected: Vec<&str> = first.into_iter().chain(arrive).collect();
        bench.arrives(&inbox, &expected).await?;
        relay.stop().await;
    }
    Ok(())
}
