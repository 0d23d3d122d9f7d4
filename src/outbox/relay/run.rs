//! The relay's task: signs of life, reading, and what it waits for.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::book::{Book, Load};
use super::breaker::Breaker;
use super::classes::Classes;
use super::flights::{Flights, Landed};
use super::handle::{Board, Health};
use super::members::Members;
use super::outgoing::Outgoing;
use super::reading::Reading;
use super::routes::Routes;
use super::settings::Settings;
use crate::backoff::jittered;
use crate::store::StoreError;
use crate::store::outbox::{Beat, Cursor, Listener, MessageId, OutboxStore, Peer, RelayToken, Shard, shard_of};
use crate::telemetry;
use crate::telemetry::relays::RelayCounts;

/// How many messages are read at a time.
const PAGE: usize = 1000;
/// How many messages a relay knows of at most, those without content included.
const MOST: usize = 1_000_000;
/// After which time in which nothing of a topic is begun to be delivered, others are read past what waits there.
const STUCK: Duration = Duration::from_secs(1);
/// How long after there was something the store is first asked again without a reason.
const FIRST_POLL: Duration = Duration::from_millis(10);
/// How long the store has been left alone by this when it is kept in order.
const HOUSE: Duration = Duration::from_secs(5);
/// The longest pause while the store cannot be reached.
const LONGEST_TROUBLE: Duration = Duration::from_secs(5);

/// A relay that runs.
pub(super) struct Runner<S> {
    pub(super) store: Arc<S>,
    pub(super) settings: Settings,
    pub(super) routes: Routes,
    pub(super) board: Arc<Board>,
    pub(super) book: Book,
    pub(super) classes: Classes,
    /// When a message of each route was last begun to be delivered, or was the first to wait.
    pub(super) moved: Vec<Instant>,
    pub(super) flights: Flights,
    pub(super) breakers: Vec<Breaker>,
    pub(super) in_flight: Vec<usize>,
    pub(super) outgoing: Outgoing,
    pub(super) token: Option<RelayToken>,
    pub(super) shards: HashSet<Shard>,
    /// Shards that are another relay's share, and are given back once nothing of them is being delivered.
    pub(super) leaving: HashSet<Shard>,
    pub(super) takings: u64,
    /// Messages that are due so late that they are to be parked.
    pub(super) not_due: Vec<MessageId>,
    pub(super) health: Health,
    pub(super) counts: RelayCounts,
    /// Messages for which their ordering keys waited as the reading of their shards began.
    awaited: Vec<(Arc<str>, MessageId)>,
    /// Where the reading of shards begins.
    pub(super) start: Option<Cursor>,
    /// When the oldest messages are next looked for.
    pub(super) next_look: Instant,
    pub(super) reading: Reading,
    members: Members,
    bell: Listener,
    stopped: watch::Receiver<bool>,
    news: bool,
    poll_after: Duration,
    next_beat: Instant,
    next_poll: Option<Instant>,
    pub(super) next_house: Option<Instant>,
    house: JoinSet<Result<bool, StoreError>>,
    trouble: Duration,
    /// When the store last answered a sign of life, and told of the other relays.
    seen: Option<Instant>,
}

/// What a turn came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Busy,
    Idle,
}

impl<S: OutboxStore> Runner<S> {
    pub(super) fn new(
        store: Arc<S>,
        settings: Settings,
        routes: Routes,
        board: Arc<Board>,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let targets = &routes.targets;
        let now = Instant::now();
        let counts = RelayCounts::new(&settings.group, routes.patterns(), targets.iter().map(|it| &it.name));
        Self {
            bell: store.bell().listen(),
            breakers: targets
                .iter()
                .map(|it| Breaker::new(it.options.opens_after, it.options.longest_open))
                .collect(),
            in_flight: vec![0; targets.len()],
            book: Book::new(routes.number_of_routes(), settings.limit()),
            classes: Classes::default(),
            moved: vec![now; routes.number_of_routes()],
            store,
            settings,
            routes,
            board,
            flights: Flights::new(),
            outgoing: Outgoing::default(),
            token: None,
            shards: HashSet::new(),
            leaving: HashSet::new(),
            takings: 0,
            not_due: Vec::new(),
            health: Health::default(),
            counts,
            awaited: Vec::new(),
            start: None,
            next_look: now,
            reading: Reading::default(),
            members: Members::default(),
            stopped,
            news: false,
            poll_after: FIRST_POLL,
            next_beat: now,
            next_poll: None,
            next_house: None,
            house: JoinSet::new(),
            trouble: Duration::ZERO,
            seen: None,
        }
    }

    pub(super) async fn run(mut self) {
        while !*self.stopped.borrow() {
            match self.turn().await {
                Ok(turn) => {
                    self.trouble = Duration::ZERO;
                    self.health.is_connected = true;
                    self.publish();
                    match turn {
                        // Others have their turn, whatever the store answers at once.
                        Turn::Busy => tokio::task::yield_now().await,
                        Turn::Idle => self.wait().await,
                    }
                }
                Err(error) => self.endure(error).await,
            }
        }
        self.wind_down().await;
    }

    async fn turn(&mut self) -> Result<Turn, StoreError> {
        let mut turn = Turn::Idle;
        if self.bell.heard_topics() {
            self.next_beat = Instant::now();
        }
        if Instant::now() >= self.next_beat {
            self.beat().await?;
        }
        self.land();
        if let Some(kept) = self.house.try_join_next() {
            self.house_kept(kept.unwrap_or(Ok(true)));
        }
        if self.settle().await? {
            turn = Turn::Busy;
        }
        if (self.news || self.reading.is_within()) && self.has_room() {
            self.read().await?;
            turn = Turn::Busy;
        }
        self.book.wake(Instant::now());
        if self.take().await? {
            turn = Turn::Busy;
        }
        // By itself, since it may take longer than a lease.
        if self.house.is_empty() && self.next_house.is_some_and(|at| at <= Instant::now()) {
            self.next_house = None;
            let store = Arc::clone(&self.store);
            self.house.spawn(async move { store.keep_house().await });
        }
        Ok(turn)
    }

    /// The store has been kept in order, or not, which is no reason to deliver nothing.
    fn house_kept(&mut self, kept: Result<bool, StoreError>) {
        // A parked message may have come back, for this relay or by another one.
        self.news = true;
        if *kept.as_ref().unwrap_or(&true) {
            self.house_in(Some(HOUSE));
        }
        if let Err(error) = kept {
            telemetry::outbox_not_kept(&self.settings.group, &error);
        }
    }

    /// Shows a sign of life, and takes in what others have and what there is to read.
    async fn beat(&mut self) -> Result<(), StoreError> {
        let now = Instant::now();
        let (cursor, shards) = self.reading.known();
        let busy: HashSet<Shard> = self.flights.of.values().map(|flight| flight.shard).collect();
        let gives_back: Vec<Shard> = match self.outgoing.is_empty() {
            true => self.leaving.difference(&busy).copied().collect(),
            false => Vec::new(),
        };
        // Whatever comes of the question, they may be another relay's from here on.
        self.lose(&gives_back.iter().copied().collect());
        let (seen, lease) = (self.seen, self.settings.lease);
        let watched = |now: Instant| Members::watched(seen.map_or(Duration::ZERO, |seen| now - seen), lease);
        let dead = self.members.dead(lease, watched(now));
        let beat = Beat {
            group: Arc::clone(&self.settings.group),
            token: self.token,
            share: self.members.share(),
            gives_back,
            dead: dead.clone(),
            cursor,
            shards,
        };
        let beaten = self.store.beat(beat).await?;
        self.flights.renew(now + self.settings.lease);
        let now = Instant::now();
        self.seen = Some(now);
        // The first one tells of others, and the second one is for a share.
        let joined = self.token.replace(beaten.token).is_none();
        self.members.see(&beaten.peers, watched(now));
        let is_gone = |relay: &&Peer| !beaten.peers.iter().any(|peer| peer.token == relay.token);
        self.counts.leases_expired(dead.iter().filter(is_gone).count());
        let has: HashSet<Shard> = beaten.shards.iter().copied().collect();
        let lost: HashSet<Shard> = self.shards.difference(&has).copied().collect();
        let gained: Vec<Shard> = has.difference(&self.shards).copied().collect();
        self.has_lost(lost.len());
        self.lose(&lost);
        self.shards = has;
        let share = usize::from(self.members.share());
        let mut mine: Vec<Shard> = self.shards.iter().copied().collect();
        // Of those that are too many, what is not being delivered can be given back at once: a long delivery of the others
        // would have all messages of its shard wait.
        mine.sort_unstable_by_key(|shard| (!busy.contains(shard), *shard));
        self.leaving = mine.into_iter().skip(share).collect();
        self.reading.gain(gained, &beaten.start);
        self.start = Some(beaten.start);
        self.pause(&beaten.paused);
        self.news |= beaten.news;
        self.house_in(beaten.due_in);
        let soon = joined || !self.leaving.is_empty();
        self.next_beat = now
            + if soon {
                self.settings.lease / 10
            } else {
                self.settings.lease / 3
            };
        Ok(())
    }

    /// Forgets what is of these shards, and drops its deliveries: they are another relay's.
    pub(super) fn lose(&mut self, lost: &HashSet<Shard>) {
        if lost.is_empty() {
            return;
        }
        self.flights.of.retain(|_, flight| !lost.contains(&flight.shard));
        self.outgoing.lose(lost);
        self.book.forget(lost);
        self.reading.lose(|shard| lost.contains(&shard));
        self.shards.retain(|shard| !lost.contains(shard));
        self.leaving.retain(|shard| !lost.contains(shard));
    }

    /// Whether to read on. What waits for a target that gets nothing does not count: others are read past it, for as long as
    /// it lasts without their content.
    fn has_room(&self) -> bool {
        let now = Instant::now();
        let mut moves = Load::default();
        for route in 0..self.routes.number_of_routes() {
            if now < self.moved[route] + STUCK {
                let load = self.book.load_of(route);
                moves.messages += load.messages;
                moves.bytes += load.bytes;
            }
        }
        let is_alone = self.routes.number_of_routes() == 1;
        let waits = if is_alone { self.book.loaded() } else { moves };
        // A page of some size, since each costs a question.
        let room = Load {
            messages: self.page() - 1,
            bytes: 0,
        };
        (waits + room).is_below(self.settings.limit()) && self.book.len() < MOST
    }

    /// The least number of messages that it is worth to read.
    fn page(&self) -> usize {
        (self.settings.buffer / 2).clamp(1, PAGE)
    }

    async fn read(&mut self) -> Result<(), StoreError> {
        let limit = match self.settings.buffer.saturating_sub(self.book.loaded().messages) {
            0 => PAGE,
            free => PAGE.min(free),
        };
        // A message that is committed after this rings again.
        self.news = false;
        let page = match self.reading.read(&*self.store, limit).await {
            Ok(Some(page)) => page,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.news = true;
                return Err(error);
            }
        };
        let now = Instant::now();
        self.health.polls += 1;
        for blocker in page.blocked {
            // What this relay leaves alone is not waited for, in the ring or parked.
            if self.routes.of(&blocker.topic).is_some() {
                self.awaited.push((Arc::clone(&blocker.ordering_key), blocker.id));
                self.book.block(blocker.ordering_key, blocker.id);
            }
        }
        self.health.empty_polls += u64::from(page.messages.is_empty());
        self.counts.polled(page.messages.is_empty());
        self.poll_after = match page.messages.is_empty() {
            true => (self.poll_after * 2).min(self.settings.lease),
            false => FIRST_POLL,
        };
        self.next_poll = (self.poll_after < self.settings.lease / 3).then(|| now + self.poll_after);
        for message in page.messages {
            match self.routes.of(&message.topic) {
                Some(route) => {
                    if message.due_in.is_some_and(|due| due >= self.settings.park_after) {
                        self.not_due.push(message.id);
                    }
                    if self.book.load_of(route) == Load::default() {
                        self.moved[route] = now;
                    }
                    let missing = self.routes.missing(route, &message.done);
                    let class = self.classes.of(route, missing);
                    self.book.add(message, (route, class), now);
                }
                None => {
                    self.health.left_alone += 1;
                    self.counts.left_alone();
                }
            }
        }
        self.house_in(page.due_in);
        if !self.awaited.is_empty() && !self.reading.is_within() {
            self.look_for_awaited().await?;
        }
        Ok(())
    }

    /// Looks whether messages for which ordering keys wait have ended before they were read, by an operator's hand.
    async fn look_for_awaited(&mut self) -> Result<(), StoreError> {
        let Some(start) = &self.start else {
            return Ok(());
        };
        let shards: HashSet<Shard> = self.awaited.iter().map(|(key, _)| shard_of(key)).collect();
        let shards: Vec<Shard> = shards.intersection(&self.shards).copied().collect();
        // In case it fails: to be asked again.
        let news = std::mem::replace(&mut self.news, true);
        let page = self.store.fetch(&shards, start, None, 1).await?;
        self.news = news;
        let left: HashSet<MessageId> = page.blocked.iter().map(|blocker| blocker.id).collect();
        let now = Instant::now();
        for (key, id) in std::mem::take(&mut self.awaited) {
            if !left.contains(&id) {
                self.book.unblock(&key, id, now);
            }
        }
        Ok(())
    }

    /// Keeps the store in order no later than after this time.
    pub(super) fn house_in(&mut self, time: Option<Duration>) {
        if let Some(time) = time.filter(|time| *time < Duration::from_secs(86_400)) {
            let at = Instant::now() + time;
            self.next_house = Some(self.next_house.map_or(at, |next| next.min(at)));
        }
    }

    /// Waits for whatever comes first.
    async fn wait(&mut self) {
        let circuits = self.breakers.iter().filter_map(Breaker::opens_at);
        let now = Instant::now();
        // When what does not move is read past.
        let reads_on = (self.news || self.reading.is_within()) && !self.has_room();
        let times = [
            reads_on.then_some(now + STUCK),
            Some(self.next_beat),
            self.next_poll,
            self.next_house.filter(|_| self.house.is_empty()),
            self.book.next_pause(),
        ];
        let times = times.into_iter().flatten().chain(circuits.filter(|at| *at > now));
        let next = times.min().unwrap_or(self.next_beat);
        let (mut landed, mut kept_house) = (None, None);
        tokio::select! {
            biased;
            _ = self.stopped.wait_for(|stopped| *stopped) => {}
            next = self.flights.next() => landed = next,
            Some(kept) = self.house.join_next() => kept_house = Some(kept),
            () = self.bell.rung(), if !self.news => {
                self.news = true;
                if self.bell.heard_early() {
                    self.poll_after = FIRST_POLL;
                }
            }
            () = sleep_until(next) => {}
        }
        if let Some(landed) = landed {
            self.take_in(landed);
        }
        if let Some(kept) = kept_house.or_else(|| self.house.try_join_next()) {
            // One that panicked has been reported, and is tried again.
            self.house_kept(kept.unwrap_or(Ok(true)));
        }
        if self.next_poll.is_some_and(|at| at <= Instant::now()) {
            (self.next_poll, self.news) = (None, true);
        }
    }

    /// The store cannot be reached, or has given this relay up.
    async fn endure(&mut self, error: StoreError) {
        self.health.is_connected = false;
        if let StoreError::RelayOutdated = error {
            self.health.lost += 1;
            telemetry::relay_outdated(&self.settings.group);
            let all = self.shards.clone();
            self.counts.lost(all.len());
            self.lose(&all);
            (self.token, self.reading, self.members) = (None, Reading::default(), Members::default());
        } else {
            self.counts.store_failed();
            telemetry::relay_in_trouble(&self.settings.group, &error);
        }
        self.publish();
        self.trouble = (self.trouble * 2).clamp(Duration::from_millis(50), LONGEST_TROUBLE);
        self.next_beat = Instant::now();
        let again = Instant::now() + jittered(self.trouble);
        tokio::select! {
            _ = self.stopped.wait_for(|stopped| *stopped) => {}
            () = sleep_until(again) => {}
        }
    }

    /// Takes nothing more, waits for deliveries, and gives back what is left.
    async fn wind_down(&mut self) {
        let end = Instant::now() + self.settings.grace;
        self.land();
        while !self.flights.of.is_empty() && Instant::now() < end {
            if Instant::now() >= self.next_beat && !matches!(timeout_at(end, self.beat()).await, Ok(Ok(()))) {
                self.next_beat = Instant::now() + self.settings.lease / 3;
            }
            // What is not recorded now is tried again below.
            let _ = timeout_at(end, self.settle()).await;
            let landed: Option<Landed> = tokio::select! {
                landed = self.flights.next() => landed,
                () = sleep_until(end.min(self.next_beat)) => None,
            };
            if let Some(landed) = landed {
                self.take_in(landed);
            }
            self.land();
        }
        self.flights.abort();
        self.land();
        self.release_all();
        // As long again for a store that is away, and a second at least: what is not recorded is delivered once more.
        let again = self
            .settings
            .grace
            .clamp(Duration::from_secs(1), Duration::from_secs(5));
        let end = end.max(Instant::now() + again);
        while let Some(token) = self.token {
            let left = timeout_at(end, async {
                self.settle().await?;
                self.store.leave(&self.settings.group, token).await
            });
            match left.await {
                Ok(Ok(()) | Err(StoreError::RelayOutdated)) => break,
                Ok(Err(error)) if Instant::now() >= end => {
                    telemetry::relay_in_trouble(&self.settings.group, &error);
                    break;
                }
                Err(late) => {
                    telemetry::relay_in_trouble(&self.settings.group, &late);
                    break;
                }
                Ok(Err(_)) => sleep_until(Instant::now() + jittered(Duration::from_millis(200))).await,
            }
        }
        self.shards.clear();
        self.publish();
    }
}
