//! Hearing of changes from other processes: one connection a process, however many wait.
//!
//! ```text
//! silent ──first watch──▶ connecting ──LISTEN──▶ hearing ──connection lost──▶ connecting, later each time
//!                             └── nobody is subscribed: who waits, polls ──┘
//! ```
//!
//! `NOTIFY` makes all transactions that use it commit one after the other, so it is used only where somebody waits. Who
//! waits shows it by a *shared* advisory lock on the record's second number, held by this connection; who changes a
//! record tries to get that lock alone, as part of his statement, and notifies if he does not get it. Nothing falls in
//! between:
//!
//! * If the changer gets the lock, he has it until his change is committed and visible. Whoever would wait cannot get
//!   it meanwhile, is not subscribed, and asks again soon.
//! * If the waiter gets it, every change from then on is told; and he looks at the record once more after that.
//!
//! The connection is outside of the user's pool, so that waiting takes nothing away from working.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::names::Keys;
use crate::record::random_u64;
use crate::store::watch::{Watch, Watchers};

/// How many keys may be waited for by notification at a time: each takes a place in the server's table of locks, which
/// has 6,400 for everybody unless configured otherwise.
const MOST_WATCHED: usize = 256;
/// How many wishes are put to the server at a time.
const BATCH: usize = 64;
/// How long the server may take to answer one, before the connection is given up.
const ANSWER: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The process's ear. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Ear(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    channel: String,
    watchers: Watchers,
    /// To the task that listens, if one was begun.
    wishes: Mutex<Option<mpsc::UnboundedSender<Wish>>>,
}

/// What the listening task is asked for.
enum Wish {
    /// Shows that somebody waits, and gives the sign back once it is up.
    Show(Shown, oneshot::Sender<Shown>),
    /// He does not any more.
    Hide(i64, Connection),
}

/// Which of the connections that the task has had, one after the other.
type Connection = u64;

/// The sign that somebody waits for this number's record. Dropped, it is taken down.
struct Shown {
    number: i64,
    /// Where it is up, if it is.
    up: Option<Connection>,
    wishes: mpsc::UnboundedSender<Wish>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(connection) = self.up {
            // If nobody is there to hear it, the connection is gone, and the lock with it.
            let _ = self.wishes.send(Wish::Hide(self.number, connection));
        }
    }
}

impl Ear {
    pub(super) fn new(channel: String) -> Self {
        let watchers = Watchers::new(MOST_WATCHED);
        // Until it hears something.
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
        match timeout(ANSWER, answer).await {
            Ok(Ok(shown)) => watch.holding(shown),
            Ok(Err(_)) | Err(_) => Watch::none(),
        }
    }

    /// Whom to ask; begins to listen if nobody does, or if the runtime is gone on which somebody did.
    fn wishes(&self, pool: &PgPool) -> mpsc::UnboundedSender<Wish> {
        let mut wishes = self.0.wishes.lock();
        if let Some(wishes) = wishes.as_ref().filter(|wishes| !wishes.is_closed()) {
            return wishes.clone();
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        *wishes = Some(sender.clone());
        let options = pool.connect_options();
        let (channel, watchers) = (self.0.channel.clone(), self.0.watchers.clone());
        tokio::spawn(listen(options, channel, Silence(watchers), receiver));
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

/// Listens until nobody can ask any more: the store and all its watches are gone.
async fn listen(
    options: Arc<PgConnectOptions>,
    channel: String,
    silence: Silence,
    mut wishes: mpsc::UnboundedReceiver<Wish>,
) {
    let mut pause = FIRST_PAUSE;
    let mut connections: Connection = 0;
    while !wishes.is_closed() || !wishes.is_empty() {
        if let Ok(mut listener) = connect(&options, &channel).await {
            pause = FIRST_PAUSE;
            silence.0.open();
            connections += 1;
            hear(&mut listener, connections, &silence.0, &mut wishes).await;
            silence.0.close();
            // Unanswered, who wishes for something knows that nothing is heard.
            while wishes.try_recv().is_ok() {}
        }
        let jitter = Duration::from_micros(random_u64() % 50_000);
        sleep(pause + jitter).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn connect(options: &PgConnectOptions, channel: &str) -> sqlx::Result<PgListener> {
    // A listener wants a pool to take its connection from.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .acquire_timeout(ANSWER)
        .connect_lazy_with(options.clone().application_name("oneflight listener"));
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.listen(channel).await?;
    Ok(listener)
}

/// Passes on what is heard and puts wishes to the server, until the connection is lost or nobody can ask any more.
async fn hear(
    listener: &mut PgListener,
    connection: Connection,
    watchers: &Watchers,
    wishes: &mut mpsc::UnboundedReceiver<Wish>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        // Either may be dropped half-way: what has been read by then is read on later.
        tokio::select! {
            heard = listener.try_recv() => match heard {
                Ok(Some(notification)) => {
                    if let Ok(number) = notification.payload().parse() {
                        watchers.notify(registered(number));
                    }
                }
                Ok(None) | Err(_) => return,
            },
            wished = wishes.recv_many(&mut batch, BATCH) => {
                if wished == 0 {
                    return;
                }
                match timeout(ANSWER, fulfil(listener, connection, batch.drain(..))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) | Err(_) => return,
                }
            }
        }
    }
}

/// Takes and gives up the locks that show who waits, in two round trips at most. The server counts how often a session
/// has each, so that several may wait for one record here.
async fn fulfil(
    listener: &mut PgListener,
    connection: Connection,
    wishes: impl Iterator<Item = Wish>,
) -> sqlx::Result<()> {
    let (mut show, mut hide) = (Vec::new(), Vec::new());
    for wish in wishes {
        match wish {
            Wish::Show(sign, answer) => show.push((sign, answer)),
            // A sign of an earlier connection went down with it.
            Wish::Hide(number, of) if of == connection => hide.push(number),
            Wish::Hide(..) => {}
        }
    }
    if !hide.is_empty() {
        sqlx::query("SELECT pg_advisory_unlock_shared(number) FROM unnest($1) AS wish (number)")
            .bind(hide)
            .execute(&mut *listener)
            .await?;
    }
    if show.is_empty() {
        return Ok(());
    }
    let numbers: Vec<i64> = show.iter().map(|(sign, _)| sign.number).collect();
    let shown: Vec<bool> = sqlx::query_scalar(
        "SELECT pg_try_advisory_lock_shared(number) FROM unnest($1) WITH ORDINALITY AS wish (number, place) ORDER BY place",
    )
    .bind(numbers)
    .fetch_all(&mut *listener)
    .await?;
    for ((mut sign, answer), shown) in show.into_iter().zip(shown) {
        if shown {
            sign.up = Some(connection);
            // If he is gone who wanted to know, the sign comes back and is dropped.
            let _ = answer.send(sign);
        }
    }
    Ok(())
}
