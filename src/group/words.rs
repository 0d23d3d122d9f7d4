//! Policies and roles in four bytes, beside the tag of a call's future.

use crate::flight::{Drive, OnAbandon};

/// What becomes of a flight's work if all callers leave, and which task polls it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(u32)]
pub(super) enum Policy {
    #[default]
    FinishInPlace,
    FinishSpawned,
    CancelInPlace,
    CancelSpawned,
}

impl Policy {
    const fn new(on_abandon: OnAbandon, drive: Drive) -> Self {
        match (on_abandon, drive) {
            (OnAbandon::Finish, Drive::InPlace) => Self::FinishInPlace,
            (OnAbandon::Finish, Drive::Spawned) => Self::FinishSpawned,
            (OnAbandon::Cancel, Drive::InPlace) => Self::CancelInPlace,
            (OnAbandon::Cancel, Drive::Spawned) => Self::CancelSpawned,
        }
    }

    pub(super) const fn set_on_abandon(&mut self, on_abandon: OnAbandon) {
        *self = Self::new(on_abandon, self.drive());
    }

    pub(super) const fn set_drive(&mut self, drive: Drive) {
        *self = Self::new(self.on_abandon(), drive);
    }

    #[inline]
    pub(super) const fn on_abandon(self) -> OnAbandon {
        match self {
            Self::FinishInPlace | Self::FinishSpawned => OnAbandon::Finish,
            Self::CancelInPlace | Self::CancelSpawned => OnAbandon::Cancel,
        }
    }

    #[inline]
    pub(super) const fn drive(self) -> Drive {
        match self {
            Self::FinishInPlace | Self::CancelInPlace => Drive::InPlace,
            Self::FinishSpawned | Self::CancelSpawned => Drive::Spawned,
        }
    }
}

/// A caller's role.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Part {
    Leader,
    Follower,
}
