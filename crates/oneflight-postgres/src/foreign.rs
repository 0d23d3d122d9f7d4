//! A request in a transaction that another driver has begun: the same lock, the same look and the same record as in
//! [`transaction`](super::transaction), as text.
//!
//! ```text
//! SAVEPOINT oneflight_…        fails outside of a transaction
//! try the lock                 with the turn, what has the server notice a client that is gone, and, if the request has a
//!                              correlation id, the name of the application
//! look                         reads the record, and gives the transaction its number
//!   the work's statements
//! record                       in the transaction of that number only
//! ```
//!
//! The savepoint has a name of its own for each call, since several may be made in one transaction. To roll back to it gives
//! up the lock and the turn as well.

use std::fmt;
use std::time::Duration;

use super::PostgresStore;
use super::names::Names;
use super::number::Number;
use super::records::{millis, number, untold};
use super::statements::{look, record, shown, turn};
use oneflight::correlation::{self, CorrelationId};
use oneflight::record::{FencingToken, Record, RecordedResult};
use oneflight::store::outbox::{Bell, NewMessage};
use oneflight::store::{
    Asked, ClaimRequest, Denied, ForeignStatement, ForeignTransaction, StoreError, hex, read_record,
};

/// The statements that are the same for all requests.
#[derive(Debug)]
pub(super) struct Foreign {
    look: String,
    record: String,
}

/// Stands for null in an answer. A value that is missing is empty.
const NULL: &str = "-";

impl Foreign {
    pub(super) fn new(names: &Names) -> Self {
        let look = look(names, ["$1::text", "$2::text", "$3::text"]);
        let bytes = |name: &str| format!("pg_catalog.encode({name}, 'hex')");
        let columns = [
            "now::text",
            &bytes("fingerprint"),
            "token::text",
            &bytes("holder"),
            "attempt::text",
            "lease_expires_at::text",
            "completed_at::text",
            "expires_at::text",
            &bytes("result"),
            "held::text",
            "ours::text",
            "number",
            "incarnation",
        ];
        let columns = columns.map(|column| format!("coalesce({column}, '{NULL}')"));
        let optional = |value: &str| format!("nullif({value}::text, '')");
        let bytes = |value: &str| format!("pg_catalog.decode({}, 'hex')", optional(value));
        let int = |value: &str| format!("{}::bigint", optional(value));
        let values = [
            "$1::text",
            "$2::text",
            &bytes("$3"),
            &bytes("$4"),
            &int("$5"),
            &int("$6"),
            &int("$7"),
            &bytes("$8"),
            &int("$9"),
            "$10::text",
            &int("$11"),
        ];
        let answer = "(CASE WHEN NOT ours THEN 'ended' WHEN EXISTS (SELECT FROM written) THEN 'written' ELSE 'taken' END) AS oneflight";
        Self {
            look: format!(
                "SELECT pg_catalog.concat_ws(' ', {}) AS oneflight FROM ({look}) looked",
                columns.join(", ")
            ),
            record: record(names, values, answer),
        }
    }
}

/// A request in a transaction that another driver has begun.
struct Transaction {
    store: PostgresStore,
    request: ClaimRequest,
    correlation: Option<CorrelationId>,
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
            seen: None,
            seen_attempt: 1,
            is_locked: false,
            number: None,
            granted: None,
        })
    }
}

impl Transaction {
    fn savepoint(&self) -> String {
        format!("oneflight_{}", turn(self.request.holder))
    }
}

impl ForeignTransaction for Transaction {
    fn request(&mut self) -> &mut ClaimRequest {
        &mut self.request
    }

    fn begin(&self) -> Vec<ForeignStatement> {
        let (id, turn) = (&self.request.id, turn(self.request.holder));
        let shown = self.correlation.as_ref().map(|it| shown(it).to_owned());
        // As a value: a driver may look for placeholders in the text.
        let named = match shown {
            Some(_) => ", pg_catalog.set_config('application_name', $1::text, true)",
            None => "",
        };
        let lock = format!(
            "SELECT pg_catalog.set_config('oneflight.turn', \
             CASE WHEN pg_catalog.pg_try_advisory_xact_lock({claim}) THEN '{turn}' ELSE '' END, true) AS oneflight{keepalive}{named}",
            claim = self.store.names.keys(id).claim,
            keepalive = self.store.statements.keepalive,
        );
        vec![
            ForeignStatement::new(format!("SAVEPOINT {}", self.savepoint()), []),
            ForeignStatement::new(lock, shown),
            ForeignStatement::new(
                self.store.statements.foreign.look.clone(),
                [id.scope().to_owned(), id.key().to_owned(), turn],
            ),
        ]
    }

    fn read(&mut self, answer: &str) -> Result<Option<Record>, StoreError> {
        let Looked { record, ours, number } = looked(answer).ok_or(NOT_OURS)?;
        self.is_locked = ours;
        self.number = number;
        self.seen = record.as_ref().map(|record| record.token);
        self.seen_attempt = record.as_ref().map_or(1, |record| record.attempt);
        Ok(record)
    }

    fn grant(&mut self, attempt: u32, took_over: Option<FencingToken>) -> Result<Vec<ForeignStatement>, Denied> {
        if !self.is_locked || self.number.is_none() {
            return Err(untold(self.seen_attempt));
        }
        self.granted = Some((attempt, took_over));
        Ok(Vec::new())
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
        ];
        vec![ForeignStatement::new(
            self.store.statements.foreign.record.clone(),
            values,
        )]
    }

    fn recorded(&self, answer: Option<&str>) -> Result<(), StoreError> {
        match answer {
            Some("written") => Ok(()),
            Some("ended") => Err(StoreError::CommittedByWork),
            Some("taken") => Err(StoreError::rolled_back(
                "the holder whose claim had been taken over came back meanwhile",
            )),
            _ => Err(NOT_OURS),
        }
    }

    fn undo(&self) -> Vec<ForeignStatement> {
        vec![ForeignStatement::new(
            format!("ROLLBACK TO SAVEPOINT {}", self.savepoint()),
            [],
        )]
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

const NOT_OURS: StoreError = StoreError::Unsupported {
    advice: "a statement was not answered as PostgreSQL answers it; run our statements, as they are, on the connection of the \
             transaction",
};

/// What was read of a request.
struct Looked {
    record: Option<Record>,
    ours: bool,
    number: Option<Number>,
}

/// Reads an answer, whose columns are those of [`Foreign::new`].
fn looked(answer: &str) -> Option<Looked> {
    let columns: Vec<_> = answer.split(' ').map(|it| (it != NULL).then_some(it)).collect();
    let [
        now,
        fingerprint,
        token,
        holder,
        attempt,
        lease,
        completed,
        expires,
        result,
        held,
        ours,
        text,
        incarnation,
    ] = <[Option<&str>; 13]>::try_from(columns).ok()?;
    let mut record = read_record([
        now,
        fingerprint,
        token,
        holder,
        attempt,
        lease,
        completed,
        expires,
        result,
    ])?;
    if let Some(record) = &mut record {
        record.held = held? == "true";
    }
    Some(Looked {
        record,
        ours: ours? == "true",
        number: text.map(|text| Number::new(text, incarnation)),
    })
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("granted", &self.granted)
            .finish_non_exhaustive()
    }
}
