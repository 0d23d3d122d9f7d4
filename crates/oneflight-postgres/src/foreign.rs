//! A request in a transaction that another driver has begun: the same lock, the same look and the same record as in
//! [`transaction`](super::transaction), as text.
//!
//! ```text
//! try the lock                 with the turn, what has the server notice a client that is gone, and, if the request has a
//!                              correlation id, the name of the application
//! look                         reads the record, tells whether it is in the transaction of the lock, and gives that its number
//! SAVEPOINT oneflight_…
//!   the work's statements
//! record                       in the transaction of that number only
//! RELEASE oneflight_…          fails if something else has undone the work
//! ```
//!
//! Lock and turn stay with the transaction: a key whose work was undone is free when that is over. So a call whose work does not
//! run has nothing to roll back, and cannot undo what ran beside it.
//!
//! The savepoint is named by how many calls the work is inside of. Before version 17, the server keeps statistics of each text of
//! such a statement, so a name for each call would push out all others.

use std::fmt;
use std::time::Duration;

use sqlx::Executor;

use super::PostgresStore;
use super::borrowed::Borrowed;
use super::number::Number;
use super::records::{correlation, millis, number, untold};
use super::statements::{shown, turn};
use super::transaction_statements::NULL;
use oneflight::correlation::{self, CorrelationId};
use oneflight::record::{FencingToken, Record, RecordedResult};
use oneflight::store::outbox::{Bell, NewMessage};
use oneflight::store::{
    Asked, ClaimRequest, Denied, ForeignStatement, ForeignTransaction, StoreError, hex, read_record,
};

/// A request in a transaction that another driver has begun.
struct Transaction {
    store: PostgresStore,
    request: ClaimRequest,
    correlation: Option<CorrelationId>,
    depth: u32,
    seen: Option<FencingToken>,
    seen_attempt: u32,
    is_locked: bool,
    number: Option<Number>,
    granted: Option<(u32, Option<FencingToken>)>,
}

impl PostgresStore {
    /// Makes the store's part of a transaction that another driver has begun in the same database. The application is named by
    /// the [current](oneflight::correlation::current) correlation id until the transaction ends, as in the store's own.
    #[must_use]
    pub fn foreign(&self, request: ClaimRequest) -> Box<dyn ForeignTransaction> {
        Box::new(Transaction {
            store: self.clone(),
            request,
            correlation: correlation::current(),
            depth: 0,
            seen: None,
            seen_attempt: 1,
            is_locked: false,
            number: None,
            granted: None,
        })
    }
}

impl PostgresStore {
    /// Writes the [incarnation](super::number) after a crash, for the transactions after this one: it is not ours to begin anew.
    fn incarnate_soon(&self) {
        let store = self.clone();
        tokio::spawn(async move {
            let Ok(mut borrowed) = Borrowed::within(store.patience, &store.pool).await else {
                return;
            };
            let incarnate = borrowed.execute(store.statements.incarnate.clone());
            if store.in_time(incarnate).await.is_ok() {
                borrowed.give_back();
            }
        });
    }
}

impl Transaction {
    fn savepoint(&self, command: &str) -> ForeignStatement {
        ForeignStatement::new(format!("{command} oneflight_{}", self.depth + 1), [])
    }
}

impl ForeignTransaction for Transaction {
    fn request(&mut self) -> &mut ClaimRequest {
        &mut self.request
    }

    fn nest(&mut self, depth: u32) {
        self.depth = depth;
    }

    fn begin(&self) -> Vec<ForeignStatement> {
        let (id, turn) = (&self.request.id, turn(self.request.holder));
        let shown = self.correlation.as_ref().map(|it| shown(it).to_owned());
        // As a value: a driver may look for placeholders in the text.
        let named = match shown {
            Some(_) => {
                ", pg_catalog.set_config('oneflight.called', pg_catalog.current_setting('application_name'), true), \
                 pg_catalog.set_config('application_name', $1::text, true)"
            }
            None => "",
        };
        let lock = format!(
            "SELECT pg_catalog.set_config('oneflight.turn', \
             CASE WHEN pg_catalog.pg_try_advisory_xact_lock({claim}) THEN '{turn}' ELSE 'not {turn}' END, true) AS oneflight{keepalive}{named}",
            claim = self.store.names.keys(id).claim,
            keepalive = self.store.statements.keepalive,
        );
        vec![
            ForeignStatement::new(lock, shown),
            ForeignStatement::new(
                self.store.statements.foreign.look.clone(),
                [id.scope().to_owned(), id.key().to_owned(), turn],
            ),
        ]
    }

    fn read(&mut self, answer: &str) -> Result<Option<Record>, StoreError> {
        let Looked {
            record,
            ours,
            number,
            is_in_one,
        } = looked(answer).ok_or(NOT_OURS)?;
        if !is_in_one {
            return Err(NOT_IN_ONE);
        }
        self.is_locked = ours;
        self.number = number;
        self.seen = record.as_ref().map(|record| record.token);
        self.seen_attempt = record.as_ref().map_or(1, |record| record.attempt);
        Ok(record)
    }

    fn transaction(&self) -> Option<&str> {
        self.number.as_ref().map(|number| &*number.text)
    }

    fn grant(&mut self, attempt: u32, took_over: Option<FencingToken>) -> Result<Vec<ForeignStatement>, Denied> {
        let Some(number) = self.number.as_ref().filter(|_| self.is_locked) else {
            return Err(untold(self.seen_attempt));
        };
        if number.incarnation.is_none() {
            self.store.incarnate_soon();
        }
        self.granted = Some((attempt, took_over));
        Ok(vec![self.savepoint("SAVEPOINT")])
    }

    fn granted(&mut self, _: Option<&str>) -> Result<(), StoreError> {
        Ok(())
    }

    fn send(&self, message: &NewMessage) -> Vec<ForeignStatement> {
        self.store.foreign_send(message)
    }

    fn bell(&self) -> &Bell {
        &self.store.outbox.bell
    }

    fn record(&self, result: &RecordedResult, retention: Duration) -> Vec<ForeignStatement> {
        let id = &self.request.id;
        let (attempt, took_over) = self.granted.unwrap_or((1, None));
        let token = |token: Option<FencingToken>| token.map_or_else(String::new, |it| number(it).to_string());
        let values = [
            id.scope().to_owned(),
            id.key().to_owned(),
            id.fingerprint().map_or_else(String::new, |it| hex(it.as_bytes())),
            hex(self.request.holder.as_bytes()),
            attempt.to_string(),
            token(took_over),
            millis(retention).to_string(),
            hex(result.as_bytes()),
            self.store.names.keys(id).watch.to_string(),
            self.number.as_ref().map_or_else(String::new, |it| it.text.clone()),
            token(self.seen),
            correlation(&self.request).to_owned(),
        ];
        vec![ForeignStatement::new(
            self.store.statements.foreign.record.clone(),
            values,
        )]
    }

    fn recorded(&self, answer: Option<&str>) -> Result<Vec<ForeignStatement>, StoreError> {
        match answer {
            Some("written") => Ok(vec![self.savepoint("RELEASE SAVEPOINT")]),
            Some("ended") => Err(StoreError::CommittedByWork),
            Some("taken") => Err(StoreError::rolled_back(
                "the holder whose claim had been taken over came back meanwhile",
            )),
            _ => Err(NOT_OURS),
        }
    }

    fn undo(&self) -> Vec<ForeignStatement> {
        if self.granted.is_none() {
            return Vec::new();
        }
        // Without the second one, all that follows would be in a transaction inside of the user's.
        let mut statements: Vec<_> = ["ROLLBACK TO SAVEPOINT", "RELEASE SAVEPOINT"]
            .map(|it| self.savepoint(it))
            .into();
        if self.correlation.is_some() {
            statements.push(ForeignStatement::new(CALL_AS_BEFORE, []));
        }
        statements
    }

    fn is_ended(&self, _: bool) -> Asked<'_, bool> {
        Box::pin(async {
            match &self.number {
                Some(number) => self.store.ended(number).await == Some(true),
                None => false,
            }
        })
    }

    fn hold(&self) -> Asked<'_, ()> {
        Box::pin(self.store.hold(self.request.clone()))
    }
}

/// The name of the application was given before the savepoint.
const CALL_AS_BEFORE: &str = "SELECT pg_catalog.set_config('application_name', pg_catalog.current_setting('oneflight.called'), true) \
     AS oneflight";

const NOT_OURS: StoreError = StoreError::Unsupported {
    advice: "a statement was not answered as PostgreSQL answers it; run our statements, as they are, on the connection of the \
             transaction",
};

const NOT_IN_ONE: StoreError = StoreError::Unsupported {
    advice: "the statements of a call were not run one after the other in one transaction; begin one, run them on its own connection, \
             and make one call at a time in it",
};

/// What was read of a request.
struct Looked {
    record: Option<Record>,
    ours: bool,
    number: Option<Number>,
    /// Whether it was read in the transaction in which the lock was tried.
    is_in_one: bool,
}

/// Reads an answer, whose columns are those of the statement `look`.
fn looked(answer: &str) -> Option<Looked> {
    let columns: Vec<_> = answer.split(' ').map(|it| (it != NULL).then_some(it)).collect();
    let (record, others) = columns.split_first_chunk()?;
    let [held, ours, text, incarnation, is_in_one] = others.try_into().ok()?;
    let mut record = read_record(*record)?;
    if let Some(record) = &mut record {
        record.held = held? == "true";
    }
    Some(Looked {
        record,
        ours: ours? == "true",
        number: text.map(|text| Number::new(text, incarnation)),
        is_in_one: is_in_one == Some("true"),
    })
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("granted", &self.granted)
            .finish_non_exhaustive()
    }
}
