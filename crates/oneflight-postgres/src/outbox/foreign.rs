//! A message in a transaction that another driver has begun: the same function as [`send`](super::store), with text for values.

use super::rows;
use crate::PostgresStore;
use crate::records::millis;
use oneflight::store::outbox::NewMessage;
use oneflight::store::{ForeignStatement, hex};

/// The text of the statement, by the name of the function. An optional value that is missing is empty.
pub(crate) fn send(function: &str) -> String {
    let optional = |at: u32| format!("nullif(${at}::text, '')");
    let values = [
        "$1::text::smallint".to_owned(),
        "$2::text".to_owned(),
        "$3::text".to_owned(),
        "$4::text::boolean".to_owned(),
        optional(5),
        "$6::text".to_owned(),
        "pg_catalog.decode($7::text, 'hex')".to_owned(),
        optional(8),
        optional(9),
        optional(10),
        format!("{}::bigint", optional(11)),
        format!("{}::bigint", optional(12)),
        "$13::text::boolean".to_owned(),
    ];
    let values = values.map(|value| format!("ARRAY[{value}]"));
    format!(
        "SELECT message_id::text || CASE WHEN is_new THEN ' new' ELSE ' known' END AS oneflight FROM {function}({})",
        values.join(", ")
    )
}

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
