//! What an error of the server or of the way to it means.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use oneflight::store::StoreError;

/// Returns whether the server does not know the script, and has to be sent it.
pub(super) fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Makes the error that the user of the store gets.
pub(super) fn unavailable(error: RedisError) -> StoreError {
    StoreError::unavailable(error)
}
