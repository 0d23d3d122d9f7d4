//! What a store must do in a transaction that another driver has begun: the checks, one function a promise, named after it.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::failure::Failure;
use super::probe::{LONG, result};
use oneflight::correlation::{self, CorrelationId};
use oneflight::idempotency::{Decided, Effect, ErrorKind, Foreign, Json, Origin, Recovery, Reply};
use oneflight::identity::{Fingerprint, RequestIdentity, Scope};
use oneflight::outbox::{Delivery, DeliveryError, Relay, RelayHandle, Sent};
use oneflight::store::{
    Claim, ClaimOutcome, ClaimRequest, ForeignStatement, ForeignTransaction, OutboxStore, Store, StoreError, hex,
};
use oneflight::{Idempotency, Message};

/// What an answer that waits for nobody takes at most, on a slow machine.
const AT_ONCE: Duration = Duration::from_secs(8);
/// How long the store's own calls wait for others.
const WAIT: Duration = Duration::from_millis(100);
/// Within which a message arrives, on a slow machine.
const ARRIVES_WITHIN: Duration = Duration::from_secs(20);
/// How long it is watched that a message does not arrive.
const WATCH: Duration = Duration::from_millis(300);
/// Stands in everything that is to stay out of texts.
const SECRET: &str = "zq7-secret";

type BoxError = Box<dyn Error + Send + Sync>;
type Checked = Result<(), Failure>;
type Execution<D> = Foreign<<D as OtherDriver>::Store, Json>;

/// An empty store, an empty table of the test's own in the same database, and a driver that the store knows nothing of.
pub trait OtherDriver: Send + Sync + 'static {
    /// What is checked.
    type Store: OutboxStore + Clone;

    /// A connection of the driver's own, with what is open on it.
    type Connection: Send;

    /// The store.
    fn store(&self) -> &Self::Store;

    /// Opens a second store on the same database, as another process does.
    fn open_again(&self) -> impl Future<Output = Result<Self::Store, BoxError>> + Send;

    /// Makes the store's part of a transaction.
    fn foreign(&self, store: &Self::Store, request: ClaimRequest) -> Box<dyn ForeignTransaction>;

    /// Begins a transaction on a new connection, which gives up waiting for a lock within a few seconds.
    fn begin(&self) -> impl Future<Output = Result<Self::Connection, BoxError>> + Send;

    /// Runs a statement. Returns the text of the column `oneflight` of its last row, if it has a row.
    fn run(
        &self,
        connection: &mut Self::Connection,
        statement: &ForeignStatement,
    ) -> impl Future<Output = Result<Option<String>, BoxError>> + Send;

    /// Commits the transaction.
    fn commit(&self, connection: &mut Self::Connection) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Rolls the transaction back.
    fn roll_back(&self, connection: &mut Self::Connection) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Returns what inserts a row into the table.
    fn insert(&self) -> ForeignStatement;

    /// How many rows of the table are committed.
    fn rows(&self) -> impl Future<Output = Result<u64, BoxError>> + Send;
}

/// Runs the suite of what [`ForeignTransaction`] promises. `make` returns an empty store and table, and a driver for both.
/// Some checks take seconds.
///
/// ```
/// use oneflight::store::{ClaimRequest, ForeignStatement, ForeignTransaction, OutboxStore};
/// use oneflight_conformance::{Failure, OtherDriver, run_foreign};
/// use std::io;
///
/// type BoxError = Box<dyn std::error::Error + Send + Sync>;
///
/// /// Stands for the connection of a driver that your store does not use.
/// struct Connection;
///
/// impl Connection {
///     async fn open() -> io::Result<Self> {
///         Ok(Self)
///     }
///
///     /// Returns the column `oneflight` of each row.
///     async fn query(&mut self, _sql: &str, _values: &[String]) -> io::Result<Vec<String>> {
///         Ok(Vec::new())
///     }
/// }
///
/// /// Stands for what your store has.
/// trait YourStore: OutboxStore + Clone {
///     fn open(path: &str) -> impl Future<Output = Self> + Send;
///     fn foreign(&self, request: ClaimRequest) -> Box<dyn ForeignTransaction>;
/// }
///
/// struct Orders<S> {
///     store: S,
///     path: String,
/// }
///
/// impl<S: YourStore> OtherDriver for Orders<S> {
///     type Store = S;
///     type Connection = Connection;
///
///     fn store(&self) -> &S {
///         &self.store
///     }
///
///     async fn open_again(&self) -> Result<S, BoxError> {
///         Ok(S::open(&self.path).await)
///     }
///
///     fn foreign(&self, store: &S, request: ClaimRequest) -> Box<dyn ForeignTransaction> {
///         store.foreign(request)
///     }
///
///     async fn begin(&self) -> Result<Connection, BoxError> {
///         let mut connection = Connection::open().await?;
///         connection.query("BEGIN", &[]).await?;
///         Ok(connection)
///     }
///
///     async fn run(&self, connection: &mut Connection, run: &ForeignStatement) -> Result<Option<String>, BoxError> {
///         Ok(connection.query(&run.text, &run.values).await?.pop())
///     }
///
///     async fn commit(&self, connection: &mut Connection) -> Result<(), BoxError> {
///         connection.query("COMMIT", &[]).await?;
///         Ok(())
///     }
///
///     async fn roll_back(&self, connection: &mut Connection) -> Result<(), BoxError> {
///         connection.query("ROLLBACK", &[]).await?;
///         Ok(())
///     }
///
///     fn insert(&self) -> ForeignStatement {
///         ForeignStatement::new("INSERT INTO orders DEFAULT VALUES", [])
///     }
///
///     async fn rows(&self) -> Result<u64, BoxError> {
///         let count = Connection::open().await?.query("SELECT count(*) AS oneflight FROM orders", &[]).await?;
///         Ok(count.concat().parse()?)
///     }
/// }
/// ```
///
/// # Errors
///
/// Returns the first promise that is not kept.
pub async fn run_foreign<D: OtherDriver>(make: impl AsyncFn() -> D) -> Result<(), Failure> {
    macro_rules! check {
        ($($name:ident),* $(,)?) => {$({
            // In a box: all of them together are much of a thread's stack. With an end, and so its connections.
            let desk = Desk::new(stringify!($name), Box::pin(make()).await);
            Box::pin($name(&desk)).await?;
        })*};
    }
    check!(
        what_is_executed_is_replayed,
        what_the_store_itself_has_run_is_replayed,
        what_is_rolled_back_leaves_nothing,
        another_fingerprint_is_a_conflict,
        a_claim_outside_is_respected_at_once,
        a_transaction_outside_is_respected,
        a_call_is_respected_outside,
        what_fails_is_undone_to_its_savepoint,
        calls_in_the_work_of_a_call_are_undone_apart,
        work_that_ends_the_transaction_leaves_a_doubt,
        a_message_is_sent_with_the_commit,
        values_are_in_no_text,
        what_is_in_doubt_is_taken_over_only_if_wanted,
        an_answer_that_is_garbage_is_an_error,
    );
    Ok(())
}

/// A store under test.
struct Desk<D> {
    driver: D,
    check: &'static str,
    /// All statements that were run, and how the executions looked when they were.
    ran: Mutex<Vec<ForeignStatement>>,
    shown: Mutex<Vec<String>>,
}

/// A store, and what executes requests over it.
struct Office<S> {
    store: S,
    idem: Idempotency<S>,
}

/// What became of a call.
enum Came {
    /// All that is missing is the commit.
    Executed {
        attempt: u32,
    },
    Replayed {
        value: String,
        attempt: u32,
    },
    /// By the store, without a statement that failed.
    Denied(oneflight::Error),
    /// The work has failed, and was undone.
    Undone(BoxError),
    /// The work has ended the transaction.
    Ended(oneflight::Error),
    /// The transaction is over, and nothing was done.
    Lost,
    /// A statement failed.
    Driver(BoxError),
}

impl fmt::Display for Came {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Executed { attempt } => write!(f, "executed as attempt {attempt}"),
            Self::Replayed { attempt, .. } => write!(f, "replayed as attempt {attempt}"),
            Self::Denied(error) => write!(f, "denied: {error}"),
            Self::Undone(error) => write!(f, "undone: {error}"),
            Self::Ended(error) => write!(f, "ended: {error}"),
            Self::Lost => f.write_str("lost"),
            Self::Driver(error) => write!(f, "the driver's error: {error}"),
        }
    }
}

impl Came {
    fn is_denied_as(&self, is: impl FnOnce(&ErrorKind) -> bool) -> bool {
        matches!(self, Self::Denied(error) if is(error.kind()))
    }
}

impl<D: OtherDriver> Desk<D> {
    fn new(check: &'static str, driver: D) -> Self {
        Self {
            driver,
            check,
            ran: Mutex::default(),
            shown: Mutex::default(),
        }
    }

    fn failure<T>(&self, what: impl Into<String>) -> Result<T, Failure> {
        Err(Failure {
            check: self.check,
            what: what.into(),
            source: None,
        })
    }

    fn require(&self, holds: bool, what: impl Into<String>) -> Checked {
        if holds { Ok(()) } else { self.failure(what) }
    }

    fn ok<T, E: fmt::Display>(&self, answer: Result<T, E>) -> Result<T, Failure> {
        answer.or_else(|error| self.failure(format!("an operation that must succeed was an error: {error}")))
    }

    fn id(&self, key: &str, digest: u8) -> Result<RequestIdentity, Failure> {
        let id = self.ok(RequestIdentity::new(Scope::new(self.check), key))?;
        Ok(id.with_known_fingerprint(Fingerprint::from_digest([digest; 32])))
    }

    fn office(&self, store: D::Store, recovery: Recovery) -> Office<D::Store> {
        let idem = Idempotency::builder(store.clone())
            .wait(WAIT)
            .recovery(recovery)
            .build();
        Office { store, idem }
    }

    fn here(&self) -> Office<D::Store> {
        self.office(self.driver.store().clone(), Recovery::Hold)
    }

    async fn elsewhere(&self) -> Result<Office<D::Store>, Failure> {
        let store = self.ok(self.driver.open_again().await)?;
        Ok(self.office(store, Recovery::Hold))
    }

    async fn begin(&self) -> Result<D::Connection, Failure> {
        self.ok(self.driver.begin().await)
    }

    async fn commit(&self, mut connection: D::Connection) -> Checked {
        self.ok(self.driver.commit(&mut connection).await)
    }

    async fn roll_back(&self, mut connection: D::Connection) -> Checked {
        self.ok(self.driver.roll_back(&mut connection).await)
    }

    async fn insert(&self, connection: &mut D::Connection) -> Result<(), BoxError> {
        self.driver.run(connection, &self.driver.insert()).await.map(drop)
    }

    async fn rows(&self, expected: u64) -> Checked {
        let rows = self.ok(self.driver.rows().await)?;
        self.require(rows == expected, format!("{rows} rows are kept, and not {expected}"))
    }

    async fn is_free(&self, id: &RequestIdentity) -> Checked {
        let record = self.ok(self.driver.store().load(id).await)?;
        self.require(record.is_none(), "there is a record of what was not done")
    }

    /// Runs statements in their order. Returns the last answer.
    async fn all(
        &self,
        connection: &mut D::Connection,
        statements: Vec<ForeignStatement>,
    ) -> Result<Option<String>, BoxError> {
        let mut answer = None;
        for statement in statements {
            let row = self.driver.run(connection, &statement).await;
            self.ran.lock().push(statement);
            answer = row?.or(answer);
        }
        Ok(answer)
    }

    fn execution(&self, office: &Office<D::Store>, id: &RequestIdentity) -> Execution<D> {
        office
            .idem
            .in_foreign(id.clone(), |request| self.driver.foreign(&office.store, request))
    }

    fn look_at(&self, foreign: &Execution<D>) {
        self.shown.lock().push(format!("{foreign:?}"));
    }

    /// Makes a call, as a program does that uses the driver. The value of its work is to be recorded.
    async fn call<W>(
        &self,
        office: &Office<D::Store>,
        connection: &mut D::Connection,
        id: &RequestIdentity,
        depth: u32,
        work: W,
    ) -> Came
    where
        W: AsyncFnOnce(&mut D::Connection, &mut Execution<D>) -> Result<String, BoxError>,
    {
        let mut foreign = self.execution(office, id);
        foreign.nest(depth);
        let answer = match self.all(connection, foreign.begin()).await {
            Ok(answer) => answer.unwrap_or_default(),
            Err(error) => return Came::Driver(error),
        };
        let statements = match foreign.decide::<String>(&answer) {
            Ok(Decided::Granted(statements)) => statements,
            Ok(Decided::Replayed(reply)) => {
                let (value, attempt) = (reply.value().clone(), reply.attempt());
                return Came::Replayed { value, attempt };
            }
            Err(error) => return Came::Denied(error),
        };
        self.look_at(&foreign);
        let attempt = match self.all(connection, statements).await {
            Ok(answer) => match foreign.claimed(answer.as_deref()) {
                Ok(context) => context.attempt(),
                Err(error) => {
                    let _ = self.all(connection, foreign.undo()).await;
                    return Came::Denied(error);
                }
            },
            Err(error) => return Came::Driver(error),
        };
        self.look_at(&foreign);
        let value = match work(connection, &mut foreign).await {
            Ok(value) => value,
            Err(error) => return self.failed(&foreign, connection, Some(error)).await,
        };
        let statements = match foreign.record(&value) {
            Ok(statements) => statements,
            Err(error) => return self.failed(&foreign, connection, Some(error.into())).await,
        };
        let Ok(answer) = self.all(connection, statements).await else {
            // The driver is well. So what the statement missed is the savepoint.
            return self.failed(&foreign, connection, None).await;
        };
        let last = match foreign.recorded(answer.as_deref()) {
            Ok(last) => last,
            Err(error) if matches!(error.kind(), ErrorKind::Store(StoreError::CommittedByWork)) => {
                foreign.hold().await;
                return Came::Ended(error);
            }
            Err(error) => return self.failed(&foreign, connection, Some(error.into())).await,
        };
        self.look_at(&foreign);
        match self.all(connection, last).await {
            Ok(_) => Came::Executed { attempt },
            Err(_) => self.failed(&foreign, connection, None).await,
        }
    }

    async fn failed(&self, foreign: &Execution<D>, connection: &mut D::Connection, error: Option<BoxError>) -> Came {
        let failed = error.is_some();
        if self.all(connection, foreign.undo()).await.is_ok() {
            return Came::Undone(error.unwrap_or_else(|| "the record could not be written".into()));
        }
        if !foreign.is_ended(failed).await {
            return Came::Lost;
        }
        foreign.hold().await;
        Came::Ended(foreign.ended())
    }

    /// Makes a call whose work inserts a row.
    async fn order(
        &self,
        office: &Office<D::Store>,
        connection: &mut D::Connection,
        id: &RequestIdentity,
        value: &str,
    ) -> Came {
        let work = async |connection: &mut D::Connection, _: &mut Execution<D>| {
            self.insert(connection).await?;
            Ok(value.to_owned())
        };
        self.call(office, connection, id, 0, work).await
    }

    /// Makes such a call in a transaction of its own, which is committed whatever it comes to.
    async fn ordered(&self, office: &Office<D::Store>, id: &RequestIdentity, value: &str) -> Result<Came, Failure> {
        let mut connection = self.begin().await?;
        let came = self.order(office, &mut connection, id, value).await;
        if let Came::Driver(_) = came {
            let _ = self.driver.roll_back(&mut connection).await;
        } else {
            self.commit(connection).await?;
        }
        Ok(came)
    }

    fn executed(&self, came: Came, expected: u32) -> Checked {
        match came {
            Came::Executed { attempt } if attempt == expected => Ok(()),
            // A check failed within the work.
            Came::Undone(error) => match error.downcast::<Failure>() {
                Ok(failure) => Err(*failure),
                Err(error) => self.failure(format!("expected an execution, got work undone: {error}")),
            },
            other => self.failure(format!("expected attempt {expected}, got: {other}")),
        }
    }

    fn replayed(&self, came: &Came, expected: &str) -> Checked {
        match came {
            Came::Replayed { value, attempt: 1 } if value == expected => Ok(()),
            Came::Replayed { .. } => self.failure("a replay is another result, or of another attempt"),
            other => self.failure(format!("expected a replay, got: {other}")),
        }
    }

    /// Calls the store's own `run`.
    async fn run(
        &self,
        office: &Office<D::Store>,
        id: &RequestIdentity,
        value: &'static str,
    ) -> Result<Reply<String>, oneflight::Error> {
        office
            .idem
            .run(id.clone(), move |_| async move { value.to_owned() })
            .await
    }

    async fn run_replays(&self, office: &Office<D::Store>, id: &RequestIdentity, expected: &str) -> Checked {
        let reply = self.ok(self.run(office, id, "run again").await)?;
        self.require(
            reply.origin() == Origin::Replayed && reply.value() == expected,
            "the store's own call does not replay what was done in the transaction",
        )
    }

    async fn run_executes(&self, office: &Office<D::Store>, id: &RequestIdentity, value: &'static str) -> Checked {
        let reply = self.ok(self.run(office, id, value).await)?;
        self.require(
            reply.origin() == Origin::Executed,
            "the store's own call was not executed",
        )
    }

    /// Requires that the store's own call is not executed, since another one is at work.
    async fn run_is_held_up(&self, office: &Office<D::Store>, id: &RequestIdentity) -> Checked {
        match self.run(office, id, "beside").await {
            Ok(reply) => self.failure(format!("beside a transaction of another driver: {:?}", reply.origin())),
            Err(error) => match error.kind() {
                // A store with one writer says that the writer is at work, and not on what.
                ErrorKind::InProgress { .. } | ErrorKind::Store(StoreError::Busy { .. }) => Ok(()),
                _ => self.failure(format!("beside a transaction of another driver: {error}")),
            },
        }
    }

    /// Requires that a call comes to nothing, since another one is at work.
    async fn call_is_held_up(&self, office: &Office<D::Store>, id: &RequestIdentity) -> Checked {
        match self.call_beside(office, id).await? {
            // A store with one writer has all others wait for it, and the driver has not waited long.
            Came::Driver(_) => match self.call_beside(office, &self.id("unrelated", 1)?).await? {
                Came::Driver(_) => Ok(()),
                _ => self.failure("a call waits for another one, and one for another key does not"),
            },
            came => self.require(is_in_progress(&came), format!("beside another call: {came}")),
        }
    }

    /// Makes a call in a transaction that is rolled back.
    async fn call_beside(&self, office: &Office<D::Store>, id: &RequestIdentity) -> Result<Came, Failure> {
        let mut connection = self.begin().await?;
        let call = self.order(office, &mut connection, id, "beside");
        let Ok(came) = timeout(AT_ONCE, call).await else {
            return self.failure("a call waits for another one");
        };
        // Where a statement has failed, there may be nothing to roll back.
        let _ = self.driver.roll_back(&mut connection).await;
        Ok(came)
    }

    async fn doubtful(&self, office: &Office<D::Store>, id: &RequestIdentity) -> Checked {
        let came = self.ordered(office, id, "in doubt").await?;
        let is_told = came.is_denied_as(|kind| matches!(kind, ErrorKind::InDoubt { attempt: 1 }));
        self.require(is_told, format!("expected a doubt, got: {came}"))?;
        let own = self.run(office, id, "in doubt").await;
        let is_told = own.is_err_and(|error| matches!(error.kind(), ErrorKind::InDoubt { attempt: 1 }));
        self.require(is_told, "the store's own call does not know of the doubt")
    }
}

fn is_in_progress(came: &Came) -> bool {
    came.is_denied_as(|kind| matches!(kind, ErrorKind::InProgress { .. }))
}

async fn what_is_executed_is_replayed<D: OtherDriver>(desk: &Desk<D>) -> Checked {
    let (here, elsewhere) = (desk.here(), desk.elsewhere().await?);
    let id = desk.id("order", 1)?;
    let mut connection = desk.begin().await?;
    desk.executed(desk.order(&here, &mut connection, &id, "first").await, 1)?;
    desk.rows(0).await?;
    // In the transaction itself as well.
    desk.replayed(&desk.order(&here, &mut connection, &id, "second").await, "first")?;
    desk.commit(connection).await?;
    desk.rows(1).await?;
    for office in [&here, &elsewhere] {
        desk.replayed(&desk.ordered(office, &id, "second").await?, "first")?;
        desk.run_replays(office, &id, "first").await?;
    }
    desk.rows(1).await
}

async fn what_the_store_itself_has_run_is_replayed<D: OtherDriver>(desk: &Desk<D>) -> Checked {
    let (here, elsewhere) = (desk.here(), desk.elsewhere().await?);
    let id = desk.id("order", 1)?;
    desk.run_executes(&here, &id, "own").await?;
    for office in [&here, &elsewhere] {
        desk.replayed(&desk.ordered(office, &id, "second").await?, "own")?;
    }
    desk.rows(0).await
}

async fn what_is_rolled_back_leaves_nothing<D: OtherDriver>(desk: &Desk<D>) -> Checked {
    let here = desk.here();
    let (id, other) = (desk.id("order", 1)?, desk.id("order", 2)?);
    for _ in 0..2 {
        let mut connection = desk.begin().await?;
        desk.executed(desk.order(&here, &mut connection, &id, "first").await, 1)?;
        desk.roll_back(connection).await?;
        desk.rows(0).await?;
        desk.is_free(&id).await?;
    }
    // Nothing was done, so another payload is welcome.
    desk.executed(desk.ordered(&here, &other, "second").await?, 1)?;
    desk.rows(1).await?;
    desk.run_replays(&here, &other, "second").await
}

async fn another_fingerprint_is_a_conflict<D: OtherDriver>(desk: &Desk<D>) -> Checked {
    let here = desk.here();
    let (id, bare) = (
        desk.id("order", 1)?,
        desk.ok(RequestIdentity::new(Scope::new(desk.check), "order"))?,
    );
    desk.executed(desk.ordered(&here, &id, "first").await?, 1)?;
    for other in [desk.id("order", 2)?, bare] {
        let came = desk.ordered(&here, &other, "second").await?;
        let is_told = came.is_denied_as(|kind| matches!(kind, ErrorKind::Conflict));
        desk.require(is_told, format!("another payload is: {came}"))?;
    }
    // The record has the fingerprint, which the store's own calls are held to.
    let own = desk.run(&here, &desk.id("order", 2)?, "second").await;
    let is_told = own.is_err_and(|error| matches!(error.kind(), ErrorKind::Conflict));
    desk.require(is_told, "the store's own call with another payload is no conflict")?;
    desk.rows(1).await
}

async fn a_claim_outside_is_respected_at_once<D: OtherDriver>(desk: &Desk<D>) -> Checked {
    let (here, elsewhere) = (desk.here(), desk.elsewhere().await?);
    let id = desk.id("order", 1)?;
    let (enters, entered) = oneshot::channel::<()>();
    let (leave, left) = oneshot::channel::<()>();
    let own = tokio::spawn({
        let (idem, id) = (here.idem.clone(), id.clone());
        async move {
            let work = move |_| async move {
                let _ = enters.send(());
                let _ = left.await;
                "own".to_owned()
            };
            idem.run(id, work).await
        }
    });
    desk.ok(entered.await)?;
    for office in [&here, &elsewhere] {
        let Ok(came) = timeout(AT_ONCE, desk.ordered(office, &id, "beside")).await else {
            return desk.failure("a call waits for a claim outside");
        };
        let came = came?;
        desk.require(is_in_progress(&came), format!("beside a claim outside: {came}"))?;
    }
    let _ = leave.send(());
    let _ = desk.ok(desk.ok(own.await)?)?;
    desk.replayed(&desk.ordered(&elsewhere, &id, "second").await?, "own")?;
    desk.rows(0).await
}

async fn a_transaction_outside_is_respected<D: OtherDriver>(desk: &Desk<D>) -> Checked {
    let (here, elsewhere) = (desk.here(), desk.elsewhere().await?);
    let id = desk.id("order", 1)?;
    let (enters, entered) = oneshot::channel::<()>();
    let (leave, left) = oneshot::channel::<()>();
    let own = tokio::spawn({
        let (idem, id) = (here.idem.clone(), id.clone());
        async move {
            let work = move |tx| async move {
                let _ = enters.send(());
                let _ = left.await;
                drop(tx);
                Ok("own".to_owned())
            };
            idem.run_in_tx(id, work).await
        }
    });
    desk.ok(entered.await)?;
    for office in [&here, &elsewhere] {
        desk.call_is_held_up(office, &id).await?;
    }
    let _ = leave.send(());
    let _ = desk.ok(desk.ok(own.await)?)?;
    desk.replayed(&desk.ordered(&here, &id, "second").await?, "own")?;
    desk.rows(0).await
}

async fn a_call_is_respected_outside<D: OtherDriver>(desk: &Desk<D>) -> Checked {
    let (here, elsewhere) = (desk.here(), desk.elsewhere().await?);
    let id = desk.id("order", 1)?;
    let mut connection = desk.begin().await?;
    let work = async |connection: &mut D::Connection, _: &mut Execution<D>| {
        desk.insert(connection).await?;
        for office in [&here, &elsewhere] {
            desk.run_is_held_up(office, &id).await?;
        }
        desk.call_is_held_up(&here, &id).await?;
        Ok("first".to_owned())
    };
    desk.executed(desk.call(&here, &mut connection, &id, 0, work).await, 1)?;
    // Until the commit.
    desk.run_is_held_up(&elsewhere, &id).await?;
    desk.call_is_held_up(&elsewhere, &id).await?;
    desk.commit(connection).await?;
    for office in [&here, &elsewhere] {
        desk.run_replays(office, &id, "first").await?;
    }
    desk.rows(1).await
}

async fn what_fails_is_undone_to_its_savepoint<D: OtherDriver>(desk: &Desk<D>) -> Checked {
    let here = desk.here();
    let broken = ForeignStatement::new("SELECT missing FROM missing_table_of_the_suite", []);
    let mut kept = 0;
    // By itself, and by a statement that a database may end the transaction for.
    for (key, statement) in [("fails", None), ("is broken", Some(broken))] {
        let id = desk.id(key, 1)?;
        let mut connection = desk.begin().await?;
        desk.ok(desk.insert(&mut connection).await)?;
        let work = async |connection: &mut D::Connection, _: &mut Execution<D>| {
            desk.insert(connection).await?;
            desk.insert(connection).await?;
            if let Some(statement) = &statement {
                desk.driver.run(connection, statement).await?;
            }
            Err::<String, BoxError>("sold out".into())
        };
        match desk.call(&here, &mut connection, &id, 0, work).await {
            Came::Undone(_) => {}
            other => return desk.failure(format!("work that {key} is: {other}")),
        }
        desk.ok(desk.insert(&mut connection).await)?;
        desk.commit(connection).await?;
        kept += 2;
        desk.rows(kept).await?;
        desk.is_free(&id).await?;
        desk.executed(desk.ordered(&here, &id, "second").await?, 1)?;
        kept += 1;
        desk.rows(kept).await?;
    }
    // A call that is not granted undoes nothing either.
    let id = desk.id("fails", 2)?;
    let mut connection = desk.begin().await?;
    desk.ok(desk.insert(&mut connection).await)?;
    let mut foreign = desk.execution(&here, &id);
    let answer = desk.ok(desk.all(&mut connection, foreign.begin()).await)?;
    let denied = foreign.decide::<String>(answer.as_deref().unwrap_or_default());
    desk.require(denied.is_err(), "another payload was granted")?;
    desk.ok(desk.all(&mut connection, foreign.undo()).await)?;
    desk.commit(connection).await?;
    desk.rows(kept + 1).await
}

async fn calls_in_the_work_of_a_call_are_undone_apart<D: OtherDriver>(desk: &Desk<D>) -> Checked {
    let here = desk.here();
    let mut kept = 0;
    for (inner_fails, outer_fails) in [(false, false), (true, false), (false, true), (true, true)] {
        let case = format!("inner {inner_fails}, outer {outer_fails}");
        let (outer, inner) = (
            desk.id(&format!("{case}: outer"), 1)?,
            desk.id(&format!("{case}: inner"), 1)?,
        );
        let within = async |connection: &mut D::Connection, _: &mut Execution<D>| {
            desk.insert(connection).await?;
            desk.insert(connection).await?;
            if inner_fails {
                Err("sold out".into())
            } else {
                Ok("inner".to_owned())
            }
        };
        let work = async |connection: &mut D::Connection, _: &mut Execution<D>| {
            desk.insert(connection).await?;
            match desk.call(&here, connection, &inner, 1, within).await {
                Came::Executed { attempt: 1 } if !inner_fails => {}
                Came::Undone(_) if inner_fails => {}
                other => desk.failure(format!("{case}: a call inside is: {other}"))?,
            }
            desk.insert(connection).await?;
            if outer_fails {
                Err("sold out".into())
            } else {
                Ok("outer".to_owned())
            }
        };
        let mut connection = desk.begin().await?;
        desk.ok(desk.insert(&mut connection).await)?;
        match desk.call(&here, &mut connection, &outer, 0, work).await {
            Came::Undone(error) if outer_fails && !error.is::<Failure>() => {}
            came if !outer_fails => desk.executed(came, 1)?,
            other => return desk.failure(format!("{case}: a call around another is: {other}")),
        }
        desk.ok(desk.insert(&mut connection).await)?;
        desk.commit(connection).await?;
        kept += match (inner_fails, outer_fails) {
            (_, true) => 2,
            (true, false) => 4,
            (false, false) => 6,
        };
        desk.rows(kept).await?;
        for (id, is_kept, value) in [
            (&outer, !outer_fails, "outer"),
            (&inner, !outer_fails && !inner_fails, "inner"),
        ] {
            match is_kept {
                true => desk.run_replays(&here, id, value).await?,
                false => desk.is_free(id).await?,
            }
        }
    }
    Ok(())
}

async fn work_that_ends_the_transaction_leaves_a_doubt<D: OtherDriver>(desk: &Desk<D>) -> Checked {
    let (here, elsewhere) = (desk.here(), desk.elsewhere().await?);
    let mut kept = 0;
    for (commits, fails) in [(true, false), (true, true), (false, false), (false, true)] {
        let ends = format!("commits {commits}, fails {fails}");
        let id = desk.id(&ends, 1)?;
        let work = async |connection: &mut D::Connection, _: &mut Execution<D>| {
            desk.insert(connection).await?;
            match commits {
                true => desk.driver.commit(connection).await?,
                false => desk.driver.roll_back(connection).await?,
            }
            if fails {
                Err("sold out".into())
            } else {
                Ok("ends".to_owned())
            }
        };
        let mut connection = desk.begin().await?;
        let came = desk.call(&here, &mut connection, &id, 0, work).await;
        // Where the work has left nothing open, that may be an error.
        let _ = desk.driver.roll_back(&mut connection).await;
        kept += u64::from(commits);
        desk.rows(kept).await?;
        match came {
            // Nothing was kept, and the error is not known to be of that.
            Came::Lost if !commits && fails => {
                desk.is_free(&id).await?;
                desk.run_executes(&here, &id, "after").await?;
            }
            Came::Ended(error) if commits || !fails => {
                let is_told = matches!(error.kind(), ErrorKind::Store(StoreError::CommittedByWork));
                desk.require(
                    is_told && error.effect() == Effect::Unknown,
                    format!("{ends}: not `CommittedByWork` of unknown effect, but {error}"),
                )?;
                for office in [&here, &elsewhere] {
                    desk.doubtful(office, &id).await?;
                }
            }
            other => return desk.failure(format!("{ends}: the call is: {other}")),
        }
    }
    desk.rows(kept).await
}

/// Has all messages noted down that arrive.
fn relay<D: OtherDriver>(desk: &Desk<D>, inbox: &Arc<Mutex<Vec<String>>>) -> Result<RelayHandle, Failure> {
    let inbox = Arc::clone(inbox);
    let target = move |delivery: Delivery| {
        let text = String::from_utf8_lossy(delivery.payload()).into_owned();
        inbox.lock().push(text);
        async { Ok::<(), DeliveryError>(()) }
    };
    let builder = Relay::builder(desk.driver.store().clone()).target("*", target);
    Ok(desk.ok(builder.build())?.spawn())
}

async fn a_message_is_sent_with_the_commit<D: OtherDriver>(desk: &Desk<D>) -> Checked {
    let here = desk.here();
    let inbox = Arc::default();
    let relay = relay(desk, &inbox)?;
    let sent = Mutex::new(Vec::new());
    let send = async |connection: &mut D::Connection, id: &RequestIdentity, text: &'static str, fails: bool| {
        let work = async |connection: &mut D::Connection, foreign: &mut Execution<D>| {
            let message = Message::text("orders.placed", text).key("the order");
            let answer = desk.all(connection, foreign.send(message)?).await?;
            sent.lock().push(foreign.sent(answer.as_deref())?);
            if fails {
                Err("sold out".into())
            } else {
                Ok(text.to_owned())
            }
        };
        desk.call(&here, connection, id, 0, work).await
    };

    let (id, other) = (desk.id("order", 1)?, desk.id("other", 1)?);
    let mut connection = desk.begin().await?;
    desk.executed(send(&mut connection, &id, "rolled back", false).await, 1)?;
    desk.roll_back(connection).await?;
    let mut connection = desk.begin().await?;
    match send(&mut connection, &id, "undone", true).await {
        Came::Undone(_) => {}
        other => return desk.failure(format!("work that fails is: {other}")),
    }
    desk.commit(connection).await?;
    let mut connection = desk.begin().await?;
    desk.executed(send(&mut connection, &id, "kept", false).await, 1)?;
    sleep(WATCH).await;
    desk.require(inbox.lock().is_empty(), "a message arrives before it is committed")?;
    desk.commit(connection).await?;
    let since = Instant::now();
    while inbox.lock().is_empty() && since.elapsed() < ARRIVES_WITHIN {
        sleep(Duration::from_millis(5)).await;
    }
    // Its request is replayed, and another one with its key finds it there.
    let mut connection = desk.begin().await?;
    desk.replayed(&send(&mut connection, &id, "replayed", false).await, "kept")?;
    desk.executed(send(&mut connection, &other, "duplicate", false).await, 1)?;
    desk.commit(connection).await?;
    sleep(WATCH).await;
    relay.stop().await;
    let arrived = inbox.lock().clone();
    desk.require(
        arrived == ["kept"],
        format!("of what was sent {arrived:?} arrived, and not the one message that was committed"),
    )?;
    let sent = sent.lock().clone();
    let is_told = match *sent {
        [Sent::New(_), Sent::New(_), Sent::New(kept), Sent::Duplicate(of)] => kept == of,
        _ => false,
    };
    desk.require(is_told, format!("what was new and what was there already: {sent:?}"))
}

async fn values_are_in_no_text<D: OtherDriver>(desk: &Desk<D>) -> Checked {
    let here = desk.here();
    let secret = |what: &str| format!("{SECRET}-{what}");
    let digest = [0xa7; 32];
    let id = desk.ok(RequestIdentity::new(Scope::new(secret("scope")), secret("key")))?;
    let id = id.with_known_fingerprint(Fingerprint::from_digest(digest));
    let called = desk.ok(CorrelationId::new(secret("correlation")))?;
    let work = async |connection: &mut D::Connection, foreign: &mut Execution<D>| {
        let message = Message::bytes(secret("topic"), secret("type"), secret("payload").into_bytes())
            .key(secret("message"))
            .ordering_key(secret("order"))
            .header(secret("header"), secret("header-value"));
        let answer = desk.all(connection, foreign.send(message)?).await?;
        let _ = foreign.sent(answer.as_deref())?;
        Ok(secret("value"))
    };
    let fails = async |_: &mut D::Connection, _: &mut Execution<D>| Err::<String, BoxError>("sold out".into());
    let mut connection = desk.begin().await?;
    let call = async {
        // What undoes is looked at as well.
        match desk.call(&here, &mut connection, &id, 0, fails).await {
            Came::Undone(_) => {}
            other => return desk.failure(format!("work that fails is: {other}")),
        }
        desk.executed(desk.call(&here, &mut connection, &id, 0, work).await, 1)
    };
    correlation::scope(called, call).await?;
    desk.commit(connection).await?;
    desk.replayed(&desk.ordered(&here, &id, "second").await?, &secret("value"))?;

    let secrets = [SECRET.to_owned(), hex(SECRET.as_bytes()), hex(&digest)];
    let has_secret = |text: &str| secrets.iter().any(|it| text.to_lowercase().contains(it));
    let ran = desk.ran.lock();
    for statement in &*ran {
        desk.require(
            !has_secret(&statement.text),
            format!("there is a value in the text of {}", statement.text),
        )?;
        desk.require(
            !has_secret(&format!("{statement:?} {statement:#?}")),
            "`Debug` of a statement prints a value",
        )?;
    }
    // Else nothing of this would say anything.
    let values: Vec<_> = ran.iter().flat_map(|statement| &statement.values).collect();
    for what in ["scope", "key", "message"] {
        desk.require(
            values.contains(&&secret(what)),
            format!("no statement has the {what} for a value"),
        )?;
    }
    let is_shown = desk.shown.lock().iter().any(|shown| has_secret(shown));
    desk.require(!is_shown, "`Debug` of an execution prints a value")
}

async fn what_is_in_doubt_is_taken_over_only_if_wanted<D: OtherDriver>(desk: &Desk<D>) -> Checked {
    let here = desk.here();
    let reruns = desk.office(desk.driver.store().clone(), Recovery::Rerun);
    let id = desk.id("order", 1)?;
    let claim: Claim = match desk.ok(here.store.claim(ClaimRequest::new(&id, Duration::ZERO)).await)? {
        ClaimOutcome::Granted(claim) => claim,
        ClaimOutcome::Denied(_) => return desk.failure("a claim of a new identity was denied"),
    };
    let token = claim.token();
    desk.doubtful(&here, &id).await?;
    desk.rows(0).await?;
    // What is rolled back, and what is undone, leaves the doubt as it was.
    let mut connection = desk.begin().await?;
    desk.executed(desk.order(&reruns, &mut connection, &id, "second").await, 2)?;
    desk.roll_back(connection).await?;
    let fails = async |_: &mut D::Connection, _: &mut Execution<D>| Err::<String, BoxError>("sold out".into());
    let mut connection = desk.begin().await?;
    match desk.call(&reruns, &mut connection, &id, 0, fails).await {
        Came::Undone(_) => {}
        other => return desk.failure(format!("work that fails is: {other}")),
    }
    desk.commit(connection).await?;
    desk.doubtful(&here, &id).await?;
    desk.rows(0).await?;
    desk.executed(desk.ordered(&reruns, &id, "second").await?, 2)?;
    desk.rows(1).await?;
    match here.store.complete(claim, result(3), LONG).await {
        Err(StoreError::Outdated { token: refused }) if refused == token => {}
        Ok(()) => return desk.failure("a holder that was taken over could complete"),
        Err(_) => return desk.failure("an outdated holder was refused with an error other than `Outdated`"),
    }
    let record = desk.ok(here.store.load(&id).await)?;
    let is_newer = record.is_some_and(|record| record.token > token && record.attempt == 2);
    desk.require(
        is_newer,
        "the record has not the token and the attempt of who took over",
    )?;
    desk.run_replays(&here, &id, "second").await
}

/// What no store answers.
const GARBAGE: [&str; 8] = [
    "",
    " ",
    "-",
    "null",
    "1 2 3",
    "\u{0}",
    "größe ¼",
    "{\"oneflight\":\"new\"}",
];

/// Answers that were one, with a part that is something else.
fn spoilt(answer: &str) -> Vec<String> {
    let words: Vec<_> = answer.split(' ').collect();
    let mut spoilt: Vec<_> = answer.char_indices().map(|(at, _)| answer[..at].to_owned()).collect();
    for at in 0..words.len() {
        for word in [
            "",
            "-",
            "é",
            "0",
            "-1",
            "a",
            "0g",
            "99999999999999999999",
            "18446744073709551615",
            "9223372036854775807",
        ] {
            let mut words = words.clone();
            words[at] = word;
            spoilt.push(words.join(" "));
        }
    }
    spoilt
}

async fn an_answer_that_is_garbage_is_an_error<D: OtherDriver>(desk: &Desk<D>) -> Checked {
    let here = desk.here();
    let no_panic = |step: &str, reads: &mut dyn FnMut() -> bool| match catch_unwind(AssertUnwindSafe(reads)) {
        Ok(is_error) => Ok(is_error),
        Err(_) => desk.failure(format!("an answer to {step} that is garbage is a panic")),
    };
    let (new, done, doubtful) = (desk.id("new", 1)?, desk.id("done", 1)?, desk.id("doubtful", 1)?);
    desk.executed(desk.ordered(&here, &done, "done").await?, 1)?;
    let _ = desk.ok(here.store.claim(ClaimRequest::new(&doubtful, Duration::ZERO)).await)?;

    let mut connection = desk.begin().await?;
    for id in [&new, &done, &doubtful] {
        let answer = desk.ok(desk.all(&mut connection, desk.execution(&here, id).begin()).await)?;
        let answer = answer.unwrap_or_default();
        let twice = format!("{answer} {answer}");
        for garbage in GARBAGE.into_iter().chain([&*twice]) {
            let mut foreign = desk.execution(&here, id);
            let is_error = no_panic("the question for the record", &mut || {
                let decided = foreign.decide::<String>(garbage);
                decided.is_err_and(|error| matches!(error.kind(), ErrorKind::Store(_)))
            })?;
            desk.require(is_error, format!("as an answer `{garbage}` is no error of the store"))?;
            let undo = foreign.undo();
            desk.require(undo.is_empty(), "what was not granted is to be undone")?;
        }
        // What these mean is the store's own affair.
        for answer in spoilt(&answer) {
            let mut foreign = desk.execution(&here, id);
            let _ = no_panic("the question for the record", &mut || {
                foreign.decide::<String>(&answer).is_err()
            })?;
        }
    }

    let mut foreign = desk.execution(&here, &new);
    let answer = desk.ok(desk.all(&mut connection, foreign.begin()).await)?;
    let Ok(Decided::Granted(statements)) = foreign.decide::<String>(answer.as_deref().unwrap_or_default()) else {
        return desk.failure("a new identity was not granted after garbage");
    };
    let answer = desk.ok(desk.all(&mut connection, statements).await)?;
    for garbage in GARBAGE.into_iter().map(Some).chain([None]) {
        let mut other = desk.execution(&here, &new);
        let _ = no_panic("the grant", &mut || other.claimed(garbage).is_err())?;
        let is_error = no_panic("a message", &mut || foreign.sent(garbage).is_err())?;
        desk.require(is_error, format!("as what became of a message {garbage:?} is no error"))?;
    }
    let _ = desk.ok(foreign.claimed(answer.as_deref()))?;
    for garbage in GARBAGE.into_iter().map(Some).chain([None]) {
        let is_error = no_panic("the record", &mut || foreign.recorded(garbage).is_err())?;
        desk.require(is_error, format!("as an answer to the record {garbage:?} is no error"))?;
    }
    desk.ok(desk.all(&mut connection, foreign.undo()).await)?;
    desk.executed(desk.order(&here, &mut connection, &new, "new").await, 1)?;
    desk.commit(connection).await?;
    desk.rows(2).await
}
