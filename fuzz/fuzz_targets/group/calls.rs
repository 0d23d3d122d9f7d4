//! What is done to the group, and what its work does: acts, calls and the work that they lead.

use crate::history::{Act, Call, Kind, Script, Spot, Step};
use crate::parts::{Key, NAMES, PLANNED, Value, reached};
use crate::world::{At, Boxed, Execution, Settled, Ticket, planned, with};
use oneflight::Fingerprint;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

impl Act {
    pub fn act(self) {
        match self {
            Self::Begin { slot, inline, call } => with(|world| world.seat(slot, inline, false, call.call(Some(slot)))),
            Self::Drain { slot, inline } => with(|world| {
                let group = world.group.clone();
                let drain = async move {
                    group.drain().await;
                    assert_eq!(group.in_flight(), 0, "drained too early");
                };
                world.seat(slot, inline, true, Box::pin(drain));
            }),
            Self::Poll { slot } => with(|world| world.poll(slot)),
            Self::Drop { slot } => with(|world| world.drop_slot(slot)),
            Self::Open { back } => with(|world| {
                let waker = {
                    let mut executions = world.executions.borrow_mut();
                    let newest = executions.iter_mut().nth_back(back);
                    newest.and_then(|execution| {
                        execution.passes += 1;
                        execution.waker.take()
                    })
                };
                waker.into_iter().for_each(Waker::wake);
            }),
            Self::Forget { key } => with(|world| {
                if world.group.forget(&NAMES[usize::from(key)]) {
                    let mut executions = world.executions.borrow_mut();
                    let listed =
                        |execution: &&mut Execution| execution.key == key && execution.alive && !execution.forgotten;
                    let execution = executions.iter_mut().rfind(listed);
                    execution.expect("nothing was there to be forgotten").forgotten = true;
                }
            }),
            Self::Abort { key } => with(|world| {
                // Counted before: those who are woken by it look at it.
                world.aborts.set(world.aborts.get() + 1);
                world.group.abort(&NAMES[usize::from(key)]);
            }),
            Self::Close => with(|world| {
                world.group.close();
                world.closed.set(true);
                assert!(world.group.is_closed());
            }),
            Self::Look => with(|world| {
                let _ = format!("{:?} {:?}", world.group, world.group.stats());
            }),
        }
    }
}

/// Books a call as gone when its future is dropped.
struct Booked(usize);

impl Booked {
    fn new(call: &Call, slot: Option<usize>) -> Self {
        with(|world| {
            let begun = world.tick_clock();
            let mut tickets = world.tickets.borrow_mut();
            tickets.push(Ticket {
                slot,
                key: call.key,
                kind: call.kind,
                fingerprint: call.fingerprint,
                begun,
                led: None,
                late: world.dropping.get() > 0 || world.polling.get() > 0,
                state: Settled::Pending,
            });
            Self(tickets.len() - 1)
        })
    }
}

impl Drop for Booked {
    fn drop(&mut self) {
        with(|world| {
            world.tick_clock();
            let state = &mut world.tickets.borrow_mut()[self.0].state;
            if *state == Settled::Pending {
                *state = Settled::Gone;
            }
        });
    }
}

impl Call {
    /// A call of the group that checks its own answer; in a slot, or made by work.
    fn call(self, slot: Option<usize>) -> Boxed<()> {
        Box::pin(async move {
            let booked = Booked::new(&self, slot);
            let number = booked.0;
            let group = with(|world| world.group.clone());
            let name = &NAMES[usize::from(self.key)];
            let fingerprint = self.fingerprint.map(|byte| Fingerprint::from_digest([byte; 32]));
            let (on_abandon, drive) = (self.on_abandon, self.drive);
            let script = self.script;
            let begin = move || script.begin(number);
            macro_rules! run {
                ($run:expr) => {{
                    let mut run = $run;
                    if let Some(on_abandon) = on_abandon {
                        run = run.on_abandon(on_abandon);
                    }
                    if let Some(drive) = drive {
                        run = run.drive(drive);
                    }
                    Some(run.await)
                }};
            }
            let answer = match (self.kind, fingerprint) {
                (Kind::Run, None) => run!(group.run(Key::new(self.key), begin)),
                (Kind::Run, Some(fingerprint)) => {
                    run!(group.run(Key::new(self.key), begin).fingerprint(fingerprint))
                }
                (Kind::RunByRef, None) => run!(group.run_by_ref(name, begin)),
                (Kind::RunByRef, Some(fingerprint)) => run!(group.run_by_ref(name, begin).fingerprint(fingerprint)),
                (Kind::Join, None) => group.join(name).await,
                (Kind::Join, Some(fingerprint)) => group.join(name).fingerprint(fingerprint).await,
            };
            with(|world| world.answered(number, answer));
            drop(booked);
        })
    }
}

impl Script {
    /// What the closure does.
    fn begin(self, ticket: usize) -> Work {
        let execution = with(|world| world.lead(ticket));
        if self.stillborn {
            with(|world| world.executions.borrow_mut()[execution].alive = false);
            with(|world| world.panicked.set(world.panicked.get() + 1));
            panic!("{PLANNED}: work {execution}");
        }
        Work {
            execution,
            steps: Some(Box::pin(steps(execution, self.steps))),
            at_drop: self.at_drop,
        }
    }
}

struct Work {
    execution: usize,
    steps: Option<Boxed<Value>>,
    at_drop: Option<Box<Act>>,
}

impl Future for Work {
    type Output = Value;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Value> {
        let number = self.execution;
        with(|world| {
            world.tick_clock();
            world.polling.set(world.polling.get() + 1);
            let execution = &mut world.executions.borrow_mut()[number];
            assert!(execution.alive, "polled after it was dropped");
            assert!(!execution.polled, "polled by two");
            execution.polled = true;
        });
        let steps = self.steps.as_mut().expect("polled after it was ready");
        let polled = catch_unwind(AssertUnwindSafe(|| steps.as_mut().poll(cx)));
        with(|world| {
            world.polling.set(world.polling.get() - 1);
            let execution = &mut world.executions.borrow_mut()[number];
            execution.polled = false;
            match &polled {
                Ok(Poll::Ready(_)) => {
                    execution.completed = true;
                    world.completed.set(world.completed.get() + 1);
                }
                Ok(Poll::Pending) => {}
                Err(_) => world.panicked.set(world.panicked.get() + 1),
            }
        });
        polled.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let number = self.execution;
        with(|world| {
            world.tick_clock();
            let polled = world.executions.borrow()[number].polled;
            assert!(!polled, "dropped while it is polled");
            world.dropping.set(world.dropping.get() + 1);
        });
        self.steps = None;
        if let Some(act) = self.at_drop.take() {
            planned(|| act.act());
        }
        let (waker, completed) = with(|world| {
            world.dropping.set(world.dropping.get() - 1);
            let execution = &mut world.executions.borrow_mut()[number];
            assert!(execution.alive, "dropped twice");
            execution.alive = false;
            (execution.waker.take(), execution.completed)
        });
        drop(waker);
        if let Err(panic) = catch_unwind(|| reached(Spot::DropWork)) {
            if completed {
                // Then this is what the work came to.
                with(|world| {
                    world.completed.set(world.completed.get() - 1);
                    world.panicked.set(world.panicked.get() + 1);
                });
            }
            resume_unwind(panic);
        }
    }
}

async fn steps(execution: usize, steps: Vec<Step>) -> Value {
    let at = |at| with(|world| world.executions.borrow_mut()[execution].at = at);
    for step in steps {
        match step {
            Step::Pass => {
                at(At::Gate);
                poll_fn(|cx| with(|world| world.pass(execution, cx))).await;
                at(At::Work);
            }
            Step::Yield => {
                let mut yielded = false;
                poll_fn(|cx| {
                    if std::mem::replace(&mut yielded, true) {
                        return Poll::Ready(());
                    }
                    cx.waker().wake_by_ref();
                    Poll::Pending
                })
                .await;
            }
            Step::Act(act) => act.act(),
            Step::Call(call) => {
                at(At::Call);
                call.call(None).await;
                at(At::Work);
            }
            Step::Glance(call) => {
                let mut call = call.call(None);
                poll_fn(|cx| {
                    let _ = call.as_mut().poll(cx);
                    Poll::Ready(())
                })
                .await;
            }
            Step::Panic => panic!("{PLANNED}: work {execution}"),
        }
    }
    Value::new(execution)
}
