//! A caller: one place in a flight, and the node by which he waits. The protocol of the module's documentation, from
//! his side.
//!
//! A caller is made before it is known whether he will lead or follow, lives pinned in the future that the user holds,
//! and leaves when that is dropped. `berth` has what he is and how he joins, `wait` how he waits, `land` how a flight ends and
//! how he leaves it, `drive` what he does when he is polled, `lead` how a flight begins.

mod berth;
mod drive;
mod land;
mod lead;
mod wait;

pub(crate) use self::berth::Caller;
pub(crate) use self::lead::Takeoff;
