//! What an error of the server or of the way to it means.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use oneflight::store::{StoreError, StoreFailure};

/// Returns whether the server does not know the script, and has to be sent it.
pub(super) fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Returns whether the server has not run a script since its keys are of several slots.
pub(super) fn is_of_several_slots(error: &StoreError) -> bool {
    let StoreError::Unavailable { source } = error else {
        return false;
    };
    let error = source.downcast_ref::<RedisError>();
    error.is_some_and(|error| error.kind() == ErrorKind::Server(ServerErrorKind::CrossSlot))
}

/// Makes the error that the user of the store gets.
pub(super) fn unavailable(error: RedisError) -> StoreError {
    let failure = match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => StoreFailure::NotLoggedIn,
        // In a script, what was called before that stays done.
        (_, Some("NOPERM")) if !error.detail().is_some_and(|said| said.contains("script")) => StoreFailure::Forbidden,
        (_, Some("READONLY")) => StoreFailure::ReadOnly,
        (_, Some("OOM")) => StoreFailure::Full,
        _ => return StoreError::unavailable(error),
    };
    StoreError::failed(failure, error)
}
