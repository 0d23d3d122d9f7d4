//! Goes on with mutations of steps that nobody asks for any more: [`Completer`].
//!
//! ```text
//! poll ──▶ list: lease over, not held, name and version known, pause over ──▶ claim by the listed token ──▶ the handler
//!  ▲                         └─ its tries are used up: held, for a person       └─ not granted: passed over for a while
//!  └──every so often, sooner if there was as much as can be run, later while the store does not answer
//!
//! stop ──▶ no polls; what runs ends at its next step and is handed back, which is no try
//! ```
//!
//! Its flights are not those of calls: a call has wider rights than a completer, which takes over from one holder only,
//! and must not be told what a completer is told. They meet at the store.
//!
//! What is listed may be stale by the time that it is read. So nothing of it is used but the identity and the token: the
//! claim is granted only if that very token still stands there with its lease over, and input and steps come with it.
//!
//! A completer holds no claim while it waits, and no connection. Any number of them may run.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::answer::answer_within;
use super::codec::{Codec, Format, Json};
use super::progress::Flights;
use super::run::Idempotency;
use super::settled::Landed;
use super::shared::Shared;
use super::step_error::Stopped;
use super::steps::{Steps, start};
use super::workflow::Workflow;
use crate::backoff::{jittered, random_u64};
use crate::group::{self, Group};
use crate::identity::RequestIdentity;
use crate::record::FencingToken;
use crate::store::{Standing, StepStore, StoreError, UnfinishedQuery, UnfinishedSteps};
use crate::telemetry;
use crate::telemetry::steps::{HeldFor, StepCounts};
use crate::timer;
use crate::unwind::{catch, quietly};

mod passed_over;

use passed_over::PassedOver;

/// How long the store may take to answer a poll.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a completer looks whether there is something for which no completer may have a handler.
const LOOK_FOR_UNKNOWN: Duration = Duration::from_secs(60);
/// How many mutations it looks at then.
const LOOK_AT: usize = 100;
/// The longest pause while the store does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How many more mutations are listed than can be run: what is not granted must not keep others from their turn.
const LOOK_PAST: usize = 32;

/// One try. Answers whether a claim was granted.
type Run = Pin<Box<dyn Future<Output = bool> + Send>>;
type Handle = Arc<dyn Fn(UnfinishedSteps, watch::Receiver<bool>, Duration) -> Run + Send + Sync>;
/// What is told of a mutation that is held.
type OnHeld = Arc<dyn Fn(&UnfinishedSteps) + Send + Sync>;
/// The tries that are under way.
type Running = JoinSet<Tried>;

/// Sets up a [`Completer`]. Made by [`Idempotency::completer`].
#[must_use = "call `spawn`"]
pub struct CompleterBuilder<S, C = Json> {
    idempotency: Idempotency<S, C>,
    /// That of calls. When it is closed, nothing is taken up any more.
    calls: Group<RequestIdentity, Landed>,
    handlers: HashMap<String, Handler>,
    every: Duration,
    max_tries: u32,
    first_pause: Duration,
    longest_pause: Duration,
    attempt_limit: Duration,
    concurrency: usize,
    on_held: Option<OnHeld>,
}

struct Handler {
    workflow: Arc<Workflow>,
    handle: Handle,
}

impl<S: StepStore, C: Format> Idempotency<S, C> {
    /// Returns a builder for a [`Completer`], which goes on with mutations of steps that were begun and that no client
    /// asks for any more.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use oneflight::idempotency::{Steps, Stopped};
    /// use oneflight::{Idempotency, MemoryStore, RequestIdentity, Scope};
    /// # use std::io::Error;
    /// # async fn reserve(_: String, _: &str) -> Result<u64, Error> { Ok(7) }
    ///
    /// async fn place_order(item: String, steps: Steps<MemoryStore>) -> Result<u64, Stopped> {
    ///     steps.run("reserve", |step| reserve(step.downstream_key(), &item)).await
    /// }
    ///
    /// let idem = Idempotency::builder(MemoryStore::new()).build();
    /// let completer = idem.completer().handler("place_order", place_order).spawn()?;
    ///
    /// let item = "tea".to_owned();
    /// let id = RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), "a7f3")?;
    /// let orders = idem.with_workflow("place_order");
    /// let reply = orders.run_steps(id, &item.clone(), |steps| place_order(item, steps)).await?;
    /// assert_eq!(*reply, 7);
    ///
    /// completer.stop().await;
    /// # Ok(()) }
    /// ```
    pub fn completer(&self) -> CompleterBuilder<S, C> {
        // It takes what is free, and waits for nothing.
        let shared = Shared {
            wait: Duration::ZERO,
            flights: Flights::default(),
            ..self.shared.copy()
        };
        CompleterBuilder {
            idempotency: Self {
                shared: Arc::new(shared),
                group: Group::new(),
                ..self.clone()
            },
            calls: self.group.clone(),
            handlers: HashMap::new(),
            every: Duration::from_secs(5),
            max_tries: 10,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(5 * 60),
            attempt_limit: Duration::from_secs(5 * 60),
            concurrency: 8,
            on_held: None,
        }
    }
}

impl<S: StepStore, C: Format> CompleterBuilder<S, C> {
    /// Goes on with mutations of this workflow: a name, or a [`Workflow`] with its version and the versions that it
    /// accepts. What has another name or version is left alone.
    ///
    /// The handler gets the recorded input, and does what the work of [`run_steps`](Idempotency::run_steps) does. A
    /// second handler of the same name replaces the first.
    pub fn handler<I, T, F, W>(mut self, workflow: impl Into<Workflow>, handler: F) -> Self
    where
        C: Codec<I> + Codec<T>,
        I: Send + 'static,
        T: Send + Sync + 'static,
        F: Fn(I, Steps<S, C>) -> W + Send + Sync + 'static,
        W: Future<Output = Result<T, Stopped>> + Send + 'static,
    {
        let workflow = Arc::new(workflow.into());
        self.idempotency.shared.announced.see(&workflow.name);
        let (idempotency, of, handler) = (self.idempotency.clone(), Arc::clone(&workflow), Arc::new(handler));
        let handle: Handle = Arc::new(move |found, stop, limit| {
            let (idempotency, handler) = (idempotency.clone(), Arc::clone(&handler));
            let (start, id) = (start(&of, found.token, stop), found.id.clone());
            Box::pin(async move {
                let granted = Arc::new(AtomicBool::new(false));
                let is_granted = Arc::clone(&granted);
                let work = move |steps: Steps<S, C>| async move {
                    is_granted.store(true, Ordering::Relaxed);
                    telemetry::taken_up(&found.id, &found.name, found.tries);
                    StepCounts::new(&found.name).taken_up();
                    let input = steps.input()?;
                    let attempt = steps.clone();
                    let worked = timer::within(limit, handler(input, steps)).await;
                    // What the handler had is dropped by now.
                    worked.unwrap_or_else(|| Err(attempt.ends_by(limit)))
                };
                // An error is logged by its flight, and what is not done is listed again.
                let _ = idempotency.fly_steps::<T, _, _>(id, start, work).await;
                granted.load(Ordering::Relaxed)
            })
        });
        let name = workflow.name.clone();
        self.handlers.insert(name, Handler { workflow, handle });
        self
    }

    /// Sets how often the store is asked what is unfinished. The default is every 5 s.
    ///
    /// It is one statement. While there is as much as can be run at once, the next one follows when a place is free.
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every.max(Duration::from_millis(1));
        self
    }

    /// Limits how often completers take a mutation up. After that it is held, for a person
    /// ([`resume_steps`](Idempotency::resume_steps)). The default is 10, the least 1.
    ///
    /// Attempts of clients that come back are not counted, and neither is one that a stop has ended.
    pub fn max_tries(mut self, tries: u32) -> Self {
        self.max_tries = tries.max(1);
        self
    }

    /// Sets for how long a mutation is left alone after a try: the first pause, which doubles with each try up to the
    /// longest. The default is 1 s to 5 min. A client that comes back does not wait for it.
    pub fn pauses(mut self, first: Duration, longest: Duration) -> Self {
        (self.first_pause, self.longest_pause) = (first, longest.max(first));
        self
    }

    /// Limits how long one try may take. The default is 5 minutes.
    ///
    /// Then the handler's future is dropped where it waits, and the mutation is left alone for a while, as after any try
    /// that failed ([`StepError::TimeLimit`](super::StepError::TimeLimit)). A step that is run again by the next try is
    /// run under the same downstream key; one that may run [once at most](super::Step::at_most_once) is in doubt.
    ///
    /// Without a limit, calls that hang would take all places, and a stop would wait for them. So give what the handler
    /// calls limits of its own, which are shorter. Code that blocks its thread is not interrupted.
    pub fn attempt_limit(mut self, limit: Duration) -> Self {
        self.attempt_limit = limit;
        self
    }

    /// Limits how many mutations are run at the same time. The default is 8, the least 1.
    pub fn concurrency(mut self, mutations: usize) -> Self {
        self.concurrency = mutations.max(1);
        self
    }

    /// Sets what is told of each mutation that a completer has tried as often as it [may](Self::max_tries) and that is held
    /// now, for a person.
    ///
    /// It is called by the completer's task, so it should only pass on what it is told, such as to a channel. A process
    /// that dies at that moment tells nobody: what is held is listed by [`in_doubt`](Idempotency::in_doubt). A second call
    /// replaces the first.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use oneflight::{Idempotency, MemoryStore};
    ///
    /// let idem = Idempotency::builder(MemoryStore::new()).build();
    /// let completer = idem
    ///     .completer()
    ///     .on_held(|held| eprintln!("{} waits for a person after {} tries", held.id.redacted(), held.tries))
    ///     .spawn()?;
    /// # completer.stop().await;
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    ///
    /// A panic of `tell` is reported by the panic hook, and the completer goes on.
    pub fn on_held(mut self, tell: impl Fn(&UnfinishedSteps) + Send + Sync + 'static) -> Self {
        self.on_held = Some(Arc::new(tell));
        self
    }

    /// Begins, as a task on the [runtime that was set](super::IdempotencyBuilder::runtime), or on the one that calls.
    ///
    /// # Errors
    ///
    /// [`FlightError::NoRuntime`](crate::FlightError::NoRuntime) if there is none, or
    /// [`FlightError::NoTimers`](crate::FlightError::NoTimers) if it has no timers.
    pub fn spawn(self) -> Result<Completer, group::Error> {
        let runtime = match &self.idempotency.shared.runtime {
            Some(runtime) => runtime.clone(),
            None => timer::runtime()?,
        };
        let stop = watch::Sender::new(false);
        let stopped = stop.subscribe();
        let task = runtime.spawn(self.run(stopped));
        Ok(Completer { stop, task })
    }

    async fn run(self, stopped: watch::Receiver<bool>) {
        let mut running = Running::new();
        let mut taken: HashSet<RequestIdentity> = HashSet::new();
        let mut passed_over = PassedOver::new(self.every, self.longest_pause);
        let mut failures = 0_u32;
        let mut look_for_unknown = Instant::now();
        'polls: while !self.calls.is_closed() {
            let free = self.concurrency.saturating_sub(running.len());
            let mut pause = self.every;
            if free > 0 {
                let limit = free.saturating_add(LOOK_PAST + passed_over.len());
                let Some(polled) = unless(&stopped, self.poll(limit)).await else {
                    break;
                };
                match polled {
                    Ok(found) => {
                        failures = 0;
                        let is_full = found.len() >= limit;
                        if !is_full {
                            passed_over.keep(&found);
                        }
                        let mut found: Vec<_> = found.into_iter().filter(|found| !passed_over.rests(found)).collect();
                        // All processes list the same. In an order of its own, each begins with another one.
                        found.sort_by_cached_key(|_| random_u64());
                        let (mut begun, mut held) = (0, 0);
                        for found in found {
                            if begun == free {
                                break;
                            }
                            let Some(taken_up) = unless(&stopped, self.take_up(&found, &stopped, &mut taken)).await
                            else {
                                break 'polls;
                            };
                            match taken_up {
                                TakenUp::Begun(run) => {
                                    begun += 1;
                                    running.spawn(run);
                                }
                                TakenUp::Held => held += 1,
                                TakenUp::NotHeld => passed_over.insert(found.id, found.token),
                                TakenUp::No => {}
                                TakenUp::Closed => break 'polls,
                            }
                        }
                        // That is not listed again. Of what runs, it is not known so far.
                        if is_full && held > 0 && begun < free {
                            pause = Duration::ZERO;
                        }
                    }
                    Err(error) => {
                        telemetry::not_listed(&error);
                        failures = failures.saturating_add(1);
                        // A store that is restarted is asked soon; one that is away for long is not asked often.
                        pause = jittered(Duration::from_millis(100) * (1 << failures.min(9))).min(LONGEST_PAUSE);
                    }
                }
                if look_for_unknown <= Instant::now() && failures == 0 {
                    look_for_unknown = Instant::now() + LOOK_FOR_UNKNOWN;
                    if unless(&stopped, self.tell_of_unknown()).await.is_none() {
                        break;
                    }
                }
            }
            let until = timer::after(pause);
            let mut was_full = false;
            loop {
                was_full |= running.len() >= self.concurrency;
                match timer::until(until, next(&mut running, stopped.clone())).await {
                    Some(Woken::Stop) => break 'polls,
                    Some(Woken::Ended(Tried { id, token, granted })) => {
                        taken.remove(&id);
                        match granted {
                            true => passed_over.remove(&id),
                            false => passed_over.insert(id, token),
                        }
                        // What was not granted is listed again, and would be asked for without a pause.
                        if was_full && granted {
                            break;
                        }
                    }
                    None => break,
                }
            }
        }
        // It is stopped, or its service is closed. What runs is waited for, also where the service is drained.
        while running.join_next().await.is_some() {}
    }

    async fn poll(&self, limit: usize) -> Result<Vec<UnfinishedSteps>, StoreError> {
        let versions = |workflow: &Workflow| {
            let mut versions = workflow.accepts.clone();
            versions.push(workflow.version.clone());
            versions
        };
        let kinds = self.handlers.values();
        let kinds = kinds.map(|handler| (handler.workflow.name.clone(), versions(&handler.workflow)));
        let query = UnfinishedQuery {
            kinds: Some(kinds.collect()),
            first_pause: self.first_pause,
            longest_pause: self.longest_pause,
            limit,
        };
        let store = &self.idempotency.shared.store;
        answer_within(PATIENCE, async { store.unfinished_steps(query).await }).await
    }

    /// Begins to run what was found, unless it is held instead.
    async fn take_up(
        &self,
        found: &UnfinishedSteps,
        stopped: &watch::Receiver<bool>,
        taken: &mut HashSet<RequestIdentity>,
    ) -> TakenUp {
        // First this, then the look whether the service is closed: one that is drained waits for it, or it is seen here.
        let counted = Counted::of(&self.idempotency.shared.ends);
        if self.calls.is_closed() {
            return TakenUp::Closed;
        }
        let Some(handler) = self.handlers.get(&found.name) else {
            return TakenUp::No;
        };
        if found.tries >= self.max_tries {
            let store = &self.idempotency.shared.store;
            let held = async { store.set_standing(&found.id, found.token, Standing::GivenUp).await };
            return match answer_within(PATIENCE, held).await {
                Ok(()) => {
                    telemetry::held(&found.id, &found.name, found.tries);
                    StepCounts::new(&found.name).held(HeldFor::Tries);
                    if let Some(tell) = &self.on_held {
                        let held = UnfinishedSteps {
                            held: true,
                            ..found.clone()
                        };
                        quietly(|| tell(&held));
                    }
                    TakenUp::Held
                }
                Err(_) => TakenUp::NotHeld,
            };
        }
        if !taken.insert(found.id.clone()) {
            return TakenUp::No;
        }
        let run = (handler.handle)(found.clone(), stopped.clone(), self.attempt_limit);
        let (id, token) = (found.id.clone(), found.token);
        TakenUp::Begun(Box::pin(async move {
            let _counted = counted;
            // Flights do not panic. If one did, its mutation would not be taken up again here.
            let granted = catch(run).await.unwrap_or(false);
            Tried { id, token, granted }
        }))
    }

    /// Tells of mutations that wait for code that knows their version: nothing else would.
    async fn tell_of_unknown(&self) {
        let store = &self.idempotency.shared.store;
        let asked = async { store.unfinished_steps(UnfinishedQuery::all(LOOK_AT)).await };
        let Ok(found) = answer_within(PATIENCE, asked).await else {
            return;
        };
        let mut told = HashSet::new();
        for found in found {
            let knows = |handler: &Handler| {
                let workflow = &handler.workflow;
                workflow.version == found.version || workflow.accepts.contains(&found.version)
            };
            // Other completers may have handlers for names that this one does not have, but not for other versions of its
            // own, once a deploy is over.
            let is_unknown = self.handlers.get(&found.name).is_some_and(|handler| !knows(handler));
            if is_unknown && !found.held && told.insert((found.name.clone(), found.version.clone())) {
                telemetry::unknown_workflow(&found.name, &found.version);
            }
        }
    }
}

/// What became of a mutation that was found.
enum TakenUp {
    Begun(Pin<Box<dyn Future<Output = Tried> + Send>>),
    /// Its tries are used up.
    Held,
    /// It could not be held: it is not what it was, or the store does not answer.
    NotHeld,
    /// It is none of ours, or runs here already.
    No,
    /// The service is closed.
    Closed,
}

/// A try that is over.
struct Tried {
    id: RequestIdentity,
    token: FencingToken,
    granted: bool,
}

/// A try that a service which is drained waits for.
struct Counted(watch::Sender<usize>);

impl Counted {
    fn of(ends: &watch::Sender<usize>) -> Self {
        ends.send_modify(|ends| *ends += 1);
        Self(ends.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|ends| *ends -= 1);
    }
}

enum Woken {
    Stop,
    Ended(Tried),
}

/// Waits for the stop, or for the end of what runs.
async fn next(running: &mut Running, mut stopped: watch::Receiver<bool>) -> Woken {
    // Without its sender as well: the completer was dropped.
    let mut stop = pin!(stopped.wait_for(|is_stopped| *is_stopped));
    poll_fn(|cx| {
        if stop.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Woken::Stop);
        }
        loop {
            match running.poll_join_next(cx) {
                Poll::Ready(Some(Ok(tried))) => return Poll::Ready(Woken::Ended(tried)),
                // Its task was cancelled, as nobody does. Another one may have ended as well.
                Poll::Ready(Some(Err(_))) => {}
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// Waits for the store, but not once the completer is stopped. `None` says that it is.
async fn unless<T>(stopped: &watch::Receiver<bool>, asked: impl Future<Output = T>) -> Option<T> {
    let mut stopped = stopped.clone();
    let mut stop = pin!(stopped.wait_for(|is_stopped| *is_stopped));
    let mut asked = pin!(asked);
    poll_fn(|cx| match stop.as_mut().poll(cx) {
        Poll::Ready(_) => Poll::Ready(None),
        Poll::Pending => asked.as_mut().poll(cx).map(Some),
    })
    .await
}

impl<S, C> fmt::Debug for CompleterBuilder<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompleterBuilder")
            .field("handlers", &self.handlers.keys())
            .field("every", &self.every)
            .field("max_tries", &self.max_tries)
            .field("first_pause", &self.first_pause)
            .field("longest_pause", &self.longest_pause)
            .field("attempt_limit", &self.attempt_limit)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

/// Goes on with mutations of steps that nobody asks for any more, as a task of its own.
///
/// Any number of processes may have one. Dropping it stops it as [`stop`](Self::stop) does, without waiting.
#[derive(Debug)]
#[must_use = "a completer that is dropped stops"]
pub struct Completer {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Completer {
    /// Stops: takes nothing up any more, and waits for what runs. That ends at its next step, and is handed back, so that
    /// another completer goes on at once; it does not count as a try.
    ///
    /// A step is not interrupted, unless its try takes longer than the
    /// [limit](CompleterBuilder::attempt_limit), so this waits no longer than that. To wait for less, put a limit on the
    /// future. A service that is [closed](Idempotency::close) ends its completers as well: they take up nothing more, and
    /// [`drain`](Idempotency::drain) waits for what runs, to its end.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, it stops all the same.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // It does not panic. If its runtime is gone, so is the task.
        let _ = self.task.await;
    }
}
