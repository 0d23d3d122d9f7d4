//! A relay whose targets are closures of JavaScript.
//!
//! All that JavaScript is told goes through one function, in its order. The function is the relay's, so it keeps its thread
//! alive until the relay has ended. A relay ends when it is closed, or with its thread, whose finalizers drop it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use napi::bindgen_prelude::{Function, Object};
use napi::threadsafe_function::UnknownReturnValue;
use napi::{Env, Result};
use napi_derive::napi;
use oneflight::Effect;
use oneflight::outbox::{self, OnDead, RelayHandle, Retry};
use oneflight::store::OutboxStore;
use parking_lot::Mutex;

use crate::delivery::{Closure, Event, Events};
use crate::failure::Failure;
use crate::handle::Handle;
use crate::options::{duration, millis};
use crate::outbox::none;
use crate::pool::{Connections, Lease};
use crate::runtime::{self, promise};
use crate::settled::Done;

/// How long an attempt may take unless that is set.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The relay's own limit would begin before the closure does.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// How a relay is set. `index.d.ts` documents each.
#[napi(object)]
pub struct RelayOptions {
    pub group: Option<String>,
    pub lease_ms: Option<f64>,
    pub grace_ms: Option<f64>,
}

/// A closure that messages are delivered to, and how. `index.d.ts` documents each.
#[napi(object)]
pub struct TargetOptions {
    pub pattern: String,
    pub max_attempts: Option<u32>,
    pub first_pause_ms: Option<f64>,
    pub longest_pause_ms: Option<f64>,
    pub timeout_ms: Option<f64>,
    pub max_in_flight: Option<u32>,
    pub circuit_breaker: Option<u32>,
    pub skips_dead: bool,
}

/// How a relay is. `index.d.ts` documents each part.
#[napi(object, object_from_js = false)]
pub struct Health {
    pub is_connected: bool,
    pub shards: f64,
    pub backlog: f64,
    pub in_flight: f64,
    pub oldest_ms: HashMap<String, f64>,
    pub left_alone: f64,
    pub attempts: f64,
    pub delivered: f64,
    pub dead: f64,
    pub expired: f64,
    pub polls: f64,
    pub empty_polls: f64,
    pub lost: f64,
    pub open_circuits: Vec<String>,
    pub paused: Vec<String>,
}

/// What came of beginning a relay.
#[napi(object, object_from_js = false)]
pub struct Begun {
    pub relay: Option<Relay>,
    pub failure: Option<Failure>,
}

/// A relay that runs.
struct Running {
    relay: RelayHandle,
    /// The store stays open for as long.
    lease: Arc<Lease>,
    events: Arc<Events>,
}

impl Running {
    async fn stop(self) {
        self.relay.stop().await;
        self.events.end();
        if let Some(lease) = Arc::into_inner(self.lease) {
            lease.close().await;
        }
    }
}

enum State {
    Running(Running),
    /// It is being stopped, or has been. This is how it was then.
    Closed(outbox::Health),
}

/// A relay. It is stopped when this is dropped.
#[napi]
pub struct Relay {
    state: Mutex<State>,
}

impl Relay {
    fn close_once(&self) -> Option<Running> {
        let mut state = self.state.lock();
        let mut health = match &*state {
            State::Running(running) => running.relay.health(),
            State::Closed(_) => return None,
        };
        health.is_connected = false;
        match std::mem::replace(&mut *state, State::Closed(health)) {
            State::Running(running) => Some(running),
            State::Closed(_) => None,
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(running) = self.close_once()
            && let Ok(runtime) = runtime::handle()
        {
            runtime.spawn(running.stop());
        }
    }
}

#[napi]
impl Relay {
    /// Returns how it is.
    #[napi(catch_unwind)]
    pub fn health(&self) -> Health {
        match &*self.state.lock() {
            State::Running(running) => running.relay.health().into(),
            State::Closed(health) => health.clone().into(),
        }
    }

    /// Stops it. The first time counts.
    #[napi(catch_unwind)]
    pub fn close<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let running = self.close_once();
        promise(env, async move {
            if let Some(running) = running {
                running.stop().await;
            }
            Done::of(None, None)
        })
    }
}

/// Begins a relay of an open store.
#[napi(catch_unwind)]
pub fn relay(
    handle: &Handle,
    options: RelayOptions,
    targets: Vec<TargetOptions>,
    events: Function<'_, Event, UnknownReturnValue>,
) -> Result<Begun> {
    let events = Arc::new(Events::new(&events)?);
    // It is spawned there.
    let _runtime = runtime::handle()?.enter();
    let begun = handle.lease().and_then(|lease| begun(lease, &options, targets, events));
    Ok(match begun {
        Ok(running) => Begun {
            relay: Some(Relay {
                state: Mutex::new(State::Running(running)),
            }),
            failure: None,
        },
        Err(failure) => Begun {
            relay: None,
            failure: Some(failure),
        },
    })
}

fn begun(
    lease: Arc<Lease>,
    options: &RelayOptions,
    targets: Vec<TargetOptions>,
    events: Arc<Events>,
) -> std::result::Result<Running, Failure> {
    let built = match lease.connections() {
        Some(Connections::Postgres(store)) => spawned(store.clone(), options, targets, Arc::clone(&events)),
        Some(Connections::Sqlite(store)) => spawned(store.clone(), options, targets, Arc::clone(&events)),
        Some(Connections::None) | None => return Err(none()),
    };
    let relay = built.map_err(|error| Failure::new("InvalidArgument", Effect::Nothing, error.to_string()))?;
    Ok(Running { relay, lease, events })
}

fn spawned<S: OutboxStore>(
    store: S,
    options: &RelayOptions,
    targets: Vec<TargetOptions>,
    events: Arc<Events>,
) -> std::result::Result<RelayHandle, outbox::RelayBuildError> {
    let mut relay = outbox::Relay::builder(store);
    if let Some(group) = &options.group {
        relay = relay.group(group.as_str());
    }
    if let Some(lease) = options.lease_ms {
        relay = relay.lease(duration(lease));
    }
    if let Some(grace) = options.grace_ms {
        relay = relay.grace(duration(grace));
    }
    for (number, target) in (0..).zip(targets) {
        let closure = Closure {
            events: Arc::clone(&events),
            target: number,
            limit: target.timeout_ms.map_or(TIMEOUT, duration),
        };
        relay = relay.target_with(&target.pattern, closure, target.options());
    }
    let relay = relay.on_dead_letter(move |letter| events.bury(letter.into()));
    Ok(relay.build()?.spawn())
}

impl TargetOptions {
    fn options(&self) -> outbox::TargetOptions {
        let mut retry = Retry::new();
        if let Some(attempts) = self.max_attempts {
            retry = retry.attempts(attempts);
        }
        if let Some(pause) = self.first_pause_ms {
            retry = retry.first_pause(duration(pause));
        }
        if let Some(pause) = self.longest_pause_ms {
            retry = retry.longest_pause(duration(pause));
        }
        let mut options = outbox::TargetOptions::new().retry(retry).time_limit(FOR_EVER);
        if let Some(messages) = self.max_in_flight {
            options = options.in_flight(messages as usize);
        }
        if let Some(failures) = self.circuit_breaker {
            options = options.circuit_breaker(failures);
        }
        options.on_dead(if self.skips_dead { OnDead::Skip } else { OnDead::Block })
    }
}

impl From<outbox::Health> for Health {
    fn from(health: outbox::Health) -> Self {
        let oldest = health.oldest.into_iter();
        Self {
            is_connected: health.is_connected,
            shards: health.shards as f64,
            backlog: health.backlog as f64,
            in_flight: health.in_flight as f64,
            oldest_ms: oldest.map(|(topic, age)| (topic, millis(age))).collect(),
            left_alone: health.left_alone as f64,
            attempts: health.attempts as f64,
            delivered: health.delivered as f64,
            dead: health.dead as f64,
            expired: health.expired as f64,
            polls: health.polls as f64,
            empty_polls: health.empty_polls as f64,
            lost: health.lost as f64,
            open_circuits: health.open_circuits,
            paused: health.paused,
        }
    }
}
