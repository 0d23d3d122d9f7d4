//! Events about what only a store sees.

use super::error::StoreError;
use crate::record::FencingToken;
use crate::telemetry;

/// Reports a record that cannot be read and is left out of the list of [what is in doubt](super::Store::in_doubt).
///
/// Emits an event of the level error, with the token of the record. Does nothing without the feature `tracing`.
pub fn report_unreadable(token: FencingToken, error: &StoreError) {
    telemetry::unreadable(token.get(), error);
}

/// Reports that a server draws fencing tokens again which it had handed out before, as after the loss of its data.
///
/// Emits an event of the level error, with the name of the counter and the token that is drawn next. Does nothing
/// without the feature `tracing`.
pub fn report_forgotten_tokens(counter: &str, token: FencingToken) {
    telemetry::set_back(&counter, token.get());
}
