//! The future of a call that joins and never leads.

use super::error::Error;
use super::home::Borrowed;
use super::run::{Outcome, Role, refused, told};
use super::waits::{Wait, follow};
use crate::flight::{Anchor, Caller, Failure, KeyHash};
use crate::identity::Fingerprint;
use pin_project_lite::pin_project;
use std::borrow::Borrow;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hash};
use std::pin::Pin;
use std::task::{Context, Poll};

pin_project! {
    /// The future of [`Group::join`](super::Group::join). It returns `None` if the key was not in flight.
    ///
    /// `C` is the call, an unnamed type as in [`Run`](super::Run).
    ///
    /// # Panics
    ///
    /// Panics if it is polled again after it was ready.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct Join<C> {
        #[pin]
        call: C,
    }
}

/// A call that joins the flight of its key, if there is one; [`Join`] is its future.
pub trait Joining: Future<Output = Option<Result<Outcome<Self::Value>, Error>>> + fmt::Debug {
    /// The work's value.
    type Value;

    #[doc(hidden)]
    fn set_fingerprint(&mut self, fingerprint: Fingerprint);
}

impl<C> Join<C> {
    pub(super) fn new(call: C) -> Self {
        Self { call }
    }
}

impl<C: Joining> Join<C> {
    /// Sets the fingerprint of the request that the key stands for, as [`Run::fingerprint`](super::Run::fingerprint) does.
    pub fn fingerprint(mut self, fingerprint: Fingerprint) -> Self {
        self.call.set_fingerprint(fingerprint);
        self
    }
}

impl<C: Joining> Future for Join<C> {
    type Output = C::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        self.project().call.poll(cx)
    }
}

pin_project! {
    /// Joins at the first poll, then drives or waits.
    pub(super) struct JoinOnly<'g, K, T, S, Q>
    where
        K: Hash, K: Eq, K: Send, K: Sync, K: 'static,
        T: Clone, T: Send, T: Sync, T: 'static,
        S: BuildHasher, S: Send, S: Sync, S: 'static,
        Q: ?Sized,
    {
        key: Option<&'g Q>,
        fingerprint: Option<Fingerprint>,
        late: bool,
        wait: Option<Box<Wait>>,
        #[pin]
        caller: Caller<K, T, Borrowed<'g, K, T, S>>,
    }

    impl<K, T, S, Q> PinnedDrop for JoinOnly<'_, K, T, S, Q>
    where
        K: Hash, K: Eq, K: Send, K: Sync, K: 'static,
        T: Clone, T: Send, T: Sync, T: 'static,
        S: BuildHasher, S: Send, S: Sync, S: 'static,
        Q: ?Sized,
    {
        fn drop(this: Pin<&mut Self>) {
            if this.late && this.caller.is_seated() {
                this.caller.home().counters.count_joined_late();
            }
        }
    }
}

impl<'g, K, T, S, Q> JoinOnly<'g, K, T, S, Q>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
    Q: ?Sized,
{
    pub(super) fn new(group: Borrowed<'g, K, T, S>, key: &'g Q) -> Self {
        Self {
            key: Some(key),
            fingerprint: None,
            late: false,
            wait: None,
            caller: Caller::new(group),
        }
    }
}

impl<K, T, S, Q> Joining for JoinOnly<'_, K, T, S, Q>
where
    K: Hash + Eq + Send + Sync + 'static + Borrow<Q>,
    T: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
    Q: Hash + Eq + ?Sized,
{
    type Value = T;

    fn set_fingerprint(&mut self, fingerprint: Fingerprint) {
        self.fingerprint = Some(fingerprint);
    }
}

impl<K, T, S, Q> Future for JoinOnly<'_, K, T, S, Q>
where
    K: Hash + Eq + Send + Sync + 'static + Borrow<Q>,
    T: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
    Q: Hash + Eq + ?Sized,
{
    type Output = Option<Result<Outcome<T>, Error>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let caller = this.caller.into_ref();
        let inner = *caller.get_ref().home();
        if let Some(key) = this.key.take() {
            let mut parent = Anchor::current();
            let hash = KeyHash::of(inner.hasher.hash_one(key));
            let seat = {
                let mut shard = inner.map.shard(hash).lock();
                let seat = match shard.find(hash, |own| own.borrow() == key) {
                    None => return Poll::Ready(None),
                    Some(flight) => inner.join(flight, this.fingerprint.as_ref(), &mut parent, this.wait),
                };
                shard.joined += u64::from(seat.as_ref().is_ok_and(|seat| !seat.late));
                seat
            };
            match seat {
                Ok(seat) => {
                    *this.late = seat.late;
                    caller.sit(seat);
                }
                Err(error) => return refused(inner.refuse(error)).map(Some),
            }
        } else {
            assert!(caller.is_seated(), "`Join` polled after it was ready");
            if follow(this.wait, &caller).is_err() {
                caller.leave();
                if *this.late {
                    inner.counters.count_joined_late();
                }
                return refused(Error::Reentrant).map(Some);
            }
        }
        let polled = caller.poll(cx);
        let ends = match &polled {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(landed) => matches!(landed, Err(Failure::Aborted | Failure::Cancelled)),
        };
        *this.wait = None;
        if *this.late {
            if ends {
                // The flight was ending already as we joined, so it counts as not in flight.
                return Poll::Ready(None);
            }
            inner.counters.count_joined_late();
        }
        told(polled, Role::Follower).map(Some)
    }
}

impl<K, T, S, Q> fmt::Debug for JoinOnly<'_, K, T, S, Q>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
    Q: ?Sized,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("joined", &self.caller.is_seated())
            .finish_non_exhaustive()
    }
}
