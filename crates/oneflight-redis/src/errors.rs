//! What an error of the server or of the way to it means.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use oneflight::store::StoreError;

/// The server does not know the script, and has to be sent it.
pub(super) fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// What an error is to the store's user.
pub(super) fn unavailable(error: RedisError) -> StoreError {
    StoreError::unavailable(error)
}
