//! The way to the server. The rest of the store need not know whose connection it is.
//!
//! ```text
//! EVALSHA ──known──▶ answer                    one round trip
//!    └──NOSCRIPT──▶ EVAL ──▶ answer            two, once after the server has forgotten its scripts
//! ```
//!
//! If replicas have to acknowledge, `WAIT` goes out in the same round trip, on the same connection: it is answered for
//! what that connection has written.

use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{Client, Cmd, RedisError, RedisResult, Value, pipe};

use super::errors::{is_of_several_slots, is_unknown_script, unavailable};
use super::scripts::Script;
use oneflight::store::StoreError;

mod acknowledgement;
mod wire;

pub(super) use acknowledgement::{Acknowledgement, Answered};
use wire::Connection;

/// A connection of the caller's that a [`RedisStore`](super::RedisStore) may use. Clones share it.
///
/// Made from a `redis::aio::ConnectionManager`, which connects again when the connection is lost; a
/// `redis::aio::MultiplexedConnection`, which does not; or a `redis::cluster_async::ClusterConnection`.
#[derive(Clone)]
pub struct RedisConnection {
    kind: Kind,
    /// The server has said that the keys of a script have to be of one slot. It may be asked for as one server, and be
    /// the only one of a cluster.
    has_slots: Arc<AtomicBool>,
}

#[derive(Clone)]
enum Kind {
    Ours(Arc<Ours>),
    Callers(Connection),
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
        Self::over(Kind::Callers(Connection::Managed(connection)))
    }
}

impl From<MultiplexedConnection> for RedisConnection {
    fn from(connection: MultiplexedConnection) -> Self {
        Self::over(Kind::Callers(Connection::Multiplexed(connection)))
    }
}

impl From<ClusterConnection> for RedisConnection {
    fn from(connection: ClusterConnection) -> Self {
        Self::over(Kind::Callers(Connection::Cluster(connection)))
    }
}

impl fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            Kind::Ours(_) => "RedisConnection(ours)",
            Kind::Callers(Connection::Managed(_)) => "RedisConnection(managed)",
            Kind::Callers(Connection::Multiplexed(_)) => "RedisConnection(multiplexed)",
            Kind::Callers(Connection::Cluster(_)) => "RedisConnection(cluster)",
        })
    }
}

/// A script with what it is given.
pub(super) trait Given: Sync {
    fn script(&self) -> &'static Script;

    fn keys(&self) -> impl Iterator<Item = &[u8]>;

    fn arguments(&self) -> impl Iterator<Item = &[u8]>;
}

/// A script, its keys and its arguments.
pub(super) struct Call<'a> {
    pub(super) script: &'static Script,
    pub(super) keys: &'a [&'a str],
    pub(super) arguments: &'a [&'a [u8]],
}

impl Given for Call<'_> {
    fn script(&self) -> &'static Script {
        self.script
    }

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().map(|key| key.as_bytes())
    }

    fn arguments(&self) -> impl Iterator<Item = &[u8]> {
        self.arguments.iter().copied()
    }
}

fn command(name: &str, script: &str, given: &impl Given) -> Cmd {
    // Each is a text of its own, and there may be hundreds.
    let (mut texts, mut room) = (3, name.len() + script.len() + 3);
    for text in given.keys().chain(given.arguments()) {
        texts += 1;
        room += text.len();
    }
    let mut command = Cmd::with_capacity(texts, room);
    command.arg(name).arg(script).arg(given.keys().count());
    for text in given.keys().chain(given.arguments()) {
        command.arg(text);
    }
    command
}

/// A connection, and how it is to be asked.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) connection: RedisConnection,
    pub(super) patience: Duration,
    pub(super) acknowledgement: Option<Acknowledgement>,
}

impl RedisConnection {
    fn over(kind: Kind) -> Self {
        let has_slots = Arc::default();
        Self { kind, has_slots }
    }

    /// Connects to a server.
    pub(super) async fn open(client: Client, config: ConnectionManagerConfig) -> RedisResult<Self> {
        let manager = ConnectionManager::new_with_config(client.clone(), config.clone()).await?;
        Ok(Self::over(Kind::Ours(Arc::new(Ours {
            client,
            config,
            current: Mutex::new((0, manager)),
        }))))
    }

    /// Runs a script within this time, connecting again included. A connection of ours over which nothing was answered
    /// by then is given up.
    pub(super) async fn run(
        &self,
        given: &impl Given,
        patience: Duration,
        acknowledgement: Option<Acknowledgement>,
    ) -> Result<Answered, StoreError> {
        let within = acknowledgement.map_or(Duration::ZERO, |it| it.within);
        let (connection, number) = self.current();
        let asked = pin!(async {
            let known = command("EVALSHA", &given.script().digest, given);
            match connection.ask(known, acknowledgement).await {
                Err(error) if is_unknown_script(&error) => {
                    let unknown = command("EVAL", given.script().text, given);
                    // It is rare, and in a box it is no part of every question.
                    Box::pin(connection.ask(unknown, acknowledgement)).await
                }
                answered => answered,
            }
        });
        let answered = connection.answer_within(patience.saturating_add(within), asked).await;
        self.unless_dead(answered, number)
    }

    /// Runs scripts within this time, all in one round trip: of a cluster, one at a time. Returns an answer for each.
    pub(super) async fn run_all(
        &self,
        all: &[impl Given],
        patience: Duration,
        acknowledgement: Option<Acknowledgement>,
    ) -> Vec<Result<Answered, StoreError>> {
        if let [given] = all {
            return vec![self.run(given, patience, acknowledgement).await];
        }
        let (connection, number) = self.current();
        let mut commands = pipe();
        for given in all {
            commands.add_command(command("EVALSHA", &given.script().digest, given));
        }
        if let Some(acknowledgement) = acknowledgement {
            commands.add_command(acknowledgement.wait());
        }
        // Each answer is looked at by itself.
        commands.ignore_errors();
        let within = acknowledgement.map_or(Duration::ZERO, |it| it.within);
        let asked = pin!(connection.send_all(&commands));
        let answered = connection.answer_within(patience.saturating_add(within), asked).await;
        let mut answers = match self.unless_dead(answered, number) {
            Ok(answers) => answers,
            Err(error) => return all.iter().map(|_| Err(error.clone())).collect(),
        };
        let acknowledged = match acknowledgement {
            Some(acknowledgement) => acknowledgement.check(answers.pop().unwrap_or(Value::Nil)),
            None => Ok(()),
        };
        let mut each = Vec::with_capacity(all.len());
        for (answer, given) in answers.into_iter().zip(all) {
            let error = match answer {
                Value::ServerError(error) => RedisError::from(error),
                value => {
                    let acknowledged = acknowledged.clone();
                    each.push(Ok(Answered { value, acknowledged }));
                    continue;
                }
            };
            each.push(match is_unknown_script(&error) {
                true => Box::pin(self.run(given, patience, acknowledgement)).await,
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
        if let (Kind::Ours(ours), true) = (&self.kind, is_dead) {
            ours.give_up(number);
        }
        match answered {
            Some(answered) => answered.map_err(unavailable),
            None => Err(StoreError::unavailable("the server did not answer in time")),
        }
    }

    /// Returns the connection as it is now and, if it is ours, its number among those that there were.
    fn current(&self) -> (Connection, u64) {
        match &self.kind {
            Kind::Ours(ours) => {
                let (number, manager) = ours.current.lock().clone();
                (Connection::Managed(manager), number)
            }
            Kind::Callers(connection) => (connection.clone(), 0),
        }
    }

    /// Returns whether the keys of a script have to be of one slot.
    pub(super) fn has_slots(&self) -> bool {
        self.is_cluster() || self.has_slots.load(Ordering::Relaxed)
    }

    /// Returns whether a script was not run since its keys are of several slots, and remembers that of the server.
    pub(super) fn has_refused_slots(&self, answer: &Result<Answered, StoreError>) -> bool {
        let has_refused = answer.as_ref().is_err_and(is_of_several_slots);
        if has_refused {
            self.has_slots.store(true, Ordering::Relaxed);
        }
        has_refused
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.kind, Kind::Callers(Connection::Cluster(_)))
    }

    /// Returns the answer to one command, if there is one within this time.
    pub(super) async fn answer_to(&self, command: &Cmd, patience: Duration) -> RedisResult<Value> {
        let (connection, _) = self.current();
        let asked = pin!(connection.send(command));
        let answered = connection.answer_within(patience, asked).await;
        answered.unwrap_or_else(|| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
    }
}
