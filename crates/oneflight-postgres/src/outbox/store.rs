//! The outbox, as the contract asks for it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use tokio::time::{Instant, timeout};

use super::cursor::{Place, Snapshot};
use super::rows::{self, dead_letter, millis, numbers, shards};
use crate::PostgresStore;
use crate::errors::{late, unavailable};
use crate::records::{column, millis as to_millis, only};
use oneflight::store::StoreError;
use oneflight::store::outbox::{
    Beat, Beaten, Bell, Blocker, Cancelled, Cursor, DeadLetter, MessageId, NewMessage, OutboxStore, Page, Peer,
    Postponed, RelayToken, Sent, Settlement, Shard, Taken,
};

/// How much of an error is kept with a message, in characters.
const ERROR_CHARS: usize = 1000;

impl PostgresStore {
    async fn withdraw(&self, id: MessageId, pause: Option<Duration>) -> Result<bool, StoreError> {
        // One at a time, so that relays find a connection however many are withdrawn.
        let begun = Instant::now();
        let _turn = timeout(self.patience, self.outbox.withdraws.lock())
            .await
            .map_err(|_| unavailable(late()))?;
        let left = self.patience.saturating_sub(begun.elapsed());
        let withdraw = self.query(&self.outbox.statements.withdraw);
        let withdraw = withdraw.bind(id.get()).bind(pause.map(to_millis));
        column(only(&self.ask_outbox_within(left, withdraw).await?)?, 0)
    }

    /// Messages for which their ordering keys wait, and which stand elsewhere.
    async fn blocked(&self, shards: &[Shard]) -> Result<Vec<Blocker>, StoreError> {
        let blocked = self.query(&self.outbox.statements.blocked).bind(numbers(shards));
        let read = |row: &PgRow| {
            Ok(Blocker {
                id: MessageId::new(column(row, 1)?),
                topic: column::<&str>(row, 2)?.into(),
                ordering_key: column::<&str>(row, 0)?.into(),
            })
        };
        self.ask_outbox(blocked).await?.iter().map(read).collect()
    }

    /// Reads the first window: everything that has not ended.
    async fn read_first(&self, shards: &[Shard], place: &mut Place, limit: i64) -> Result<Page, StoreError> {
        let drawn = self.outbox.drawn.load(Ordering::SeqCst);
        let first = self
            .query(&self.outbox.statements.first)
            .bind(numbers(shards))
            .bind(place.at)
            .bind(place.until.as_ref().map(|until| until.text.clone()))
            .bind(limit);
        let rows = self.ask_outbox(first).await?;
        let reading = Reading::of(only(&rows)?)?;
        let until = place.until.take().unwrap_or_else(|| reading.snapshot(drawn));
        let (high, scanned): (Option<i64>, i64) = (column(only(&rows)?, 3)?, column(only(&rows)?, 4)?);
        let mut messages = Vec::new();
        for row in &rows {
            let Some(mut message) = rows::message(row, 5, reading.instant)? else {
                continue;
            };
            let taken: i64 = column::<Option<i64>>(row, 22)?.unwrap_or(0);
            message.attempts = message.attempts.saturating_add(u32::try_from(taken).unwrap_or(0));
            if let Some(due) = column::<Option<i64>>(row, 23)? {
                message.due_in = Some(millis(due - reading.instant));
            }
            message
                .done
                .extend(column::<Option<Vec<String>>>(row, 24)?.unwrap_or_default());
            messages.push(message);
        }
        let more = scanned == limit;
        place.go_on(until, more, high);
        Ok(reading.page(messages, place, more))
    }

    /// Reads a window between two snapshots.
    async fn read_window(
        &self,
        shards: &[Shard],
        place: &mut Place,
        from: Snapshot,
        limit: i64,
    ) -> Result<Page, StoreError> {
        let drawn = self.outbox.drawn.load(Ordering::SeqCst);
        let window = self
            .query(&self.outbox.statements.window)
            .bind(numbers(shards))
            .bind(place.at)
            .bind(place.until.as_ref().map(|until| until.text.clone()))
            .bind(limit)
            .bind(from.text.clone())
            .bind(from.limit().to_owned())
            .bind(from.drawn);
        let rows = self.ask_outbox(window).await?;
        let reading = Reading::of(only(&rows)?)?;
        if number(from.limit()) > number(reading.limit()) {
            return Err(StoreError::RelayOutdated);
        }
        let until = place.until.take().unwrap_or_else(|| reading.snapshot(drawn));
        let mut messages = Vec::with_capacity(rows.len());
        for row in &rows {
            messages.extend(rows::message(row, 3, reading.instant)?);
        }
        let more = i64::try_from(messages.len()).is_ok_and(|read| read == limit);
        let high = messages.last().map(|message| message.position);
        place.go_on(until, more, high);
        Ok(reading.page(messages, place, more))
    }
}

fn number(limit: &str) -> u64 {
    limit.parse().unwrap_or(0)
}

/// What the server says of itself with each page.
struct Reading {
    snapshot: String,
    instant: i64,
    due_in: Option<i64>,
}

impl Reading {
    fn of(row: &PgRow) -> Result<Self, StoreError> {
        Ok(Self {
            snapshot: column(row, 0)?,
            instant: column(row, 1)?,
            due_in: column(row, 2)?,
        })
    }

    fn limit(&self) -> &str {
        self.snapshot.split(':').nth(1).unwrap_or_default()
    }

    /// The snapshot of this page, with a position beyond which all is that it does not know.
    fn snapshot(&self, drawn: i64) -> Snapshot {
        Snapshot {
            text: self.snapshot.clone(),
            drawn,
        }
    }

    fn page(&self, messages: Vec<oneflight::store::outbox::StoredMessage>, place: &Place, more: bool) -> Page {
        Page {
            messages,
            cursor: place.cursor(),
            more,
            due_in: self.due_in.map(millis),
            blocked: Vec::new(),
        }
    }
}

impl Place {
    /// Goes on with the window, or to the one after it.
    fn go_on(&mut self, until: Snapshot, more: bool, high: Option<i64>) {
        if more {
            self.until = Some(until);
            self.at = high.unwrap_or(self.at);
        } else {
            self.from = Some(until);
            self.at = 0;
        }
    }
}

fn trimmed(error: &str) -> String {
    error.chars().filter(|char| *char != '\0').take(ERROR_CHARS).collect()
}

impl OutboxStore for PostgresStore {
    fn bell(&self) -> &Bell {
        &self.outbox.bell
    }

    async fn send_in(&self, connection: &mut PgConnection, messages: Vec<NewMessage>) -> Result<Vec<Sent>, StoreError> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        self.send_hints();
        let each = |text: fn(&NewMessage) -> &str| messages.iter().map(|it| text(it).to_owned()).collect::<Vec<_>>();
        let shards: Vec<Shard> = messages.iter().map(NewMessage::shard).collect();
        let send = self
            .query(&self.outbox.statements.send)
            .bind(numbers(&shards))
            .bind(each(|it| &it.topic))
            .bind(each(|it| &it.key))
            .bind(messages.iter().map(|it| it.deduplicated).collect::<Vec<_>>())
            .bind(
                messages
                    .iter()
                    .map(|it| it.ordering_key.as_deref().map(str::to_owned))
                    .collect::<Vec<_>>(),
            )
            .bind(each(|it| &it.content_type))
            .bind(messages.iter().map(|it| it.payload.to_vec()).collect::<Vec<_>>())
            .bind(
                messages
                    .iter()
                    .map(|it| rows::write_headers(&it.headers))
                    .collect::<Vec<_>>(),
            )
            .bind(
                messages
                    .iter()
                    .map(|it| it.correlation_id.as_ref().map(ToString::to_string))
                    .collect::<Vec<_>>(),
            )
            .bind(
                messages
                    .iter()
                    .map(|it| it.trace_parent.as_ref().map(|it| it.as_str().to_owned()))
                    .collect::<Vec<_>>(),
            )
            .bind(messages.iter().map(|it| it.delay.map(to_millis)).collect::<Vec<_>>())
            .bind(
                messages
                    .iter()
                    .map(|it| it.expires_after.map(to_millis))
                    .collect::<Vec<_>>(),
            )
            .bind(messages.iter().map(|it| it.takes_turns).collect::<Vec<_>>());
        let rows = send.fetch_all(connection).await.map_err(unavailable)?;
        let answer = |row: &PgRow| {
            let id = MessageId::new(column(row, 0)?);
            Ok(match column::<bool>(row, 1)? {
                true => Sent::New(id),
                false => Sent::Duplicate(id),
            })
        };
        rows.iter().map(answer).collect()
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
        let list = self.query(&self.outbox.statements.dead_letters);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let list = list.bind(limit).bind(after.map_or(0, MessageId::get));
        self.ask_outbox(list).await?.iter().map(dead_letter).collect()
    }

    async fn redrive(&self, id: MessageId) -> Result<bool, StoreError> {
        let redrive = self.query(&self.outbox.statements.redrive).bind(id.get());
        Ok(column::<i64>(only(&self.ask_outbox(redrive).await?)?, 0)? > 0)
    }

    async fn beat(&self, beat: Beat) -> Result<Beaten, StoreError> {
        let place = beat.cursor.as_ref().map(Place::of).transpose()?;
        let known = place.and_then(|place| place.from);
        let beats = self
            .query(&self.outbox.statements.beat)
            .bind(beat.group.to_string())
            .bind(beat.token.map(RelayToken::get))
            .bind(i32::from(beat.share))
            .bind(numbers(&beat.gives_back))
            .bind(beat.dead.iter().map(|peer| peer.token.get()).collect::<Vec<_>>())
            .bind(beat.dead.iter().map(|peer| peer.beats).collect::<Vec<_>>())
            .bind(known.as_ref().map(|known| known.limit().to_owned()))
            .bind(known.as_ref().map(|known| known.text.clone()))
            .bind(known.as_ref().map(|known| known.drawn))
            .bind(numbers(&beat.shards));
        let rows = self.ask_outbox(beats).await?;
        let row = only(&rows)?;
        let token = column::<Option<i64>>(row, 0)?.ok_or(StoreError::RelayOutdated)?;
        let drawn = column(row, 6)?;
        match beat.token {
            // Perhaps of another database, whose positions are smaller.
            None => self.outbox.drawn.store(drawn, Ordering::SeqCst),
            Some(_) => drop(self.outbox.drawn.fetch_max(drawn, Ordering::SeqCst)),
        }
        let (tokens, counts): (Vec<i64>, Vec<i64>) = (column(row, 2)?, column(row, 3)?);
        let peers = tokens.into_iter().zip(counts).map(|(token, beats)| Peer {
            token: RelayToken::new(token),
            beats,
        });
        let has = shards(column(row, 1)?);
        self.outbox.owned.store(has.len(), Ordering::SeqCst);
        self.hear_hints();
        Ok(Beaten {
            token: RelayToken::new(token),
            shards: has,
            peers: peers.collect(),
            news: column::<Option<bool>>(row, 4)?.unwrap_or(true),
            due_in: column::<Option<i64>>(row, 5)?.map(millis),
            start: Place::start().cursor(),
            paused: column::<Vec<String>>(row, 7)?.into_iter().map(Into::into).collect(),
        })
    }

    async fn fetch(
        &self,
        shards: &[Shard],
        cursor: &Cursor,
        until: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let mut place = Place::of(cursor)?;
        if let (None, Some(until)) = (&place.until, until) {
            place.until = Place::of(until)?.from;
        }
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        match place.from.clone() {
            Some(from) => self.read_window(shards, &mut place, from, limit).await,
            None if place.until.is_some() => self.read_first(shards, &mut place, limit).await,
            None => {
                // Before the snapshot and after it: what is parked or comes back meanwhile is in one of the two.
                let mut blocked = self.blocked(shards).await?;
                let mut page = self.read_first(shards, &mut place, limit).await?;
                blocked.extend(self.blocked(shards).await?);
                page.blocked = blocked;
                Ok(page)
            }
        }
    }

    async fn reload(&self, positions: &[i64]) -> Result<Vec<oneflight::store::outbox::StoredMessage>, StoreError> {
        let load = self.query(&self.outbox.statements.load).bind(positions.to_vec());
        let rows = self.ask_outbox(load).await?;
        let read = |row: &PgRow| rows::message(row, 1, column(row, 0)?);
        rows.iter().filter_map(|row| read(row).transpose()).collect()
    }

    async fn take(
        &self,
        group: &str,
        token: RelayToken,
        of: &[Shard],
        messages: &[(MessageId, i64)],
    ) -> Result<Taken, StoreError> {
        let take = self.query(&self.outbox.statements.take);
        let take = take
            .bind(group.to_owned())
            .bind(token.get())
            .bind(numbers(of))
            .bind(messages.iter().map(|(id, _)| id.get()).collect::<Vec<_>>())
            .bind(messages.iter().map(|(_, position)| *position).collect::<Vec<_>>());
        let rows = self.ask_outbox(take).await?;
        let row = only(&rows)?;
        self.outbox.drawn.fetch_max(column(row, 3)?, Ordering::SeqCst);
        Ok(Taken {
            lost: shards(column(row, 0)?),
            cancelled: column(row, 1)?,
            postponed: column(row, 2)?,
        })
    }

    async fn settle(
        &self,
        group: &str,
        token: RelayToken,
        of: &[Shard],
        settlement: &Settlement,
    ) -> Result<Vec<Shard>, StoreError> {
        let (failed, parts, parked) = (&settlement.failed, &settlement.parts, &settlement.parked);
        let done = |names: &[String]| (!names.is_empty()).then(|| names.join("\u{1f}"));
        let settle = self
            .query(&self.outbox.statements.settle)
            .bind(group.to_owned())
            .bind(token.get())
            .bind(numbers(of))
            .bind(settlement.delivered.clone())
            .bind(settlement.expired.clone())
            .bind(settlement.released.clone())
            .bind(failed.iter().map(|it| it.position).collect::<Vec<_>>())
            .bind(failed.iter().map(|it| to_millis(it.pause)).collect::<Vec<_>>())
            .bind(failed.iter().map(|it| trimmed(&it.error)).collect::<Vec<_>>())
            .bind(parts.iter().map(|it| it.position).collect::<Vec<_>>())
            .bind(parts.iter().map(|it| it.target.clone()).collect::<Vec<_>>())
            .bind(parked.iter().map(|it| it.position).collect::<Vec<_>>())
            .bind(parked.iter().map(|it| it.pause.map(to_millis)).collect::<Vec<_>>())
            .bind(parked.iter().map(|it| it.blocks).collect::<Vec<_>>())
            .bind(
                parked
                    .iter()
                    .map(|it| i32::try_from(it.attempts).unwrap_or(i32::MAX))
                    .collect::<Vec<_>>(),
            )
            .bind(parked.iter().map(|it| trimmed(&it.error)).collect::<Vec<_>>())
            .bind(parked.iter().map(|it| done(&it.done)).collect::<Vec<_>>());
        let rows = self.ask_outbox(settle).await?;
        Ok(shards(column(only(&rows)?, 0)?))
    }

    async fn leave(&self, group: &str, token: RelayToken) -> Result<(), StoreError> {
        self.outbox.owned.store(0, Ordering::SeqCst);
        let leave = self.query(&self.outbox.statements.leave);
        self.ask_outbox(leave.bind(group.to_owned()).bind(token.get())).await?;
        Ok(())
    }

    async fn keep_house(&self) -> Result<bool, StoreError> {
        self.keep_outbox().await
    }
}
