//! What came of deliveries, on its way to the store.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::breaker::Breaker;
use super::flights::{Failure, Landed};
use super::outgoing::{Death, Verdict};
use super::run::Runner;
use crate::outbox::policy::OnDead;
use crate::store::StoreError;
use crate::store::outbox::{Failed, MessageId, OutboxStore, Parked, Part, Shard};
use crate::telemetry;
use crate::unwind::quietly;

/// How long after messages have ended their room is looked after.
const ROOM: Duration = Duration::from_secs(10);

impl<S: OutboxStore> Runner<S> {
    /// Takes in all answers of targets that are there.
    pub(super) fn land(&mut self) {
        while let Some(landed) = self.flights.try_next() {
            self.take_in(landed);
        }
    }

    /// Takes in what a target made of a message.
    pub(super) fn take_in(&mut self, landed: Landed) {
        let now = Instant::now();
        self.in_flight[landed.target] -= 1;
        let breaker = &mut self.breakers[landed.target];
        let has_failed = matches!(&landed.answer, Some(Err(error)) if !error.is_final);
        if has_failed && breaker.failed(now) {
            telemetry::circuit_open(&self.routes.targets[landed.target].name);
        }
        if !has_failed && landed.answer.is_some() {
            breaker.succeeded();
        }
        let Some(flight) = self.flights.of.get_mut(&landed.id) else {
            return;
        };
        // Of an earlier taking: the shard was lost and has come back.
        if flight.taking != landed.taking {
            return;
        }
        flight.waits_for -= 1;
        match landed.answer {
            Some(Ok(())) => flight.succeeded.push(landed.target),
            Some(Err(error)) => flight.failures.push(error),
            None => flight.is_cut = true,
        }
        if flight.waits_for == 0
            && let Some(flight) = self.flights.of.remove(&landed.id)
        {
            match flight.is_cut && flight.failures.is_empty() {
                true => self.release(landed.id, flight.succeeded, Verdict::Released),
                false => self.judge(landed.id, flight.succeeded, flight.failures, flight.is_cut),
            }
        }
    }

    /// All targets that were asked have answered for a message. While one was not asked, for its circuit is open, the message
    /// does not die of what the others answer, and the attempt does not count.
    pub(super) fn judge(&mut self, id: MessageId, succeeded: Vec<usize>, mut failures: Vec<Failure>, is_cut: bool) {
        let circuits = is_cut.then(|| self.circuits_close_in());
        let Some(entry) = self.book.entry_mut(id) else {
            return;
        };
        let (position, shard, route, attempts) = (entry.position, entry.shard, entry.route, entry.attempts);
        let settlement = &mut self.outgoing.settlement;
        if failures.is_empty() {
            settlement.delivered.push(position);
            self.health.delivered += 1;
            self.counts.delivered(route);
            self.outgoing.verdicts.push((id, position, shard, Verdict::Ended));
            return;
        }
        for target in succeeded {
            let target = self.routes.targets[target].name.to_string();
            entry.done.push(target.clone());
            settlement.parts.push(Part { position, target });
        }
        entry.class = self.classes.of(route, self.routes.missing(route, &entry.done));
        let (done, has_lane) = (entry.done.clone(), entry.lane.is_some());
        // One that may still succeed keeps the message alive; a final one says what it would die of.
        failures.sort_by_key(|failure| failure.is_final);
        let told: Vec<&str> = failures.iter().map(|failure| &*failure.told).collect();
        let error = told.join("; ");
        let asked = failures.iter().filter_map(|failure| failure.retry_after).max();
        let retry = self.routes.retry(route);
        let pause = match (circuits, failures.iter().any(|failure| !failure.is_final)) {
            (Some(circuits), _) => {
                settlement.released.push(position);
                entry.attempts = attempts.saturating_sub(1);
                Some(circuits.max(retry.pause(attempts, asked)))
            }
            (None, true) => retry.after(attempts, asked),
            (None, false) => None,
        };
        let attempts = entry.attempts;
        match pause {
            Some(pause) if pause < self.settings.park_after => {
                settlement.failed.push(Failed { position, pause, error });
                self.outgoing
                    .verdicts
                    .push((id, position, shard, Verdict::Failed(pause)));
            }
            pause => {
                let blocks = has_lane && (pause.is_some() || self.routes.on_dead(route) == OnDead::Block);
                if pause.is_none() {
                    self.outgoing.deaths.push(Death {
                        id,
                        position,
                        route,
                        attempts,
                        error: error.clone(),
                        blocks,
                        content: entry.content.clone(),
                    });
                }
                settlement.parked.push(Parked {
                    position,
                    pause,
                    blocks,
                    attempts,
                    error,
                    done,
                });
                self.outgoing
                    .verdicts
                    .push((id, position, shard, Verdict::Parked { blocks }));
            }
        }
    }

    /// How long it takes until the first open circuit lets a message through.
    fn circuits_close_in(&self) -> Duration {
        let now = Instant::now();
        let closes = self.breakers.iter().filter_map(Breaker::opens_at);
        closes
            .map(|at| at.saturating_duration_since(now))
            .max()
            .unwrap_or_default()
    }

    /// A message that has expired, or was taken too often, or was not due for long: it ends, is parked or given back untried.
    pub(super) fn set_aside(&mut self, id: MessageId, why: Aside) {
        let Some(entry) = self.book.entry(id) else {
            return;
        };
        let (position, shard, has_lane) = (entry.position, entry.shard, entry.lane.is_some());
        let verdict = match why {
            Aside::Expired => {
                if !entry.is_cancelled {
                    self.health.expired += 1;
                    self.counts.expired(entry.route);
                }
                self.outgoing.settlement.expired.push(position);
                Verdict::Ended
            }
            Aside::UsedUp => {
                let blocks = has_lane && self.routes.on_dead(entry.route) == OnDead::Block;
                let error = "its relays died, or lost the store, while it was being delivered".to_owned();
                self.outgoing.deaths.push(Death {
                    id,
                    position,
                    route: entry.route,
                    attempts: entry.attempts,
                    error: error.clone(),
                    blocks,
                    content: entry.content.clone(),
                });
                self.outgoing.settlement.parked.push(Parked {
                    position,
                    pause: None,
                    blocks,
                    attempts: entry.attempts,
                    error,
                    done: entry.done.clone(),
                });
                Verdict::Parked { blocks }
            }
            Aside::NotDue(pause) => {
                self.outgoing.settlement.released.push(position);
                self.outgoing.settlement.parked.push(Parked {
                    position,
                    pause: Some(pause),
                    blocks: has_lane,
                    attempts: entry.attempts,
                    error: String::new(),
                    done: entry.done.clone(),
                });
                Verdict::Parked { blocks: has_lane }
            }
            Aside::Due => {
                self.outgoing.settlement.released.push(position);
                Verdict::Released
            }
        };
        self.outgoing.verdicts.push((id, position, shard, verdict));
    }

    /// Gives back everything that is being delivered.
    pub(super) fn release_all(&mut self) {
        for (id, flight) in std::mem::take(&mut self.flights.of) {
            self.release(id, flight.succeeded, Verdict::Ended);
        }
    }

    /// Gives back a message that was being delivered, but for the targets that have it.
    fn release(&mut self, id: MessageId, succeeded: Vec<usize>, verdict: Verdict) {
        let Some(entry) = self.book.entry_mut(id) else {
            return;
        };
        let (position, shard) = (entry.position, entry.shard);
        entry.attempts = entry.attempts.saturating_sub(1);
        for target in succeeded {
            let target = self.routes.targets[target].name.to_string();
            entry.done.push(target.clone());
            self.outgoing.settlement.parts.push(Part { position, target });
        }
        entry.class = self
            .classes
            .of(entry.route, self.routes.missing(entry.route, &entry.done));
        self.outgoing.settlement.released.push(position);
        self.outgoing.verdicts.push((id, position, shard, verdict));
    }

    /// Tells the store what came of messages. Returns whether there was something.
    pub(super) async fn settle(&mut self) -> Result<bool, StoreError> {
        let Some(token) = self.token.filter(|_| !self.outgoing.is_empty()) else {
            return Ok(false);
        };
        loop {
            let shards: HashSet<Shard> = self.outgoing.verdicts.iter().map(|(.., shard, _)| *shard).collect();
            let shards: Vec<Shard> = shards.into_iter().collect();
            let settlement = &self.outgoing.settlement;
            let lost = self
                .store
                .settle(&self.settings.group, token, &shards, settlement)
                .await?;
            if lost.is_empty() {
                break;
            }
            self.has_lost(lost.len());
            self.lose(&lost.into_iter().collect());
            if self.outgoing.is_empty() {
                return Ok(true);
            }
        }
        let now = Instant::now();
        let outgoing = std::mem::take(&mut self.outgoing);
        let due = outgoing
            .settlement
            .parked
            .iter()
            .filter_map(|parked| parked.pause)
            .min();
        self.house_in(due);
        for (id, _, _, verdict) in outgoing.verdicts {
            match verdict {
                Verdict::Ended => self.book.end(id, now),
                Verdict::Failed(pause) => self.book.fail(id, pause, now),
                Verdict::Released => self.book.give_back(id, now),
                Verdict::Parked { blocks } => self.book.park(id, blocks, now),
            }
        }
        for death in outgoing.deaths {
            self.mourn(death);
        }
        self.house_in(Some(ROOM));
        Ok(true)
    }

    /// Tells of a dead letter.
    fn mourn(&mut self, death: Death) {
        self.health.dead += 1;
        self.counts.died(death.route);
        let topic = self.routes.pattern(death.route);
        telemetry::message_died(death.id.get(), topic, death.attempts, &death.error);
        if let Some(tell) = &self.settings.on_dead_letter.0
            && let Some(letter) = death.letter()
        {
            quietly(|| tell(&letter));
        }
    }

    /// So many shards are another relay's.
    pub(super) fn has_lost(&mut self, shards: usize) {
        self.health.lost += u64::try_from(shards).unwrap_or(0);
        self.counts.lost(shards);
    }
}

/// Why a message is not delivered now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Aside {
    Expired,
    UsedUp,
    NotDue(Duration),
    /// It was to be parked, and its pause is over: it is given back to its place.
    Due,
}
