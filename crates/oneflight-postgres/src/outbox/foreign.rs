//! A message in a transaction that another driver has begun: the same function as [`send`](super::store), with text for values.

use super::rows;
use crate::PostgresStore;
use crate::records::millis;
use oneflight::store::outbox::NewMessage;
use oneflight::store::{ForeignStatement, hex};

impl PostgresStore {
    /// Returns what sends a message.
    pub(crate) fn foreign_send(&self, message: &NewMessage) -> Vec<ForeignStatement> {
        self.send_hints();
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        let time = |value| match value {
            None => String::new(),
            Some(duration) => millis(duration).to_string(),
        };
        let values = [
            message.shard().get().to_string(),
            text(Some(&message.topic)),
            text(Some(&message.key)),
            message.deduplicated.to_string(),
            text(message.ordering_key.as_deref()),
            text(Some(&message.content_type)),
            hex(&message.payload),
            rows::write_headers(&message.headers).unwrap_or_default(),
            message
                .correlation_id
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
            text(message.trace_parent.as_ref().map(|it| it.as_str())),
            time(message.delay),
            time(message.expires_after),
            message.takes_turns.to_string(),
        ];
        vec![ForeignStatement::new(
            self.outbox.statements.foreign_send.clone(),
            values,
        )]
    }
}
