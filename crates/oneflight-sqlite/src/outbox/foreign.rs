//! A message in a transaction that another driver has begun: the same rows as [`send`](super::store) writes, with text for values.
//!
//! A position is drawn first, and is left unused by a message that is there already.

use super::super::store::SqliteStore;
use super::rows::{self, NOW, millis};
use oneflight::store::outbox::NewMessage;
use oneflight::store::{ForeignStatement, hex};

const DRAW: &str = "UPDATE main.oneflight_outbox SET position = position + 1 RETURNING 'drawn' AS oneflight";

impl SqliteStore {
    /// Returns what sends a message.
    pub(crate) fn foreign_send(message: &NewMessage) -> Vec<ForeignStatement> {
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        let time = |value| match value {
            None => String::new(),
            Some(duration) => millis(duration).to_string(),
        };
        let (key, topic) = (message.key.as_ref().to_owned(), message.topic.as_ref().to_owned());
        let flag = |is: bool| u8::from(is).to_string();
        // Under an ordering key, a relay has to know of it, to hold up what is behind it.
        let parks = message.delay.is_some() && message.ordering_key.is_none();
        let known =
            "SELECT id FROM main.oneflight_messages WHERE key = ? AND topic = ? AND deduplicated = 1 AND ? = '1'";
        let optional = "nullif(?, '')";
        let insert = format!(
            "INSERT INTO main.oneflight_messages
                (position, state, shard, attempts, blocks, sent_at, due_at, expires_at, deduplicated, topic, key,
                 ordering_key, content_type, correlation_id, traceparent, headers, payload)
             SELECT position, CAST(? AS INTEGER), CAST(? AS INTEGER), 0, 0, {NOW}, {NOW} + CAST({optional} AS INTEGER),
                    {NOW} + CAST({optional} AS INTEGER), CAST(? AS INTEGER), ?, ?, {optional}, ?, {optional}, {optional}, {optional},
                    unhex(?)
             FROM main.oneflight_outbox WHERE NOT EXISTS ({known})
             RETURNING 'sent' AS oneflight"
        );
        let values = [
            flag(parks),
            message.shard().get().to_string(),
            time(message.delay),
            time(message.expires_after),
            flag(message.deduplicated),
            topic.clone(),
            key.clone(),
            text(message.ordering_key.as_deref()),
            text(Some(&message.content_type)),
            message
                .correlation_id
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
            text(message.trace_parent.as_ref().map(|it| it.as_str())),
            rows::write_headers(&message.headers).unwrap_or_default(),
            hex(&message.payload),
            key.clone(),
            topic.clone(),
            flag(message.deduplicated),
        ];
        let tell = format!(
            "SELECT coalesce((SELECT id || ' new' FROM main.oneflight_messages
                              WHERE position = (SELECT position FROM main.oneflight_outbox)),
                             ({known}) || ' known') AS oneflight"
        );
        vec![
            ForeignStatement::new(DRAW, []),
            ForeignStatement::new(insert, values),
            ForeignStatement::new(tell, [key, topic, flag(message.deduplicated)]),
        ]
    }
}
