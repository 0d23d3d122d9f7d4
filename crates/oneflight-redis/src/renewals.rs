//! Renewals of many leases in few round trips.
//!
//! ```text
//! quiet ──renewal──▶ gathering ──at once, or a window after the last──▶ sent, and gathering anew
//!   ▲                                                                     │
//!   └──────────── nothing came within a window ───────────────────────────┘
//! ```
//!
//! A process renews each of its leases at a third of its length, and may hold thousands. So they go out together: those
//! that come within a window of one another share a round trip. A window is a sixteenth of a third of the lease, so a
//! process has some sixteen round trips in a third, however many leases it holds. What is late by a window has five thirds
//! of that left to be renewed in. A renewal that comes after a quiet window is sent at once.
//!
//! The task that gathers does not wait for answers: one that does not come must not hold up the renewals behind it. It runs
//! where the first renewal was asked for, and that runtime may rest. So a renewal that was not taken two windows later is
//! sent by its caller.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout, timeout_at};

use oneflight::record::FencingToken;
use oneflight::store::StoreError;

use super::connection::{Call, Way};
use super::records;
use super::scripts::RENEW;
use super::tokens::Shard;

/// The number of windows in a lease: sixteen in a third of it.
const WINDOWS: u32 = 48;
/// The longest window: a lease may be of any length, and a caller of the store waits for its answer.
const LONGEST_WINDOW: Duration = Duration::from_secs(2);
/// How long the task that gathers may be late.
const PATIENCE: Duration = Duration::from_millis(20);
/// The number of leases that one script renews. The server does nothing else meanwhile, for some 0.4 ms.
const TOGETHER: usize = 128;

/// A lease that is to be renewed.
pub(super) struct Renewal {
    pub(super) record: String,
    pub(super) shard: Shard,
    pub(super) token: FencingToken,
    /// The token, as a script compares it.
    pub(super) count: String,
    pub(super) lease: Duration,
}

/// A renewal with a number of its own, and the caller that waits for it.
type Waiting = (u64, Renewal, oneshot::Sender<Result<(), StoreError>>);

/// See the module's documentation.
pub(super) struct Renewals(Arc<Inner>);

struct Inner {
    way: Way,
    gathered: Mutex<Gathered>,
    /// There is one that is to be sent sooner.
    sooner: Arc<Notify>,
    /// How many there have been.
    asked: AtomicU64,
}

#[derive(Default)]
struct Gathered {
    waiting: Vec<Waiting>,
    /// When what waits is sent, if there is a task that does so.
    sends: Option<Instant>,
    last: Option<Instant>,
}

impl Renewals {
    pub(super) fn over(way: Way) -> Self {
        Self(Arc::new(Inner {
            way,
            gathered: Mutex::default(),
            sooner: Arc::default(),
            asked: AtomicU64::new(0),
        }))
    }

    /// Renews a lease, together with others.
    pub(super) async fn renew(&self, renewal: Renewal) -> Result<(), StoreError> {
        let window = (renewal.lease / WINDOWS).min(LONGEST_WINDOW);
        let (sender, mut answer) = oneshot::channel();
        let own = &self.0;
        let number = own.asked.fetch_add(1, Ordering::Relaxed);
        let begins = {
            let mut gathered = own.gathered.lock();
            gathered.waiting.push((number, renewal, sender));
            let now = Instant::now();
            let due = gathered.last.map_or(now, |last| now.max(last + window));
            let before = gathered.sends;
            gathered.sends = Some(before.map_or(due, |sends| sends.min(due)));
            if before.is_some_and(|sends| due < sends) {
                own.sooner.notify_one();
            }
            before.is_none()
        };
        if begins {
            let task = Gathering {
                inner: Arc::downgrade(own),
                is_over: false,
            };
            tokio::spawn(task.run(Arc::clone(&own.sooner)));
        }
        let answered = match timeout(2 * window + PATIENCE, &mut answer).await {
            Ok(answered) => answered,
            Err(_) => {
                let not_taken = {
                    let mut gathered = own.gathered.lock();
                    let place = gathered.waiting.iter().position(|(waits, ..)| *waits == number);
                    place.map(|place| gathered.waiting.swap_remove(place))
                };
                if let Some(renewal) = not_taken {
                    send(Arc::clone(own), vec![renewal]).await;
                }
                answer.await
            }
        };
        answered.map_err(|_| StoreError::unavailable("the runtime that was about to renew is gone"))?
    }
}

impl Inner {
    /// Takes what is to be sent now, or says when the next is to be. Says that this is the end if nothing came.
    fn take(&self) -> Next {
        let mut gathered = self.gathered.lock();
        let now = Instant::now();
        match gathered.sends {
            Some(sends) if sends > now => Next::At(sends),
            _ if gathered.waiting.is_empty() => {
                gathered.sends = None;
                Next::End
            }
            _ => {
                gathered.last = Some(now);
                // Others may come until then, which say when they are due.
                let shortest = gathered.waiting.iter().map(|(_, renewal, _)| renewal.lease).min();
                let window = (shortest.unwrap_or_default() / WINDOWS).min(LONGEST_WINDOW);
                gathered.sends = Some(now + window);
                Next::Send(std::mem::take(&mut gathered.waiting))
            }
        }
    }
}

enum Next {
    At(Instant),
    Send(Vec<Waiting>),
    End,
}

/// The task that gathers. If its runtime ends, what waits is given up, and the next renewal begins another one.
struct Gathering {
    inner: Weak<Inner>,
    is_over: bool,
}

impl Gathering {
    async fn run(mut self, sooner: Arc<Notify>) {
        // Those that are due at the same moment come before that.
        yield_now().await;
        loop {
            let Some(inner) = self.inner.upgrade() else { return };
            match inner.take() {
                Next::At(sends) => {
                    drop(inner);
                    let _ = timeout_at(sends, sooner.notified()).await;
                }
                Next::Send(renewals) => drop(tokio::spawn(send(inner, renewals))),
                Next::End => {
                    self.is_over = true;
                    return;
                }
            }
        }
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        let inner = self.inner.upgrade().filter(|_| !self.is_over);
        let Some(inner) = inner else { return };
        let given_up = {
            let mut gathered = inner.gathered.lock();
            gathered.sends = None;
            std::mem::take(&mut gathered.waiting)
        };
        drop(given_up);
    }
}

/// Renews, and tells each what came of it.
async fn send(inner: Arc<Inner>, mut renewals: Vec<Waiting>) {
    let connection = &inner.way.connection;
    if !connection.has_slots() {
        renewals = send_groups(&inner, in_groups(renewals)).await;
        if renewals.is_empty() {
            return;
        }
    }
    let mut shards = HashMap::<u16, Vec<_>>::new();
    for renewal in renewals {
        shards.entry(renewal.1.shard.number()).or_default().push(renewal);
    }
    let groups = shards.into_values().flat_map(in_groups);
    if connection.is_cluster() {
        // A server that does not answer holds no renewal of another one up.
        let mut each: FuturesUnordered<_> = groups.map(|group| send_groups(&inner, vec![group])).collect();
        while each.next().await.is_some() {}
    } else {
        send_groups(&inner, groups.collect()).await;
    }
}

/// Renews in one message, and tells each what came of it. Returns those that were not looked at, since a script has the
/// keys of one slot.
async fn send_groups(inner: &Inner, groups: Vec<Vec<Waiting>>) -> Vec<Waiting> {
    let connection = &inner.way.connection;
    let answers = {
        let given: Vec<_> = groups.iter().map(|group| Given::of(group)).collect();
        let arguments: Vec<_> = given.iter().map(Given::arguments).collect();
        let calls = given.iter().zip(&arguments);
        let calls = calls.map(|(given, arguments)| Call {
            script: &RENEW,
            keys: &given.keys,
            arguments,
        });
        connection
            .run_all(&calls.collect::<Vec<_>>(), inner.way.patience, None)
            .await
    };
    let mut of_several_slots = Vec::new();
    for (group, answer) in groups.into_iter().zip(answers) {
        let is_of_one_shard = group.iter().all(|(_, renewal, _)| renewal.shard == group[0].1.shard);
        if !is_of_one_shard && connection.has_refused_slots(&answer) {
            of_several_slots.extend(group);
            continue;
        }
        let tokens: Vec<_> = group.iter().map(|(_, renewal, _)| renewal.token).collect();
        let told = answer.and_then(|answered| records::renewed(answered.value, &tokens));
        let told = told.unwrap_or_else(|error| tokens.iter().map(|_| Err(error.clone())).collect());
        for ((.., answer), told) in group.into_iter().zip(told) {
            // The caller may be gone.
            let _ = answer.send(told);
        }
    }
    of_several_slots
}

fn in_groups(renewals: Vec<Waiting>) -> Vec<Vec<Waiting>> {
    let mut renewals = renewals.into_iter();
    let groups = std::iter::from_fn(|| Some(renewals.by_ref().take(TOGETHER).collect::<Vec<_>>()));
    groups.take_while(|group| !group.is_empty()).collect()
}

/// What a script is given of a group.
struct Given<'a> {
    keys: Vec<&'a str>,
    /// Of each, token and lease.
    texts: Vec<(&'a str, String)>,
}

impl<'a> Given<'a> {
    fn of(group: &'a [Waiting]) -> Self {
        let texts = |renewal: &'a Renewal| (&*renewal.count, records::millis(renewal.lease).to_string());
        Self {
            keys: group.iter().map(|(_, renewal, _)| &*renewal.record).collect(),
            texts: group.iter().map(|(_, renewal, _)| texts(renewal)).collect(),
        }
    }

    fn arguments(&self) -> Vec<&[u8]> {
        let texts = self.texts.iter();
        texts
            .flat_map(|(token, lease)| [token.as_bytes(), lease.as_bytes()])
            .collect()
    }
}
