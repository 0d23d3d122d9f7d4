//! The outbox's transactions, each from its statements. The code that calls them sees to the turn and the commit.

use std::collections::HashSet;
use std::sync::Arc;

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, query};

use super::super::busy::unavailable;
use super::rows::{NOW, get, joined, list, millis, read_millis, shards};
use oneflight::store::StoreError;
use oneflight::store::outbox::{Beat, Beaten, Cursor, MessageId, Peer, RelayToken, SHARDS, Settlement, Shard, Taken};

/// How many messages are brought back, or deleted, at a time.
pub(super) const BATCH: i64 = 500;
/// How long what has ended is kept, in milliseconds.
const KEPT: i64 = 3_600_000;

pub(super) async fn all(connection: &mut SqliteConnection, sql: String) -> Result<Vec<SqliteRow>, StoreError> {
    let query = query(AssertSqlSafe(sql)).persistent(false);
    query.fetch_all(connection).await.map_err(unavailable)
}

pub(super) async fn run(connection: &mut SqliteConnection, sql: String) -> Result<u64, StoreError> {
    let query = query(AssertSqlSafe(sql)).persistent(false);
    Ok(query.execute(connection).await.map_err(unavailable)?.rows_affected())
}

/// Draws a position.
pub(super) async fn draw(
    connection: &mut SqliteConnection,
    failed: fn(sqlx::Error) -> StoreError,
) -> Result<i64, StoreError> {
    let draw = query("UPDATE main.oneflight_outbox SET position = position + 1 RETURNING position");
    get(&draw.fetch_one(connection).await.map_err(failed)?, "position")
}

pub(super) async fn beat(connection: &mut SqliteConnection, beat: &Beat) -> Result<Option<Beaten>, StoreError> {
    let team = &*beat.group;
    let token = match beat.token {
        Some(token) => {
            let alive = query("UPDATE main.oneflight_relays SET beats = beats + 1 WHERE token = ?1 AND team = ?2");
            let alive = alive.bind(token.get()).bind(team).execute(&mut *connection).await;
            if alive.map_err(unavailable)?.rows_affected() == 0 {
                return Ok(None);
            }
            token.get()
        }
        None => {
            let rows = all(
                connection,
                "UPDATE main.oneflight_outbox SET token = token + 1 RETURNING token".into(),
            )
            .await?;
            let token: i64 = rows.first().map_or(Ok(0), |row| get(row, "token"))?;
            let joins = query("INSERT INTO main.oneflight_relays (token, team, beats) VALUES (?1, ?2, 1)");
            joins
                .bind(token)
                .bind(team)
                .execute(&mut *connection)
                .await
                .map_err(unavailable)?;
            for shard in 0..SHARDS {
                let adds = query("INSERT OR IGNORE INTO main.oneflight_shards (team, shard) VALUES (?1, ?2)");
                adds.bind(team)
                    .bind(shard)
                    .execute(&mut *connection)
                    .await
                    .map_err(unavailable)?;
            }
            token
        }
    };
    for peer in &beat.dead {
        let dies = query("DELETE FROM main.oneflight_relays WHERE token = ?1 AND beats = ?2 AND team = ?3");
        let dies = dies.bind(peer.token.get()).bind(peer.beats).bind(team);
        dies.execute(&mut *connection).await.map_err(unavailable)?;
    }
    let gives_back = shards(&beat.gives_back);
    if !beat.gives_back.is_empty() {
        let text = format!(
            "UPDATE main.oneflight_shards SET token = NULL WHERE team = ?1 AND token = ?2 AND shard IN ({gives_back})"
        );
        let gives = query(AssertSqlSafe(text)).persistent(false).bind(team).bind(token);
        gives.execute(&mut *connection).await.map_err(unavailable)?;
    }
    let gets = format!(
        "UPDATE main.oneflight_shards SET token = ?2 WHERE team = ?1 AND shard IN (
            SELECT s.shard FROM main.oneflight_shards s WHERE s.team = ?1 AND s.shard NOT IN ({gives_back})
                AND (s.token IS NULL OR s.token NOT IN (SELECT token FROM main.oneflight_relays))
            ORDER BY s.shard
            LIMIT max(?3 - (SELECT count(*) FROM main.oneflight_shards WHERE team = ?1 AND token = ?2), 0))"
    );
    let gets = query(AssertSqlSafe(gets))
        .persistent(false)
        .bind(team)
        .bind(token)
        .bind(beat.share);
    gets.execute(&mut *connection).await.map_err(unavailable)?;
    let mine = query("SELECT shard FROM main.oneflight_shards WHERE team = ?1 AND token = ?2 ORDER BY shard");
    let mine = mine
        .bind(team)
        .bind(token)
        .fetch_all(&mut *connection)
        .await
        .map_err(unavailable)?;
    let mine: Result<Vec<_>, _> = mine.iter().map(shard).collect();
    let peers = query("SELECT token, beats FROM main.oneflight_relays WHERE team = ?1 AND token <> ?2");
    let peers = peers
        .bind(team)
        .bind(token)
        .fetch_all(&mut *connection)
        .await
        .map_err(unavailable)?;
    let peer = |row: &SqliteRow| {
        Ok(Peer {
            token: RelayToken::new(get(row, "token")?),
            beats: get(row, "beats")?,
        })
    };
    let peers: Result<Vec<_>, StoreError> = peers.iter().map(peer).collect();
    let after: i64 = beat.cursor.as_ref().map_or(0, place);
    let of = shards(&beat.shards);
    let rows = all(
        connection,
        format!(
            "SELECT EXISTS (SELECT 1 FROM main.oneflight_messages
                            WHERE state = 0 AND position > {after} AND shard IN ({of})) AS news,
                    (SELECT min(due_at) FROM main.oneflight_messages WHERE state = 1) - {NOW} AS due_in"
        ),
    )
    .await?;
    let row = rows.first().ok_or(StoreError::Corrupt {
        what: "a statement has no answer",
    })?;
    let paused = all(
        connection,
        "SELECT topic FROM main.oneflight_paused ORDER BY topic".into(),
    )
    .await?;
    let paused: Result<Vec<Arc<str>>, _> = paused.iter().map(|row| Ok(get::<&str>(row, "topic")?.into())).collect();
    Ok(Some(Beaten {
        token: RelayToken::new(token),
        shards: mine?,
        peers: peers?,
        news: beat.cursor.is_none() || get(row, "news")?,
        due_in: get::<Option<i64>>(row, "due_in")?.map(read_millis),
        start: Cursor::new("0"),
        paused: paused?,
    }))
}

fn shard(row: &SqliteRow) -> Result<Shard, StoreError> {
    Ok(Shard::new(u16::try_from(get::<i64>(row, "shard")?).unwrap_or(u16::MAX)))
}

/// The position that a cursor says.
pub(super) fn place(cursor: &Cursor) -> i64 {
    cursor.as_str().parse().unwrap_or(0)
}

/// The shards among these that the relay has not got.
async fn lost(
    connection: &mut SqliteConnection,
    team: &str,
    token: RelayToken,
    of: &[Shard],
) -> Result<Vec<Shard>, StoreError> {
    let has = query("SELECT shard FROM main.oneflight_shards WHERE team = ?1 AND token = ?2");
    let has = has
        .bind(team)
        .bind(token.get())
        .fetch_all(connection)
        .await
        .map_err(unavailable)?;
    let has: Result<Vec<Shard>, _> = has.iter().map(shard).collect();
    let has = has?;
    Ok(of.iter().copied().filter(|shard| !has.contains(shard)).collect())
}

pub(super) async fn take(
    connection: &mut SqliteConnection,
    team: &str,
    token: RelayToken,
    of: &[Shard],
    messages: &[(MessageId, i64)],
) -> Result<Taken, StoreError> {
    let lost = lost(connection, team, token, of).await?;
    if !lost.is_empty() {
        return Ok(Taken {
            lost,
            ..Taken::default()
        });
    }
    let wanted = list(messages.iter().map(|(_, position)| *position));
    let token = token.get();
    let takes = format!(
        "UPDATE main.oneflight_messages SET attempts = attempts + 1, taken_by = {token}
         WHERE position IN ({wanted}) AND state = 0 RETURNING position"
    );
    let taken: Result<Vec<i64>, _> = all(connection, takes)
        .await?
        .iter()
        .map(|row| get(row, "position"))
        .collect();
    let taken: HashSet<i64> = taken?.into_iter().collect();
    let left = || messages.iter().filter(|(_, position)| !taken.contains(position));
    let mut answer = Taken::default();
    if left().next().is_some() {
        // By their ids: what was parked has perhaps come back already, under another position.
        let look = format!(
            "SELECT id FROM main.oneflight_messages WHERE id IN ({}) AND state IN (0, 1)",
            list(left().map(|(id, _)| id.get()))
        );
        let waits: Result<HashSet<i64>, _> = all(connection, look).await?.iter().map(|row| get(row, "id")).collect();
        let waits = waits?;
        for (id, position) in left() {
            match waits.contains(&id.get()) {
                true => answer.postponed.push(*position),
                false => answer.cancelled.push(*position),
            }
        }
    }
    Ok(answer)
}

pub(super) async fn settle(
    connection: &mut SqliteConnection,
    team: &str,
    token: RelayToken,
    of: &[Shard],
    settlement: &Settlement,
) -> Result<Vec<Shard>, StoreError> {
    let lost = lost(connection, team, token, of).await?;
    if !lost.is_empty() {
        return Ok(lost);
    }
    let ended = settlement.delivered.iter().chain(&settlement.expired).copied();
    let ends = format!(
        "UPDATE main.oneflight_messages SET state = 3, blocks = 0, ended_at = {NOW}, taken_by = NULL
         WHERE state = 0 AND position IN ({})",
        list(ended)
    );
    run(connection, ends).await?;
    let releases = format!(
        "UPDATE main.oneflight_messages SET attempts = max(attempts - 1, 0), taken_by = NULL
         WHERE state = 0 AND taken_by IS NOT NULL AND position IN ({})",
        list(settlement.released.iter().copied())
    );
    run(connection, releases).await?;
    for failed in &settlement.failed {
        let text = format!(
            "UPDATE main.oneflight_messages SET due_at = {NOW} + ?1, error = ?2, taken_by = NULL
             WHERE state = 0 AND position = ?3"
        );
        let fails = query(AssertSqlSafe(text))
            .bind(millis(failed.pause))
            .bind(trimmed(&failed.error));
        fails
            .bind(failed.position)
            .execute(&mut *connection)
            .await
            .map_err(unavailable)?;
    }
    for part in &settlement.parts {
        let adds = query(
            "UPDATE main.oneflight_messages SET done = coalesce(done, '') || ?1 WHERE state = 0 AND position = ?2",
        );
        let name = joined(std::slice::from_ref(&part.target));
        adds.bind(name)
            .bind(part.position)
            .execute(&mut *connection)
            .await
            .map_err(unavailable)?;
    }
    for parked in &settlement.parked {
        let text = format!(
            "UPDATE main.oneflight_messages
             SET state = ?1, due_at = {NOW} + ?2, blocks = ?3, attempts = ?4, error = ?5, done = ?6, taken_by = NULL
             WHERE state = 0 AND position = ?7"
        );
        let parks = query(AssertSqlSafe(text))
            .bind(if parked.pause.is_some() { 1 } else { 2 })
            .bind(parked.pause.map(millis))
            .bind(parked.blocks)
            .bind(parked.attempts)
            .bind(trimmed(&parked.error))
            .bind(joined(&parked.done))
            .bind(parked.position);
        parks.execute(&mut *connection).await.map_err(unavailable)?;
    }
    Ok(Vec::new())
}

fn trimmed(error: &str) -> String {
    error.chars().take(1000).collect()
}

/// Brings a message back into the ring, in its old place within its ordering key, for which its key waits as before.
pub(super) async fn bring_back(
    connection: &mut SqliteConnection,
    id: i64,
    and: &'static str,
) -> Result<(), StoreError> {
    let position = draw(connection, unavailable).await?;
    let back = format!(
        "UPDATE main.oneflight_messages SET state = 0, due_at = NULL, taken_by = NULL, position = {position}{and}
         WHERE id = {id}"
    );
    run(connection, back).await?;
    Ok(())
}

/// Cancels a message, or parks it for so long. Returns whether it was not too late.
pub(super) async fn withdraw(
    connection: &mut SqliteConnection,
    id: MessageId,
    pause: Option<i64>,
) -> Result<bool, StoreError> {
    let id = id.get();
    let look = format!(
        "SELECT state, blocks, taken_by, coalesce(expires_at, 1) = 0 AS is_withdrawn FROM main.oneflight_messages WHERE id = {id}"
    );
    let rows = all(connection, look).await?;
    let Some(row) = rows.first() else {
        return Ok(false);
    };
    let (state, blocks): (i64, bool) = (get(row, "state")?, get(row, "blocks")?);
    let is_taken = get::<Option<i64>>(row, "taken_by")?.is_some() || get(row, "is_withdrawn")?;
    let change = match (state, pause) {
        (1, Some(pause)) => format!("due_at = {NOW} + {pause}"),
        (1 | 2, None) if blocks => {
            bring_back(connection, id, ", expires_at = 0").await?;
            return Ok(true);
        }
        (0, Some(pause)) if !is_taken => {
            format!("state = 1, due_at = {NOW} + {pause}, blocks = ordering_key IS NOT NULL")
        }
        (1 | 2, None) => format!("state = 3, ended_at = {NOW}"),
        (0, None) if !is_taken => format!("state = 3, blocks = 0, ended_at = {NOW}"),
        _ => return Ok(false),
    };
    run(
        connection,
        format!("UPDATE main.oneflight_messages SET {change} WHERE id = {id}"),
    )
    .await?;
    Ok(true)
}

/// Brings back what is due, and deletes what ended long ago. Returns how many were brought back, and whether there may
/// be more to do.
pub(super) async fn keep_house(connection: &mut SqliteConnection) -> Result<(usize, bool), StoreError> {
    let due = format!(
        "SELECT id FROM main.oneflight_messages WHERE state = 1 AND due_at <= {NOW} ORDER BY due_at LIMIT {BATCH}"
    );
    let due = all(connection, due).await?;
    for row in &due {
        bring_back(connection, get(row, "id")?, "").await?;
    }
    let deletes = format!(
        "DELETE FROM main.oneflight_messages WHERE id IN (
            SELECT id FROM main.oneflight_messages WHERE state = 3 AND ended_at <= {NOW} - {KEPT} LIMIT {BATCH})"
    );
    let full = u64::try_from(BATCH).unwrap_or(u64::MAX);
    let deleted = run(connection, deletes).await?;
    Ok((due.len(), deleted == full || due.len() as u64 == full))
}
