//! What `RedisStore` sends to the server: how many commands, and no instant of the client's clock.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use futures::StreamExt;
use oneflight::idempotency::{Idempotency, Origin};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, RecordedResult, Verdict};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Store};
use oneflight_redis::RedisStore;
use redis::cmd;
use tokio::sync::mpsc;

use crate::server::{Server, prefix};

const MINUTE: Duration = Duration::from_secs(60);

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

/// Everything that a server is asked for, in its order, without what scripts ask for inside.
struct Watched {
    server: Server,
    lines: mpsc::UnboundedReceiver<String>,
    marks: u32,
}

impl Watched {
    async fn start() -> Self {
        let server = Server::start(&[]);
        let monitor = server.client().get_async_monitor().await.unwrap();
        let (sends, lines) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut stream = Box::pin(monitor.into_on_message::<String>());
            while let Some(line) = stream.next().await {
                if !line.contains(" lua] ") && sends.send(line).is_err() {
                    return;
                }
            }
        });
        let marks = 0;
        Self { server, lines, marks }
    }

    /// What was asked for since the last time.
    async fn commands(&mut self) -> Vec<String> {
        self.marks += 1;
        let mark = format!("mark-{}", self.marks);
        let mut connection = self.server.connection().await;
        let _: String = cmd("ECHO").arg(&mark).query_async(&mut connection).await.unwrap();
        let mut commands = Vec::new();
        loop {
            let line = tokio::time::timeout(Duration::from_secs(10), self.lines.recv()).await;
            let line = line.expect("the mark comes").unwrap();
            if line.contains(&mark) {
                return commands;
            }
            // The connection for the mark introduces itself.
            if !line.contains(r#""CLIENT" "SETINFO""#) {
                commands.push(line);
            }
        }
    }
}

/// The parts of a command, without the quotes and backslashes that they contain: a holder is any 16 bytes.
fn parts(line: &str) -> Vec<String> {
    let line = line.replace(r"\\", "").replace(r#"\""#, "");
    line.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

fn granted(outcome: ClaimOutcome) -> Claim {
    match outcome {
        ClaimOutcome::Granted(claim) => claim,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_takes_two_round_trips_and_a_replay_one() {
    let mut watched = Watched::start().await;
    let idem = Idempotency::builder(watched.server.store(&prefix()).await).build();
    // Afterwards the server knows the scripts.
    let _ = idem.run(id("first"), |_| async { 1 }).await.unwrap();
    watched.commands().await;

    let reply = idem.run(id("k"), |_| async { 1 }).await.unwrap();
    assert_eq!(reply.origin(), Origin::Executed);
    let run = watched.commands().await;
    assert_eq!(run.len(), 2, "{run:#?}");

    let reply = idem.run(id("k"), |_| async { 2 }).await.unwrap();
    assert_eq!((*reply, reply.origin()), (1, Origin::Replayed));
    let replay = watched.commands().await;
    assert_eq!(replay.len(), 1, "{replay:#?}");
    assert!(run.iter().chain(&replay).all(|line| line.contains(r#""EVALSHA""#)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_is_one_round_trip_and_purging_none() {
    let mut watched = Watched::start().await;
    let store = watched.server.store(&prefix()).await;
    let result = RecordedResult::value(Verdict::Performed, CodecId::Json, b"1");
    for round in 0..2 {
        let id = id(&format!("k{round}"));
        // In the first round the server does not know the scripts yet: each takes one more.
        let expected = 2 - round;
        watched.commands().await;
        let claim = granted(store.claim(ClaimRequest::new(&id, MINUTE)).await.unwrap());
        assert_eq!(watched.commands().await.len(), expected, "claim");
        store.renew(&id, claim.token(), MINUTE).await.unwrap();
        assert_eq!(watched.commands().await.len(), expected, "renew");
        store.load(&id).await.unwrap().unwrap();
        assert_eq!(watched.commands().await.len(), expected, "load");
        store.release(claim).await.unwrap();
        assert_eq!(watched.commands().await.len(), expected, "release");
        let claim = granted(store.claim(ClaimRequest::new(&id, MINUTE)).await.unwrap());
        watched.commands().await;
        store.complete(claim, result.clone(), MINUTE).await.unwrap();
        assert_eq!(watched.commands().await.len(), expected, "complete");
        assert_eq!(store.purge(10).await.unwrap(), 0);
        assert_eq!(watched.commands().await.len(), 0, "purge");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_asked_in_the_same_round_trip() {
    let mut watched = Watched::start().await;
    let options = RedisStore::options().prefix(prefix());
    // None is wanted, so none is missing.
    let options = options.acknowledged_by(0, Duration::from_secs(1));
    let idem = Idempotency::builder(watched.server.store_with(options).await).build();
    let _ = idem.run(id("first"), |_| async { 1 }).await.unwrap();
    watched.commands().await;
    let _ = idem.run(id("k"), |_| async { 1 }).await.unwrap();
    let commands = watched.commands().await;
    let waits: Vec<bool> = commands
        .iter()
        .map(|line| line.contains(r#""WAIT" "0" "1000""#))
        .collect();
    assert_eq!(waits, [false, true, false, true], "{commands:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_of_a_client_is_of_no_account() {
    let mut watched = Watched::start().await;
    let prefix = prefix();
    let store = watched.server.store(&prefix).await;
    let idem = Idempotency::builder(store.clone()).lease(MINUTE).build();
    let _ = idem.run(id("first"), |_| async { 1 }).await.unwrap();
    watched.commands().await;

    // A process that has seen nothing sends nothing that depends on when it does so: whatever its clock shows, the server
    // is told of spans, not of instants.
    let claim = {
        let process = watched.server.store(&prefix).await;
        watched.commands().await;
        granted(process.claim(ClaimRequest::new(&id("k"), MINUTE)).await.unwrap())
    };
    let sent = watched.commands().await;
    let arguments = parts(&sent[0]);
    // Lease, takeover, and the largest token seen; behind them the tail of the record, which begins with the holder.
    assert_eq!(
        arguments[arguments.len() - 4..arguments.len() - 1],
        ["60000", "never", "0000000000000000"],
        "{sent:#?}"
    );
    let result = RecordedResult::value(Verdict::Performed, CodecId::None, b"");
    let count = format!("{:016}", claim.token().get() / 1024);
    store.complete(claim, result, MINUTE).await.unwrap();
    let sent = watched.commands().await;
    let arguments = parts(&sent[0]);
    assert_eq!(
        arguments[arguments.len() - 3..arguments.len() - 1],
        [&count, "60000"],
        "{sent:#?}"
    );

    // And what is read back lies between two answers of the server's own clock.
    let mut connection = watched.server.connection().await;
    let mut server_time = async || {
        let (seconds, micros): (u64, u64) = cmd("TIME").query_async(&mut connection).await.unwrap();
        seconds * 1000 + micros / 1000
    };
    let before = server_time().await;
    let record = store.load(&id("k")).await.unwrap().unwrap();
    let after = server_time().await;
    assert!((before..=after).contains(&record.observed.as_millis()));
}
