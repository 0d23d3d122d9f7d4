//! What a caller may choose: who polls the work, and what becomes of it when nobody waits for it any more.

/// What becomes of the work when every caller has left before it was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnAbandon {
    /// It is spawned onto the runtime and runs to its end: a mutation cut in half is the worst outcome. Where there is
    /// no runtime it is dropped, as with [`Cancel`](Self::Cancel).
    ///
    /// A multi-threaded runtime runs it whatever its callers do. A current-thread runtime runs it only while a thread is
    /// inside its `block_on`. Until then, callers who join the flight, and [`Group::drain`](crate::Group::drain), poll
    /// the work in its place. If there are none, the work rests until the runtime is driven, or is dropped with it.
    #[default]
    Finish,
    /// It is dropped where it stands, before its key is free again.
    Cancel,
}

/// Who polls the work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Drive {
    /// A caller's own task: nothing is spawned and no task is switched to. If that caller is dropped or not polled,
    /// another one who is polled goes on.
    ///
    /// Where work calls for a key whose work calls for another one, and so on, each is polled inside the one before. Below
    /// the sixteenth, a chain of any length takes a bounded part of the stack: on a multi-threaded runtime the work is given
    /// a task of its own, as with [`Spawned`](Self::Spawned). Elsewhere it is polled by the same task once the outermost of the
    /// works has been polled. So there, work that is called for at such a depth does not go on while a thread blocks inside
    /// the outermost one's poll, even if it blocks on that very call.
    #[default]
    InPlace,
    /// A task of its own, so that it goes on whether its callers are polled or not.
    ///
    /// On a multi-threaded runtime that task alone polls the work. On a current-thread runtime, which may exist and not be
    /// driven, a caller who is polled stands in for a task that was woken and has not come by the caller's next poll. It
    /// polls the work inside the task's runtime (`Handle::enter`), so it finds the same reactor and timers around it; what
    /// they bring comes only when that runtime is driven. While the runtime is driven and its callers are tasks of it, the
    /// work stays on its own task. If the task and one standby are both not polled, the other callers wait.
    Spawned,
}
