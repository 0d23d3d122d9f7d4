//! What is cancelled, postponed, not due, or expired.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::bench::{Bench, Checked, Inbox, LEASE, WATCH, ordered, text};
use oneflight::outbox::{Cancelled, Delivery, DeliveryError, MessageId, Postponed};
use oneflight::store::outbox::OutboxStore;

pub(super) async fn what_is_cancelled_is_never_delivered<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let inbox = Inbox::default();
    let relay = bench.keeping(&inbox)?;
    let soon = Duration::from_millis(600);
    let sent = bench
        .send(vec![
            text("cancelled").not_before(soon),
            text("delivered").not_before(soon),
        ])
        .await?;
    let cancelled = bench.ok(bench.outbox.cancel(sent[0].id()).await)?;
    bench.require(
        cancelled == Cancelled::Cancelled,
        "what was not due could not be cancelled",
    )?;
    let again = bench.ok(bench.outbox.cancel(sent[0].id()).await)?;
    bench.require(again == Cancelled::TooLate, "what is cancelled was cancelled again")?;
    bench.arrives(&inbox, &["delivered"]).await?;
    sleep(WATCH).await;
    bench.require(inbox.count("cancelled") == 0, "what is cancelled was delivered")?;
    let late = bench.ok(bench.outbox.cancel(sent[1].id()).await)?;
    bench.require(late == Cancelled::TooLate, "what is delivered was cancelled")?;
    let unknown = bench.ok(bench.outbox.cancel(MessageId::new(1 << 40)).await)?;
    bench.require(unknown == Cancelled::TooLate, "what is not there was cancelled")?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn what_was_postponed_and_then_cancelled_is_not_delivered<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    let relay = bench.keeping(&inbox)?;
    let soon = Duration::from_millis(1200);
    let id = bench.send_one(ordered("cancelled").not_before(soon)).await?;
    bench
        .until("the relay knows it", || relay.health().backlog == 1)
        .await?;
    let postponed = bench.ok(bench.outbox.postpone(id, Duration::from_secs(600)).await)?;
    bench.require(postponed == Postponed::Postponed, "what waits could not be postponed")?;
    let cancelled = bench.ok(bench.outbox.cancel(id).await)?;
    bench.require(
        cancelled == Cancelled::Cancelled,
        "what is postponed could not be cancelled",
    )?;
    bench.send_one(ordered("next")).await?;
    bench.arrives(&inbox, &["next"]).await?;
    sleep(soon + WATCH).await;
    bench.require(inbox.texts() == ["next"], "what was cancelled was delivered")?;
    bench.require(relay.health().expired == 0, "what was cancelled counts as expired")?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn what_is_being_delivered_is_too_late_to_cancel<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let inbox = Inbox::default();
    let inside = inbox.clone();
    let slow = move |delivery: Delivery| {
        inside.note(&delivery);
        async {
            sleep(Duration::from_millis(700)).await;
            Ok::<(), DeliveryError>(())
        }
    };
    let relay = bench.spawn(bench.builder().target("*", slow))?;
    let id = bench.send_one(text("slow")).await?;
    bench.until("it begins", || inbox.count("slow") == 1).await?;
    let late = bench.ok(bench.outbox.cancel(id).await)?;
    bench.require(late == Cancelled::TooLate, "what is being delivered was cancelled")?;
    let late = bench.ok(bench.outbox.postpone(id, Duration::from_secs(1)).await)?;
    bench.require(late == Postponed::TooLate, "what is being delivered was postponed")?;
    relay.stop().await;
    bench.require(inbox.count("slow") == 1, "it was delivered again")
}

pub(super) async fn what_waits_in_the_ring_can_be_cancelled_and_postponed<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let sent = bench
        .send(vec![ordered("cancelled"), ordered("postponed"), ordered("last")])
        .await?;
    let cancelled = bench.ok(bench.outbox.cancel(sent[0].id()).await)?;
    bench.require(cancelled == Cancelled::Cancelled, "what waits could not be cancelled")?;
    let inbox = Inbox::default();
    let postponed = bench.ok(bench.outbox.postpone(sent[1].id(), Duration::from_millis(800)).await)?;
    bench.require(postponed == Postponed::Postponed, "what waits could not be postponed")?;
    let begun = Instant::now();
    let relay = bench.keeping(&inbox)?;
    bench.arrives(&inbox, &["postponed", "last"]).await?;
    bench.require(
        begun.elapsed() >= Duration::from_millis(700),
        "it was delivered too early",
    )?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn not_before_is_kept_beyond_the_lease_and_delivers_once<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    let (one, two) = (bench.keeping(&inbox)?, bench.keeping(&inbox)?);
    let delay = LEASE * 2;
    let sent = Instant::now();
    bench.send(vec![text("late").not_before(delay), text("now")]).await?;
    bench.arrives(&inbox, &["now", "late"]).await?;
    let arrived = inbox
        .0
        .lock()
        .iter()
        .find(|(text, ..)| text == "late")
        .map(|(.., at)| *at);
    // The store's clock and this one differ by a few milliseconds at most, and rounding is down.
    let early = arrived.is_none_or(|at| at < sent + delay - Duration::from_millis(20));
    bench.require(!early, "it was delivered before its time")?;
    sleep(LEASE * 2).await;
    bench.require(inbox.texts().len() == 2, "it was delivered twice")?;
    one.stop().await;
    two.stop().await;
    Ok(())
}

pub(super) async fn what_has_expired_is_not_delivered<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    bench
        .send(vec![
            ordered("expired").expires_after(Duration::from_millis(1)),
            ordered("kept"),
        ])
        .await?;
    sleep(Duration::from_millis(50)).await;
    let inbox = Inbox::default();
    let relay = bench.keeping(&inbox)?;
    bench.arrives(&inbox, &["kept"]).await?;
    bench
        .until("the expiry is counted", || relay.health().expired == 1)
        .await?;
    relay.stop().await;
    Ok(())
}
