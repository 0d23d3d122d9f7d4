//! Calls that are polled by hand, in a group whose hashing and whose map are the same in each run.

use crate::common::Counter;
use foldhash::quality::FixedState;
use oneflight::{FlightError, Group, GroupBuilder, Outcome, Role};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// As long as a UUID.
pub const KEY: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
/// What all work comes to.
pub const ANSWER: u64 = 4711;
/// How many followers share the flight where the cost of one is asked for.
pub const FOLLOWERS: usize = 1000;

pub type Orders<K = String> = Group<K, u64, FixedState>;
pub type Answer = Result<Outcome<u64>, FlightError>;

/// A group whose keys have the same hash in each run, and the same shard on each machine.
pub fn orders<K>() -> GroupBuilder<K, u64, FixedState> {
    Group::builder().hasher(FixedState::with_seed(7)).shards(8)
}

/// Checks what a call got.
pub fn answered(answer: Poll<Answer>, role: Role) {
    match answer {
        Poll::Ready(Ok(outcome)) => assert!(outcome.value == ANSWER && outcome.role == role),
        Poll::Ready(Err(error)) => panic!("{error}"),
        Poll::Pending => panic!("the call is pending"),
    }
}

/// A caller's task: room for a call, reserved beforehand, and a waker of its own.
pub struct Task<F> {
    call: Pin<Box<Option<F>>>,
    wakes: Arc<Counter>,
    waker: Waker,
}

impl<F: Future<Output = Answer>> Task<F> {
    pub fn idle() -> Self {
        let (wakes, waker) = Counter::new();
        Self {
            call: Box::pin(None),
            wakes,
            waker,
        }
    }

    /// Makes a call and polls it; it has to be pending.
    pub fn begin(&mut self, call: F) {
        self.call.set(Some(call));
        assert!(self.poll().is_pending());
    }

    pub fn poll(&mut self) -> Poll<Answer> {
        let call = self.call.as_mut().as_pin_mut().expect("a call was begun");
        call.poll(&mut Context::from_waker(&self.waker))
    }

    /// Polls the call, which has to be ready, and is over with that.
    pub fn finish(&mut self, role: Role) {
        answered(self.poll(), role);
        self.leave();
    }

    pub fn leave(&mut self) {
        self.call.set(None);
    }

    pub fn wakes(&self) -> usize {
        self.wakes.get()
    }
}
