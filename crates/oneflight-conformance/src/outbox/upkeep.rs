//! What an operator sees of an outbox.

use std::time::Duration;

use super::bench::{Bench, Checked, Inbox, options, ordered, text};
use super::relays::{beat, read_all};
use crate::failure::Failure;
use oneflight::correlation::CorrelationId;
use oneflight::outbox::{Delivery, DeliveryError, Message, Reason};
use oneflight::store::outbox::{
    Failed, MessageEntry, MessageId, MessageQuery, MessageState, OutboxUpkeep, Parked, Part, RelayToken, Settlement,
    Shard, TopicBacklog,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Everything there is.
fn all() -> MessageQuery {
    MessageQuery {
        limit: 100,
        ..MessageQuery::default()
    }
}

async fn list<S: OutboxUpkeep + Clone>(bench: &Bench<S>, query: MessageQuery) -> Result<Vec<MessageEntry>, Failure> {
    bench.ok(bench.store.messages(query).await)
}

async fn ids<S: OutboxUpkeep + Clone>(bench: &Bench<S>, query: MessageQuery) -> Result<Vec<MessageId>, Failure> {
    Ok(list(bench, query).await?.into_iter().map(|entry| entry.id).collect())
}

/// The entry of one message.
async fn entry<S: OutboxUpkeep + Clone>(bench: &Bench<S>, id: MessageId) -> Result<MessageEntry, Failure> {
    let found = list(bench, MessageQuery { id: Some(id), ..all() }).await?;
    match <[MessageEntry; 1]>::try_from(found) {
        Ok([entry]) if entry.id == id => Ok(entry),
        other => bench.failure(format!("message {id} was looked for, and {other:?} was found")),
    }
}

/// A relay that is done by hand.
struct ByHand<'b, S> {
    bench: &'b Bench<S>,
    token: RelayToken,
    shards: Vec<Shard>,
    start: oneflight::store::outbox::Cursor,
}

impl<'b, S: OutboxUpkeep + Clone> ByHand<'b, S> {
    async fn join(bench: &'b Bench<S>) -> Result<Self, Failure> {
        let beaten = bench.ok(bench.store.beat(beat(None)).await)?;
        let (token, shards, start) = (beaten.token, beaten.shards, beaten.start);
        Ok(Self {
            bench,
            token,
            shards,
            start,
        })
    }

    /// Where a message stands now.
    async fn position(&self, id: MessageId) -> Result<i64, Failure> {
        let all = read_all(self.bench, &self.shards, &self.start).await?;
        match all.iter().find(|(it, _)| *it == id) {
            Some((_, position)) => Ok(*position),
            None => self.bench.failure(format!("message {id} is not read")),
        }
    }

    async fn take(&self, id: MessageId) -> Result<i64, Failure> {
        let position = self.position(id).await?;
        let messages = [(id, position)];
        let take = self.bench.store.take("default", self.token, &self.shards, &messages);
        let taken = self.bench.ok(take.await)?;
        let fits = taken.lost.is_empty() && taken.cancelled.is_empty() && taken.postponed.is_empty();
        self.bench.require(fits, format!("message {id} could not be taken"))?;
        Ok(position)
    }

    async fn settle(&self, settlement: Settlement) -> Checked {
        let settle = self
            .bench
            .store
            .settle("default", self.token, &self.shards, &settlement);
        let lost = self.bench.ok(settle.await)?;
        self.bench.require(lost.is_empty(), "a live relay lost its shards")
    }

    async fn deliver(&self, id: MessageId) -> Checked {
        let delivered = vec![self.take(id).await?];
        self.settle(Settlement {
            delivered,
            ..Settlement::default()
        })
        .await
    }

    async fn bury(&self, id: MessageId, blocks: bool) -> Checked {
        let position = self.take(id).await?;
        self.park(position, blocks).await
    }

    /// The same, of one that was taken before.
    async fn bury_taken(&self, id: MessageId) -> Checked {
        let position = self.position(id).await?;
        self.park(position, true).await
    }

    async fn park(&self, position: i64, blocks: bool) -> Checked {
        self.settle(Settlement {
            parked: vec![Parked {
                position,
                pause: None,
                blocks,
                attempts: 1,
                error: "rejected".to_owned(),
                done: Vec::new(),
            }],
            ..Settlement::default()
        })
        .await
    }
}

pub(super) async fn a_message_is_shown_wherever_it_is_on_its_way<S: OutboxUpkeep + Clone>(bench: &Bench<S>) -> Checked {
    let id = bench.send_one(ordered("12345").expires_after(HOUR)).await?;
    let sent = entry(bench, id).await?;
    let is_as_sent = sent.state == MessageState::Waiting
        && &*sent.topic == "note.plain"
        && sent.ordering_key.as_deref() == Some("one")
        && (sent.attempts, sent.payload_bytes, sent.blocks) == (0, 5, false)
        && (sent.taken_by, sent.due_in, sent.ended) == (None, None, None)
        && sent.expires_in.is_some_and(|left| left > HOUR / 2 && left <= HOUR)
        && sent.age < HOUR
        && sent.error.is_none()
        && sent.done.is_empty();
    bench.require(is_as_sent, format!("what waits is shown as {sent:?}"))?;

    let relay = ByHand::join(bench).await?;
    let position = relay.take(id).await?;
    let taken = entry(bench, id).await?;
    let is_taken = taken.state == MessageState::Waiting && taken.taken_by == Some(relay.token) && taken.attempts == 1;
    bench.require(is_taken, format!("what was taken is shown as {taken:?}"))?;

    relay
        .settle(Settlement {
            failed: vec![Failed {
                position,
                pause: HOUR,
                error: "not now".to_owned(),
            }],
            parts: vec![Part {
                position,
                target: "archive".to_owned(),
            }],
            ..Settlement::default()
        })
        .await?;
    let failed = entry(bench, id).await?;
    let is_failed = failed.state == MessageState::Waiting
        && (failed.taken_by, failed.attempts) == (None, 1)
        && failed.due_in.is_some_and(|due| due > HOUR / 2)
        && failed.error.as_deref() == Some("not now")
        && failed.done == ["archive"];
    bench.require(is_failed, format!("what failed is shown as {failed:?}"))?;

    relay.bury(id, true).await?;
    let dead = entry(bench, id).await?;
    let is_dead = dead.state == MessageState::Dead
        && (dead.due_in, dead.taken_by, dead.blocks) == (None, None, true)
        && dead.error.as_deref() == Some("rejected");
    bench.require(is_dead, format!("a dead letter is shown as {dead:?}"))?;

    let redriven = bench.ok(bench.outbox.redrive(id).await)?;
    let back = entry(bench, id).await?;
    let is_back = redriven && back.state == MessageState::Waiting && back.attempts == 0 && back.blocks;
    bench.require(is_back, format!("what was redriven is shown as {back:?}"))?;

    relay.deliver(id).await?;
    let ended = entry(bench, id).await?;
    let has_ended = ended.state == MessageState::Ended
        && ended.ended.is_some_and(|ago| ago < HOUR)
        && (ended.taken_by, ended.due_in, ended.blocks) == (None, None, false);
    bench.require(has_ended, format!("what was delivered is shown as {ended:?}"))?;

    let later = bench.send_one(text("later").not_before(HOUR)).await?;
    let parked = entry(bench, later).await?;
    let is_parked = parked.state == MessageState::Parked && parked.due_in.is_some_and(|due| due > HOUR / 2);
    bench.require(is_parked, format!("what is not due is shown as {parked:?}"))
}

pub(super) async fn messages_are_found_by_each_of_their_properties<S: OutboxUpkeep + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let correlation = CorrelationId::new("request-7");
    let correlation = bench.ok(correlation)?;
    let of = |topic: &str, key: &str| Message::text(topic, "content").key(key);
    let sent = bench
        .send(vec![
            of("mail.receipt", "a"),
            of("mail.receipt", "b").ordering_key("customer 1"),
            of("mail.reminder", "a").not_before(HOUR),
            of("charge", "c").correlation_id(correlation.clone()),
            of("charge", "d").ordering_key("customer 1"),
        ])
        .await?;
    let sent: Vec<MessageId> = sent.iter().map(|sent| sent.id()).collect();
    let relay = ByHand::join(bench).await?;
    relay.deliver(sent[0]).await?;
    relay.bury(sent[3], false).await?;

    let text = |text: &str| Some(text.to_owned());
    let state = |state| MessageQuery {
        state: Some(state),
        ..all()
    };
    let cases: Vec<(&str, MessageQuery, Vec<usize>)> = vec![
        ("everything", all(), vec![0, 1, 2, 3, 4]),
        (
            "a topic",
            MessageQuery {
                topic: text("mail.receipt"),
                ..all()
            },
            vec![0, 1],
        ),
        (
            "a topic that is not there",
            MessageQuery {
                topic: text("mail"),
                ..all()
            },
            vec![],
        ),
        (
            "a key",
            MessageQuery {
                key: text("a"),
                ..all()
            },
            vec![0, 2],
        ),
        (
            "an ordering key",
            MessageQuery {
                ordering_key: text("customer 1"),
                ..all()
            },
            vec![1, 4],
        ),
        (
            "a correlation id",
            MessageQuery {
                correlation_id: Some(correlation),
                ..all()
            },
            vec![3],
        ),
        ("waiting", state(MessageState::Waiting), vec![1, 4]),
        ("parked", state(MessageState::Parked), vec![2]),
        ("dead", state(MessageState::Dead), vec![3]),
        ("ended", state(MessageState::Ended), vec![0]),
        (
            "topic and state",
            MessageQuery {
                topic: text("charge"),
                ..state(MessageState::Waiting)
            },
            vec![4],
        ),
        (
            "key and topic",
            MessageQuery {
                topic: text("mail.receipt"),
                key: text("a"),
                ..all()
            },
            vec![0],
        ),
        ("a page", MessageQuery { limit: 2, ..all() }, vec![0, 1]),
        (
            "the next page",
            MessageQuery {
                limit: 2,
                after: Some(sent[1]),
                ..all()
            },
            vec![2, 3],
        ),
        (
            "a page of a state",
            MessageQuery {
                after: Some(sent[1]),
                ..state(MessageState::Waiting)
            },
            vec![4],
        ),
        ("no page", MessageQuery { limit: 0, ..all() }, vec![]),
        (
            "a number that is not there",
            MessageQuery {
                id: Some(MessageId::new(1 << 40)),
                ..all()
            },
            vec![],
        ),
    ];
    for (what, query, expected) in cases {
        let expected: Vec<MessageId> = expected.into_iter().map(|at| sent[at]).collect();
        let found = ids(bench, query).await?;
        bench.require(
            found == expected,
            format!("{what}: expected {expected:?}, got {found:?}"),
        )?;
    }
    // Once each, wherever it has been: back in the ring, under another position.
    let redriven = bench.ok(bench.outbox.redrive(sent[3]).await)?;
    let found = ids(bench, all()).await?;
    bench.require(
        redriven && found == sent,
        format!("after a redrive, {found:?} are there"),
    )?;
    let waiting = ids(bench, state(MessageState::Waiting)).await?;
    bench.require(
        waiting == [sent[1], sent[3], sent[4]],
        format!("after a redrive, {waiting:?} wait"),
    )
}

pub(super) async fn the_backlog_is_counted_by_topic<S: OutboxUpkeep + Clone>(bench: &Bench<S>) -> Checked {
    let empty = bench.ok(bench.store.backlog().await)?;
    bench.require(empty.is_empty(), format!("an empty outbox has a backlog of {empty:?}"))?;
    let of = |topic: &str| Message::text(topic, "content");
    let mut messages: Vec<Message> = (0..30).map(|_| of("charge")).collect();
    messages.extend((0..3).map(|_| of("charge").not_before(HOUR)));
    messages.extend((0..2).map(|_| of("mail.receipt")));
    messages.push(of("delivered"));
    let sent = bench.send(messages).await?;
    let relay = ByHand::join(bench).await?;
    relay.deliver(sent[35].id()).await?;
    relay.bury(sent[0].id(), false).await?;
    relay.bury(sent[33].id(), false).await?;
    relay.bury(sent[34].id(), false).await?;
    let is = |it: &TopicBacklog, topic: &str, numbers: (u64, u64, u64)| {
        &*it.topic == topic && (it.waiting, it.parked, it.dead) == numbers && !it.is_paused
    };
    let found = bench.ok(bench.store.backlog().await)?;
    let counted = matches!(found.as_slice(), [charge, mail]
        if is(charge, "charge", (29, 3, 1)) && is(mail, "mail.receipt", (0, 0, 2))
            && charge.oldest.is_some_and(|age| age < HOUR) && mail.oldest.is_none());
    bench.require(counted, format!("the backlog is said to be {found:?}"))?;
    // It comes back under another position, and counts once.
    let redriven = bench.ok(bench.outbox.redrive(sent[33].id()).await)?;
    let found = bench.ok(bench.store.backlog().await)?;
    let counted = redriven
        && found
            .iter()
            .any(|it| is(it, "mail.receipt", (1, 0, 1)) && it.oldest.is_some());
    bench.require(counted, format!("after a redrive, the backlog is said to be {found:?}"))
}

pub(super) async fn relays_are_shown_as_long_as_they_live<S: OutboxUpkeep + Clone>(bench: &Bench<S>) -> Checked {
    let none = bench.ok(bench.store.relays().await)?;
    bench.require(none.is_empty(), format!("nobody has joined, and there is {none:?}"))?;
    let relay = ByHand::join(bench).await?;
    let mut of_another_group = beat(None);
    (of_another_group.group, of_another_group.share) = ("mail".into(), 5);
    let other = bench.ok(bench.store.beat(of_another_group).await)?;
    let found = bench.ok(bench.store.relays().await)?;
    let told: Vec<_> = found.iter().map(|it| (it.token, &*it.group, it.shards)).collect();
    let expected = [(relay.token, "default", 64), (other.token, "mail", 5)];
    bench.require(
        expected.iter().all(|it| told.contains(it)) && told.len() == 2,
        format!("the relays are said to be {told:?}"),
    )?;
    let beats =
        |all: &[oneflight::store::outbox::RelayEntry]| all.iter().find(|it| it.token == relay.token).map(|it| it.beats);
    bench.ok(bench.store.beat(beat(Some(relay.token))).await)?;
    let again = bench.ok(bench.store.relays().await)?;
    bench.require(beats(&again) > beats(&found), "a sign of life is not counted")?;
    bench.ok(bench.store.leave("default", relay.token).await)?;
    let left = bench.ok(bench.store.relays().await)?;
    bench.require(beats(&left).is_none() && left.len() == 1, "a relay that left is shown")
}

pub(super) async fn it_is_told_why_a_message_is_not_delivered<S: OutboxUpkeep + Clone>(bench: &Bench<S>) -> Checked {
    let soon = Duration::from_millis(50);
    let why = async |id| match bench.ok(bench.outbox.explain_within(id, soon).await)? {
        Some(found) => Ok(found.reasons),
        None => bench.failure(format!("of message {id} nothing is known")),
    };
    let [first, second] = match bench.send(vec![ordered("1"), ordered("2")]).await?.as_slice() {
        [first, second] => [first.id(), second.id()],
        other => return bench.failure(format!("two messages were sent, and {other:?} was told")),
    };
    let fits = |found: &[Reason], expected: &str| {
        let told: Vec<String> = found.iter().map(|reason| format!("{reason:?}")).collect();
        let told = told.join(" ");
        bench.require(told.contains(expected), format!("expected {expected}, got {told}"))
    };
    fits(&why(first).await?, "NoRelay")?;
    let relay = ByHand::join(bench).await?;
    bench.ok(bench.outbox.pause("note.plain").await)?;
    let found = why(second).await?;
    fits(&found[..1], "Paused")?;
    fits(&found[1..], &format!("Behind {{ id: {first:?}, why: [Paused"))?;
    bench.ok(bench.outbox.resume("note.plain").await)?;
    // It shows no sign of life meanwhile.
    relay.take(first).await?;
    fits(&why(first).await?, "Silent")?;
    relay.bury_taken(first).await?;
    fits(&why(first).await?, "Dead { attempts: 1, error: \"rejected\" }")?;
    fits(&why(second).await?, &format!("Behind {{ id: {first:?}, why: [Dead"))?;
    let later = bench.send_one(text("later").not_before(HOUR)).await?;
    fits(&why(later).await?, "NotDue")?;
    let third = bench.send_one(text("3")).await?;
    relay.deliver(third).await?;
    fits(&why(third).await?, "Ended")?;
    // A relay that lives, and has no target for it.
    let alive = bench.spawn(
        bench
            .builder()
            .target("charge", |_: Delivery| async { Ok::<(), DeliveryError>(()) }),
    )?;
    let fourth = bench.send_one(text("4")).await?;
    let found = bench.ok(bench.outbox.explain(fourth).await)?;
    fits(&found.map_or_else(Vec::new, |found| found.reasons), "Turn")?;
    alive.stop().await;
    let unknown = bench.ok(bench.outbox.explain(MessageId::new(1 << 40)).await)?;
    bench.require(unknown.is_none(), "a message that is not there is explained")
}

pub(super) async fn dead_letters_are_redriven_once_each<S: OutboxUpkeep + Clone>(bench: &Bench<S>) -> Checked {
    let inbox = Inbox::default();
    let inside = inbox.clone();
    let rejects = move |delivery: Delivery| {
        inside.note(&delivery);
        async { Err(DeliveryError::rejected("no such address")) }
    };
    let relay = bench.spawn(bench.builder().target_with("*", rejects, options()))?;
    let mut messages: Vec<Message> = (0..5).map(|number| text(&number.to_string())).collect();
    messages.push(Message::text("charge", "of another topic"));
    let sent = bench.send(messages).await?;
    bench.until("all are dead", || relay.health().dead == 6).await?;
    let mut redriving = bench
        .ok(bench.outbox.redrive_all(Some("note.plain")).await)?
        .every(Duration::from_millis(50));
    bench.require(
        redriving.left() == 5,
        format!("{} are to be redriven", redriving.left()),
    )?;
    // One that somebody has discarded by then is passed over.
    let _ = bench.ok(bench.outbox.cancel(sent[4].id()).await)?;
    let mut redriven = Vec::new();
    while let Some(id) = bench.ok(redriving.next().await)? {
        bench.require(!redriven.contains(&id), format!("message {id} was redriven twice"))?;
        redriven.push(id);
        let died_again = 6 + u64::try_from(redriven.len()).unwrap_or(0);
        bench
            .until("it dies again", || relay.health().dead == died_again)
            .await?;
    }
    let expected: Vec<MessageId> = sent[..4].iter().map(|sent| sent.id()).collect();
    bench.require(redriven == expected, format!("{redriven:?} were redriven"))?;
    bench.require(redriving.left() == 0, "something is left to be redriven")?;
    bench.require(
        inbox.count("of another topic") == 1 && inbox.count("0") == 2,
        format!("these were tried: {:?}", inbox.texts()),
    )?;
    relay.stop().await;
    Ok(())
}
