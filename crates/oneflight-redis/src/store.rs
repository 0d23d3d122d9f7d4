//! The store, as the contract asks for it.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use redis::Value;

use super::connection::{Acknowledgement, Call, RedisConnection};
use super::layout::{self, decimal};
use super::listen::Ear;
use super::names::{Keys, Names};
use super::records::{self, Answer};
use super::renewals::Renewing;
use super::scripts::{CLAIM, COMPLETE, END_LEASE, LOAD, RELEASE, Script};
use super::step::Step;
use super::together::Together;
use super::tokens::{Seen, Shard};
use oneflight::identity::RequestIdentity;
use oneflight::record::{FencingToken, Record, RecordedResult};
use oneflight::store::{
    Claim, ClaimOutcome, ClaimRequest, Denied, DynStore, InDoubt, Renewals, Store, StoreError, Watch,
    report_forgotten_tokens,
};

/// The bytes of all texts of a claim but the key of the record, and so of a completion without its result: enough for nearly
/// all, and room is made for the others.
const OTHER_TEXTS: usize = 256;

/// Keeps records in Redis (6.2 or newer) or Valkey, over the `redis` crate 1. Clones share it.
///
/// # What it costs
///
/// A claim, a completion, a release and a look are one round trip each, so
/// [`run`](oneflight::idempotency::Idempotency::run) takes two, and a replay one. (After the server has forgotten our
/// scripts, the first call of each takes one more.) What tasks of this process ask at the same time goes out in one
/// message; none waits for another's answer. The server does that in pieces of at most 64 claims or results and 64 KiB,
/// between which it has time for others; a larger result is a piece of its own. In a cluster each question goes alone.
///
/// Renewals wait for one another for up to a sixteenth of a third of the lease, and 2 s at most. So a process takes some
/// 16 round trips in a third of a lease to renew all that it holds. A renewal that comes alone is sent at once.
///
/// A record takes its scope and key, 32 bytes of fingerprint, the id of the request, the result, and some 150 to 250 bytes
/// around them, until its retention ends; while it is in progress, its key also stands in a list. Then the server deletes
/// it by itself, and [`purge`](Store::purge) finds nothing to do.
///
/// Redis does one thing at a time and keeps everything in memory: a result of a megabyte is copied on that one thread
/// when it is written and each time it is replayed. Results are bounded by
/// [`max_result_bytes`](oneflight::idempotency::IdempotencyBuilder::max_result_bytes); the server's own bound is
/// `proto-max-bulk-len`, 512 MiB unless set.
///
/// # Connections
///
/// All calls of the process share one connection. Once a caller has waited for a request in progress elsewhere, there
/// is another one that hears of changes for all callers that wait. Both connect again when they are lost. Meanwhile
/// calls fail as [`StoreError::Unavailable`] after the [patience](crate::RedisOptions::patience), and callers that wait poll.
///
/// If an answer takes long, a `PING` is sent after the question, which cannot be answered before it: if the `PING` is
/// answered first, the answer was lost with a connection. (Not in a cluster, where only the patience bounds that.)
///
/// A user of the server with restricted rights needs `EVAL`, `EVALSHA`, and within them `TIME`, `GET`, `SET`, `SETRANGE`,
/// `PERSIST`, `DEL`, `ZADD`, `ZREM`, `ZRANGEBYSCORE`, `PEXPIREAT` and `PUBLISH` on keys and channels with our prefix,
/// `SUBSCRIBE`, `UNSUBSCRIBE` and `PING`, and, if asked for, `WAIT`. It needs `INFO` for the store to see whether the
/// server evicts keys. An operator who [looks into the store](oneflight::store::Upkeep) also needs `SCAN`, within a script,
/// and `CLUSTER SLOTS` in a cluster; what `INFO`, `TIME` and `CONFIG GET` may not be asked for is a finding that is not
/// known.
///
/// # What is promised, and what is not
///
/// As long as the server keeps what it has acknowledged, the store keeps everything that [`Store`] promises. **Redis
/// itself does not promise that**:
///
/// * Without `appendonly`, a server that stops has lost everything since its last snapshot. With `appendonly yes` and
///   `appendfsync everysec`, the usual setting, a crash of the *machine* loses up to two seconds, and a crash of the
///   process nothing. Only `appendfsync always` has a record on the disk before it is acknowledged.
/// * Replicas follow without being waited for. A failover loses what the promoted one had not received.
///   [`acknowledged_by`](crate::RedisOptions::acknowledged_by) makes that unlikely. A network that is split in two can still
///   have two servers for a while, each granting claims.
///
/// A claim that is lost can be granted again while its holder works, and a completed record that is lost means that the
/// next duplicate **executes again**: the atomic claim and the replay are as good as the server's memory, no better.
///
/// What remains is fencing. Tokens do not go backwards, even so, unless both the count and the clock of the server that
/// goes on are behind. A holder whose claim was forgotten is told that it is outdated. When a process sees that the
/// server has forgotten tokens, [`setbacks`](Self::setbacks) counts it.
///
/// Where a mutation must not happen twice under any of this, use
/// [`run_in_tx`](oneflight::idempotency::Idempotency::run_in_tx) with a transactional store: there is none for Redis.
///
/// A server that evicts keys when its memory is full would delete records: opening a store on it is an error, unless
/// that is [accepted](crate::RedisOptions::accept_eviction). A server whose memory is full and that evicts nothing refuses
/// claims; leases are renewed and results recorded all the same.
///
/// # Clusters
///
/// Records are dealt to 1024 slots. Use [`RedisOptions::open_cluster`](crate::RedisOptions::open_cluster). Notifications use plain channels, which the
/// nodes pass on to each other.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use oneflight::{Idempotency, RequestIdentity, Scope};
/// use oneflight_redis::RedisStore;
///
/// let idem = Idempotency::builder(RedisStore::open("redis://localhost/").await?).build();
///
/// let id = RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), "a7f3")?;
/// let receipt = idem.run(id, |_| async { "charged".to_owned() }).await?;
/// # let _ = receipt;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct RedisStore(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) connection: RedisConnection,
    pub(super) names: Names,
    pub(super) seen: Seen,
    pub(super) renewals: Renewals<Renewing>,
    pub(super) together: Together,
    /// `None` if it was not said how to listen.
    pub(super) ear: Option<Ear>,
    pub(super) patience: Duration,
    pub(super) acknowledgement: Option<Acknowledgement>,
}

impl RedisStore {
    /// Returns how often this process has seen that the server had forgotten fencing tokens which it had handed out.
    ///
    /// A server forgets after a failover, or a restart from an older file. Records that are as old may be lost. The
    /// tokens went on above those that were seen.
    #[must_use]
    pub fn setbacks(&self) -> u64 {
        self.0.seen.setbacks()
    }

    /// Runs a script, without regard to replicas.
    pub(super) async fn ask(&self, call: Call<'_>) -> Result<Value, StoreError> {
        let answered = self.0.connection.run(&call, self.0.patience, None).await?;
        Ok(answered.value)
    }

    /// Whether replicas have to acknowledge what is found or written, as a script is told.
    fn waits(&self) -> &'static [u8] {
        match self.0.acknowledgement {
            Some(_) => b"1",
            None => b"0",
        }
    }

    /// A step whose effect replicas have to acknowledge, if so many are wanted, with room for so many bytes of its texts.
    fn step(&self, script: &'static Script, room: usize) -> Step {
        Step::new(script, self.waits(), room)
    }

    /// Returns the keys of a claim, and its token as a script compares it. A token says of which shard it is; if that is
    /// not the shard of the identity, nothing of the identity is there.
    pub(super) fn held(&self, id: &RequestIdentity, token: FencingToken) -> (Keys, String) {
        let (shard, count) = Shard::of(token);
        (self.0.names.keys_in(shard, id), decimal(count))
    }

    /// Notes how far the shard has counted.
    fn see(&self, shard: Shard, token: FencingToken, set_back: bool) {
        if let Some(count) = shard.count(token) {
            self.0.seen.see(shard, count);
        }
        if set_back {
            self.0.seen.set_back();
            report_forgotten_tokens(&self.0.names.in_progress(shard), token);
        }
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("connection", &self.0.connection)
            .field("names", &self.0.names)
            .field("ear", &self.0.ear)
            .finish_non_exhaustive()
    }
}

impl From<RedisStore> for DynStore {
    fn from(store: RedisStore) -> Self {
        Self::new(store)
    }
}

impl Store for RedisStore {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        let (names, shard) = (&self.0.names, Shard::of_identity(&request.id));
        let step = self
            .step(&CLAIM, OTHER_TEXTS + names.room(&request.id))
            .key(|key| names.write_record(key, shard, &request.id))
            .key(|key| names.write_in_progress(key, shard))
            .argument(|lease| write!(lease, "{}", records::millis(request.lease)))
            .argument(|takeover| records::write_takeover(takeover, request.takeover, shard))
            .argument(|known| layout::write_decimal(known, self.0.seen.largest(shard)))
            .argument(|tail| layout::write_tail(tail, &request));
        let answered = self.0.together.take(step).await?;
        let claimed = Answer::new(answered.value)?.claimed(request, shard)?;
        if let ClaimOutcome::Granted(claim) = &claimed.outcome {
            self.see(shard, claim.token(), claimed.set_back);
        }
        if let ClaimOutcome::Granted(_) | ClaimOutcome::Denied(Denied::Completed(_)) = &claimed.outcome {
            answered.acknowledged?;
        }
        Ok(claimed.outcome)
    }

    async fn renew(&self, id: &RequestIdentity, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        self.0.renewals.renew(id, token, lease).await
    }

    async fn end_lease(&self, id: &RequestIdentity, token: FencingToken, left: Duration) -> Result<(), StoreError> {
        let (keys, count) = self.held(id, token);
        let left = records::millis(left).to_string();
        let answered = self
            .ask(Call {
                script: &END_LEASE,
                keys: &[&keys.record],
                arguments: &[count.as_bytes(), left.as_bytes()],
            })
            .await?;
        Answer::new(answered)?.done(token)
    }

    async fn complete(&self, claim: Claim, result: RecordedResult, retention: Duration) -> Result<(), StoreError> {
        let (names, (shard, count)) = (&self.0.names, Shard::of(claim.token()));
        let step = self
            .step(
                &COMPLETE,
                OTHER_TEXTS + names.room(claim.id()) + result.as_bytes().len(),
            )
            .key(|key| names.write_record(key, shard, claim.id()))
            .key(|key| names.write_in_progress(key, shard))
            .argument(|token| layout::write_decimal(token, count))
            .argument(|length| write!(length, "{}", records::millis(retention)))
            .argument(|text| text.bytes(result.as_bytes()));
        let answered = self.0.together.take(step).await?;
        Answer::new(answered.value)?.done(claim.token())?;
        answered.acknowledged
    }

    async fn release(&self, claim: Claim) -> Result<(), StoreError> {
        let (keys, count) = self.held(claim.id(), claim.token());
        let answered = self
            .ask(Call {
                script: &RELEASE,
                keys: &[&keys.record, &self.0.names.in_progress(keys.shard)],
                arguments: &[count.as_bytes()],
            })
            .await?;
        Answer::new(answered)?.done(claim.token())
    }

    async fn load(&self, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        let (names, shard) = (&self.0.names, Shard::of_identity(id));
        let step = self
            .step(&LOAD, names.room(id))
            .key(|key| names.write_record(key, shard, id));
        let answered = self.0.together.take(step).await?;
        let record = Answer::new(answered.value)?.record(shard)?;
        let record = record
            .map(|(record, _)| record)
            .filter(|record| !record.is_past_retention());
        if record.as_ref().is_some_and(|record| record.result().is_some()) {
            answered.acknowledged?;
        }
        Ok(record)
    }

    /// The server deletes by itself what is past its retention, so there is nothing to do.
    async fn purge(&self, _limit: usize) -> Result<usize, StoreError> {
        Ok(0)
    }

    async fn in_doubt(&self, limit: usize, after: Option<FencingToken>) -> Result<Vec<InDoubt>, StoreError> {
        self.list_in_doubt(limit, after).await
    }

    async fn watch(&self, id: &RequestIdentity) -> Watch {
        match &self.0.ear {
            Some(ear) => ear.watch(&self.0.names.keys(id).record).await,
            None => Watch::none(),
        }
    }
}
