//! Goes on with mutations of steps that nobody asks for any more: [`Completer`].
//!
//! ```text
//! poll ──▶ list: lease over, not held, name and version known, pause over ──▶ claim by the listed token ──▶ the handler
//!  ▲                         └─ its tries are used up: held, for a person       └─ anyone else was faster: nothing
//!  └──every so often, sooner if there was as much as can be run, later while the store does not answer
//!
//! stop ──▶ no polls; what runs ends at its next step and is handed back, which is no try
//! ```
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
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::answer::answer_within;
use super::codec::{Codec, Format, Json};
use super::error::Error;
use super::run::Idempotency;
use super::shared::Shared;
use super::step_error::Stopped;
use super::steps::{Steps, start};
use super::workflow::Workflow;
use crate::backoff::jittered;
use crate::group;
use crate::identity::RequestIdentity;
use crate::record::FencingToken;
use crate::store::{Standing, StepStore, StoreError, UnfinishedQuery, UnfinishedSteps};
use crate::telemetry;
use crate::timer;

/// How long the store may take to answer a poll.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a completer looks whether there is something for which no completer may have a handler.
const LOOK_FOR_UNKNOWN: Duration = Duration::from_secs(60);
/// How many mutations it looks at then.
const LOOK_AT: usize = 100;
/// The longest pause while the store does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

type Run = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;
type Handle = Arc<dyn Fn(RequestIdentity, FencingToken, watch::Receiver<bool>) -> Run + Send + Sync>;

/// Sets up a [`Completer`]. Made by [`Idempotency::completer`].
#[must_use = "call `spawn`"]
pub struct CompleterBuilder<S, C = Json> {
    idempotency: Idempotency<S, C>,
    handlers: HashMap<String, Handler>,
    every: Duration,
    max_tries: u32,
    first_pause: Duration,
    longest_pause: Duration,
    concurrency: usize,
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
            ..self.shared.copy()
        };
        CompleterBuilder {
            idempotency: Self {
                shared: Arc::new(shared),
                ..self.clone()
            },
            handlers: HashMap::new(),
            every: Duration::from_secs(5),
            max_tries: 10,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(5 * 60),
            concurrency: 8,
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
        let (idempotency, of, handler) = (self.idempotency.clone(), Arc::clone(&workflow), Arc::new(handler));
        let handle: Handle = Arc::new(move |id, token, stop| {
            let (idempotency, handler) = (idempotency.clone(), Arc::clone(&handler));
            let start = start(&of, token, stop);
            Box::pin(async move {
                let work = move |steps: Steps<S, C>| async move {
                    let input = steps.input()?;
                    handler(input, steps).await
                };
                idempotency.fly_steps::<T, _, _>(id, start, work).await.map(drop)
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

    /// Limits how many mutations are run at the same time. The default is 8, the least 1.
    pub fn concurrency(mut self, mutations: usize) -> Self {
        self.concurrency = mutations.max(1);
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
        let mut running: JoinSet<RequestIdentity> = JoinSet::new();
        let mut taken: HashSet<RequestIdentity> = HashSet::new();
        let mut failures = 0_u32;
        let mut look_for_unknown = Instant::now();
        loop {
            let free = self.concurrency.saturating_sub(running.len());
            let mut pause = self.every;
            if free > 0 {
                match self.poll(free).await {
                    Ok(found) => {
                        failures = 0;
                        let is_full = found.len() >= free;
                        let mut begun = 0;
                        for found in found {
                            begun += usize::from(self.take_up(found, &stopped, &mut running, &mut taken).await);
                        }
                        if is_full && begun > 0 {
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
                    self.tell_of_unknown().await;
                }
            }
            let until = timer::after(pause);
            loop {
                let is_full = running.len() >= self.concurrency;
                match timer::until(until, next(&mut running, stopped.clone())).await {
                    Some(Woken::Stop) => {
                        while running.join_next().await.is_some() {}
                        return;
                    }
                    Some(Woken::Ended(id)) => {
                        if let Some(id) = id {
                            taken.remove(&id);
                        }
                        if is_full {
                            break;
                        }
                    }
                    None => break,
                }
            }
        }
    }

    async fn poll(&self, free: usize) -> Result<Vec<UnfinishedSteps>, StoreError> {
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
            limit: free,
        };
        let store = &self.idempotency.shared.store;
        answer_within(PATIENCE, async { store.unfinished_steps(query).await }).await
    }

    /// Begins to run what was found. Returns whether there is more to expect of the next poll.
    async fn take_up(
        &self,
        found: UnfinishedSteps,
        stopped: &watch::Receiver<bool>,
        running: &mut JoinSet<RequestIdentity>,
        taken: &mut HashSet<RequestIdentity>,
    ) -> bool {
        let Some(handler) = self.handlers.get(&found.name) else {
            return false;
        };
        if found.tries >= self.max_tries {
            let store = &self.idempotency.shared.store;
            let held = async { store.set_standing(&found.id, found.token, Standing::Held).await };
            if answer_within(PATIENCE, held).await.is_ok() {
                telemetry::held(&found.id, &found.name, found.tries);
            }
            return true;
        }
        if *stopped.borrow() || !taken.insert(found.id.clone()) {
            return false;
        }
        telemetry::taken_up(&found.id, &found.name, found.tries);
        let run = (handler.handle)(found.id.clone(), found.token, stopped.clone());
        let id = found.id;
        running.spawn(async move {
            // Logged by its flight, and listed again unless it is done.
            let _ = run.await;
            id
        });
        true
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

enum Woken {
    Stop,
    Ended(Option<RequestIdentity>),
}

/// Waits for the stop, or for the end of what runs.
async fn next(running: &mut JoinSet<RequestIdentity>, mut stopped: watch::Receiver<bool>) -> Woken {
    // Without its sender as well: the completer was dropped.
    let mut stop = pin!(stopped.wait_for(|is_stopped| *is_stopped));
    poll_fn(|cx| match stop.as_mut().poll(cx) {
        Poll::Ready(_) => Poll::Ready(Woken::Stop),
        Poll::Pending => match running.poll_join_next(cx) {
            Poll::Ready(Some(ended)) => Poll::Ready(Woken::Ended(ended.ok())),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        },
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
    /// A step is not interrupted. To wait no longer than some time, put a limit on the future.
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
