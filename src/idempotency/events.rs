//! What is worth a line in a log. Without the feature `tracing`, nothing.

use crate::identity::RequestId;
use crate::record::FencingToken;
use crate::store::StoreError;

pub(super) fn lease_lost(id: &RequestId, token: FencingToken) {
    #[cfg(feature = "tracing")]
    tracing::warn!(target: "oneflight", request = %id, token = token.get(), "the claim was lost to another holder while its work ran");
    #[cfg(not(feature = "tracing"))]
    let _ = (id, token);
}

pub(super) fn took_over(id: &RequestId, from: FencingToken, attempt: u32) {
    #[cfg(feature = "tracing")]
    tracing::warn!(target: "oneflight", request = %id, from = from.get(), attempt, "took over the claim of a holder that died");
    #[cfg(not(feature = "tracing"))]
    let _ = (id, from, attempt);
}

pub(super) fn unrecorded(id: &RequestId, error: &StoreError) {
    #[cfg(feature = "tracing")]
    tracing::error!(target: "oneflight", request = %id, %error, "work was done and could not be recorded");
    #[cfg(not(feature = "tracing"))]
    let _ = (id, error);
}

pub(super) fn not_released(id: &RequestId, error: &StoreError) {
    #[cfg(feature = "tracing")]
    tracing::warn!(target: "oneflight", request = %id, %error, "a claim could not be given back; it is in doubt when its lease ends");
    #[cfg(not(feature = "tracing"))]
    let _ = (id, error);
}
