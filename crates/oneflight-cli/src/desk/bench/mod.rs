//! `oneflight bench`: what a call costs on the store that is there, beside what the store costs anyway.
//!
//! ```text
//! calls (what is called, over which store) ─▶ rounds (in turns, by so many clients) ─▶ a table of what each call took
//! ```
//!
//! The kinds of calls take turns in short rounds, so that what else goes on in the machine falls on all of them. What is written has a
//! scope of its own, and is erased in the end, also when the command is interrupted.

mod calls;
mod rounds;

use std::time::Duration;

use oneflight::Idempotency;
use oneflight::correlation::CorrelationId;
use oneflight::store::{Erase, RecordQuery, StoreError, Upkeep};
use serde::Serialize;

use self::calls::Call;
use self::rounds::{Length, Measured, measure};
use super::server::Server;
use crate::exit::{Code, Failure};
use crate::output::{Consent, Form, counted, either, note, table};
use crate::store::{Address, AnyStore, Kind, Tables, unreachable};

/// How long records are kept that could not be erased.
const RETENTION: Duration = Duration::from_secs(15 * 60);
/// How many records are erased at a time.
const ERASED_AT_ONCE: usize = 500;
/// How long what was interrupted may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many calls of each kind are made, by all clients together
    #[arg(long, value_name = "N", default_value_t = 1_000, conflicts_with = "time")]
    calls: u64,
    /// For how long calls of each kind are made, in place of a number of them
    #[arg(long = "for", value_name = "TIME", id = "time")]
    time: Option<humantime::Duration>,
    /// How many clients call at a time; several numbers are measured one after the other
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,16")]
    clients: Vec<Clients>,
    /// Measure a transaction as well: `run_in_tx` beside the same one row without it. It makes a table, and drops it in the end
    #[arg(long)]
    in_tx: bool,
    #[command(flatten)]
    consent: Consent,
}

#[derive(Clone, Copy, Debug)]
struct Clients(usize);

impl std::str::FromStr for Clients {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().parse() {
            Ok(number @ 1..=1_000) => Ok(Self(number)),
            _ => Err(format!("{text:?} is no number of clients: say 1 to 1000")),
        }
    }
}

/// What was measured, and where.
#[derive(Debug, Serialize)]
struct Report {
    store: String,
    cores: usize,
    optimized: bool,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    call: &'static str,
    clients: usize,
    calls: usize,
    p50_us: f64,
    p99_us: f64,
    per_second: f64,
    /// The median beside that of what the call is compared with.
    ratio: Option<f64>,
    beside: Option<&'static str>,
}

pub(crate) async fn run(address: &Address, form: Form, args: Args) -> Result<(), Failure> {
    let kind = address.kind()?;
    if args.in_tx && kind == Kind::Redis {
        let advice = "a store in Redis has no transactions to run work in: leave --in-tx away";
        return Err(Failure::new(Code::Usage, advice));
    }
    let store = address.open(Tables::Leave).await?;
    let server = Server::of(address, &store).await?;
    let random = CorrelationId::random();
    let name = format!("oneflight-bench-{}", random.as_str().get(..8).unwrap_or_default());
    let tabled = match args.in_tx {
        true => format!(", and makes a table {}", calls::table_name(&name)),
        false => String::new(),
    };
    args.consent.ask(&format!(
        "This writes records into the store under the scope {name}{tabled}. It erases them in the end. What else uses the store is held \
         up meanwhile."
    ))?;
    match store {
        AnyStore::Sqlite(store) => {
            let idem = idempotency(store);
            let in_tx = args.in_tx.then(|| calls::in_tx(&server, &idem, &name));
            over(&idem, server, form, &args, &name, in_tx).await
        }
        AnyStore::Postgres(store) => {
            let idem = idempotency(store);
            let in_tx = args.in_tx.then(|| calls::in_tx(&server, &idem, &name));
            over(&idem, server, form, &args, &name, in_tx).await
        }
        AnyStore::Redis(store) => over(&idempotency(store), server, form, &args, &name, None).await,
    }
}

fn idempotency<S: Upkeep>(store: S) -> Idempotency<S> {
    Idempotency::builder(store).retention(RETENTION).build()
}

async fn over<S: Upkeep>(
    idem: &Idempotency<S>,
    server: Server,
    form: Form,
    args: &Args,
    name: &str,
    in_tx: Option<Vec<Call>>,
) -> Result<(), Failure> {
    let version = server.version().await.map_err(unreachable)?;
    let mut all = calls::of_records(&server, idem, name);
    all.extend(in_tx.into_iter().flatten());
    let length = match args.time {
        Some(time) => Length::Time(*time),
        None => Length::Calls(args.calls),
    };
    let measured = tokio::select! {
        measured = async {
            if args.in_tx {
                server.make_table(name).await.map_err(unreachable)?;
            }
            let mut rows = Vec::new();
            for Clients(clients) in &args.clients {
                rows.extend(told(*clients, &all, measure(*clients, length, &all).await?));
            }
            Ok(rows)
        } => measured,
        signal = interrupted() => Err(Failure::with_code(128 + signal, "interrupted")),
    };
    drop(all);
    let erased = clean_up(idem, &server, args, name).await;
    let rows = match (measured, &erased) {
        (Ok(rows), _) => rows,
        // Why it was not measured decides how it ends, and what is left is told as well.
        (Err(failure), Err(left)) => return Err(Failure::with_code(failure.code(), format!("{failure}; {left}"))),
        (Err(failure), Ok(())) => return Err(failure),
    };
    let report = Report {
        store: version,
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        optimized: !cfg!(debug_assertions),
        rows,
    };
    match (either(form, &report, || text(&report)), erased) {
        (printed, Ok(())) => printed,
        (_, left) => left,
    }
}

/// Waits for a signal that ends a program, and returns its number.
async fn interrupted() -> u8 {
    use tokio::signal::unix::{SignalKind, signal};
    async fn caught(kind: SignalKind) {
        match signal(kind) {
            Ok(mut caught) => {
                caught.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    }
    tokio::select! {
        () = caught(SignalKind::interrupt()) => 2,
        () = caught(SignalKind::terminate()) => 15,
        () = caught(SignalKind::hangup()) => 1,
    }
}

/// Erases what was written, once nothing writes any more. A user who may not erase may not have written either, so it is looked whether
/// anything is left.
async fn clean_up<S: Upkeep>(idem: &Idempotency<S>, server: &Server, args: &Args, name: &str) -> Result<(), Failure> {
    idem.close();
    let _ = tokio::time::timeout(ENDS_WITHIN, idem.drain()).await;
    let tabled = match args.in_tx {
        true => match server.drop_table(name).await {
            Err(error) if server.has_table(name).await.unwrap_or(true) => Err(error),
            _ => Ok(()),
        },
        false => Ok(()),
    };
    let erased = async {
        let mut after = None;
        loop {
            after = idem
                .store()
                .erase(name, Erase::Records, after, ERASED_AT_ONCE)
                .await?
                .next;
            if after.is_none() {
                return Ok::<_, StoreError>(());
            }
        }
    };
    let left = |what: &str, error: StoreError| {
        let failure = unreachable(error);
        Failure::with_code(
            failure.code(),
            format!("{what} could not be erased, and is still there: {failure}"),
        )
    };
    let tabled = tabled.map_err(|error| left(&format!("the table {}", calls::table_name(name)), error));
    let erased = match erased.await {
        Err(error) if has_records(idem.store(), name).await.unwrap_or(true) => Err(error),
        _ => Ok(()),
    };
    let erased = erased.map_err(|error| left(&format!("the scope {name}"), error));
    match (tabled, erased) {
        (Err(table), Err(scope)) => Err(Failure::with_code(table.code(), format!("{table}; {scope}"))),
        (tabled, erased) => tabled.and(erased),
    }
}

/// Returns whether there are records of this scope.
async fn has_records<S: Upkeep>(store: &S, scope: &str) -> Result<bool, StoreError> {
    let mut query = RecordQuery {
        scope: Some(scope.to_owned()),
        ..RecordQuery::all(ERASED_AT_ONCE)
    };
    loop {
        let page = store.records(query.clone()).await?;
        if !page.entries.is_empty() || page.unreadable > 0 {
            return Ok(true);
        }
        if page.next.is_none() {
            return Ok(false);
        }
        query.after = page.next;
    }
}

fn told(clients: usize, calls: &[Call], measured: Vec<Measured>) -> Vec<Row> {
    let median = |name: &str| {
        calls
            .iter()
            .zip(&measured)
            .find(|(call, _)| call.name == name)
            .map(|(_, it)| it.quantile(0.5))
    };
    let row = |(call, it): (&Call, &Measured)| {
        let beside = call.beside.and_then(median);
        Row {
            call: call.name,
            clients,
            calls: it.count(),
            p50_us: micros(it.quantile(0.5)),
            p99_us: micros(it.quantile(0.99)),
            per_second: it.per_second(),
            ratio: beside.map(|beside| it.quantile(0.5).as_secs_f64() / beside.as_secs_f64().max(1e-9)),
            beside: call.beside,
        }
    };
    calls.iter().zip(&measured).map(row).collect()
}

fn micros(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000_000.0).round() / 10.0
}

fn text(report: &Report) -> String {
    let columns = ["CALL", "CLIENTS", "CALLS", "P50", "P99", "CALLS/S", "MEDIAN"];
    let time = |micros: f64| match micros {
        short if short < 1_000.0 => format!("{short:.0} µs"),
        long => format!("{:.2} ms", long / 1_000.0),
    };
    let rows = table(&columns, &report.rows, |row| {
        let ratio = row
            .ratio
            .zip(row.beside)
            .map(|(ratio, beside)| format!("{ratio:.2} × {beside}"));
        vec![
            row.call.to_owned(),
            row.clients.to_string(),
            row.calls.to_string(),
            time(row.p50_us),
            time(row.p99_us),
            format!("{:.0}", row.per_second),
            ratio.unwrap_or_default(),
        ]
    });
    if !report.optimized {
        note("oneflight: this program was built without optimizations, and takes longer than one that is released");
    }
    format!(
        "{}; this machine has {}\n\n{rows}",
        report.store,
        counted(report.cores, "core")
    )
}
