//! An answer, and how many replicas have what was written by then.

use std::time::Duration;

use redis::{Cmd, Value, cmd};

use super::super::errors::unavailable;
use oneflight::store::StoreError;

/// How many replicas must have what was written, and how long that is waited for.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Acknowledgement {
    pub(in super::super) replicas: u32,
    pub(in super::super) within: Duration,
}

impl Acknowledgement {
    /// Returns the command that waits for them.
    pub(super) fn wait(self) -> Cmd {
        // Zero would be for ever.
        let millis = u64::try_from(self.within.as_millis()).unwrap_or(u64::MAX);
        let mut wait = cmd("WAIT");
        wait.arg(self.replicas).arg(millis.clamp(1, u64::from(u32::MAX)));
        wait
    }

    /// Returns whether there are enough, as the server answers that command.
    pub(super) fn check(self, answer: Value) -> Result<(), StoreError> {
        let answer = answer.extract_error().map_err(unavailable)?;
        let Value::Int(acknowledged) = answer else {
            return Err(StoreError::Corrupt {
                what: "the server's answer to WAIT is not a number",
            });
        };
        let acknowledged = u32::try_from(acknowledged).unwrap_or(0);
        if acknowledged < self.replicas {
            return Err(StoreError::TooFewReplicas {
                acknowledged,
                wanted: self.replicas,
                waited: self.within,
            });
        }
        Ok(())
    }
}

/// An answer, in which a part may be an error, and whether enough replicas have what the server had written by then.
pub(in super::super) struct Answered {
    pub(in super::super) value: Value,
    pub(in super::super) acknowledged: Result<(), StoreError>,
}
