//! Which messages are delivered next, and that the store knows of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::flights::Outbound;
use super::run::Runner;
use super::settling::Aside;
use crate::outbox::delivery::Delivery;
use crate::store::StoreError;
use crate::store::outbox::{MessageId, OutboxStore, Shard};

/// How many messages are taken at a time.
const MOST: usize = 2000;
/// For how many times as long as a look for the oldest messages took there is no other one.
const SELDOM: u32 = 50;

/// Whom a message that is taken is for.
#[derive(Clone)]
enum Asks {
    Targets(Arc<[usize]>),
    /// It is taken to be parked, and perhaps not the first of its ordering key.
    Nobody,
}

impl<S: OutboxStore> Runner<S> {
    /// Takes messages, and begins to deliver them. Returns whether there were some.
    pub(super) async fn take(&mut self) -> Result<bool, StoreError> {
        let now = Instant::now();
        let picked = self.pick(now);
        let Some(token) = self.token.filter(|_| !picked.is_empty()) else {
            return Ok(!self.outgoing.is_empty());
        };
        let asks: HashMap<MessageId, Asks> = picked.iter().cloned().collect();
        let picked: Vec<MessageId> = picked.into_iter().map(|(id, _)| id).collect();
        let taken = self.load_and_take(token, &picked).await;
        let now = Instant::now();
        let taken = match taken {
            Ok(taken) => taken,
            Err(error) => {
                for id in picked {
                    self.book.give_back(id, now);
                }
                return Err(error);
            }
        };
        let lost: HashSet<Shard> = taken.lost.into_iter().collect();
        if !lost.is_empty() {
            self.has_lost(lost.len());
            self.lose(&lost);
            for id in picked {
                self.book.give_back(id, now);
            }
            return Ok(true);
        }
        let (cancelled, postponed) = (
            HashSet::<i64>::from_iter(taken.cancelled),
            HashSet::<i64>::from_iter(taken.postponed),
        );
        let mut batches: BTreeMap<usize, Vec<Outbound>> = BTreeMap::new();
        for id in picked {
            let Some(entry) = self.book.entry_mut(id) else {
                continue;
            };
            if cancelled.contains(&entry.position) {
                self.book.end(id, now);
            } else if postponed.contains(&entry.position) {
                self.book.park(id, true, now);
            } else if let Some(Asks::Nobody) = asks.get(&id) {
                let why = entry.due_in(now).map_or(Aside::Due, Aside::NotDue);
                self.set_aside(id, why);
            } else if self.routes.retry(entry.route).is_used_up(entry.attempts) {
                self.set_aside(id, Aside::UsedUp);
            } else if let Some(content) = entry.content.clone() {
                entry.attempts += 1;
                let delivery = Delivery::new(content, entry.attempts);
                let shard = entry.shard;
                let all = self.classes.targets(entry.class);
                if all.is_empty() {
                    // Those that did not have it are no targets any more.
                    self.judge(id, Vec::new(), Vec::new(), false);
                    continue;
                }
                let targets = match asks.get(&id) {
                    Some(Asks::Targets(targets)) => Arc::clone(targets),
                    _ => Arc::clone(&all),
                };
                let leaves_out = targets.len() < all.len();
                self.moved[entry.route] = now;
                self.takings += 1;
                self.health.attempts += 1;
                self.counts.attempted(entry.route);
                let outbounds = self
                    .flights
                    .add(self.takings, shard, delivery, targets.len(), leaves_out);
                for (target, outbound) in targets.iter().copied().zip(outbounds) {
                    batches.entry(target).or_default().push(outbound);
                }
            } else {
                // It has ended, by an operator's hand, and the row is gone.
                self.book.end(id, now);
            }
        }
        for (target, mut batch) in batches {
            self.in_flight[target] += batch.len();
            let registered = &self.routes.targets[target];
            let limit = registered.options.time_limit;
            while !batch.is_empty() {
                let rest = batch.split_off(registered.options.batch.min(batch.len()));
                self.flights.begin(target, Arc::clone(&registered.target), limit, batch);
                batch = rest;
            }
        }
        Ok(true)
    }

    /// Chooses messages that may be delivered now, within the limits of their targets, and the targets for each.
    fn pick(&mut self, now: Instant) -> Vec<(MessageId, Asks)> {
        let mut picked = Vec::new();
        let mut kept = Vec::new();
        while picked.len() < MOST
            && let Some(id) = self.not_due.pop()
        {
            // It is taken only to be parked, so that it cannot be cancelled meanwhile.
            if self.book.seize(id) {
                picked.push((id, Asks::Nobody));
            }
        }
        let mut adds: HashMap<usize, usize> = HashMap::new();
        let share = self.settings.buffer_bytes / self.routes.number_of_routes().max(1);
        for class in 0..self.classes.len() {
            let (route, all) = (self.classes.route(class), self.classes.targets(class));
            let mut reloads = self.book.reloaded(route);
            while picked.len() < MOST && self.book.is_ready(class) {
                let Some(targets) = self.able(&all, &adds, now) else {
                    break;
                };
                let Some(id) = self.book.pop(class) else {
                    break;
                };
                let Some(entry) = self.book.entry(id) else {
                    continue;
                };
                if entry.expires.is_some_and(|at| at <= now) {
                    self.set_aside(id, Aside::Expired);
                } else if self.leaving.contains(&entry.shard) {
                    // Its next relay delivers it.
                    kept.push(id);
                } else if entry.content.is_none() && reloads > 0 && reloads + entry.bytes > share {
                    // Later, when there is less in the memory that was read again.
                    kept.push(id);
                    break;
                } else {
                    if entry.content.is_none() {
                        reloads += entry.bytes;
                    }
                    for target in targets.iter() {
                        *adds.entry(*target).or_default() += 1;
                    }
                    picked.push((id, Asks::Targets(targets)));
                }
            }
        }
        for id in kept {
            self.book.give_back(id, now);
        }
        picked
    }

    /// Which of these targets can be given one more message. Those whose circuit is open are left out; for others, it is
    /// waited: then this is `None`.
    fn able(&self, all: &Arc<[usize]>, adds: &HashMap<usize, usize>, now: Instant) -> Option<Arc<[usize]>> {
        let mut able = Vec::new();
        for target in all.iter().copied() {
            let in_flight = self.in_flight[target] + adds.get(&target).copied().unwrap_or(0);
            if self.breakers[target].is_open(in_flight, now) {
                continue;
            }
            if in_flight >= self.routes.targets[target].options.in_flight {
                return None;
            }
            able.push(target);
        }
        match able.len() {
            0 if !all.is_empty() => None,
            all_able if all_able == all.len() => Some(Arc::clone(all)),
            _ => Some(able.into()),
        }
    }

    /// Reads the content that was not kept, and tells the store.
    async fn load_and_take(
        &mut self,
        token: crate::store::outbox::RelayToken,
        picked: &[MessageId],
    ) -> Result<crate::store::outbox::Taken, StoreError> {
        let entries = || picked.iter().filter_map(|id| self.book.entry(*id));
        let now = Instant::now();
        let wanted = entries().filter(|it| it.content.is_none() && it.due_in(now).is_none());
        let missing: Vec<i64> = wanted.map(|it| it.position).collect();
        if !missing.is_empty() {
            for message in self.store.reload(&missing).await? {
                self.book.load(message);
            }
        }
        let entries = || picked.iter().filter_map(|id| self.book.entry(*id));
        let shards: HashSet<Shard> = entries().map(|entry| entry.shard).collect();
        let shards: Vec<Shard> = shards.into_iter().collect();
        let messages: Vec<(MessageId, i64)> = entries().map(|entry| (entry.id, entry.position)).collect();
        self.store.take(&self.settings.group, token, &shards, &messages).await
    }

    /// How long ago the oldest message of each route was sent.
    fn oldest(&self, now: Instant) -> Vec<Option<Duration>> {
        let mut oldest = vec![None; self.routes.number_of_routes()];
        for entry in self.book.entries() {
            let age = now.duration_since(entry.sent);
            let seen: &mut Option<Duration> = &mut oldest[entry.route];
            *seen = Some(seen.map_or(age, |seen| seen.max(age)));
        }
        oldest
    }

    /// Writes what can be seen of the relay.
    pub(super) fn publish(&mut self) {
        let now = Instant::now();
        self.health.shards = self.shards.len();
        self.health.backlog = self.book.len();
        self.health.in_flight = self.flights.of.len();
        let open = self
            .breakers
            .iter()
            .zip(&self.routes.targets)
            .filter(|(breaker, _)| breaker.opens_at().is_some());
        self.health.open_circuits = open.map(|(_, target)| target.name.to_string()).collect();
        let mut oldest = None;
        // Now and then, since all of them are looked at.
        if self.book.len() == 0 || now >= self.next_look {
            let found = oldest.insert(self.oldest(now));
            let each = self.routes.patterns().zip(&*found);
            let each = each.filter_map(|(pattern, age)| Some((pattern.to_owned(), (*age)?)));
            self.health.oldest = each.collect();
            let took = now.elapsed();
            if self.book.len() > 0 {
                self.next_look = now + (self.settings.lease / 10).max(took * SELDOM);
            }
        }
        for route in 0..self.routes.number_of_routes() {
            let age = oldest.as_ref().map(|oldest| oldest[route].unwrap_or_default());
            self.counts.tell_topic(route, self.book.count_of(route), age);
            self.counts.tell_paused(route, self.paused_of(route));
        }
        for (target, breaker) in self.breakers.iter().enumerate() {
            let is_open = breaker.opens_at().is_some();
            self.counts.tell_target(target, self.in_flight[target], is_open);
        }
        self.counts.tell_group(self.shards.len());
        *self.board.health.lock() = self.health.clone();
    }
}
