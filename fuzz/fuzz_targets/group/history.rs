//! A history: what is done to a group, decoded from bytes. Any bytes are one, and a changed byte changes little of it.

use arbitrary::{Arbitrary, Result, Unstructured};
use oneflight::{Drive, OnAbandon};

pub const KEYS: u8 = 4;
pub const SLOTS: usize = 6;
const OPS: usize = 48;
const STEPS: usize = 5;
/// How deep calls stand in the work of other calls.
const DEPTH: usize = 3;

#[derive(Debug)]
pub struct History {
    pub settings: Settings,
    pub ops: Vec<Op>,
}

#[derive(Debug)]
pub struct Settings {
    pub max_flights: Option<usize>,
    pub max_callers: Option<u32>,
    pub on_abandon: OnAbandon,
    pub drive: Drive,
    pub runtime: Runtime,
    pub end: End,
}

/// Where abandoned and spawned work goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    None,
    /// The group has the handle.
    Given,
    /// Everything happens in the runtime's context.
    Entered,
}

/// What comes after the operations. Then nothing may be left.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// Every gate opens, and whoever is woken is polled.
    Settle,
    /// Every caller leaves, and every gate opens.
    Leave,
    /// The runtime shuts down, and then as `Settle`.
    ShutDown,
}

#[derive(Debug)]
pub enum Op {
    Act(Act),
    /// Whoever is woken is polled, until nobody is; but for one slot, if there is one that stays idle.
    Settle {
        idle: Option<usize>,
    },
    /// The runtime's tasks are polled.
    Tick,
    ShutDown,
    /// The user's code at this spot panics when it is next but so many reached.
    Sabotage(Spot, u8),
}

/// Code of the user's that a group calls, apart from work.
#[derive(Clone, Copy, Debug)]
pub enum Spot {
    Hash,
    Eq,
    ToOwned,
    CloneValue,
    DropValue,
    DropWork,
    CloneWaker,
    Wake,
}

/// What can be done from outside and from inside of work.
#[derive(Debug)]
pub enum Act {
    /// A new call in a slot (whoever is there is dropped), polled once.
    Begin {
        slot: usize,
        inline: bool,
        call: Call,
    },
    /// Somebody waits until the group is idle.
    Drain {
        slot: usize,
        inline: bool,
    },
    Poll {
        slot: usize,
    },
    Drop {
        slot: usize,
    },
    /// One pass for the work of the n-th newest execution.
    Open {
        back: usize,
    },
    Forget {
        key: u8,
    },
    Abort {
        key: u8,
    },
    Close,
    /// Everything that can be read is.
    Look,
}

#[derive(Debug)]
pub struct Call {
    pub key: u8,
    pub kind: Kind,
    pub fingerprint: Option<u8>,
    pub on_abandon: Option<OnAbandon>,
    pub drive: Option<Drive>,
    pub script: Script,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Run,
    RunByRef,
    Join,
}

/// What the work of a call does, if it leads.
#[derive(Debug)]
pub struct Script {
    /// The closure panics, so that there is no work.
    pub stillborn: bool,
    pub steps: Vec<Step>,
    pub at_drop: Option<Box<Act>>,
}

#[derive(Debug)]
pub enum Step {
    /// Waits for a pass.
    Pass,
    /// Wakes itself and is pending once.
    Yield,
    Act(Act),
    /// A call, awaited.
    Call(Call),
    /// A call, polled once and dropped.
    Glance(Call),
    Panic,
}

impl<'a> Arbitrary<'a> for History {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let settings = Settings {
            max_flights: one_in(u, 4)?.then(|| u.int_in_range(1..=3)).transpose()?,
            max_callers: one_in(u, 4)?.then(|| u.int_in_range(1..=3)).transpose()?,
            on_abandon: on_abandon(u)?,
            drive: drive(u)?,
            runtime: *u.choose(&[Runtime::Given, Runtime::None, Runtime::Entered])?,
            end: *u.choose(&[End::Settle, End::Leave, End::ShutDown])?,
        };
        let mut ops = Vec::new();
        while !u.is_empty() && ops.len() < OPS {
            ops.push(op(u)?);
        }
        Ok(Self { settings, ops })
    }
}

fn op(u: &mut Unstructured<'_>) -> Result<Op> {
    Ok(match u.int_in_range(0..=19)? {
        0..=14 => Op::Act(act(u, DEPTH)?),
        15 | 16 => Op::Settle {
            idle: one_in(u, 2)?.then(|| slot(u)).transpose()?,
        },
        17 => Op::Tick,
        18 if one_in(u, 4)? => Op::ShutDown,
        _ => Op::Sabotage(
            *u.choose(&[
                Spot::Hash,
                Spot::Eq,
                Spot::ToOwned,
                Spot::CloneValue,
                Spot::DropValue,
                Spot::DropWork,
                Spot::CloneWaker,
                Spot::Wake,
            ])?,
            u.int_in_range(0..=7)?,
        ),
    })
}

fn act(u: &mut Unstructured<'_>, depth: usize) -> Result<Act> {
    Ok(match u.int_in_range(0..=23)? {
        0..=7 if depth > 0 => Act::Begin {
            slot: slot(u)?,
            inline: one_in(u, 4)?,
            call: call(u, depth - 1)?,
        },
        0..=12 => Act::Poll { slot: slot(u)? },
        13..=15 => Act::Drop { slot: slot(u)? },
        16..=18 => Act::Open {
            back: u.int_in_range(0..=4)?,
        },
        19 => Act::Forget { key: key(u)? },
        20 => Act::Abort { key: key(u)? },
        21 if one_in(u, 4)? => Act::Close,
        22 => Act::Drain {
            slot: slot(u)?,
            inline: one_in(u, 4)?,
        },
        _ => Act::Look,
    })
}

fn call(u: &mut Unstructured<'_>, depth: usize) -> Result<Call> {
    Ok(Call {
        key: key(u)?,
        kind: *u.choose(&[Kind::Run, Kind::Run, Kind::RunByRef, Kind::Join])?,
        fingerprint: one_in(u, 4)?.then(|| u.int_in_range(0..=1)).transpose()?,
        on_abandon: one_in(u, 2)?.then(|| on_abandon(u)).transpose()?,
        drive: one_in(u, 2)?.then(|| drive(u)).transpose()?,
        script: script(u, depth)?,
    })
}

fn script(u: &mut Unstructured<'_>, depth: usize) -> Result<Script> {
    let steps = u.int_in_range(0..=STEPS)?;
    Ok(Script {
        stillborn: one_in(u, 16)?,
        steps: (0..steps).map(|_| step(u, depth)).collect::<Result<_>>()?,
        at_drop: one_in(u, 8)?.then(|| act(u, depth).map(Box::new)).transpose()?,
    })
}

fn step(u: &mut Unstructured<'_>, depth: usize) -> Result<Step> {
    Ok(match u.int_in_range(0..=15)? {
        0..=5 => Step::Pass,
        6 | 7 => Step::Yield,
        8..=10 if depth > 0 => Step::Call(call(u, depth - 1)?),
        11 if depth > 0 => Step::Glance(call(u, depth - 1)?),
        12 => Step::Panic,
        _ => Step::Act(act(u, depth)?),
    })
}

fn slot(u: &mut Unstructured<'_>) -> Result<usize> {
    u.int_in_range(0..=SLOTS - 1)
}

fn key(u: &mut Unstructured<'_>) -> Result<u8> {
    u.int_in_range(0..=KEYS - 1)
}

fn on_abandon(u: &mut Unstructured<'_>) -> Result<OnAbandon> {
    Ok(*u.choose(&[OnAbandon::Finish, OnAbandon::Cancel])?)
}

fn drive(u: &mut Unstructured<'_>) -> Result<Drive> {
    Ok(*u.choose(&[Drive::InPlace, Drive::Spawned])?)
}

/// False once the bytes are used up.
fn one_in(u: &mut Unstructured<'_>, times: u8) -> Result<bool> {
    Ok(u.int_in_range(0..=times - 1)? == times - 1)
}
