//! The way to the server. The rest of the store need not know whose connection it is.
//!
//! ```text
//! EVALSHA ──known──▶ answer                    one round trip
//!    └──NOSCRIPT──▶ EVAL ──▶ answer            two, once after the server has forgotten its scripts
//! ```
//!
//! If replicas have to acknowledge, `WAIT` goes out in the same round trip, on the same connection: it is answered for
//! what that connection has written.
//!
//! A command can be lost without an error as its connection breaks. The client hands it over to a task of the
//! connection, and what is handed over just after that task has ended is neither sent nor dropped (tokio issue 7714).
//! So a call that waits for long asks something else as well; a server answers in order.

use std::fmt;
use std::future::{Future, pending};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use parking_lot::Mutex;
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{Client, Cmd, Pipeline, RedisError, RedisResult, Value, cmd, pipe};
use tokio::time::{Instant, timeout, timeout_at};

use super::errors::{is_unknown_script, unavailable};
use super::scripts::Script;
use oneflight::store::StoreError;

/// After how long without an answer the server is asked whether there can be one.
const DOUBTS_AFTER: Duration = Duration::from_millis(250);
/// The number of questions to a cluster that are under way at a time.
const AT_ONCE: usize = 64;
/// How long an answer may exist already without having been taken.
const TAKEN_WITHIN: Duration = Duration::from_millis(50);

/// A connection of the caller's that a [`RedisStore`](super::RedisStore) may use. Clones share it.
///
/// Made from a `redis::aio::ConnectionManager`, which connects again when the connection is lost; a
/// `redis::aio::MultiplexedConnection`, which does not; or a `redis::cluster_async::ClusterConnection`.
#[derive(Clone)]
pub struct RedisConnection(Kind);

#[derive(Clone)]
enum Kind {
    Ours(Arc<Ours>),
    Callers(Connection),
}

#[derive(Clone)]
enum Connection {
    Managed(ConnectionManager),
    Multiplexed(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// A connection that the store has opened, and can open anew. A manager connects again when it is told that its
/// connection is lost, but not when the server merely does not answer: a connection that swallows everything would
/// stay.
struct Ours {
    client: Client,
    config: ConnectionManagerConfig,
    current: Mutex<(u64, ConnectionManager)>,
}

impl Ours {
    /// Gives a connection up, unless that was done before.
    fn give_up(&self, number: u64) {
        let mut current = self.current.lock();
        // It connects when it is first used.
        if current.0 == number
            && let Ok(next) = ConnectionManager::new_lazy_with_config(self.client.clone(), self.config.clone())
        {
            *current = (number + 1, next);
        }
    }
}

impl From<ConnectionManager> for RedisConnection {
    fn from(connection: ConnectionManager) -> Self {
        Self(Kind::Callers(Connection::Managed(connection)))
    }
}

impl From<MultiplexedConnection> for RedisConnection {
    fn from(connection: MultiplexedConnection) -> Self {
        Self(Kind::Callers(Connection::Multiplexed(connection)))
    }
}

impl From<ClusterConnection> for RedisConnection {
    fn from(connection: ClusterConnection) -> Self {
        Self(Kind::Callers(Connection::Cluster(connection)))
    }
}

impl fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Kind::Ours(_) => "RedisConnection(ours)",
            Kind::Callers(Connection::Managed(_)) => "RedisConnection(managed)",
            Kind::Callers(Connection::Multiplexed(_)) => "RedisConnection(multiplexed)",
            Kind::Callers(Connection::Cluster(_)) => "RedisConnection(cluster)",
        })
    }
}

/// How many replicas must have what was written, and how long that is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledgement {
    pub(super) replicas: u32,
    pub(super) within: Duration,
}

impl Acknowledgement {
    fn wait(self) -> Cmd {
        // Zero would be for ever.
        let millis = u64::try_from(self.within.as_millis()).unwrap_or(u64::MAX);
        let mut wait = cmd("WAIT");
        wait.arg(self.replicas).arg(millis.clamp(1, u64::from(u32::MAX)));
        wait
    }

    fn check(self, answer: Value) -> Result<(), StoreError> {
        let answer = answer.extract_error().map_err(unavailable)?;
        let Value::Int(acknowledged) = answer else {
            return Err(StoreError::Corrupt {
                what: "the server's answer to WAIT is not a number",
            });
        };
        let acknowledged = u32::try_from(acknowledged).unwrap_or(0);
        if acknowledged < self.replicas {
            return Err(StoreError::TooFewReplicas {
                acknowledged,
                wanted: self.replicas,
                waited: self.within,
            });
        }
        Ok(())
    }
}

/// An answer, in which a part may be an error, and whether enough replicas have what the server had written by then.
pub(super) struct Answered {
    pub(super) value: Value,
    pub(super) acknowledged: Result<(), StoreError>,
}

/// A script with what it is given.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) script: &'static Script,
    pub(super) keys: &'a [&'a str],
    pub(super) arguments: &'a [&'a [u8]],
}

impl Call<'_> {
    fn command(&self, name: &str, script: &str) -> Cmd {
        // Each is a text of its own, and there may be hundreds.
        let keys = self.keys.iter().map(|key| key.len());
        let texts = keys.chain(self.arguments.iter().map(|argument| argument.len()));
        let room = name.len() + script.len() + 3 + texts.sum::<usize>();
        let mut command = Cmd::with_capacity(3 + self.keys.len() + self.arguments.len(), room);
        command.arg(name).arg(script).arg(self.keys.len()).arg(self.keys);
        for argument in self.arguments {
            command.arg(argument);
        }
        command
    }
}

/// A connection, and how it is to be asked.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) connection: RedisConnection,
    pub(super) patience: Duration,
    pub(super) acknowledgement: Option<Acknowledgement>,
}

impl RedisConnection {
    /// Connects to a server.
    pub(super) async fn open(client: Client, config: ConnectionManagerConfig) -> RedisResult<Self> {
        let manager = ConnectionManager::new_with_config(client.clone(), config.clone()).await?;
        Ok(Self(Kind::Ours(Arc::new(Ours {
            client,
            config,
            current: Mutex::new((0, manager)),
        }))))
    }

    /// Runs a script within this time, connecting again included. A connection of ours over which nothing was answered
    /// by then is given up.
    pub(super) async fn run(
        &self,
        call: Call<'_>,
        patience: Duration,
        acknowledgement: Option<Acknowledgement>,
    ) -> Result<Answered, StoreError> {
        let within = acknowledgement.map_or(Duration::ZERO, |it| it.within);
        let (connection, number) = self.current();
        let asked = async {
            let known = call.command("EVALSHA", &call.script.digest);
            match connection.ask(known, acknowledgement).await {
                Err(error) if is_unknown_script(&error) => {
                    let unknown = call.command("EVAL", call.script.text);
                    connection.ask(unknown, acknowledgement).await
                }
                answered => answered,
            }
        };
        let answered = connection.answer_within(patience.saturating_add(within), asked).await;
        self.unless_dead(answered, number)
    }

    /// Runs scripts within this time: all in one round trip, and in a cluster each in one of its own, at the same time.
    /// Returns an answer for each.
    pub(super) async fn run_all(
        &self,
        calls: &[Call<'_>],
        patience: Duration,
        acknowledgement: Option<Acknowledgement>,
    ) -> Vec<Result<Answered, StoreError>> {
        let alone = |call| self.run(call, patience, acknowledgement);
        if self.is_cluster() || calls.len() == 1 {
            let mut all = FuturesOrdered::new();
            let mut each = Vec::with_capacity(calls.len());
            for call in calls {
                all.push_back(alone(*call));
                if all.len() == AT_ONCE {
                    each.extend(all.next().await);
                }
            }
            each.extend(all.collect::<Vec<_>>().await);
            return each;
        }
        let (connection, number) = self.current();
        let mut all = pipe();
        for call in calls {
            all.add_command(call.command("EVALSHA", &call.script.digest));
        }
        if let Some(acknowledgement) = acknowledgement {
            all.add_command(acknowledgement.wait());
        }
        // Each answer is looked at by itself.
        all.ignore_errors();
        let within = acknowledgement.map_or(Duration::ZERO, |it| it.within);
        let answered = connection.answer_within(patience.saturating_add(within), connection.send_all(&all));
        let mut answers = match self.unless_dead(answered.await, number) {
            Ok(answers) => answers,
            Err(error) => return calls.iter().map(|_| Err(error.clone())).collect(),
        };
        let acknowledged = match acknowledgement {
            Some(acknowledgement) => acknowledgement.check(answers.pop().unwrap_or(Value::Nil)),
            None => Ok(()),
        };
        let mut each = Vec::with_capacity(calls.len());
        for (answer, call) in answers.into_iter().zip(calls) {
            let error = match answer {
                Value::ServerError(error) => RedisError::from(error),
                value => {
                    let acknowledged = acknowledged.clone();
                    each.push(Ok(Answered { value, acknowledged }));
                    continue;
                }
            };
            each.push(match is_unknown_script(&error) {
                true => alone(*call).await,
                false => Err(unavailable(error)),
            });
        }
        each
    }

    /// Gives a connection of ours up over which nothing was answered in time.
    fn unless_dead<T>(&self, answered: Option<RedisResult<T>>, number: u64) -> Result<T, StoreError> {
        let is_dead = match &answered {
            // A manager connects again by itself after errors of the connection, but not if it was refused then.
            Some(Err(error)) => error.is_timeout() || (error.is_unrecoverable_error() && !error.is_io_error()),
            Some(Ok(_)) => false,
            None => true,
        };
        if let (Kind::Ours(ours), true) = (&self.0, is_dead) {
            ours.give_up(number);
        }
        match answered {
            Some(answered) => answered.map_err(unavailable),
            None => Err(StoreError::unavailable("the server did not answer in time")),
        }
    }

    /// Returns the connection as it is now and, if it is ours, its number among those that there were.
    fn current(&self) -> (Connection, u64) {
        match &self.0 {
            Kind::Ours(ours) => {
                let (number, manager) = ours.current.lock().clone();
                (Connection::Managed(manager), number)
            }
            Kind::Callers(connection) => (connection.clone(), 0),
        }
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.0, Kind::Callers(Connection::Cluster(_)))
    }

    /// Returns the answer to one command, if there is one within this time.
    pub(super) async fn answer_to(&self, command: &Cmd, patience: Duration) -> RedisResult<Value> {
        let (connection, _) = self.current();
        let answered = connection.answer_within(patience, connection.send(command)).await;
        answered.unwrap_or_else(|| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
    }
}

impl Connection {
    async fn ask(&self, command: Cmd, acknowledgement: Option<Acknowledgement>) -> RedisResult<Answered> {
        let Some(acknowledgement) = acknowledgement else {
            return Ok(Answered {
                value: self.send(&command).await?,
                acknowledged: Ok(()),
            });
        };
        let mut both = pipe();
        // Each answer is looked at by itself.
        both.add_command(command)
            .add_command(acknowledgement.wait())
            .ignore_errors();
        let mut answers = self.send_all(&both).await?.into_iter();
        Ok(Answered {
            value: unless_refused(answers.next().unwrap_or(Value::Nil))?,
            acknowledged: acknowledgement.check(answers.next().unwrap_or(Value::Nil)),
        })
    }

    /// Waits for the answer to what is asked. `None` means that there was none within this time.
    ///
    /// It ends earlier if the answer is lost: what is asked later, over the same connection or the one that came after
    /// it, is not answered before. A cluster has many connections, and no such order.
    async fn answer_within<T>(
        &self,
        patience: Duration,
        asked: impl Future<Output = RedisResult<T>>,
    ) -> Option<RedisResult<T>> {
        let now = Instant::now();
        // Nearly all are answered by then, so there is one timer for an answer, and not two.
        let doubts = now + DOUBTS_AFTER.min(patience);
        let mut asked = pin!(asked);
        if let Ok(answered) = timeout_at(doubts, &mut asked).await {
            return Some(answered);
        }
        let until = now.checked_add(patience);
        let waited = self.unless_overtaken(asked);
        match until {
            Some(until) => timeout_at(until, waited).await.ok(),
            None => Some(waited.await),
        }
    }

    async fn unless_overtaken<T>(&self, mut asked: Pin<&mut impl Future<Output = RedisResult<T>>>) -> RedisResult<T> {
        let overtaken = async {
            match self {
                Self::Managed(_) | Self::Multiplexed(_) => self.send(&cmd("PING")).await,
                Self::Cluster(_) => pending().await,
            }
        };
        tokio::select! {
            biased;
            answered = &mut asked => return answered,
            _ = overtaken => {}
        }
        timeout(TAKEN_WITHIN, asked).await.unwrap_or_else(|_| {
            let lost = "the connection was lost, and the answer with it";
            Err(io::Error::new(io::ErrorKind::BrokenPipe, lost).into())
        })
    }

    async fn send(&self, command: &Cmd) -> RedisResult<Value> {
        let answered = match self.clone() {
            Self::Managed(mut connection) => connection.req_packed_command(command).await,
            Self::Multiplexed(mut connection) => connection.req_packed_command(command).await,
            Self::Cluster(mut connection) => connection.req_packed_command(command).await,
        };
        unless_refused(answered?)
    }

    async fn send_all(&self, commands: &Pipeline) -> RedisResult<Vec<Value>> {
        match self.clone() {
            Self::Managed(mut connection) => commands.query_async(&mut connection).await,
            Self::Multiplexed(mut connection) => commands.query_async(&mut connection).await,
            Self::Cluster(mut connection) => commands.query_async(&mut connection).await,
        }
    }
}

/// Makes an answer that is an error one. An error within an answer is that of one step of several: what is looked for by
/// `Value::extract_error`, and so by `Cmd::query_async`, would be that of all.
fn unless_refused(answer: Value) -> RedisResult<Value> {
    match answer {
        Value::ServerError(error) => Err(error.into()),
        answer => Ok(answer),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use redis::{AsyncConnectionConfig, RedisConnectionInfo};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::sleep;

    /// A connection to a server that says OK to everything, so long after it was asked.
    async fn connection(delay: Duration) -> Connection {
        let (client, mut server) = duplex(4096);
        tokio::spawn(async move {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = server.read(&mut bytes).await {
                let commands = bytes[..read].iter().filter(|&&byte| byte == b'*').count();
                sleep(delay).await;
                if server.write_all("+OK\r\n".repeat(commands).as_bytes()).await.is_err() {
                    break;
                }
            }
        });
        let (info, config) = (
            RedisConnectionInfo::default(),
            AsyncConnectionConfig::new().set_response_timeout(None),
        );
        let connected = MultiplexedConnection::new_with_config(&info, client, config);
        let (connection, driver) = connected.await.unwrap();
        tokio::spawn(driver);
        Connection::Multiplexed(connection)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_overtaken_is_not_waited_for() {
        let connection = connection(Duration::ZERO).await;
        let asked = Instant::now();
        let lost = connection
            .answer_within(Duration::MAX, pending::<RedisResult<Value>>())
            .await;
        assert!(lost.unwrap().unwrap_err().is_io_error());
        let waited = asked.elapsed();
        assert!(waited <= DOUBTS_AFTER + 2 * TAKEN_WITHIN, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_answer_is_waited_for_longer_than_the_patience() {
        let connection = connection(DOUBTS_AFTER * 100).await;
        for patience in [DOUBTS_AFTER / 2, DOUBTS_AFTER * 2] {
            let asked = Instant::now();
            let answer = connection.answer_within(patience, connection.send(&cmd("GET"))).await;
            assert!(answer.is_none());
            let waited = asked.elapsed();
            assert!(waited < patience + TAKEN_WITHIN, "{waited:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_slow_is_waited_for() {
        let connection = connection(DOUBTS_AFTER * 3).await;
        let get = cmd("GET");
        let answer = connection.answer_within(Duration::MAX, connection.send(&get)).await;
        assert_eq!(answer.unwrap().unwrap(), Value::Okay);
    }
}
