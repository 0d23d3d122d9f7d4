//! What is sent over a connection, and how long its answer is waited for.
//!
//! A command can be lost without an error as its connection breaks. The client hands it over to a task of the
//! connection, and what is handed over just after that task has ended is neither sent nor dropped (tokio issue 7714).
//! So a call that waits for long asks something else as well; a server answers in order.

use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::time::Duration;

use redis::aio::{ConnectionLike, ConnectionManager, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, Pipeline, RedisResult, Value, cmd, pipe};
use tokio::time::{Instant, timeout, timeout_at};

use super::acknowledgement::{Acknowledgement, Answered};

/// After how long without an answer the server is asked whether there can be one.
const DOUBTS_AFTER: Duration = Duration::from_millis(250);
/// How long an answer may exist already without having been taken.
const TAKEN_WITHIN: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub(super) enum Connection {
    Managed(ConnectionManager),
    Multiplexed(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    pub(super) async fn ask(&self, command: Cmd, acknowledgement: Option<Acknowledgement>) -> RedisResult<Answered> {
        match acknowledgement {
            // In a box, since it is larger than all the rest and most do without.
            Some(acknowledgement) => Box::pin(self.ask_replicas(command, acknowledgement)).await,
            None => Ok(Answered {
                value: self.send(&command).await?,
                acknowledged: Ok(()),
            }),
        }
    }

    async fn ask_replicas(&self, command: Cmd, acknowledgement: Acknowledgement) -> RedisResult<Answered> {
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
    ///
    /// What is asked is pinned already: an `async fn` would hold it twice.
    pub(super) async fn answer_within<T>(
        &self,
        patience: Duration,
        mut asked: Pin<&mut impl Future<Output = RedisResult<T>>>,
    ) -> Option<RedisResult<T>> {
        let now = Instant::now();
        // Nearly all are answered by then, so there is one timer for an answer, and not two.
        let doubts = now + DOUBTS_AFTER.min(patience);
        if let Ok(answered) = timeout_at(doubts, asked.as_mut()).await {
            return Some(answered);
        }
        let until = now.checked_add(patience);
        // It is rare, and in a box it is no part of every question.
        let waited = Box::pin(self.unless_overtaken(asked));
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

    pub(super) async fn send(&self, command: &Cmd) -> RedisResult<Value> {
        // These two have it without a box.
        let answered = match self.clone() {
            Self::Managed(mut connection) => connection.send_packed_command(command).await,
            Self::Multiplexed(mut connection) => connection.send_packed_command(command).await,
            Self::Cluster(mut connection) => connection.req_packed_command(command).await,
        };
        unless_refused(answered?)
    }

    pub(super) async fn send_all(&self, commands: &Pipeline) -> RedisResult<Vec<Value>> {
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
    use std::pin::pin;
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
        let asked_for = pin!(pending::<RedisResult<Value>>());
        let lost = connection.answer_within(Duration::MAX, asked_for).await;
        assert!(lost.unwrap().unwrap_err().is_io_error());
        let waited = asked.elapsed();
        assert!(waited <= DOUBTS_AFTER + 2 * TAKEN_WITHIN, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_answer_is_waited_for_longer_than_the_patience() {
        let connection = connection(DOUBTS_AFTER * 100).await;
        for patience in [DOUBTS_AFTER / 2, DOUBTS_AFTER * 2] {
            let asked = Instant::now();
            let get = cmd("GET");
            let answer = connection.answer_within(patience, pin!(connection.send(&get))).await;
            assert!(answer.is_none());
            let waited = asked.elapsed();
            assert!(waited < patience + TAKEN_WITHIN, "{waited:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_slow_is_waited_for() {
        let connection = connection(DOUBTS_AFTER * 3).await;
        let get = cmd("GET");
        let answer = connection
            .answer_within(Duration::MAX, pin!(connection.send(&get)))
            .await;
        assert_eq!(answer.unwrap().unwrap(), Value::Okay);
    }
}
