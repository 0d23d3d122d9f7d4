//! What an operator does with an [`Outbox`]: looks into it, stops topics, and has dead letters tried again.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::explain::{COUNTED, Crew, Explanation, Known, first_before, reasons};
use super::handle::Outbox;
use crate::store::StoreError;
use crate::store::outbox::{
    MessageEntry, MessageId, MessageQuery, MessageState, OutboxUpkeep, RelayEntry, TopicBacklog,
};

/// How long a relay's signs of life are waited for: a relay shows one every 5 s, with the lease that is usual.
const WATCH: Duration = Duration::from_secs(6);
/// How often is looked for them.
const LOOK: Duration = Duration::from_millis(250);
/// How many dead letters are listed at a time.
const PAGE: usize = 1000;

impl<S: OutboxUpkeep> Outbox<S> {
    /// Lists messages by their ids, without their payloads. What it costs is said [there](OutboxUpkeep::messages).
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    pub async fn messages(&self, query: MessageQuery) -> Result<Vec<MessageEntry>, StoreError> {
        self.store.messages(query).await
    }

    /// Counts the messages of each topic. What it costs is said [there](OutboxUpkeep::backlog).
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    pub async fn backlog(&self) -> Result<Vec<TopicBacklog>, StoreError> {
        self.store.backlog().await
    }

    /// Lists the relays that there are, and those that died and were not missed yet.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    pub async fn relays(&self) -> Result<Vec<RelayEntry>, StoreError> {
        self.store.relays().await
    }

    /// Has no relay begin to deliver a message of this topic until it is [resumed](Self::resume). Returns whether the topic was
    /// not paused before.
    ///
    /// Relays of this process learn of it at once, and others with their next sign of life: within a third of their
    /// [lease](super::RelayBuilder::lease), which is 5 s unless set, and later if the store cannot be reached. What is being
    /// delivered goes on. Messages keep their place and their order, and no attempt is counted. Later messages of the same
    /// ordering key wait, of whatever topic. What expires meanwhile ends.
    ///
    /// A relay of a version that knows nothing of this goes on delivering.
    ///
    /// # Errors
    ///
    /// The store cannot be reached. The topic may be paused.
    pub async fn pause(&self, topic: &str) -> Result<bool, StoreError> {
        let paused = self.store.pause(topic).await;
        self.store.bell().ring_for_topics();
        paused
    }

    /// Has relays deliver a topic again, within the time in which they learn of a [pause](Self::pause). Returns whether it was
    /// paused.
    ///
    /// A relay then reads all that waits once more, as if it had just begun.
    ///
    /// # Errors
    ///
    /// The store cannot be reached. The topic may be resumed.
    pub async fn resume(&self, topic: &str) -> Result<bool, StoreError> {
        let resumed = self.store.resume(topic).await;
        self.store.bell().ring_for_topics();
        resumed
    }

    /// Tells why a message is not delivered. `None` if there is no such message, or no more: what has ended is kept for a
    /// while only.
    ///
    /// If it depends on whether a relay is alive, this watches for up to 6 s whether one shows a sign of life.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    pub async fn explain(&self, id: MessageId) -> Result<Option<Explanation>, StoreError> {
        self.explain_within(id, WATCH).await
    }

    /// Tells why a message is not delivered, as [`explain`](Self::explain) does, and watches relays for so long at most. One with a
    /// lease that is longer than three times as long may seem silent.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    pub async fn explain_within(&self, id: MessageId, watch: Duration) -> Result<Option<Explanation>, StoreError> {
        let Some(message) = self.entry(id).await? else {
            return Ok(None);
        };
        let mut known = Known::default();
        if message.state != MessageState::Ended {
            known.paused = self.store.paused().await?;
        }
        if matches!(message.state, MessageState::Waiting | MessageState::Parked) {
            known.first = self.first_of_its_key(&message).await?;
            let holder = known.first.as_ref().unwrap_or(&message);
            known.crew = self.crew(holder, watch).await?;
        }
        if message.state == MessageState::Waiting {
            known.before = self.before(&message).await?;
        }
        let reasons = reasons(&message, &known);
        Ok(Some(Explanation { message, reasons }))
    }

    /// Begins to have dead letters tried again, of a topic or all: those that are dead now, each of them once, in the order of
    /// their ids. So one that dies again meanwhile is left dead.
    ///
    /// Nothing is redriven before [`next`](Redriving::next) is called.
    ///
    /// ```
    /// use std::time::Duration;
    /// use oneflight::outbox::Outbox;
    /// use oneflight::store::StoreError;
    /// use oneflight::store::outbox::OutboxUpkeep;
    ///
    /// async fn redrive_mail<S: OutboxUpkeep>(outbox: &Outbox<S>) -> Result<(), StoreError> {
    ///     let mut redriving = outbox.redrive_all(Some("mail.receipt")).await?.every(Duration::from_millis(20));
    ///     while let Some(id) = redriving.next().await? {
    ///         println!("redriven: {id}, left: {}", redriving.left());
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    pub async fn redrive_all(&self, topic: Option<&str>) -> Result<Redriving<'_, S>, StoreError> {
        let mut dead = VecDeque::new();
        loop {
            let page = self.store.messages(MessageQuery {
                topic: topic.map(str::to_owned),
                state: Some(MessageState::Dead),
                after: dead.back().copied(),
                limit: PAGE,
                ..MessageQuery::default()
            });
            let page = page.await?;
            dead.extend(page.iter().map(|entry| entry.id));
            if page.len() < PAGE {
                break;
            }
        }
        Ok(Redriving {
            outbox: self,
            dead,
            pause: Duration::ZERO,
            next: Instant::now(),
        })
    }

    async fn entry(&self, id: MessageId) -> Result<Option<MessageEntry>, StoreError> {
        let found = self.store.messages(MessageQuery {
            id: Some(id),
            limit: 1,
            ..MessageQuery::default()
        });
        Ok(found.await?.pop())
    }

    /// The message for which this one waits, if there is one.
    async fn first_of_its_key(&self, message: &MessageEntry) -> Result<Option<MessageEntry>, StoreError> {
        let Some(key) = &message.ordering_key else {
            return Ok(None);
        };
        let mut first: Option<MessageEntry> = None;
        for state in [MessageState::Waiting, MessageState::Parked, MessageState::Dead] {
            let others = self.store.messages(MessageQuery {
                ordering_key: Some(key.to_string()),
                state: Some(state),
                limit: COUNTED,
                ..MessageQuery::default()
            });
            first = first_before(message.id, first.into_iter().chain(others.await?));
        }
        Ok(first)
    }

    /// How many messages of the topic wait that were sent before this one.
    async fn before(&self, message: &MessageEntry) -> Result<usize, StoreError> {
        let waiting = self.store.messages(MessageQuery {
            topic: Some(message.topic.to_string()),
            state: Some(MessageState::Waiting),
            limit: COUNTED,
            ..MessageQuery::default()
        });
        Ok(waiting.await?.iter().filter(|other| other.id < message.id).count())
    }

    /// Watches relays until the one that has a message shows a sign of life, or any if none has.
    async fn crew(&self, message: &MessageEntry, watch: Duration) -> Result<Crew, StoreError> {
        let begun = Instant::now();
        let relays = self.store.relays().await?;
        let is_there = |token| relays.iter().any(|relay| relay.token == token);
        let wanted = message.taken_by.filter(|token| is_there(*token));
        let mut alive = Vec::new();
        loop {
            let watched = begun.elapsed();
            let is_seen = wanted.map_or(!alive.is_empty(), |token| alive.contains(&token));
            if relays.is_empty() || is_seen || watched >= watch {
                return Ok(Crew { relays, alive, watched });
            }
            sleep(LOOK.min(watch - watched)).await;
            let now = self.store.relays().await?;
            let has_beaten = |relay: &&RelayEntry| match relays.iter().find(|it| it.token == relay.token) {
                Some(before) => relay.beats != before.beats,
                None => true,
            };
            alive = now.iter().filter(has_beaten).map(|relay| relay.token).collect();
        }
    }
}

/// Dead letters that are tried again one after another: what [`Outbox::redrive_all`] begins. Dropping this stops it.
#[must_use = "nothing is redriven before `next` is called"]
pub struct Redriving<'o, S> {
    outbox: &'o Outbox<S>,
    dead: VecDeque<MessageId>,
    pause: Duration,
    next: Instant,
}

impl<S: OutboxUpkeep> Redriving<'_, S> {
    /// Sets the pause from one to the next, so that their target is not overrun. The default is none.
    pub fn every(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Returns how many are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.dead.len()
    }

    /// Waits until the next one may be redriven, and has it tried again. Those that are not dead any more are passed over. `None`
    /// when all have had their turn.
    ///
    /// # Errors
    ///
    /// The store cannot be reached. The next call takes the same message again.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the message may have been redriven or not; the next call takes it again, and passes it over in the
    /// first case.
    pub async fn next(&mut self) -> Result<Option<MessageId>, StoreError> {
        while let Some(id) = self.dead.front().copied() {
            sleep_until(self.next).await;
            let was_dead = self.outbox.redrive(id).await?;
            self.dead.pop_front();
            if was_dead {
                self.next = Instant::now() + self.pause;
                return Ok(Some(id));
            }
        }
        Ok(None)
    }
}

impl<S> fmt::Debug for Redriving<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redriving")
            .field("left", &self.dead.len())
            .field("pause", &self.pause)
            .finish_non_exhaustive()
    }
}
