//! The group under test, an executor of slots that are polled by hand, and the books that are kept of both.
//!
//! Everything happens in one thread. Nothing of the world is borrowed while the group or a waker is called, since work
//! and wakers come back here.

use crate::history::{Kind, Op, Runtime, SLOTS, Settings};
use crate::parts::{Flag, Key, PLANNED, Value, end_sabotage, sabotage};
use oneflight::{FlightError, Group, Outcome, Role};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};

pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

pub fn with<R>(look: impl FnOnce(&World) -> R) -> R {
    let world = WORLD.with_borrow(Clone::clone).expect("nothing outlives the world");
    look(&world)
}

pub struct World {
    pub group: Group<Key, Value>,
    settings: Settings,
    runtime: RefCell<Option<tokio::runtime::Runtime>>,
    handle: Option<tokio::runtime::Handle>,
    slots: [RefCell<Option<Task>>; SLOTS],
    pub executions: RefCell<Vec<Execution>>,
    pub tickets: RefCell<Vec<Ticket>>,
    /// Counts whatever happens.
    clock: Cell<u64>,
    /// How many polls of work, and how many drops of work, are on the stack.
    pub polling: Cell<u32>,
    pub dropping: Cell<u32>,
    /// Nobody waits at a gate any more.
    floodgates: Cell<bool>,
    pub closed: Cell<bool>,
    sabotaged: Cell<bool>,
    pub aborts: Cell<u64>,
    pub completed: Cell<u64>,
    pub panicked: Cell<u64>,
}

struct Task {
    future: Boxed<()>,
    flag: Arc<Flag>,
    drains: bool,
}

/// One execution of work, from its closure on.
pub struct Execution {
    pub key: u8,
    pub fingerprint: Option<u8>,
    pub forgotten: bool,
    /// Its work was not dropped yet.
    pub alive: bool,
    pub polled: bool,
    pub completed: bool,
    pub at: At,
    pub passes: usize,
    pub waker: Option<Waker>,
    /// When the first of its callers returned.
    pub returned: Option<u64>,
}

/// Where work stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Work,
    Gate,
    Call,
}

/// A call that was polled.
pub struct Ticket {
    pub slot: Option<usize>,
    pub key: u8,
    pub kind: Kind,
    pub fingerprint: Option<u8>,
    pub begun: u64,
    pub led: Option<usize>,
    /// It may have found a flight whose end had begun.
    pub late: bool,
    pub state: Settled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    Pending,
    Gone,
    Refused,
    Nothing,
    Answered,
}

impl World {
    /// Makes the world, and takes it away again when `live` is through.
    pub fn run(settings: Settings, live: impl FnOnce(&Self)) {
        let runtime = (settings.runtime != Runtime::None).then(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            runtime.expect("a runtime without drivers")
        });
        let handle = runtime.as_ref().map(|runtime| runtime.handle().clone());
        let mut group = Group::builder()
            .on_abandon(settings.on_abandon)
            .drive(settings.drive)
            .shards(1);
        if let Some(flights) = settings.max_flights {
            group = group.max_flights(flights);
        }
        if let Some(callers) = settings.max_callers {
            group = group.max_callers(callers);
        }
        if let (Runtime::Given, Some(handle)) = (settings.runtime, &handle) {
            group = group.runtime(handle.clone());
        }
        let world = Rc::new(Self {
            group: group.build(),
            settings,
            runtime: RefCell::new(runtime),
            handle,
            slots: Default::default(),
            executions: RefCell::default(),
            tickets: RefCell::default(),
            clock: Cell::new(0),
            polling: Cell::new(0),
            dropping: Cell::new(0),
            floodgates: Cell::new(false),
            closed: Cell::new(false),
            sabotaged: Cell::new(false),
            aborts: Cell::new(0),
            completed: Cell::new(0),
            panicked: Cell::new(0),
        });
        WORLD.set(Some(Rc::clone(&world)));
        live(&world);
        drop(world.runtime.take());
        WORLD.set(None);
    }

    pub fn op(&self, op: Op) {
        match op {
            Op::Act(act) => {
                let _context = self.context();
                planned(|| act.act());
            }
            Op::Settle { idle } => self.settle(idle),
            Op::Tick => self.tick(),
            Op::ShutDown => self.shut_down(),
            Op::Sabotage(spot, after) => {
                self.sabotaged.set(true);
                sabotage(spot, after);
            }
        }
        self.check();
    }

    fn context(&self) -> Option<tokio::runtime::EnterGuard<'_>> {
        let entered = self.settings.runtime == Runtime::Entered;
        self.handle.as_ref().filter(|_| entered).map(|handle| handle.enter())
    }

    /// Polls the tasks of the runtime.
    fn tick(&self) {
        if let Some(runtime) = &*self.runtime.borrow() {
            runtime.block_on(tokio::task::yield_now());
        }
    }

    pub fn shut_down(&self) {
        // Outside of the borrow: what it drops may come back here.
        let runtime = self.runtime.take();
        let _context = self.context();
        drop(runtime);
    }

    pub fn open_floodgates(&self) {
        self.floodgates.set(true);
        for execution in 0..self.count(|_| true) {
            let waker = self.executions.borrow_mut()[execution].waker.take();
            let _context = self.context();
            waker.into_iter().for_each(Waker::wake);
        }
    }

    pub fn leave(&self) {
        for slot in 0..SLOTS {
            let _context = self.context();
            self.drop_slot(slot);
        }
    }

    /// Polls whoever is woken, but for the idle one, until nobody is. Then work may only stand where it waits for the world,
    /// or for the idle one alone.
    pub fn settle(&self, idle: Option<usize>) {
        end_sabotage();
        for round in 0.. {
            assert!(round < 1000, "somebody is woken for nothing, again and again");
            let before = self.clock.get();
            let mut woken = false;
            for slot in (0..SLOTS).filter(|slot| Some(*slot) != idle) {
                let flag = self.slots[slot].borrow().as_ref().map(|task| Arc::clone(&task.flag));
                if flag.is_some_and(|flag| flag.woken.load(SeqCst)) {
                    woken = true;
                    let _context = self.context();
                    self.poll(slot);
                }
            }
            self.tick();
            if !woken && self.clock.get() == before {
                break;
            }
        }
        for (number, execution) in self.executions.borrow().iter().enumerate() {
            let passes = execution.passes > 0 || self.floodgates.get();
            let waits = execution.at == At::Call || (execution.at == At::Gate && !passes);
            let goes_on = idle.is_none() || self.has_another_caller(execution, idle);
            assert!(!execution.alive || waits || !goes_on, "execution {number} could go on");
        }
        if idle.is_some() {
            return;
        }
        for ticket in self.tickets.borrow().iter() {
            let waits = self.count(|execution| execution.alive && execution.key == ticket.key) > 0;
            assert!(ticket.state != Settled::Pending || waits, "a caller waits for nothing");
        }
        for slot in &self.slots {
            let drains = slot.borrow().as_ref().is_some_and(|task| task.drains);
            assert!(!drains || self.group.in_flight() > 0, "there is nothing to wait for");
        }
    }

    /// Whether somebody in a slot that is polled is certain to be a caller of this execution. With one idle slot, at most one
    /// of its callers is not polled: then the other of the two who are woken is.
    fn has_another_caller(&self, execution: &Execution, idle: Option<usize>) -> bool {
        let only = self.count(|other| other.alive && other.key == execution.key) == 1;
        let calls = |ticket: &Ticket| {
            ticket.state == Settled::Pending
                && ticket.key == execution.key
                && ticket.slot.is_some_and(|slot| Some(slot) != idle)
        };
        only && self.tickets.borrow().iter().any(calls)
    }

    fn count(&self, which: impl Fn(&Execution) -> bool) -> usize {
        let executions = self.executions.borrow();
        executions.iter().filter(|execution| which(execution)).count()
    }

    /// What holds whenever nothing of the group is on the stack.
    fn check(&self) {
        let live = self.count(|execution| execution.alive);
        assert_eq!(
            self.group.in_flight(),
            live,
            "flights without work, or work without a flight"
        );
        assert!(self.settings.max_flights.is_none_or(|limit| live <= limit));
        let stats = self.group.stats();
        assert_eq!(stats.led, self.executions.borrow().len() as u64, "led");
        assert_eq!(stats.panicked, self.panicked.get(), "panicked");
        let ended = self.completed.get() + stats.panicked + stats.aborted + stats.cancelled;
        assert_eq!(stats.led, ended + live as u64, "each flight ends in one way");
        assert!(stats.aborted <= self.aborts.get(), "aborted");
        assert!(stats.finished_unattended <= stats.abandoned, "unattended");
        let tickets = self.tickets.borrow();
        let count = |state| tickets.iter().filter(|ticket| ticket.state == state).count() as u64;
        assert_eq!(stats.refused, count(Settled::Refused), "refused");
        // All others have led or joined, but for those who came while a flight ended, and for calls that user code broke.
        let followers = tickets.iter().filter(|ticket| {
            ticket.led.is_none() && matches!(ticket.state, Settled::Pending | Settled::Gone | Settled::Answered)
        });
        let (unsure, sure): (Vec<_>, Vec<_>) =
            followers.partition(|ticket| ticket.state != Settled::Answered && (ticket.late || self.sabotaged.get()));
        let (sure, unsure) = (sure.len() as u64, unsure.len() as u64);
        assert!(
            (sure..=sure + unsure).contains(&stats.joined),
            "joined {stats:?}: {sure} to {}",
            sure + unsure
        );
        for slot in &self.slots {
            let task = slot.try_borrow();
            assert!(task.is_ok(), "a slot is being polled");
        }
    }

    /// Nothing is left.
    pub fn end(&self) {
        self.check();
        assert!(
            self.slots.iter().all(|slot| slot.borrow().is_none()),
            "somebody still waits"
        );
        assert_eq!(self.count(|execution| execution.alive), 0, "work is left");
        assert_eq!(self.group.in_flight(), 0, "a flight is left");
    }

    pub fn tick_clock(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }

    pub fn seat(&self, slot: usize, inline: bool, drains: bool, future: Boxed<()>) {
        let Ok(mut place) = self.slots[slot].try_borrow_mut() else {
            return;
        };
        let woken = AtomicBool::new(true);
        let flag = Arc::new(Flag { slot, inline, woken });
        let before = place.replace(Task { future, flag, drains });
        drop(place);
        drop(before);
        self.poll(slot);
    }

    /// Polls a slot, unless it is empty or being polled.
    pub fn poll(&self, slot: usize) {
        let Ok(mut place) = self.slots[slot].try_borrow_mut() else {
            return;
        };
        let Some(task) = &mut *place else { return };
        task.flag.woken.store(false, SeqCst);
        let waker = task.flag.waker();
        let polled = planned(|| task.future.as_mut().poll(&mut Context::from_waker(&waker)));
        let through = if polled.is_some_and(|polled| polled.is_pending()) {
            None
        } else {
            place.take()
        };
        drop(place);
        drop(through);
    }

    /// Polls the slot that the flag is of.
    pub fn poll_if(&self, flag: &Arc<Flag>) {
        let is = |task: &Task| Arc::ptr_eq(&task.flag, flag);
        let same = self.slots[flag.slot]
            .try_borrow()
            .is_ok_and(|place| place.as_ref().is_some_and(is));
        if same {
            self.poll(flag.slot);
        }
    }

    pub fn drop_slot(&self, slot: usize) {
        let Ok(mut place) = self.slots[slot].try_borrow_mut() else {
            return;
        };
        let before = place.take();
        drop(place);
        drop(before);
    }

    pub fn lead(&self, ticket: usize) -> usize {
        let mut tickets = self.tickets.borrow_mut();
        let ticket = &mut tickets[ticket];
        assert!(ticket.led.is_none(), "a closure is called twice");
        assert!(!self.closed.get(), "a closed group begins a flight");
        let mut executions = self.executions.borrow_mut();
        let beside = executions
            .iter()
            .any(|other| other.key == ticket.key && other.alive && !other.forgotten);
        assert!(!beside, "two executions of one key");
        ticket.led = Some(executions.len());
        executions.push(Execution {
            key: ticket.key,
            fingerprint: ticket.fingerprint,
            forgotten: false,
            alive: true,
            polled: false,
            completed: false,
            at: At::Work,
            passes: 0,
            waker: None,
            returned: None,
        });
        executions.len() - 1
    }

    pub fn answered(&self, number: usize, answer: Option<Result<Outcome<Value>, FlightError>>) {
        let now = self.tick_clock();
        let answer = answer.map(|answer| answer.map(|outcome| (outcome.role, outcome.value.receive())));
        let mut tickets = self.tickets.borrow_mut();
        let refused = tickets.iter().filter(|ticket| ticket.state == Settled::Refused);
        let was_refused = self.group.stats().refused > refused.count() as u64;
        let ticket = &mut tickets[number];
        assert_eq!(ticket.state, Settled::Pending, "answered twice");
        let execution = match &answer {
            Some(Ok((role, execution))) => {
                assert_eq!(*role == Role::Leader, ticket.led.is_some(), "a role that is not his");
                Some(*execution)
            }
            Some(Err(FlightError::Panicked(panic))) => {
                let message = panic.message().strip_prefix(PLANNED).expect("no other panic");
                message
                    .strip_prefix(": work ")
                    .map(|number| number.parse().expect("a number"))
            }
            _ => None,
        };
        ticket.state = match answer {
            None => {
                assert_eq!(ticket.kind, Kind::Join);
                Settled::Nothing
            }
            Some(Ok(_)) => Settled::Answered,
            Some(Err(error)) => match error {
                FlightError::Panicked(_) => Settled::Answered,
                FlightError::Aborted => {
                    assert!(self.aborts.get() > 0, "nobody aborted anything");
                    Settled::Answered
                }
                FlightError::Reentrant => {
                    let inside = self.polling.get() + self.dropping.get() > 0;
                    assert!(inside, "called from outside of work");
                    // A call that had led or joined before it closed a circle counts as that.
                    match was_refused {
                        true => Settled::Refused,
                        false => Settled::Answered,
                    }
                }
                FlightError::Closed => {
                    assert!(self.closed.get(), "it is open");
                    Settled::Refused
                }
                FlightError::Overloaded(_) => {
                    let limited = self.settings.max_callers.is_some() || self.settings.max_flights.is_some();
                    assert!(limited, "there is no limit");
                    Settled::Refused
                }
                FlightError::Conflict => {
                    let another = |other: &Execution| {
                        other.alive && other.key == ticket.key && other.fingerprint != ticket.fingerprint
                    };
                    assert!(self.count(another) > 0, "nothing to be in conflict with");
                    Settled::Refused
                }
                FlightError::NoRuntime => {
                    assert!(self.runtime.borrow().is_none(), "there is a runtime");
                    Settled::Refused
                }
                other => panic!("an error that is not known here: {other:?}"),
            },
        };
        if let Some(execution) = execution {
            if let Some(led) = ticket.led {
                assert_eq!(led, execution, "another's result for a leader");
            }
            let execution = &mut self.executions.borrow_mut()[execution];
            assert_eq!(execution.key, ticket.key, "the result of another key");
            assert_eq!(
                execution.fingerprint, ticket.fingerprint,
                "the result of another request"
            );
            assert!(!execution.alive, "a result before the work was dropped");
            let returned = *execution.returned.get_or_insert(now);
            assert!(ticket.begun < returned, "an old result for a new call");
        }
    }
}

impl World {
    pub fn pass(&self, number: usize, cx: &Context<'_>) -> Poll<()> {
        let open = {
            let execution = &mut self.executions.borrow_mut()[number];
            let open = execution.passes > 0 || self.floodgates.get();
            execution.passes = execution.passes.saturating_sub(1);
            open
        };
        if open {
            return Poll::Ready(());
        }
        let waker = cx.waker().clone();
        let before = self.executions.borrow_mut()[number].waker.replace(waker);
        drop(before);
        Poll::Pending
    }
}

/// Runs code that may panic as planned; whatever else panics ends the process in the panic hook.
pub fn planned<R>(run: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(run)).ok()
}
