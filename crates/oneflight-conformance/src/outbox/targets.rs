//! Topics, targets, and what they answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::sleep;

use super::bench::{Bench, Checked, Inbox, options, ordered, text};
use oneflight::outbox::{Delivery, DeliveryError, Message, Target};
use oneflight::store::outbox::OutboxStore;

/// A target that keeps what arrives, and is there for it or not.
fn target(inbox: &Inbox, fails: bool) -> impl Target + use<> {
    let inbox = inbox.clone();
    move |delivery: Delivery| {
        inbox.note(&delivery);
        async move {
            match fails {
                true => Err(DeliveryError::retry("away")),
                false => Ok(()),
            }
        }
    }
}

pub(super) async fn an_unknown_topic_is_left_alone<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let (notes, others) = (Inbox::default(), Inbox::default());
    let keep = |inbox: &Inbox| {
        let inbox = inbox.clone();
        move |delivery: Delivery| {
            inbox.note(&delivery);
            async { Ok::<(), DeliveryError>(()) }
        }
    };
    let relay = bench.spawn(bench.builder().target("note.*", keep(&notes)))?;
    bench.send(vec![Message::text("other", "kept"), text("known")]).await?;
    bench.arrives(&notes, &["known"]).await?;
    bench
        .until("what was left alone is counted", || relay.health().left_alone == 1)
        .await?;
    relay.stop().await;
    let relay = bench.spawn(bench.builder().group("others").target("other", keep(&others)))?;
    bench.arrives(&others, &["kept"]).await?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn each_of_several_targets_gets_it_and_only_what_failed_is_tried_again<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let (good, bad) = (Inbox::default(), Inbox::default());
    let both = |fails: bool| {
        bench
            .builder()
            .target_with("*", target(&good, false), options().name("good"))
            .target_with("*", target(&bad, fails), options().name("bad"))
    };
    let relay = bench.spawn(both(true))?;
    bench.send_one(text("for all")).await?;
    bench.until("it is tried again", || bad.count("for all") >= 2).await?;
    relay.stop().await;
    let relay = bench.spawn(both(false))?;
    bench.until("it has ended", || relay.health().delivered == 1).await?;
    bench.require(good.count("for all") == 1, "a target that had it got it again")?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn what_all_targets_have_ends_though_one_of_them_is_gone<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    let target = |fails: bool| target(&inbox, fails);
    let both = bench
        .builder()
        .target_with("*", target(false), options().name("stays"))
        .target_with("*", target(true), options().name("goes"));
    let relay = bench.spawn(both)?;
    bench.send(vec![ordered("first"), ordered("second")]).await?;
    bench.until("one of them fails", || inbox.count("first") >= 3).await?;
    relay.stop().await;
    let before = inbox.texts().len();
    // A deploy has taken one of them away.
    let relay = bench.spawn(bench.builder().target_with("*", target(false), options().name("stays")))?;
    bench.until("both have ended", || relay.health().delivered == 2).await?;
    bench.require(
        inbox.texts()[before..] == ["second"],
        "what it had was delivered to it again",
    )?;
    bench.until("nothing is left", || relay.health().backlog == 0).await?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn a_target_that_fails_holds_up_no_other_topic<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let inbox = Inbox::default();
    let keeps = inbox.clone();
    let keep = move |delivery: Delivery| {
        keeps.note(&delivery);
        async { Ok::<(), DeliveryError>(()) }
    };
    let fail = |_: Delivery| async { Err::<(), _>(DeliveryError::retry("away")) };
    // So few that those which wait fill the memory.
    let relay = bench.spawn(
        bench
            .builder()
            .buffer(4, 1024 * 1024)
            .target_with("dead.*", fail, options().circuit_breaker(2))
            .target_with("note.*", keep, options()),
    )?;
    let dead = (0..30).map(|number| Message::text("dead.letter", number.to_string()));
    bench.send(dead.collect()).await?;
    bench.send(vec![text("alive")]).await?;
    bench.arrives(&inbox, &["alive"]).await?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn a_target_that_fails_holds_up_no_other_target_of_its_topic<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let (good, bad) = (Inbox::default(), Inbox::default());
    let both = |fails: bool| {
        bench
            .builder()
            .target_with("*", target(&good, false), options().name("good"))
            .target_with("*", target(&bad, fails), options().name("bad").circuit_breaker(1))
    };
    let relay = bench.spawn(both(true))?;
    bench.send(vec![text("opens the circuit")]).await?;
    bench
        .until("the circuit opens", || !relay.health().open_circuits.is_empty())
        .await?;
    let (after, tried) = (["one", "two", "three"], bad.texts().len());
    bench.send(after.map(text).to_vec()).await?;
    bench
        .until("the other one has them", || good.texts().len() == 4)
        .await?;
    bench.require(
        bad.texts().len() <= tried + 1,
        "it was asked though its circuit is open",
    )?;
    relay.stop().await;
    let relay = bench.spawn(both(false))?;
    bench.until("all have ended", || relay.health().delivered == 4).await?;
    bench.require(good.texts().len() == 4, "a target that had it got it again")?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn a_refusal_of_one_target_ends_nothing_for_one_that_was_not_asked<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let (away, strict) = (Inbox::default(), Inbox::default());
    let is_back = Arc::new(AtomicUsize::new(0));
    let (keeps, back) = (away.clone(), Arc::clone(&is_back));
    let comes_back = move |delivery: Delivery| {
        keeps.note(&delivery);
        let is_back = back.load(Ordering::SeqCst) > 0;
        async move {
            match is_back {
                true => Ok(()),
                false => Err(DeliveryError::retry("away")),
            }
        }
    };
    let keeps = strict.clone();
    let refuses = move |delivery: Delivery| {
        keeps.note(&delivery);
        let refuses = delivery.payload() == b"refused";
        async move {
            match refuses {
                true => Err(DeliveryError::rejected("refused")),
                false => Ok(()),
            }
        }
    };
    let both = bench
        .builder()
        .target_with("*", comes_back, options().name("away").circuit_breaker(1))
        .target_with("*", refuses, options().name("strict"));
    let relay = bench.spawn(both)?;
    bench.send_one(text("opens the circuit")).await?;
    bench
        .until("the circuit opens", || !relay.health().open_circuits.is_empty())
        .await?;
    bench.send_one(text("refused")).await?;
    bench.until("it is refused", || strict.count("refused") > 0).await?;
    sleep(super::bench::WATCH).await;
    bench.require(
        relay.health().dead == 0 || away.count("refused") > 0,
        "it is dead for a target that was not asked",
    )?;
    is_back.store(1, Ordering::SeqCst);
    bench.until("it is dead", || relay.health().dead == 1).await?;
    bench.require(away.count("refused") == 1, "the other target has not got it once")?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn what_becomes_due_while_it_is_taken_to_be_parked_is_delivered<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    let keeps = inbox.clone();
    let keep = move |delivery: Delivery| {
        keeps.note(&delivery);
        async { Ok::<(), DeliveryError>(()) }
    };
    let relay = bench.spawn(
        bench
            .builder()
            .park_after(Duration::ZERO)
            .target_with("*", keep, options()),
    )?;
    for number in 0..60_u32 {
        let wait = Duration::from_millis(u64::from(number % 12));
        let message = text(&number.to_string()).ordering_key(number.to_string());
        bench.send_one(message.not_before(wait)).await?;
    }
    bench.until("all have ended", || relay.health().delivered == 60).await?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn large_payloads_arrive_in_little_memory<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let large = |number: u8| {
        Message::bytes(
            "note.large",
            "application/octet-stream",
            vec![number; Message::MAX_PAYLOAD_BYTES],
        )
    };
    bench.send((1..=6).map(large).collect()).await?;
    bench.send_one(text("small")).await?;
    let relay = bench.ok(bench.store.beat(super::relays::beat(None)).await)?;
    let page = bench.ok(bench.store.fetch(&relay.shards, &relay.start, None, 100).await)?;
    let bytes: usize = page.messages.iter().map(|message| message.payload.len()).sum();
    bench.require(
        page.messages.len() == 7 && bytes == "small".len(),
        format!("a page of 7 messages had {bytes} bytes of payloads"),
    )?;
    bench.ok(bench.store.leave("default", relay.token).await)?;
    let (arrived, most) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
    let now = Arc::new(AtomicUsize::new(0));
    let (keeps, counts, max) = (Arc::clone(&arrived), Arc::clone(&now), Arc::clone(&most));
    let slow = move |delivery: Delivery| {
        let (keeps, counts) = (Arc::clone(&keeps), Arc::clone(&counts));
        max.fetch_max(
            counts.fetch_add(delivery.payload().len(), Ordering::SeqCst) + delivery.payload().len(),
            Ordering::SeqCst,
        );
        async move {
            sleep(Duration::from_millis(50)).await;
            let whole = delivery.payload().iter().all(|byte| *byte == delivery.payload()[0]);
            keeps.lock().push((
                delivery.payload()[0],
                whole && delivery.payload().len() == Message::MAX_PAYLOAD_BYTES,
            ));
            counts.fetch_sub(delivery.payload().len(), Ordering::SeqCst);
            Ok::<(), DeliveryError>(())
        }
    };
    let limit = 2 * Message::MAX_PAYLOAD_BYTES;
    let relay = bench.spawn(bench.builder().buffer(100, limit).target("note.*", slow))?;
    bench.until("all have ended", || relay.health().delivered == 7).await?;
    let mut arrived = arrived.lock().clone();
    arrived.retain(|(first, _)| *first <= 6);
    arrived.sort_unstable();
    let expected: Vec<(u8, bool)> = (1..=6).map(|number| (number, true)).collect();
    bench.require(arrived == expected, format!("the payloads differ: {arrived:?}"))?;
    let most = most.load(Ordering::SeqCst);
    bench.require(most <= limit + 5, format!("{most} bytes were being delivered at once"))?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn a_batch_is_acknowledged_by_what_succeeded<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    struct Picky(Inbox);
    impl Target for Picky {
        async fn deliver(&self, delivery: Delivery) -> Result<(), DeliveryError> {
            self.0.note(&delivery);
            match delivery.attempt() == 1 && delivery.payload().ends_with(b"odd") {
                true => Err(DeliveryError::retry("odd")),
                false => Ok(()),
            }
        }

        async fn deliver_batch(&self, deliveries: Vec<Delivery>) -> Option<Vec<Result<(), DeliveryError>>> {
            let mut answers = Vec::new();
            for delivery in deliveries {
                answers.push(self.deliver(delivery).await);
            }
            Some(answers)
        }
    }
    let inbox = Inbox::default();
    let messages = (0..20).map(|number| text(&format!("{number} {}", if number % 2 == 0 { "even" } else { "odd" })));
    bench.send(messages.collect()).await?;
    let relay = bench.spawn(
        bench
            .builder()
            .target_with("*", Picky(inbox.clone()), options().batch(20)),
    )?;
    bench.until("all have ended", || relay.health().delivered == 20).await?;
    bench.require(
        inbox.texts().len() == 30,
        format!("{} deliveries instead of 30", inbox.texts().len()),
    )?;
    relay.stop().await;
    Ok(())
}

pub(super) async fn a_target_that_panics_or_hangs_is_one_that_failed<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    let inside = inbox.clone();
    let odd = move |delivery: Delivery| {
        inside.note(&delivery);
        let (attempt, text) = (
            delivery.attempt(),
            String::from_utf8_lossy(delivery.payload()).into_owned(),
        );
        async move {
            match (attempt, text.as_str()) {
                (1, "hangs") => std::future::pending().await,
                (1, "panics") => std::panic::resume_unwind(Box::new("a target of the suite")),
                _ => Ok(()),
            }
        }
    };
    // In a batch as well, each by itself.
    for (batch, ended) in [(1, 5), (3, 10)] {
        let limited = options().time_limit(Duration::from_millis(100)).batch(batch);
        bench.send(vec![text("hangs"), text("panics"), text("works")]).await?;
        let relay = bench.spawn(bench.builder().target_with("*", odd.clone(), limited))?;
        bench.until("all have ended", || relay.health().delivered == 3).await?;
        bench.require(
            inbox.texts().len() == ended,
            format!(
                "those that failed, and no others, were to be tried again once: {:?}",
                inbox.texts()
            ),
        )?;
        relay.stop().await;
    }
    Ok(())
}
