//! The outbox, as the contract asks for it.

use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, query};

use super::super::begun::Body;
use super::super::busy::{is_busy, unavailable};
use super::super::ending::{End, Ended};
use super::super::queue::Rank;
use super::super::store::SqliteStore;
use super::changes;
use super::rows::{self, NOW, get, list, message, millis};
use oneflight::store::StoreError;
use oneflight::store::outbox::{
    Beat, Beaten, Bell, Blocker, Cancelled, Cursor, DeadLetter, MessageId, NewMessage, OutboxStore, PAGE_PAYLOAD_BYTES,
    Page, Postponed, RelayToken, Sent, Settlement, Shard, StoredMessage, Taken,
};

/// How long the store is kept in order at a time.
const SPELL: Duration = Duration::from_secs(2);

impl SqliteStore {
    /// One transaction of the outbox's, in its turn.
    pub(super) async fn in_turn<R: Send>(
        &self,
        body: impl for<'t> FnOnce(&'t mut SqliteConnection) -> Body<'t, R> + Send,
    ) -> Result<R, StoreError> {
        match self.writer.transaction(Rank::Business, None, body).await? {
            Ended::Committed(answer) | Ended::RolledBack(answer) => Ok(answer),
            Ended::Unknown(_, error) => Err(self.writer.unavailable(error)),
        }
    }

    async fn withdraw(&self, id: MessageId, pause: Option<Duration>) -> Result<bool, StoreError> {
        let pause = pause.map(millis);
        self.in_turn(move |connection| {
            Box::pin(async move { Ok((End::Commit, changes::withdraw(connection, id, pause).await?)) })
        })
        .await
    }

    /// Keeps the outbox in order, if there is something. Takes no turn if not.
    pub(crate) async fn keep_house_if_used(&self) -> Result<(), StoreError> {
        let look = "SELECT EXISTS (SELECT 1 FROM main.oneflight_messages)";
        let used: bool = sqlx::query_scalar(look)
            .fetch_one(&self.pool)
            .await
            .map_err(unavailable)?;
        if used {
            self.keep_house().await?;
        }
        Ok(())
    }

    /// The messages that a statement reads.
    async fn stored(&self, condition: String) -> Result<Vec<StoredMessage>, StoreError> {
        self.in_turn(move |connection| {
            Box::pin(async move {
                let columns = rows::columns("payload");
                let read = format!("SELECT {columns} FROM main.oneflight_messages WHERE {condition}");
                let rows = changes::all(connection, read).await?;
                let messages: Result<Vec<_>, _> = rows.iter().map(message).collect();
                Ok((End::RollBack, messages?))
            })
        })
        .await
    }
}

/// In a transaction that was begun by reading, SQLite lets nobody write while another one does, or has since.
fn not_sent(error: sqlx::Error) -> StoreError {
    match is_busy(&error) {
        true => StoreError::Unsupported {
            advice: "the transaction cannot write, since another one writes or has written since it was begun; begin it \
                     as one that writes, by `pool.begin_with(\"BEGIN IMMEDIATE\")`, which waits for its turn",
        },
        false => unavailable(error),
    }
}

async fn send(connection: &mut SqliteConnection, new: &NewMessage) -> Result<Sent, StoreError> {
    if new.deduplicated {
        let look = query("SELECT id FROM main.oneflight_messages WHERE key = ?1 AND topic = ?2 AND deduplicated = 1");
        let known = look
            .bind(&*new.key)
            .bind(&*new.topic)
            .fetch_optional(&mut *connection)
            .await
            .map_err(not_sent)?;
        if let Some(known) = known {
            return Ok(Sent::Duplicate(MessageId::new(get(&known, "id")?)));
        }
    }
    let position = changes::draw(connection, not_sent).await?;
    // Under an ordering key, a relay has to know of it, to hold up what is behind it.
    let parks = new.delay.is_some() && new.ordering_key.is_none();
    let text = format!(
        "INSERT INTO main.oneflight_messages
            (position, state, shard, attempts, blocks, sent_at, due_at, expires_at, deduplicated, topic, key, ordering_key,
             content_type, correlation_id, traceparent, headers, payload)
         VALUES (?1, ?2, ?3, 0, 0, {NOW}, {NOW} + ?4, {NOW} + ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
         RETURNING id"
    );
    let insert = query(AssertSqlSafe(text))
        .bind(position)
        .bind(i64::from(parks))
        .bind(new.shard().get())
        .bind(new.delay.map(millis))
        .bind(new.expires_after.map(millis))
        .bind(new.deduplicated)
        .bind(&*new.topic)
        .bind(&*new.key)
        .bind(new.ordering_key.as_deref())
        .bind(&*new.content_type)
        .bind(new.correlation_id.as_ref().map(ToString::to_string))
        .bind(new.trace_parent.as_ref().map(|parent| parent.as_str()))
        .bind(rows::write_headers(&new.headers))
        .bind(&*new.payload);
    let row = insert.fetch_one(connection).await.map_err(not_sent)?;
    Ok(Sent::New(MessageId::new(get(&row, "id")?)))
}

impl OutboxStore for SqliteStore {
    fn bell(&self) -> &Bell {
        &self.bell
    }

    async fn send_in(
        &self,
        connection: &mut SqliteConnection,
        messages: Vec<NewMessage>,
    ) -> Result<Vec<Sent>, StoreError> {
        let mut sent = Vec::with_capacity(messages.len());
        for message in &messages {
            sent.push(send(connection, message).await?);
        }
        Ok(sent)
    }

    async fn cancel(&self, id: MessageId) -> Result<Cancelled, StoreError> {
        Ok(match self.withdraw(id, None).await? {
            true => Cancelled::Cancelled,
            false => Cancelled::TooLate,
        })
    }

    async fn postpone(&self, id: MessageId, delay: Duration) -> Result<Postponed, StoreError> {
        Ok(match self.withdraw(id, Some(delay)).await? {
            true => Postponed::Postponed,
            false => Postponed::TooLate,
        })
    }

    async fn dead_letters(&self, limit: usize, after: Option<MessageId>) -> Result<Vec<DeadLetter>, StoreError> {
        let (after, limit) = (
            after.map_or(0, MessageId::get),
            i64::try_from(limit).unwrap_or(i64::MAX),
        );
        self.in_turn(move |connection| {
            Box::pin(async move {
                let list = format!(
                    "SELECT * FROM main.oneflight_messages WHERE state = 2 AND id > {after} ORDER BY id LIMIT {limit}"
                );
                let rows = changes::all(connection, list).await?;
                let letters: Result<Vec<_>, _> = rows.iter().map(rows::dead_letter).collect();
                Ok((End::RollBack, letters?))
            })
        })
        .await
    }

    async fn redrive(&self, id: MessageId) -> Result<bool, StoreError> {
        let id = id.get();
        self.in_turn(move |connection| {
            Box::pin(async move {
                let look = format!("SELECT 1 FROM main.oneflight_messages WHERE id = {id} AND state = 2");
                let is_dead = !changes::all(connection, look).await?.is_empty();
                if is_dead {
                    changes::bring_back(connection, id, ", attempts = 0").await?;
                }
                Ok((End::Commit, is_dead))
            })
        })
        .await
    }

    async fn beat(&self, beat: Beat) -> Result<Beaten, StoreError> {
        let beaten = self.in_turn(move |connection| {
            Box::pin(async move { Ok((End::Commit, changes::beat(connection, &beat).await?)) })
        });
        beaten.await?.ok_or(StoreError::RelayOutdated)
    }

    async fn fetch(
        &self,
        shards: &[Shard],
        cursor: &Cursor,
        _until: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let (after, of) = (changes::place(cursor), rows::shards(shards));
        self.in_turn(move |connection| {
            Box::pin(async move {
                let columns = rows::columns(&format!(
                    "CASE WHEN length(payload) <= {PAGE_PAYLOAD_BYTES} THEN payload END"
                ));
                let read = format!(
                    "SELECT {columns} FROM main.oneflight_messages
                     WHERE state = 0 AND position > {after} AND shard IN ({of}) ORDER BY position LIMIT {limit}"
                );
                let rows = changes::all(connection, read).await?;
                let messages: Result<Vec<_>, _> = rows.iter().map(message).collect();
                let messages = messages?;
                let mut blocked = Vec::new();
                if after == 0 {
                    // What has come back stands behind later messages of its ordering key.
                    let look = format!(
                        "SELECT ordering_key, id, topic FROM main.oneflight_messages
                         WHERE blocks = 1 AND state IN (0, 1, 2) AND ordering_key IS NOT NULL AND shard IN ({of})"
                    );
                    for row in changes::all(connection, look).await? {
                        blocked.push(Blocker {
                            id: MessageId::new(get(&row, "id")?),
                            topic: get::<&str>(&row, "topic")?.into(),
                            ordering_key: get::<&str>(&row, "ordering_key")?.into(),
                        });
                    }
                }
                let look = format!("SELECT min(due_at) - {NOW} AS due_in FROM main.oneflight_messages WHERE state = 1");
                let due = changes::all(connection, look).await?;
                let due: Option<i64> = due.first().map_or(Ok(None), |row| get(row, "due_in"))?;
                let last = messages.last().map_or(after, |message| message.position);
                let page = Page {
                    cursor: Cursor::new(last.to_string()),
                    more: messages.len() == limit,
                    due_in: due.map(rows::read_millis),
                    messages,
                    blocked,
                };
                Ok((End::RollBack, page))
            })
        })
        .await
    }

    async fn reload(&self, positions: &[i64]) -> Result<Vec<StoredMessage>, StoreError> {
        let wanted = list(positions.iter().copied());
        self.stored(format!("state = 0 AND position IN ({wanted}) ORDER BY position"))
            .await
    }

    async fn take(
        &self,
        group: &str,
        token: RelayToken,
        shards: &[Shard],
        messages: &[(MessageId, i64)],
    ) -> Result<Taken, StoreError> {
        let (group, shards, messages) = (group.to_owned(), shards.to_vec(), messages.to_vec());
        self.in_turn(move |connection| {
            Box::pin(async move {
                let taken = changes::take(connection, &group, token, &shards, &messages).await?;
                Ok((End::Commit, taken))
            })
        })
        .await
    }

    async fn settle(
        &self,
        group: &str,
        token: RelayToken,
        shards: &[Shard],
        settlement: &Settlement,
    ) -> Result<Vec<Shard>, StoreError> {
        let (group, shards, settlement) = (group.to_owned(), shards.to_vec(), settlement.clone());
        self.in_turn(move |connection| {
            Box::pin(async move {
                let lost = changes::settle(connection, &group, token, &shards, &settlement).await?;
                Ok((End::Commit, lost))
            })
        })
        .await
    }

    async fn leave(&self, group: &str, token: RelayToken) -> Result<(), StoreError> {
        let (group, token) = (group.to_owned(), token.get());
        self.in_turn(move |connection| {
            Box::pin(async move {
                let leaves = query("DELETE FROM main.oneflight_relays WHERE team = ?1 AND token = ?2");
                leaves
                    .bind(group)
                    .bind(token)
                    .execute(connection)
                    .await
                    .map_err(unavailable)?;
                Ok((End::Commit, ()))
            })
        })
        .await
    }

    async fn keep_house(&self) -> Result<bool, StoreError> {
        let begun = Instant::now();
        loop {
            let kept = self.in_turn(move |connection| {
                Box::pin(async move { Ok((End::Commit, changes::keep_house(connection).await?)) })
            });
            let (brought, more) = kept.await?;
            if brought > 0 {
                self.bell.ring();
            }
            // Each batch is a turn of its own, so that nobody waits for all of them.
            if !more || begun.elapsed() >= SPELL {
                return Ok(more);
            }
        }
    }
}
