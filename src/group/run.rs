//! The futures that callers hold: lead or join at the first poll, then drive or wait.

use super::error::Error;
use super::hash::RandomState;
use super::home::Borrowed;
use super::key::Key;
use super::map::Found;
use super::waits::{Wait, follow};
use crate::flight::{Anchor, Caller, Drive, Failure, KeyHash, Landed, OnAbandon, Policy, Proof, Takeoff};
use crate::identity::Fingerprint;
use crate::unwind::quietly;
use pin_project_lite::pin_project;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hash};
use std::pin::Pin;
use std::task::{Context, Poll};

/// The value that a call got, and the call's role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Outcome<T> {
    /// The work's value.
    pub value: T,
    /// Whether this call began the work or joined it.
    pub role: Role,
}

/// A caller's role in a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Role {
    /// The call's own work ran.
    Leader,
    /// The call joined the work of another one.
    Follower,
}

pin_project! {
    /// The future of [`Group::run`](super::Group::run) and [`Group::run_by_ref`](super::Group::run_by_ref).
    ///
    /// Before it is first polled, it takes settings that only some calls need:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), oneflight::FlightError> {
    /// use oneflight::{Drive, Fingerprint, Group, OnAbandon};
    ///
    /// let group: Group<&str, u32> = Group::new();
    /// let outcome = group
    ///     .run("key", || async { 1 })
    ///     .fingerprint(Fingerprint::from_digest([7; 32]))
    ///     .on_abandon(OnAbandon::Cancel)
    ///     .drive(Drive::Spawned)
    ///     .await?;
    /// assert_eq!(outcome.value, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The future is `Send` if key and closure are. It can be awaited in a spawned block even if key, closure and result hold
    /// `'static` references and trait objects.
    ///
    /// `C` is the call, an unnamed type that implements [`Call`]. A bound on a named type would not hold in an `async` block
    /// that has to be `Send`, because the compiler erases lifetimes there.
    ///
    /// The work must be `Send` in any case, since another caller may go on with it:
    ///
    /// ```compile_fail,E0277
    /// use oneflight::Group;
    /// use std::{future::poll_fn, rc::Rc, task::Poll};
    ///
    /// let (group, local): (Group<u8, u8>, _) = (Group::new(), Rc::new(1));
    /// let _ = group.run(1, || poll_fn(move |_| Poll::Ready(*local)));
    /// ```
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct Run<C> {
        #[pin]
        call: C,
    }
}

/// A call that leads the flight of its key or joins it; [`Run`] is its future.
pub trait Call: Future<Output = Result<Outcome<Self::Value>, Error>> + fmt::Debug {
    /// The work's value.
    type Value;

    #[doc(hidden)]
    fn set_on_abandon(&mut self, on_abandon: OnAbandon);

    #[doc(hidden)]
    fn set_drive(&mut self, drive: Drive);
}

/// A [`Call`] without a fingerprint.
pub trait Unproven: Call {
    /// The same call with a fingerprint.
    type Proven: Call<Value = Self::Value>;

    #[doc(hidden)]
    fn with(self, fingerprint: Fingerprint) -> Self::Proven;
}

impl<C> Run<C> {
    pub(super) fn new(call: C) -> Self {
        Self { call }
    }
}

impl<C: Unproven> Run<C> {
    /// Sets the fingerprint of the request that the key stands for. If the key is in flight with another fingerprint or
    /// without one, the call gets [`Error::Conflict`] and not another request's result.
    pub fn fingerprint(self, fingerprint: Fingerprint) -> Run<C::Proven> {
        Run::new(self.call.with(fingerprint))
    }
}

impl<C: Call> Run<C> {
    /// Sets what becomes of the work if this call leads and then every caller leaves. The group's policy unless set.
    pub fn on_abandon(mut self, on_abandon: OnAbandon) -> Self {
        self.call.set_on_abandon(on_abandon);
        self
    }

    /// Sets which task polls the work if this call leads. The group's policy unless set.
    pub fn drive(mut self, drive: Drive) -> Self {
        self.call.set_drive(drive);
        self
    }
}

impl<C: Call> Future for Run<C> {
    type Output = C::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        self.project().call.poll(cx)
    }
}

pin_project! {
    /// Leads or joins at the first poll, then drives or waits.
    ///
    /// A call carries its key and its work until it has led or joined, and a caller's place in a flight from then on. One takes
    /// the room of the other, since a task that waits is as large as its future.
    ///
    /// What stands beside the tag fills its eight bytes, and `repr` keeps it there. With a tag of one byte, what is behind it was
    /// moved together with the padding, in pieces that were not those in which it had been written. That, a frame that was moved, and
    /// a result that was stored between two matches cost a lone leader 18 ns of 122.
    #[project = Stage]
    #[project_replace = Carried]
    #[repr(u32)]
    pub(super) enum LeadOrJoin<'g, K, T, S, Q, F, P>
    where
        K: Hash, K: Eq, K: Send, K: Sync, K: 'static,
        T: Clone, T: Send, T: Sync, T: 'static,
        S: BuildHasher, S: Send, S: Sync, S: 'static,
    {
        /// Not polled yet, or to be made again.
        Call { policy: Word<Policy>, call: Baggage<'g, K, T, S, Q, F, P> },
        /// A caller of a flight or, once the call has its result, of none.
        Caller {
            role: Word<Role>,
            late: Kept<'g, K, T, S, Q, F, P>,
            wait: Option<Box<Wait>>,
            #[pin]
            caller: Caller<K, T, Borrowed<'g, K, T, S>>,
        },
        /// A call that ended without a flight.
        Over,
    }
}

/// Fills what the tag leaves of eight bytes, see [`LeadOrJoin`].
#[derive(Clone, Copy)]
#[repr(align(4))]
pub(super) struct Word<T>(T);

const _: () = {
    type Call<Q> = LeadOrJoin<'static, u8, u8, RandomState, Q, (), ()>;
    type Carried<Q> = Baggage<'static, u8, u8, RandomState, Q, (), ()>;
    type Place = Caller<u8, u8, Borrowed<'static, u8, u8, RandomState>>;
    assert!(size_of::<Call<[u64; 32]>>() == 8 + size_of::<Carried<[u64; 32]>>());
    assert!(size_of::<Call<u64>>() == 8 + size_of::<[usize; 2]>() + size_of::<Place>());
};

/// What a call carries until it has joined or led.
pub(super) struct Baggage<'g, K, T, S, Q, F, P> {
    group: Borrowed<'g, K, T, S>,
    key: Q,
    work: F,
    proof: P,
}

/// What is kept of a call that has joined a flight whose work is to be dropped already. If the flight ends without a result, the
/// call is made again.
///
/// A late call that is not made again counts as one that joined: it is counted as this is dropped.
pub(super) struct Late<'g, K, T, S, Q, F, P>(Option<WholeCall<'g, K, T, S, Q, F, P>>);

/// What [`LeadOrJoin::Call`] holds.
type WholeCall<'g, K, T, S, Q, F, P> = (Word<Policy>, Baggage<'g, K, T, S, Q, F, P>);

/// What a caller may keep of its call.
type Kept<'g, K, T, S, Q, F, P> = Option<Box<Late<'g, K, T, S, Q, F, P>>>;

impl<K, T, S, Q, F, P> Drop for Late<'_, K, T, S, Q, F, P> {
    fn drop(&mut self) {
        if let Some((_, call)) = &self.0 {
            call.group.counters.count_joined_late();
        }
    }
}

impl<'g, K, T, S, Q, F> LeadOrJoin<'g, K, T, S, Q, F, ()>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    #[inline]
    pub(super) fn new(group: Borrowed<'g, K, T, S>, key: Q, work: F) -> Self {
        Self::Call {
            policy: Word(group.settings.policy),
            call: Baggage {
                group,
                key,
                work,
                proof: (),
            },
        }
    }
}

impl<K, T, S, Q, F, P, W> Call for LeadOrJoin<'_, K, T, S, Q, F, P>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
    Q: Key<K>,
    F: FnOnce() -> W,
    P: Proof,
    W: Future<Output = T> + Send + 'static,
{
    type Value = T;

    fn set_on_abandon(&mut self, on_abandon: OnAbandon) {
        if let Self::Call { policy, .. } = self {
            policy.0.on_abandon = on_abandon;
        }
    }

    fn set_drive(&mut self, drive: Drive) {
        if let Self::Call { policy, .. } = self {
            policy.0.drive = drive;
        }
    }
}

impl<'g, K, T, S, Q, F, W> Unproven for LeadOrJoin<'g, K, T, S, Q, F, ()>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
    Q: Key<K>,
    F: FnOnce() -> W,
    W: Future<Output = T> + Send + 'static,
{
    type Proven = LeadOrJoin<'g, K, T, S, Q, F, Fingerprint>;

    fn with(self, fingerprint: Fingerprint) -> Self::Proven {
        let Self::Call { policy, call } = self else {
            return LeadOrJoin::Over;
        };
        LeadOrJoin::Call {
            policy,
            call: Baggage {
                group: call.group,
                key: call.key,
                work: call.work,
                proof: fingerprint,
            },
        }
    }
}

impl<K, T, S, Q, F, P, W> Future for LeadOrJoin<'_, K, T, S, Q, F, P>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
    Q: Key<K>,
    F: FnOnce() -> W,
    P: Proof,
    W: Future<Output = T> + Send + 'static,
{
    type Output = Result<Outcome<T>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            // The functions through which the work is polled hold the result in one place: without optimization each mention
            // of it would be a copy on the stack of that poll. And each path returns for itself: to merge the results of
            // several paths and then match on them costs more than all the rest of a follower's poll.
            if let Stage::Caller {
                late,
                wait,
                role,
                caller,
            } = self.as_mut().project()
            {
                let caller = caller.into_ref();
                assert!(caller.is_seated(), "{OVER}");
                if follow(wait, &caller).is_err() {
                    caller.leave();
                    over(late);
                    return refused(Error::Reentrant);
                }
                let polled = caller.poll(cx);
                match &polled {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(failure)) if failure.is_another_calls() => {
                        if let Some((policy, call)) = again(late) {
                            self.set(Self::Call { policy, call });
                            continue;
                        }
                    }
                    Poll::Ready(_) => {}
                }
                end(wait);
                over(late);
                return told(polled, role.0);
            }
            match begin(self.as_mut()) {
                Ok(Begun::Joined) => {}
                Ok(Begun::Led(takeoff, work)) => {
                    let Stage::Caller { wait, role, caller, .. } = self.as_mut().project() else {
                        unreachable!("a call that leads is a caller")
                    };
                    let polled = caller.into_ref().take_off(takeoff, work, cx);
                    if polled.is_ready() {
                        end(wait);
                    }
                    return told(polled, role.0);
                }
                Err(error) => {
                    let Stage::Call { call, .. } = self.as_mut().project() else {
                        unreachable!("a call that is refused carries what it did")
                    };
                    let error = call.group.refuse(error);
                    self.set(Self::Over);
                    return refused(error);
                }
            }
        }
    }
}

/// Makes a call's result of how its flight landed.
#[inline]
pub(super) fn told<T>(polled: Poll<Landed<T>>, role: Role) -> Poll<Result<Outcome<T>, Error>> {
    match polled {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Ok(value)) => Poll::Ready(Ok(Outcome { value, role })),
        Poll::Ready(Err(failure)) => Poll::Ready(Err(failure.into())),
    }
}

/// Makes the result of a call that is refused. A function of its own, since without optimization each place that makes a result
/// takes stack for it.
#[cold]
pub(super) fn refused<T>(error: Error) -> Poll<Result<Outcome<T>, Error>> {
    Poll::Ready(Err(error))
}

/// Drops what was kept to make a late call again, which is not needed: the call has joined after all.
#[inline]
fn over<L>(late: &mut Option<Box<L>>) {
    if late.is_some() {
        quietly(|| *late = None);
    }
}

/// Ends a wait, if there is one. Few calls have one, so the others are spared the destructor's call.
#[inline]
fn end(wait: &mut Option<Box<Wait>>) {
    if wait.is_some() {
        *wait = None;
    }
}

/// Takes out what was kept to make a late call again.
#[cold]
fn again<'g, K, T, S, Q, F, P>(late: &mut Kept<'g, K, T, S, Q, F, P>) -> Option<WholeCall<'g, K, T, S, Q, F, P>> {
    late.take()?.0.take()
}

/// What a call has become.
enum Begun<K, T, F, P, W> {
    Joined,
    Led(Takeoff<K, T, P, W>, F),
}

/// Joins the key's flight or leads one. With that, the call becomes a caller. If the flight is to be aborted or cancelled
/// already, the call is kept beside the caller, to be made again once that is over.
fn begin<K, T, S, Q, F, P, W>(
    mut this: Pin<&mut LeadOrJoin<'_, K, T, S, Q, F, P>>,
) -> Result<Begun<K, T, F, P, W>, Error>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
    Q: Key<K>,
    F: FnOnce() -> W,
    P: Proof,
    W: Future<Output = T> + Send + 'static,
{
    let Stage::Call { policy, call } = this.as_mut().project() else {
        panic!("{OVER}")
    };
    let policy = policy.0;
    let inner = call.group;
    let mut parent = Anchor::current();
    let mut wait = None;
    let hash = KeyHash::of(call.key.hash(&inner.hasher));
    let can_spawn = policy.drive != Drive::Spawned || inner.runtime().is_some();
    let mut made = None;
    let mut shard = inner.map.shard(hash).lock();
    let mut seat = None;
    if Q::BORROWED {
        seat = shard
            .find(hash, |own| call.key.is(own))
            .map(|flight| inner.join(flight, call.proof.fingerprint(), &mut parent, &mut wait));
        if seat.is_none() {
            // Code of the user, so not under the lock.
            drop(shard);
            made = call.key.make();
            shard = inner.map.shard(hash).lock();
        }
    }
    let seat = match seat {
        Some(seat) => seat,
        None => match shard.find_or_reserve(hash, |own| call.key.is(own)) {
            Found::Flight(flight) => inner.join(flight, call.proof.fingerprint(), &mut parent, &mut wait),
            Found::Free(vacancy) => {
                let admitted = if can_spawn {
                    inner.admit()
                } else {
                    Err(Error::NoRuntime)
                };
                if let Err(error) = admitted {
                    drop(shard);
                    return Err(error);
                }
                let leader = LeadOrJoin::Caller {
                    role: Word(Role::Leader),
                    late: None,
                    wait: None,
                    caller: Caller::new(inner),
                };
                let Carried::Call { call, .. } = this.as_mut().project_replace(leader) else {
                    unreachable!("it was a call")
                };
                let Stage::Caller { wait, caller, .. } = this.project() else {
                    unreachable!("it is a caller now")
                };
                let Baggage { key, work, proof, .. } = call;
                let (flight, takeoff) = caller.into_ref().lead(key.owned(made), hash, proof, policy);
                if let Some(parent) = parent {
                    // The flight is new and waits for no other, so there is no circle.
                    *wait = Wait::enter(parent, flight.anchor()).ok();
                }
                vacancy.fill(flight);
                shard.led += 1;
                return Ok(Begun::Led(takeoff, work));
            }
        },
    };
    shard.joined += u64::from(seat.as_ref().is_ok_and(|seat| !seat.late));
    drop(shard);
    let seat = seat?;
    let is_late = seat.late;
    let caller = Caller::new(inner);
    caller.sit(seat);
    if is_late {
        join_late(this, wait, caller);
    } else {
        // The destructors in the call may panic. It has joined also then: an assignment that unwinds has assigned.
        this.set(LeadOrJoin::Caller {
            role: Word(Role::Follower),
            late: None,
            wait,
            caller,
        });
    }
    Ok(Begun::Joined)
}

/// Makes the call a caller, and keeps what it carried.
#[cold]
fn join_late<'g, K, T, S, Q, F, P>(
    mut this: Pin<&mut LeadOrJoin<'g, K, T, S, Q, F, P>>,
    wait: Option<Box<Wait>>,
    caller: Caller<K, T, Borrowed<'g, K, T, S>>,
) where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    let follower = LeadOrJoin::Caller {
        role: Word(Role::Follower),
        late: None,
        wait,
        caller,
    };
    if let Carried::Call { policy, call } = this.as_mut().project_replace(follower)
        && let Stage::Caller { late, .. } = this.project()
    {
        *late = Some(Box::new(Late(Some((policy, call)))));
    }
}

/// The message of the panic if a call is polled after it was ready.
const OVER: &str = "`Run` polled after it was ready";

impl Failure {
    /// Returns whether the flight was aborted or cancelled. A call that joined after that was asked for is made again.
    #[cold]
    fn is_another_calls(&self) -> bool {
        matches!(self, Self::Aborted | Self::Cancelled)
    }
}

/// The error of a call whose flight has no value.
impl From<Failure> for Error {
    #[cold]
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Panicked(panic) => Self::Panicked(panic),
            Failure::Aborted | Failure::Cancelled => Self::Aborted,
        }
    }
}

impl<K, T, S, Q, F, P> fmt::Debug for LeadOrJoin<'_, K, T, S, Q, F, P>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (begun, role) = match self {
            Self::Caller { caller, role, .. } => (caller.is_seated(), role.0),
            Self::Call { .. } | Self::Over => (false, Role::Leader),
        };
        f.debug_struct("Call")
            .field("begun", &begun)
            .field("role", &role)
            .finish_non_exhaustive()
    }
}
