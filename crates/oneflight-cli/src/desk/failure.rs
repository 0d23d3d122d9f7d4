//! What an error of the library's means to the person at the desk.

use oneflight::Error;
use oneflight::idempotency::ErrorKind;

use crate::exit::{Code, Failure};
use crate::output;
use crate::store::{told, unreachable};

/// A failure to change something, as the command ends with it.
pub(super) fn failed(error: Error) -> Failure {
    match error.kind() {
        ErrorKind::InProgress { retry_after } => {
            let told = format!(
                "{} was not changed: its holder is alive, and its lease runs for another {}; wait until it is over, or look again",
                error.identity(),
                output::duration(*retry_after)
            );
            Failure::new(Code::Temporary, told)
        }
        ErrorKind::InDoubt { .. } => {
            let told = format!(
                "{} was not changed: another attempt has ended in doubt meanwhile; look at it again",
                error.identity()
            );
            Failure::new(Code::Temporary, told)
        }
        ErrorKind::Store(source) => unreachable(source.clone()),
        ErrorKind::Codec(_) | ErrorKind::ResultTooLarge { .. } => Failure::new(Code::Data, told(&error)),
        ErrorKind::Conflict => {
            let told = format!(
                "{} is in use for another request already; nothing was changed",
                error.identity()
            );
            Failure::new(Code::No, told)
        }
        ErrorKind::Unrecorded(_) => Failure::new(Code::Unavailable, told(&error)),
        _ => Failure::new(Code::Software, told(&error)),
    }
}
