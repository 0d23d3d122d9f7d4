//! Many callers in one thread, each with a waker of its own, polled when they are woken: the least that a runtime does.
//!
//! Their futures lie in an arena, as a task's future lies in memory of the runtime's; no allocation is charged to the peer
//! that is not its own.

use crate::peers::{Peer, Value};
use crate::signal::Signals;
use bumpalo::Bump;
use bumpalo::boxed::Box as Boxed;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Callers that wait, and callers that have ended.
pub struct Crowd<'a, P, C> {
    calls: Vec<Option<Pin<Boxed<'a, C>>>>,
    waiting: usize,
    arena: &'a Bump,
    signals: &'a Signals,
    _peer: PhantomData<P>,
}

impl<'a, P, C> Crowd<'a, P, C>
where
    P: Peer<String>,
    C: Future<Output = P::Reply>,
{
    /// No caller yet, and room for as many as there are signals.
    pub fn new(arena: &'a Bump, signals: &'a Signals) -> Self {
        Self {
            calls: Vec::with_capacity(signals.count()),
            waiting: 0,
            arena,
            signals,
            _peer: PhantomData,
        }
    }

    /// Adds a caller and polls it once.
    ///
    /// # Panics
    ///
    /// If it is not pending: nothing that is measured with a crowd has ended by then.
    #[inline]
    pub fn join(&mut self, call: C) {
        let caller = self.calls.len();
        let mut call = Boxed::pin_in(call, self.arena);
        let polled = call.as_mut().poll(&mut self.context(caller));
        assert!(polled.is_pending(), "{}: a caller is ready before the work", P::NAME);
        self.calls.push(Some(call));
        self.waiting += 1;
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Polls each caller that was woken, once, and says how many wake-ups there were.
    ///
    /// # Panics
    ///
    /// If a caller ends without this value.
    pub fn poll_woken(&mut self, value: Value) -> u64 {
        let mut wakes = 0;
        for caller in 0..self.calls.len() {
            wakes += u64::from(self.poll_if_woken(caller, value));
        }
        wakes
    }

    /// Polls one caller if it was woken, and says how often it was.
    ///
    /// # Panics
    ///
    /// If it ends without this value.
    #[inline]
    pub fn poll_if_woken(&mut self, caller: usize, value: Value) -> u32 {
        let wakes = self.signals.take(caller);
        let mut context = self.context(caller);
        let slot = &mut self.calls[caller];
        if wakes > 0
            && let Some(call) = slot
            && let Poll::Ready(reply) = call.as_mut().poll(&mut context)
        {
            assert_eq!(P::outcome(reply), Ok(value), "{}: another value", P::NAME);
            *slot = None;
            self.waiting -= 1;
        }
        wakes
    }

    /// Polls callers that are woken until every one has ended.
    ///
    /// # Panics
    ///
    /// If no caller is woken while one waits.
    pub fn finish(&mut self, value: Value) {
        while self.waiting > 0 {
            let wakes = self.poll_woken(value);
            assert!(
                wakes > 0,
                "{}: {} callers wait and nobody is woken",
                P::NAME,
                self.waiting
            );
        }
    }

    fn context(&self, caller: usize) -> Context<'a> {
        Context::from_waker(self.signals.waker(caller))
    }
}

/// Empties the arena, and sees to it that what was in it fits into one chunk from now on.
pub fn clear(arena: &mut Bump) {
    let used = arena.allocated_bytes();
    arena.reset();
    if arena.allocated_bytes() < used {
        *arena = Bump::with_capacity(used);
    }
}
