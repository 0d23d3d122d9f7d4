//! Promises 1 to 9 against a sequential oracle: histories of calls, polls, drops, wake-ups, `forget`, `abort` and `close`, in
//! any interleaving of a manual executor, compared step by step with a small model of what a group promises.
//!
//! The model knows nothing of wakers or polls that find nothing to do. It says: work advances as far as it may whenever
//! any of its callers is polled. That the right callers are woken is checked beside it.

use crate::common::{CountsDrop, Gate, Tally, Task};
use oneflight::{FlightError, Group, OnAbandon, Outcome, Role};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::Poll;

const KEYS: u8 = 3;
const SLOTS: usize = 6;

#[derive(Clone, Debug)]
enum Op {
    /// A new call in a slot (the one that is there is dropped), polled once. Its work, if it leads, awaits so many
    /// passes.
    Run {
        slot: usize,
        key: u8,
        awaits: usize,
        panics: bool,
    },
    Join {
        slot: usize,
        key: u8,
    },
    Poll {
        slot: usize,
    },
    Drop {
        slot: usize,
    },
    /// One pass for the work of the n-th newest execution.
    Open {
        back: usize,
    },
    Forget {
        key: u8,
    },
    Abort {
        key: u8,
    },
    Close,
}

fn op() -> impl Strategy<Value = Op> {
    let slot = 0..SLOTS;
    let key = 0..KEYS;
    prop_oneof![
        8 => (slot.clone(), key.clone(), 0..3_usize, prop::bool::weighted(0.1))
            .prop_map(|(slot, key, awaits, panics)| Op::Run { slot, key, awaits, panics }),
        2 => (slot.clone(), key.clone()).prop_map(|(slot, key)| Op::Join { slot, key }),
        8 => slot.clone().prop_map(|slot| Op::Poll { slot }),
        4 => slot.prop_map(|slot| Op::Drop { slot }),
        6 => (0..4_usize).prop_map(|back| Op::Open { back }),
        1 => key.clone().prop_map(|key| Op::Forget { key }),
        1 => key.prop_map(|key| Op::Abort { key }),
        1 => Just(Op::Close),
    ]
}

type Answer = Option<Result<Outcome<usize>, FlightError>>;
type Call<'g> = Task<Pin<Box<dyn Future<Output = Answer> + 'g>>>;

/// The model's flight.
struct Flight {
    key: u8,
    listed: bool,
    /// How many callers have it and have not returned.
    callers: usize,
    passes: usize,
    awaits: usize,
    panics: bool,
    ended: Option<Result<(), FlightError>>,
}

/// The model: what a group promises, in as few words as possible.
#[derive(Default)]
struct Model {
    closed: bool,
    flights: Vec<Flight>,
    calls: BTreeMap<usize, (usize, Role)>,
    joined: u64,
    refused: u64,
    /// Calls so far: those of `run`, and those of `join` that found a flight.
    made: u64,
}

impl Model {
    fn listed(&self, key: u8) -> Option<usize> {
        self.flights
            .iter()
            .position(|flight| flight.listed && flight.key == key)
    }

    fn end(&mut self, flight: usize, end: Result<(), FlightError>) {
        self.flights[flight].listed = false;
        self.flights[flight].ended = Some(end);
    }

    fn begin(&mut self, slot: usize, key: u8, work: Option<(usize, bool)>) -> Poll<Answer> {
        self.made += u64::from(work.is_some() || self.listed(key).is_some());
        let (flight, role) = match (self.listed(key), work) {
            (Some(flight), _) => {
                self.joined += 1;
                (flight, Role::Follower)
            }
            (None, None) => return Poll::Ready(None),
            (None, Some(_)) if self.closed => {
                self.refused += 1;
                return Poll::Ready(Some(Err(FlightError::Closed)));
            }
            (None, Some((awaits, panics))) => {
                self.flights.push(Flight {
                    key,
                    listed: true,
                    callers: 0,
                    passes: 0,
                    awaits,
                    panics,
                    ended: None,
                });
                (self.flights.len() - 1, Role::Leader)
            }
        };
        self.flights[flight].callers += 1;
        self.calls.insert(slot, (flight, role));
        self.poll(slot)
    }

    fn poll(&mut self, slot: usize) -> Poll<Answer> {
        let (number, role) = self.calls[&slot];
        let flight = &self.flights[number];
        if flight.ended.is_none() && flight.passes >= flight.awaits {
            let end = match flight.panics {
                true => Err(panicked()),
                false => Ok(()),
            };
            self.end(number, end);
        }
        let flight = &mut self.flights[number];
        match flight.ended.clone() {
            None => Poll::Pending,
            Some(end) => {
                flight.callers -= 1;
                self.calls.remove(&slot);
                Poll::Ready(Some(end.map(|()| Outcome { value: number, role })))
            }
        }
    }

    fn drop(&mut self, slot: usize) {
        if let Some((flight, _)) = self.calls.remove(&slot) {
            self.flights[flight].callers -= 1;
            if self.flights[flight].callers == 0 && self.flights[flight].ended.is_none() {
                self.end(flight, Err(FlightError::Aborted));
            }
        }
    }

    fn flying(&self) -> usize {
        self.flights.iter().filter(|flight| flight.ended.is_none()).count()
    }
}

fn panicked() -> FlightError {
    // The only way to have one is to cause one.
    static PANICKED: std::sync::OnceLock<FlightError> = std::sync::OnceLock::new();
    PANICKED
        .get_or_init(|| {
            let group: Group<u8, u8> = Group::new();
            Task::new(group.run(0, || async { panic!("as planned") }))
                .ready()
                .unwrap_err()
        })
        .clone()
}

/// What is tried.
struct Real<'g> {
    group: &'g Group<u8, usize>,
    calls: BTreeMap<usize, (Call<'g>, usize)>,
    gates: Vec<Gate>,
    dropped: Tally,
}

impl<'g> Real<'g> {
    fn begin(&mut self, slot: usize, call: Call<'g>) -> Poll<Answer> {
        self.calls.insert(slot, (call, 0));
        self.poll(slot)
    }

    fn run(&mut self, slot: usize, key: u8, awaits: usize, panics: bool, number: usize) -> Poll<Answer> {
        let (gate, dropped) = (Gate::new(), self.dropped.clone());
        let gate_of_work = gate.clone();
        let made = std::rc::Rc::new(std::cell::Cell::new(false));
        let told = made.clone();
        let run = self.group.run(key, move || {
            told.set(true);
            let guard = CountsDrop(dropped);
            async move {
                let _guard = guard;
                for _ in 0..awaits {
                    gate_of_work.pass().await;
                }
                assert!(!panics, "as planned");
                number
            }
        });
        let polled = self.begin(slot, Task::new(Box::pin(async move { Some(run.await) })));
        if made.get() {
            self.gates.push(gate);
        }
        polled
    }

    fn poll(&mut self, slot: usize) -> Poll<Answer> {
        let (call, seen) = self.calls.get_mut(&slot).expect("the model has a call here");
        *seen = call.wakes();
        let polled = call.poll();
        if polled.is_ready() {
            self.calls.remove(&slot);
        }
        polled
    }

    fn is_woken(&self, slot: usize) -> bool {
        self.calls.get(&slot).is_some_and(|(call, seen)| call.wakes() > *seen)
    }
}

fn same(step: &str, real: Poll<Answer>, model: Poll<Answer>) -> Result<(), TestCaseError> {
    let real = real.map(|answer| answer.map(|answer| answer.map_err(|error| plain(&error))));
    let model = model.map(|answer| answer.map(|answer| answer.map_err(|error| plain(&error))));
    prop_assert_eq!(real, model, "{}", step);
    Ok(())
}

/// The message of a planned panic names its place, which may change.
fn plain(error: &FlightError) -> String {
    match error {
        FlightError::Panicked(_) => "panicked".to_owned(),
        other => format!("{other:?}"),
    }
}

fn history(ops: Vec<Op>) -> Result<(), TestCaseError> {
    let group: Group<u8, usize> = Group::builder().on_abandon(OnAbandon::Cancel).shards(1).build();
    let mut model = Model::default();
    let mut real = Real {
        group: &group,
        calls: BTreeMap::new(),
        gates: Vec::new(),
        dropped: Tally::default(),
    };
    for op in ops {
        let step = format!("{op:?}");
        match op {
            Op::Run {
                slot,
                key,
                awaits,
                panics,
            } => {
                model.drop(slot);
                real.calls.remove(&slot);
                let number = model.flights.len();
                let expected = model.begin(slot, key, Some((awaits, panics)));
                same(&step, real.run(slot, key, awaits, panics, number), expected)?;
            }
            Op::Join { slot, key } => {
                model.drop(slot);
                real.calls.remove(&slot);
                let expected = model.begin(slot, key, None);
                let group = real.group;
                let join =
                    Task::new(Box::pin(async move { group.join(&key).await }) as Pin<Box<dyn Future<Output = _>>>);
                same(&step, real.begin(slot, join), expected)?;
            }
            Op::Poll { slot } if model.calls.contains_key(&slot) => {
                let expected = model.poll(slot);
                same(&step, real.poll(slot), expected)?;
            }
            Op::Drop { slot } => {
                model.drop(slot);
                real.calls.remove(&slot);
            }
            Op::Open { back } if back < model.flights.len() => {
                let number = model.flights.len() - 1 - back;
                model.flights[number].passes += 1;
                real.gates[number].open(1);
            }
            Op::Forget { key } => {
                let listed = model.listed(key);
                if let Some(flight) = listed {
                    model.flights[flight].listed = false;
                }
                prop_assert_eq!(group.forget(&key), listed.is_some());
            }
            Op::Abort { key } => {
                let listed = model.listed(key);
                if let Some(flight) = listed {
                    model.end(flight, Err(FlightError::Aborted));
                }
                prop_assert_eq!(group.abort(&key), listed.is_some());
            }
            Op::Close => {
                model.closed = true;
                group.close();
            }
            Op::Poll { .. } | Op::Open { .. } => {}
        }
        prop_assert_eq!(group.in_flight(), model.flying(), "in flight after {}", step);
        prop_assert_eq!(real.gates.len(), model.flights.len(), "executions after {}", step);
        let ended = model.flights.len() - model.flying();
        prop_assert_eq!(real.dropped.get(), ended, "work dropped after {}", step);
        let stats = group.stats();
        prop_assert_eq!(stats.led, model.flights.len() as u64);
        prop_assert_eq!((stats.joined, stats.refused), (model.joined, model.refused));
        prop_assert_eq!(stats.led + stats.joined + stats.refused, model.made);
        // A caller that has a result waiting has been told; and of those whose work could go on, one has.
        for (number, flight) in model.flights.iter().enumerate() {
            let mut callers = model
                .calls
                .iter()
                .filter(|(_, call)| call.0 == number)
                .map(|(slot, _)| *slot);
            let (ended, ready) = (flight.ended.is_some(), flight.passes >= flight.awaits);
            if ended {
                prop_assert!(
                    callers.all(|slot| real.is_woken(slot)),
                    "not told of the end, after {}",
                    step
                );
            } else if ready {
                prop_assert!(
                    callers.any(|slot| real.is_woken(slot)),
                    "a lost wake-up, after {}",
                    step
                );
            }
        }
    }
    drop(real);
    prop_assert_eq!(group.in_flight(), 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        // `ORACLE_HISTORIES` sets it for longer runs.
        cases: std::env::var("ORACLE_HISTORIES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(10_000),
        max_shrink_iters: 100_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_group_does_what_the_oracle_says(ops in prop::collection::vec(op(), 1..60)) {
        // Planned panics are no news.
        static QUIET: std::sync::Once = std::sync::Once::new();
        QUIET.call_once(|| {
            let loud = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                let planned = panic.payload_as_str().is_some_and(|text| text.contains("as planned"));
                if !planned {
                    loud(panic);
                }
            }));
        });
        history(ops)?;
    }
}
