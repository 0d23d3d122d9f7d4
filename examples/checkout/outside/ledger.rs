//! What the stand-ins did: the charges that were made and the mails that arrived, in an SQLite file of their own.
//!
//! It outlives the processes that write to it, as the books of a payment provider do.

use std::path::Path;
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::sink::Mail;
use crate::database::{Failure, about};
use crate::row::{Charged, Mailed};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS charges (
        idempotency_key TEXT PRIMARY KEY,
        -- What the shop calls the order.
        reference       TEXT NOT NULL,
        request         TEXT NOT NULL,
        answer          TEXT NOT NULL,
        times_asked     INTEGER NOT NULL DEFAULT 1
    );
    -- A mail is kept as often as it arrives.
    CREATE TABLE IF NOT EXISTS mails (
        message_id TEXT NOT NULL,
        reference  TEXT NOT NULL,
        recipient  TEXT NOT NULL,
        subject    TEXT NOT NULL
    );
";

/// The ledger.
#[derive(Debug, Clone)]
pub(crate) struct Ledger(SqlitePool);

/// What a request to the payment API was, and what was answered to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) request: String,
    pub(crate) answer: String,
}

impl Ledger {
    /// Opens the file, and makes it and its tables if need be.
    pub(crate) async fn open(path: &Path) -> Result<Self, Failure> {
        // What is written survives the process. The machine's crash is not part of the storm.
        let options = file(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal);
        let open = async {
            let pool = SqlitePoolOptions::new()
                .max_connections(4)
                .connect_with(options)
                .await?;
            sqlx::raw_sql(SCHEMA).execute(&pool).await?;
            Ok(Self(pool))
        };
        open.await.map_err(|error| {
            let advice = "is it the stand-ins' file, in a directory that can be written to?";
            about(&path.display(), "opened", &error, advice)
        })
    }

    /// Opens a ledger that is there, to look into it.
    pub(crate) async fn look_into(path: &Path) -> Result<Self, Failure> {
        let look = async {
            let pool = SqlitePoolOptions::new()
                .max_connections(1)
                .connect_with(file(path))
                .await?;
            sqlx::query("SELECT idempotency_key FROM charges LIMIT 0")
                .execute(&pool)
                .await?;
            Ok(Self(pool))
        };
        look.await.map_err(|error| {
            let advice = "is it the ledger of the stand-ins that the service sends to? Say where with --ledger";
            about(&path.display(), "read", &error, advice)
        })
    }

    /// What was answered under a key, for one who asks again.
    pub(super) async fn kept(&self, key: &str) -> Result<Option<Kept>, sqlx::Error> {
        const KEPT: &str =
            "UPDATE charges SET times_asked = times_asked + 1 WHERE idempotency_key = $1 RETURNING request, answer";
        let kept: Option<(String, String)> = sqlx::query_as(KEPT).bind(key).fetch_optional(&self.0).await?;
        Ok(kept.map(|(request, answer)| Kept { request, answer }))
    }

    /// Makes a charge.
    pub(super) async fn charge(&self, key: &str, reference: &str, kept: &Kept) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO charges (idempotency_key, reference, request, answer) VALUES ($1, $2, $3, $4)")
            .bind(key)
            .bind(reference)
            .bind(&kept.request)
            .bind(&kept.answer)
            .execute(&self.0)
            .await
            .map(drop)
    }

    /// Keeps a mail.
    pub(super) async fn keep(&self, mail: &Mail) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO mails (message_id, reference, recipient, subject) VALUES ($1, $2, $3, $4)")
            .bind(mail.header("Message-ID").unwrap_or_default())
            .bind(mail.header("X-Order-Reference").unwrap_or_default())
            .bind(&mail.recipient)
            .bind(mail.header("Subject").unwrap_or_default())
            .execute(&self.0)
            .await
            .map(drop)
    }

    /// The charges of orders whose reference begins so.
    pub(crate) async fn charges(&self, prefix: &str) -> Result<Vec<Charged>, sqlx::Error> {
        const CHARGES: &str =
            "SELECT reference, times_asked FROM charges WHERE substr(reference, 1, length($1)) = $1 ORDER BY rowid";
        let rows: Vec<(String, i64)> = sqlx::query_as(CHARGES).bind(prefix).fetch_all(&self.0).await?;
        let charges = rows
            .into_iter()
            .map(|(reference, times_asked)| Charged { reference, times_asked });
        Ok(charges.collect())
    }

    /// The mails about orders whose reference begins so.
    pub(crate) async fn mails(&self, prefix: &str) -> Result<Vec<Mailed>, sqlx::Error> {
        const MAILS: &str =
            "SELECT reference, message_id FROM mails WHERE substr(reference, 1, length($1)) = $1 ORDER BY rowid";
        let rows: Vec<(String, String)> = sqlx::query_as(MAILS).bind(prefix).fetch_all(&self.0).await?;
        let mails = rows
            .into_iter()
            .map(|(reference, message_id)| Mailed { reference, message_id });
        Ok(mails.collect())
    }

    /// How many charges there are, and how many mails.
    pub(crate) async fn count(&self) -> Result<(i64, i64), sqlx::Error> {
        sqlx::query_as("SELECT (SELECT count(*) FROM charges), (SELECT count(DISTINCT message_id) FROM mails)")
            .fetch_one(&self.0)
            .await
    }

    pub(crate) async fn close(&self) {
        self.0.close().await;
    }
}

fn file(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(Duration::from_secs(10))
}
