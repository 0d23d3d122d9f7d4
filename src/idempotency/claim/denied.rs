//! What a claim that is not granted comes to.

use crate::idempotency::error::{Error, ErrorKind};
use crate::identity::RequestIdentity;
use crate::record::Record;
use crate::store::Denied;

/// What a caller is told that does not wait and asks no policy: the record of a request that is completed, or the
/// reason why there is no reply.
pub(in crate::idempotency) fn told(id: &RequestIdentity, denied: Denied) -> Result<Record, Error> {
    Err(match denied {
        Denied::Completed(record) => return Ok(record),
        Denied::Conflict => ErrorKind::Conflict.of(id),
        Denied::InProgress {
            lease_remaining: retry_after,
            ..
        } => ErrorKind::InProgress { retry_after }.of(id),
        Denied::InDoubt { attempt, .. } => ErrorKind::InDoubt { attempt }.of(id),
    })
}
