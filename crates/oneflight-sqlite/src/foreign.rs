//! A request in a transaction that another driver has begun: the same claim and the same record as in
//! [`transaction`](super::transaction), as text.
//!
//! ```text
//! DELETE of nothing              takes the write lock, and waits for it, if the transaction does not have it
//! look                           reads the record, and which file this is
//! SAVEPOINT oneflight_…          begins a transaction where there is none
//! INSERT                         a record in progress, whose lease is over at once; if the one that was read is there still
//! SAVEPOINT oneflight_work_…
//!   the work's statements
//! RELEASE oneflight_work_…       fails if the transaction was ended meanwhile
//! UPDATE                         completes the record
//! RELEASE oneflight_…
//! ```
//!
//! So a call whose work does not run has nothing to roll back, and cannot undo what ran beside it.
//!
//! The connection is not [sealed](super::seal): it is not ours. Work that commits leaves the record in progress, its lease over: in
//! doubt.

use std::fmt;
use std::time::Duration;

use super::file::databases;
use super::records::{attached, millis, number};
use super::store::SqliteStore;
use oneflight::record::{FencingToken, Record, RecordedResult};
use oneflight::store::outbox::{Bell, NewMessage};
use oneflight::store::{
    Asked, ClaimRequest, Denied, ForeignStatement, ForeignTransaction, Store, StoreError, hex, read_record, unhex,
};

/// Stands for null in an answer.
const NULL: &str = "-";

/// How long the store is asked to leave a request in doubt: its caller may have a transaction open, and wait.
const HOLD_PATIENCE: Duration = Duration::from_secs(1);

/// A transaction that has read, and writes later, cannot wait: others may have written meanwhile.
const LOCK: &str = "DELETE FROM main.oneflight_records WHERE false RETURNING 'locked' AS oneflight";

const LOOK: &str = concat!(
    "SELECT coalesce(nullif(hex(main_file), ''), '-') || ' ' || attached
            || ' ' || CAST(unixepoch('subsec') * 1000 AS INTEGER)
            || ' ' || coalesce(nullif(hex(fingerprint), ''), '-') || ' ' || coalesce(token, '-')
            || ' ' || coalesce(nullif(hex(holder), ''), '-') || ' ' || coalesce(attempt, '-')
            || ' ' || coalesce(lease_expires_at, '-') || ' ' || coalesce(completed_at, '-')
            || ' ' || coalesce(expires_at, '-') || ' ' || coalesce(nullif(hex(result), ''), '-')
            || ' ' || coalesce(held, '-') AS oneflight
     FROM ",
    databases!(),
    " LEFT JOIN main.oneflight_records ON scope = ? AND key = ?"
);

const GRANT: &str = "INSERT OR REPLACE INTO main.oneflight_records
        (scope, key, fingerprint, holder, attempt, held, correlation_id, state, claimed_at, lease_expires_at)
     SELECT ?, ?, unhex(nullif(?, '')), unhex(?), CAST(? AS INTEGER), CAST(? AS INTEGER),
            coalesce(nullif(?, ''), (SELECT correlation_id FROM main.oneflight_records
                                     WHERE token = CAST(nullif(?, '') AS INTEGER) AND state = 'in_progress')),
            'in_progress', now, now
     FROM (SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now)
     WHERE NOT EXISTS (SELECT 1 FROM main.oneflight_records
                       WHERE scope = ? AND key = ? AND token IS NOT CAST(nullif(?, '') AS INTEGER))
     RETURNING CAST(token AS TEXT) AS oneflight";

const COMPLETE: &str = "UPDATE main.oneflight_records
     SET state = 'completed', lease_expires_at = NULL, held = 0, result = unhex(?),
         completed_at = CAST(unixepoch('subsec') * 1000 AS INTEGER),
         expires_at = CAST(unixepoch('subsec') * 1000 AS INTEGER) + CAST(? AS INTEGER)
     WHERE scope = ? AND key = ? AND token = CAST(? AS INTEGER) AND state = 'in_progress'
     RETURNING (SELECT CAST(count(*) AS TEXT) FROM pragma_database_list WHERE seq > 1 AND file <> '') AS oneflight";

/// A request in a transaction that another driver has begun.
struct Transaction {
    store: SqliteStore,
    request: ClaimRequest,
    seen: Option<FencingToken>,
    /// Whether what was read is held, and stays so when it is taken over.
    is_held: bool,
    is_granted: bool,
    token: Option<FencingToken>,
}

impl SqliteStore {
    /// Makes the store's part of a transaction that another driver has begun on the same file.
    #[must_use]
    pub fn foreign(&self, request: ClaimRequest) -> Box<dyn ForeignTransaction> {
        Box::new(Transaction {
            store: self.clone(),
            request,
            seen: None,
            is_held: false,
            is_granted: false,
            token: None,
        })
    }
}

impl Transaction {
    fn savepoint(&self) -> String {
        format!("oneflight_{}", hex(self.request.holder.as_bytes()))
    }

    fn work(&self) -> String {
        format!("oneflight_work_{}", hex(self.request.holder.as_bytes()))
    }
}

impl ForeignTransaction for Transaction {
    fn request(&mut self) -> &mut ClaimRequest {
        &mut self.request
    }

    fn begin(&self) -> Vec<ForeignStatement> {
        let id = &self.request.id;
        vec![
            ForeignStatement::new(LOCK, []),
            ForeignStatement::new(LOOK, [id.scope().to_owned(), id.key().to_owned()]),
        ]
    }

    fn read(&mut self, answer: &str) -> Result<Option<Record>, StoreError> {
        let Looked { file, attaches, record } = looked(answer).ok_or(NOT_OURS)?;
        if file != self.store.writer.file.path() {
            return Err(OTHER_FILE);
        }
        if attaches {
            return Err(attached());
        }
        self.seen = record.as_ref().map(|record| record.token);
        self.is_held = record.as_ref().is_some_and(|record| record.held);
        Ok(record)
    }

    fn grant(&mut self, attempt: u32, _: Option<FencingToken>) -> Result<Vec<ForeignStatement>, Denied> {
        let (id, correlation) = (&self.request.id, &self.request.correlation_id);
        let seen = self.seen.map_or_else(String::new, |it| number(it).to_string());
        let values = [
            id.scope().to_owned(),
            id.key().to_owned(),
            id.fingerprint().map_or_else(String::new, |it| hex(it.as_bytes())),
            hex(self.request.holder.as_bytes()),
            attempt.to_string(),
            u8::from(self.is_held).to_string(),
            correlation
                .as_ref()
                .map_or_else(String::new, |it| it.as_str().to_owned()),
            seen.clone(),
            id.scope().to_owned(),
            id.key().to_owned(),
            seen,
        ];
        self.is_granted = true;
        Ok(vec![
            ForeignStatement::new(format!("SAVEPOINT {}", self.savepoint()), []),
            ForeignStatement::new(GRANT, values),
            ForeignStatement::new(format!("SAVEPOINT {}", self.work()), []),
        ])
    }

    fn granted(&mut self, answer: Option<&str>) -> Result<(), StoreError> {
        let token = answer.and_then(|it| it.parse().ok()).ok_or(NOT_OURS)?;
        self.token = Some(FencingToken::new(token));
        Ok(())
    }

    fn send(&self, message: &NewMessage) -> Vec<ForeignStatement> {
        SqliteStore::foreign_send(message)
    }

    fn bell(&self) -> &Bell {
        &self.store.bell
    }

    fn record(&self, result: &RecordedResult, retention: Duration) -> Vec<ForeignStatement> {
        let id = &self.request.id;
        let values = [
            hex(result.as_bytes()),
            millis(retention).to_string(),
            id.scope().to_owned(),
            id.key().to_owned(),
            self.token.map_or_else(String::new, |it| number(it).to_string()),
        ];
        vec![
            ForeignStatement::new(format!("RELEASE {}", self.work()), []),
            ForeignStatement::new(COMPLETE, values),
        ]
    }

    fn recorded(&self, answer: Option<&str>) -> Result<Vec<ForeignStatement>, StoreError> {
        match answer {
            Some("0") => Ok(vec![ForeignStatement::new(format!("RELEASE {}", self.savepoint()), [])]),
            Some(_) => Err(attached()),
            None => Err(StoreError::CommittedByWork),
        }
    }

    fn undo(&self) -> Vec<ForeignStatement> {
        if !self.is_granted {
            return Vec::new();
        }
        vec![
            ForeignStatement::new(format!("ROLLBACK TO {}", self.savepoint()), []),
            ForeignStatement::new(format!("RELEASE {}", self.savepoint()), []),
        ]
    }

    fn is_ended(&self, failed: bool) -> Asked<'_, bool> {
        Box::pin(async move {
            if !failed {
                // The savepoint of the work is gone, and it has a value.
                return true;
            }
            match self.store.load(&self.request.id).await {
                Ok(Some(record)) => record.holder == self.request.holder,
                Ok(None) | Err(_) => false,
            }
        })
    }

    fn hold(&self) -> Asked<'_, ()> {
        let mut request = self.request.clone().patience(HOLD_PATIENCE);
        request.lease = Duration::ZERO;
        Box::pin(async move {
            let _ = self.store.claim(request).await;
        })
    }
}

const NOT_OURS: StoreError = StoreError::Unsupported {
    advice: "a statement was not answered as SQLite answers it; run our statements, as they are, on the connection of the \
             transaction",
};

const OTHER_FILE: StoreError = StoreError::Unsupported {
    advice: "the connection of the transaction has another file open than the store; open the store on the file that the \
             transaction writes to, each by its path in full",
};

/// What was read of a request, and of the connection.
struct Looked {
    file: String,
    attaches: bool,
    record: Option<Record>,
}

/// Reads an answer, whose columns are those of [`LOOK`].
fn looked(answer: &str) -> Option<Looked> {
    let columns: Vec<_> = answer.split(' ').map(|it| (it != NULL).then_some(it)).collect();
    let (&[file, attached], record) = columns.split_first_chunk()?;
    let (&held, record) = record.split_last()?;
    let mut record = read_record(record.try_into().ok()?)?;
    if let Some(record) = &mut record {
        record.held = held? == "1";
    }
    Some(Looked {
        file: file.map_or(Some(String::new()), |it| String::from_utf8(unhex(it)?).ok())?,
        attaches: attached? != "0",
        record,
    })
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}
