//! A caller: one place in a flight, and the node by which it waits. This is the caller's side of the protocol that the parent
//! module describes.
//!
//! A caller is made before it is known whether it will lead or follow. It is pinned in the future that the user holds, and
//! leaves the flight when that future is dropped. `berth` has the caller and how it joins, `wait` how it waits, `land` how a
//! flight ends and how the caller leaves it, `drive` how it is polled, and `lead` how a flight begins.

mod berth;
mod drive;
mod land;
mod lead;
mod wait;

pub(crate) use self::berth::Caller;
pub(crate) use self::lead::Takeoff;
