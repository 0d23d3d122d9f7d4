//! `oneflight exec`: a job that must not run twice, such as one that cron starts on three machines.
//!
//! ```text
//! claimed ──the command ends──────────────▶ recorded: its output and its exit status, which every later call repeats
//!    │  ├───it cannot be started───────────▶ free again: 126, 127
//!    │  ├───it is killed by a signal N─────▶ in doubt, or recorded, or free: 128 + N
//!    │  └───the lease or the store is lost─▶ not recorded: 81
//!    └── this machine dies ────────────────▶ in doubt when the lease ends: 80, until that is resolved
//! ```
//!
//! The end of this process by `kill -9` does not end the command that it has started. So what is in doubt may still be at work.

mod args;
mod command;
pub(crate) mod job;
mod late;
mod recording;
mod signals;

use std::pin::pin;
use std::time::Duration;

use oneflight::correlation::{self, CorrelationId};
use oneflight::idempotency::{CodecError, ErrorKind, Recovery};
use oneflight::record::State;
use oneflight::store::{RecordQuery, Upkeep};
use oneflight::{Error, Idempotency, Origin, Reply, RequestIdentity};

pub(crate) use self::args::Args;
use self::args::{ERASED, IN_DOUBT, InDoubt, NOT_RECORDED, run_anew, settle, take_back};
use self::command::{Gate, Job, Key, Told};
use self::recording::{Recorded, Size, Unprinted};
use self::signals::Signals;
use crate::exit::{Code, Failure};
use crate::output::{duration, note};
use crate::store::{Address, Kind, Tables, told, unreachable, with_store};

/// For how long a failure to give a claim back holds up the end of this process.
const GIVING_BACK: Duration = Duration::from_secs(5);

pub(crate) async fn run(store: &Address, args: Args) -> Result<(), Failure> {
    let id = args.identity()?;
    // From here on a signal ends nothing unseen.
    let signals = Signals::caught().map_err(|error| Failure::new(Code::System, format!("signals: {error}")))?;
    // A file is made where it is missing. A database's tables may be the affair of a user who may do more than this one.
    let tables = match store.kind()? {
        Kind::Sqlite => Tables::Make,
        Kind::Postgres | Kind::Redis => Tables::Leave,
    };
    let store = store.open(tables).await?;
    with_store!(store, |store| over(store, id, args, signals).await)
}

async fn over<S: Upkeep + Clone>(
    store: S,
    id: RequestIdentity,
    args: Args,
    mut signals: Signals,
) -> Result<(), Failure> {
    let recovery = match args.in_doubt {
        InDoubt::Hold => Recovery::Hold,
        InDoubt::Rerun => Recovery::Rerun,
    };
    let idem = Idempotency::builder(store)
        .wait(*args.wait)
        .lease(*args.lease)
        .retention(args.retention)
        .recovery(recovery)
        // A command that was killed has ended.
        .settle(Duration::ZERO)
        // Its output has a limit of its own.
        .max_result_bytes(usize::MAX)
        .build();
    let correlation = correlation_id();
    let (job, gate, sender) = Job::new(&args, id.clone(), correlation.clone());
    let ended = job.ended();
    let mut call = Box::pin(correlation::scope(
        correlation,
        idem.try_run(id.clone(), |context| job.run(context)),
    ));
    let mut late = pin!(late::given_up(&id, &ended, *args.record_within));
    let reply = loop {
        tokio::select! {
            reply = &mut call => break reply,
            failure = &mut late => return Err(failure),
            signal = signals.next() => match gate.close() {
                Gate::Closed => {
                    drop(call);
                    let _ = tokio::time::timeout(GIVING_BACK, idem.drain()).await;
                    return Err(Failure::with_code(signals::code(signal), "interrupted before the command began"));
                }
                // The command decides what follows.
                Gate::Begun => { let _ = sender.send(signal); }
            }
        }
    };
    match reply {
        Ok(reply) => repeat(&id, &args, &reply),
        Err(error) => Err(failure(&idem, &id, &args, &error, ended.status()).await),
    }
}

/// Ends as the command did, and prints what it printed if that was another time.
fn repeat(id: &RequestIdentity, args: &Args, reply: &Reply<Recorded>) -> Result<(), Failure> {
    if reply.origin() != Origin::Executed {
        if !args.quiet {
            note(&format!("oneflight: replayed {id}: {}", reply.story()));
        }
        match reply.print() {
            Ok(()) => {}
            Err(Unprinted::Damaged(what)) => return Err(Failure::new(Code::Data, format!("{id}: {what}"))),
            Err(Unprinted::Unwritten(stream, error)) => {
                let what = format!("{id}: the recorded {stream} cannot be written: {error}; call it again to get it");
                match reply.exit {
                    0 => return Err(Failure::new(Code::Io, what)),
                    // That it failed is to be known all the same.
                    _ => note(&format!("oneflight: {what}")),
                }
            }
        }
    }
    if reply.cut && reply.origin() != Origin::Executed && !args.quiet {
        note("oneflight: a signal cut the output off: nobody knows how much more there was");
    }
    if reply.left_out > 0 && !args.quiet {
        let left_out = Size::new(reply.left_out);
        note(&format!(
            "oneflight: {left_out} more of the output are not recorded; see --max-output"
        ));
    }
    match reply.exit {
        0 => Ok(()),
        code => Err(Failure::with_code(code, "")),
    }
}

async fn failure<S: Upkeep>(
    idem: &Idempotency<S>,
    id: &RequestIdentity,
    args: &Args,
    error: &Error,
    ended: Option<u8>,
) -> Failure {
    // The command's own end, or that it could not be started.
    if let Some(told) = error.cause::<Told>() {
        let what = match told.key {
            Key::InDoubt => told.what.clone(),
            Key::InDoubtBefore => format!("{}; an earlier attempt is still in doubt", told.what),
            Key::GivenBack => format!("{}; {}", told.what, given_back(idem.store(), id).await),
        };
        return Failure::with_code(told.code, what);
    }
    let with_status = || match ended {
        Some(status) => format!("the command ended with status {status}, and that is not recorded"),
        None => "how the command ended is not recorded".to_owned(),
    };
    match error.kind() {
        ErrorKind::Conflict => {
            let advice = "was used before for another command line; take another --key or --scope, or say by --fingerprint \
                          what has to be the same";
            Failure::new(Code::Data, format!("{id} {advice}"))
        }
        ErrorKind::InProgress { retry_after } => {
            let holder = holder(idem.store(), id).await;
            let (wait, left) = (args.wait, duration(*retry_after));
            let what = format!(
                "{id} runs elsewhere{holder}, and still did after {wait}; its lease ends in {left} at the latest \
                                unless it is renewed"
            );
            Failure::new(Code::Temporary, what)
        }
        ErrorKind::InDoubt { attempt } => {
            let holder = holder(idem.store(), id).await;
            let what = format!(
                "{id} is in doubt: attempt {attempt}{holder} ended without telling what it did. {}",
                settle(id)
            );
            Failure::with_code(IN_DOUBT, what)
        }
        ErrorKind::LeaseLost => {
            let what = format!(
                "{id}: {}: this machine showed no sign of life for {}, and the key was given to another. Both may have run",
                with_status(),
                args.lease
            );
            Failure::with_code(NOT_RECORDED, what)
        }
        ErrorKind::Unrecorded(source) => {
            let what = format!(
                "{id}: {}: {}. It is in doubt once its lease is over. {}",
                with_status(),
                told(source),
                settle(id)
            );
            Failure::with_code(NOT_RECORDED, what)
        }
        // Nothing is too large here.
        ErrorKind::ResultTooLarge { .. } => erased(id),
        ErrorKind::Codec(source) => unread(idem.store(), id, source).await,
        ErrorKind::Store(source) => {
            let failure = unreachable(source.clone());
            Failure::with_code(failure.code(), format!("{id}: the command did not run: {failure}"))
        }
        _ => Failure::new(Code::Software, told(error)),
    }
}

/// What is said where a run is known, and nothing of what it came to.
fn erased(id: &RequestIdentity) -> Failure {
    let what = format!(
        "{id} ran before, and what is recorded of that was erased since (oneflight records erase --answers): neither its exit status \
         nor its output is known any more. It was not run again. {}",
        run_anew(id)
    );
    Failure::with_code(ERASED, what)
}

/// What is said of a record that tells no end of a command: a person has settled it so, or it is not that of a command.
async fn unread<S: Upkeep>(store: &S, id: &RequestIdentity, source: &CodecError) -> Failure {
    let record = store.load(id).await.ok().flatten();
    let result = record.as_ref().and_then(|record| record.result());
    // An answer of HTTP leaves its status.
    if result.is_some_and(|result| result.erased().is_none()) {
        return erased(id);
    }
    let why = match source {
        CodecError::Foreign { written, .. } => format!("it is in the form {written:?}"),
        source => told(source),
    };
    let what = match record.is_some_and(|record| record.holder.settles()) {
        true => format!(
            "{id} was settled by a person, with what is no end of a command ({why}). It was not run again. {}",
            take_back(id)
        ),
        false => {
            format!("{id} is the record of something else, which is no command; take another --key or --scope: {why}")
        }
    };
    Failure::new(Code::Data, what)
}

/// Says whether a key that was to be free again is. To give it back may have failed.
async fn given_back<S: Upkeep>(store: &S, id: &RequestIdentity) -> String {
    match store.load(id).await {
        Ok(None) => "the key is free again".to_owned(),
        Ok(Some(record)) if record.result().is_none() => format!(
            "the key is taken: it could not be given back, or somebody else has it already. If nobody has, it is in doubt once the \
             lease is over. {}",
            settle(id)
        ),
        Ok(Some(_)) => "somebody else has run it meanwhile".to_owned(),
        Err(error) => format!(
            "whether the key is free again is not known ({}); if it is not, it is in doubt once the lease is over. {}",
            told(&error),
            settle(id)
        ),
    }
}

/// Says who has a key, and since when, as far as the store tells.
async fn holder<S: Upkeep>(store: &S, id: &RequestIdentity) -> String {
    let query = RecordQuery {
        scope: Some(id.scope().to_owned()),
        key: Some(id.key().to_owned()),
        ..RecordQuery::all(1)
    };
    let entry = match store.records(query).await {
        Ok(page) => page.entries.into_iter().find(|entry| entry.id == *id),
        Err(_) => None,
    };
    let Some(entry) = entry else { return String::new() };
    let mut told = Vec::new();
    told.extend(entry.correlation_id.map(|id| id.to_string()));
    if let (Some(claimed), State::InProgress { .. }) = (entry.claimed, &entry.record.state) {
        told.push(format!("begun {} ago", duration(entry.record.observed.since(claimed))));
    }
    match told.is_empty() {
        true => String::new(),
        false => format!(" ({})", told.join(", ")),
    }
}

/// What joins the logs of this run, and tells an operator which process it was: its machine and number, unless it was given.
fn correlation_id() -> CorrelationId {
    let given = std::env::var("ONEFLIGHT_CORRELATION_ID").ok();
    if let Some(id) = given.and_then(|id| CorrelationId::new(id).ok()) {
        return id;
    }
    let random = CorrelationId::random();
    let machine = rustix::system::uname();
    let machine: String = machine.nodename().to_string_lossy().chars().take(64).collect();
    let part = random.as_str().get(..8).unwrap_or_default();
    CorrelationId::new(format!("exec-{machine}-{}-{part}", std::process::id())).unwrap_or(random)
}
