//! The policies of a flight: how its work is polled, and what becomes of the work when every caller has left.

/// What becomes of the work if every caller leaves before it is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnAbandon {
    /// Spawns the work onto the runtime, where it runs to its end: a mutation cut in half is the worst outcome. Without a
    /// runtime the work is dropped, as with [`Cancel`](Self::Cancel).
    ///
    /// A multi-threaded runtime runs the work whatever the callers do. A current-thread runtime runs it only while a thread
    /// is inside its `block_on`. Until then, callers that join the flight poll the work in its place, and so does
    /// [`Group::drain`](crate::Group::drain). Without them, the work rests until the runtime is driven, or is dropped with it.
    #[default]
    Finish,
    /// Drops the work where it stands, before its key is free again.
    Cancel,
}

/// Which task polls the work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Drive {
    /// A caller's own task: nothing is spawned, and no other task has to run. If that caller is dropped or not polled,
    /// another caller that is polled goes on with the work.
    ///
    /// Work may call for a key whose work calls for another key, and so on. Each is polled inside the one before, sixteen
    /// deep at most, so that a chain of any length takes a bounded part of the stack. Below that depth, on a multi-threaded
    /// runtime, the work is given a task of its own, as with [`Spawned`](Self::Spawned). Elsewhere the same task polls it, as
    /// soon as the poll of the outermost work has returned. So it does not go on while a thread blocks inside the
    /// outermost poll, even if the thread blocks on that very call.
    #[default]
    InPlace,
    /// A task of its own, so that the work goes on whether its callers are polled or not.
    ///
    /// On a multi-threaded runtime only that task polls the work. A current-thread runtime may exist and not be driven. There,
    /// a caller that is polled stands in for a task that was woken and has not come by the caller's next poll. The caller
    /// polls the work inside the task's runtime (`Handle::enter`), so the work finds the same reactor and timers around it.
    /// Their events come only when that runtime is driven. While the runtime is driven and the callers are its tasks, the
    /// work stays on its own task. If the task and one standby are both not polled, the other callers wait.
    Spawned,
}

/// Both of them, as a call or its group chose them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Policy {
    pub(crate) on_abandon: OnAbandon,
    pub(crate) drive: Drive,
}
