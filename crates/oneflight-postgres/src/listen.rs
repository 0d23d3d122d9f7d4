//! How a process hears of changes from other processes: over one connection, however many callers wait.
//!
//! ```text
//! silent ──first watch──▶ connecting ──proven ours──▶ hearing ──connection lost──▶ connecting, later each time
//!                          │  └──shared with others──▶ silent for minutes ──▶ connecting
//!                          └── nothing is subscribed: callers poll ────┘
//! ```
//!
//! `NOTIFY` makes all transactions that use it commit one after the other, so it is used only where a caller waits. A
//! process with a waiting caller shows it by a *shared* advisory lock on the record's second number, held by this
//! connection. A change of a record tries to get that lock alone, as part of its statement, and notifies if it does not
//! get it. Nothing falls in between:
//!
//! * If the change gets the lock, it has it until it is committed and visible. A process that would wait cannot get the
//!   lock meanwhile, is not subscribed, and asks again soon.
//! * If the waiting process gets the lock, every change from then on is notified, and it looks at the record once more
//!   after that.
//!
//! The connection is outside of the user's pool, so that waiting takes nothing away from working.
//!
//! # Whose session it is
//!
//! A pooler that lends a session for one transaction at a time would run each of our statements in another one, and
//! keep the locks. So the session has to be proven ours before a lock is taken: see [`prove`]. Every statement that
//! concerns locks names the session that it is for, and does nothing in another.
//!
//! # How many locks
//!
//! All sessions share one table of locks, to which each connection that the server allows adds
//! `max_locks_per_transaction` places. This one takes up to half of what it adds itself. So any number of processes
//! leaves to the others what is theirs. Over the bound, callers poll.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolOptions, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection as _, Executor, Postgres, Row};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::names::Keys;
use oneflight::record::HolderId;
use oneflight::store::{Watch, Watchers, jitter};

/// The number of wishes that are put to the server at a time.
const BATCH: usize = 64;
/// How long the server may take to answer one, before the connection is given up.
const ANSWER: Duration = Duration::from_secs(5);
/// How long the connection and the proof that its session is ours may take.
const PROOF: Duration = Duration::from_secs(10);
/// How often the session is checked for being shared, before anything is left in it.
const ROUNDS: usize = 8;
/// How long a subscription is waited for. A caller that does not get it polls.
const SUBSCRIBED: Duration = Duration::from_secs(1);
/// After how much silence the server is asked whether the session still exists and is ours.
const SILENCE: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The most that is added to a pause, so that processes which lost the server together do not come back together.
const JITTER: Duration = Duration::from_millis(50);
/// After how long a pooler that shares sessions is asked again whether it still does.
const SHARED_PAUSE: Duration = Duration::from_secs(300);

/// The process's ear. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Ear(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    channel: String,
    watchers: Watchers,
    /// The way to the task that listens, if one was begun.
    wishes: Mutex<Option<mpsc::UnboundedSender<Wish>>>,
}

/// What the listening task is asked for.
enum Wish {
    /// Shows that a caller waits, and gives the sign back once it is up.
    Show(Shown, oneshot::Sender<Shown>),
    /// The caller does not wait any more.
    Hide(i64, Connection),
}

/// The number of a connection, among those that the task has had.
type Connection = u64;

/// The sign that a caller waits for this number's record. It is taken down when this is dropped.
struct Shown {
    number: i64,
    /// The connection on which the sign is up, if it is.
    up: Option<Connection>,
    wishes: mpsc::UnboundedSender<Wish>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(connection) = self.up {
            // If nothing receives it, the connection is gone, and the lock with it.
            let _ = self.wishes.send(Wish::Hide(self.number, connection));
        }
    }
}

impl Ear {
    pub(super) fn new(channel: String) -> Self {
        // None until it hears something, and knows how many.
        let watchers = Watchers::new(0);
        watchers.close();
        Self(Arc::new(Inner {
            channel,
            watchers,
            wishes: Mutex::new(None),
        }))
    }

    /// Subscribes to a record's changes, if they are heard.
    pub(super) async fn watch(&self, pool: &PgPool, keys: Keys) -> Watch {
        let wishes = self.wishes(pool);
        let watch = self.0.watchers.watch(registered(keys.watch));
        if watch.is_none() {
            return watch;
        }
        let (answers, answer) = oneshot::channel();
        let sign = Shown {
            number: keys.watch,
            up: None,
            wishes: wishes.clone(),
        };
        if wishes.send(Wish::Show(sign, answers)).is_err() {
            return Watch::none();
        }
        match timeout(SUBSCRIBED, answer).await {
            Ok(Ok(shown)) => watch.holding(shown),
            Ok(Err(_)) | Err(_) => Watch::none(),
        }
    }

    /// Returns the way to the task that listens. Begins one if there is none, or if the runtime that it was on is gone.
    fn wishes(&self, pool: &PgPool) -> mpsc::UnboundedSender<Wish> {
        let mut wishes = self.0.wishes.lock();
        if let Some(wishes) = wishes.as_ref().filter(|wishes| !wishes.is_closed()) {
            return wishes.clone();
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        *wishes = Some(sender.clone());
        let (channel, watchers) = (self.0.channel.clone(), self.0.watchers.clone());
        tokio::spawn(listen(pool.clone(), channel, Silence(watchers), receiver));
        sender
    }
}

/// A number as the registry knows it.
fn registered(number: i64) -> u64 {
    number.cast_unsigned()
}

/// The registry of a listening task. When the task ends, in whichever way, nothing is heard.
struct Silence(Watchers);

impl Drop for Silence {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Listens until the store and all its watches are gone, so that nothing can be asked any more, or until the pool is
/// closed.
async fn listen(pool: PgPool, channel: String, silence: Silence, mut wishes: mpsc::UnboundedReceiver<Wish>) {
    let mut pause = FIRST_PAUSE;
    let mut connections: Connection = 0;
    while !pool.is_closed() {
        let begun = Instant::now();
        // The options are the pool's as they are now: passwords change.
        match timeout(PROOF, connect(&pool.connect_options(), &channel)).await {
            Ok(Ok(Some((mut listener, session)))) => {
                connections += 1;
                silence.0.bound(session.most_watched);
                silence.0.open();
                tokio::select! {
                    () = hear(&mut listener, &session, connections, &silence.0, &mut wishes) => {}
                    () = pool.close_event() => {}
                }
                silence.0.close();
            }
            Ok(Ok(None)) => pause = SHARED_PAUSE,
            Ok(Err(_)) | Err(_) => {}
        }
        if begun.elapsed() > LONGEST_PAUSE && pause < SHARED_PAUSE {
            pause = FIRST_PAUSE;
        }
        if timeout(pause + jitter(JITTER), unanswered(&mut wishes)).await.is_ok() {
            return;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Leaves wishes without an answer, which says that nothing is heard, until there can be none any more.
async fn unanswered(wishes: &mut mpsc::UnboundedReceiver<Wish>) {
    while wishes.recv().await.is_some() {}
}

/// A session of the server's that is ours.
struct Session {
    /// The server's process.
    pid: i32,
    /// The number of records for which locks may be taken in it.
    most_watched: usize,
}

/// Connects and listens. Returns `None` if the session is not ours.
async fn connect(options: &PgConnectOptions, channel: &str) -> sqlx::Result<Option<(PgListener, Session)>> {
    let options = options.clone().application_name("oneflight listener");
    // A listener wants a pool to take its connection from.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .acquire_timeout(ANSWER)
        .connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    let mut witness = options.connect().await?;
    let proven = prove(&mut listener, &mut witness, channel).await?;
    let _ = witness.close().await;
    Ok(proven.map(|session| (listener, session)))
}

/// Proves that no other client has the listener's session while it is idle, with the help of a second connection.
///
/// A pooler that shares sessions sooner or later lends the listener's to the second connection, or another one to the
/// listener. Until that is known, nothing may be left in any session: a `LISTEN` would notify other clients of what
/// they do not expect. The proof that the session is ours is a notification that comes while the listener asks for
/// nothing: a client that has no session at that time does not hear it.
async fn prove(listener: &mut PgListener, witness: &mut PgConnection, channel: &str) -> sqlx::Result<Option<Session>> {
    let settings = "SELECT pg_backend_pid(), current_setting('max_locks_per_transaction')";
    let [row] = &ask(&mut *listener, settings).await?[..] else {
        return Ok(None);
    };
    let pid = row.try_get(0)?;
    let places: usize = row.try_get::<String, _>(1)?.parse().unwrap_or_default();
    for round in 0..ROUNDS {
        // Not always in the same rhythm, which may be that of a pooler that lends its sessions in turns.
        for _ in 0..=round % 2 {
            if is_session(&mut *witness, pid).await? {
                return Ok(None);
            }
        }
        if !is_session(&mut *listener, pid).await? {
            return Ok(None);
        }
    }
    listener.listen(channel).await?;
    let heard = async {
        let proof = format!("proof {:032x}", u128::from_be_bytes(*HolderId::random().as_bytes()));
        ask(witness, &format!("SELECT pg_notify('{channel}', '{proof}')")).await?;
        while let Some(notification) = listener.try_recv().await? {
            if notification.payload() == proof {
                return Ok(true);
            }
        }
        Ok::<_, sqlx::Error>(false)
    };
    if !matches!(timeout(ANSWER, heard).await, Ok(Ok(true))) {
        listener.unlisten(channel).await?;
        return Ok(None);
    }
    Ok(Some(Session {
        pid,
        most_watched: places / 2,
    }))
}

/// Returns whether this connection has, for this statement at least, the session of this process.
async fn is_session<'c>(connection: impl Executor<'c, Database = Postgres>, pid: i32) -> sqlx::Result<bool> {
    let rows = ask(connection, &format!("SELECT WHERE pg_backend_pid() = {pid}")).await?;
    Ok(!rows.is_empty())
}

/// Puts one statement to the server, without preparing it: what was prepared in one session does not exist in another.
async fn ask<'c>(connection: impl Executor<'c, Database = Postgres>, statement: &str) -> sqlx::Result<Vec<PgRow>> {
    let statement = AssertSqlSafe(statement.to_owned());
    sqlx::raw_sql(statement).fetch_all(connection).await
}

/// Passes on what is heard and puts wishes to the server, until the connection is lost, its session is not ours, or
/// nothing can be asked any more.
async fn hear(
    listener: &mut PgListener,
    session: &Session,
    connection: Connection,
    watchers: &Watchers,
    wishes: &mut mpsc::UnboundedReceiver<Wish>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        // Each may be dropped half-way: what has been read by then is read on later.
        let ours = tokio::select! {
            heard = listener.try_recv() => match heard {
                Ok(Some(notification)) => {
                    if let Ok(number) = notification.payload().parse() {
                        watchers.notify(registered(number));
                    }
                    continue;
                }
                Ok(None) | Err(_) => return,
            },
            wished = wishes.recv_many(&mut batch, BATCH) => {
                if wished == 0 {
                    return;
                }
                timeout(ANSWER, fulfil(listener, session, connection, batch.drain(..))).await
            }
            () = sleep(SILENCE) => timeout(ANSWER, is_session(&mut *listener, session.pid)).await,
        };
        if !matches!(ours, Ok(Ok(true))) {
            return;
        }
    }
}

/// Takes and gives up the locks that show which records are waited for, in two round trips at most, unless the session
/// is not ours. The server counts how often a session has each lock, so that several callers may wait for one record
/// here.
async fn fulfil(
    listener: &mut PgListener,
    session: &Session,
    connection: Connection,
    wishes: impl Iterator<Item = Wish>,
) -> sqlx::Result<bool> {
    let (mut show, mut hide) = (Vec::new(), Vec::new());
    for wish in wishes {
        match wish {
            // The wish is left out if its answer is not waited for any more.
            Wish::Show(_, answer) if answer.is_closed() => {}
            Wish::Show(sign, answer) => show.push((sign, answer)),
            // A sign of an earlier connection went down with it.
            Wish::Hide(number, of) if of == connection => hide.push(number),
            Wish::Hide(..) => {}
        }
    }
    if !hide.is_empty() {
        let hidden = session.for_each("pg_advisory_unlock_shared", hide.iter());
        if ask(&mut *listener, &hidden).await?.len() < hide.len() {
            return Ok(false);
        }
    }
    if show.is_empty() {
        return Ok(true);
    }
    let shown = session.for_each("pg_try_advisory_lock_shared", show.iter().map(|(sign, _)| &sign.number));
    let shown = ask(listener, &shown).await?;
    let ours = shown.len() == show.len();
    for ((mut sign, answer), shown) in show.into_iter().zip(shown) {
        if shown.try_get(0)? {
            sign.up = Some(connection);
            // If the caller is gone, the sign comes back and is dropped.
            let _ = answer.send(sign);
        }
    }
    Ok(ours)
}

impl Session {
    /// A statement that calls a function with each of these numbers, in this order, and does nothing in another
    /// session.
    fn for_each<'n>(&self, function: &str, numbers: impl Iterator<Item = &'n i64>) -> String {
        let mut list = String::new();
        for number in numbers {
            // Writing into a string does not fail.
            let _ = write!(list, "{}{number}", if list.is_empty() { "" } else { ", " });
        }
        format!(
            "SELECT {function}(number) FROM unnest('{{{list}}}'::bigint[]) WITH ORDINALITY AS wish (number, place)
             WHERE pg_backend_pid() = {} ORDER BY place",
            self.pid
        )
    }
}
