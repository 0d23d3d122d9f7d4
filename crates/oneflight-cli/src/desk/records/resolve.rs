//! Settles a request that is in doubt: a person has found out what happened.
//!
//! ```text
//!               ┌─ it was done, and this is its answer ──▶ completed: every call gets the answer
//! in doubt ─────┤
//!               └─ it was not done ──▶ absent: the key is free, the next call runs the work
//! ```

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Response, StatusCode};
use oneflight::idempotency::{Resolution, Resolved};
use oneflight::store::RecordEntry;
use oneflight::{Error, Idempotency};
use serde::Serialize;

use crate::desk::answered;
use crate::desk::exec::job;
use crate::desk::failure::failed;
use crate::desk::request::{Named, unchanged};
use crate::desk::steps::recorded;
use crate::desk::typed::{self, AsTyped};
use crate::desk::view::{Bodies, RecordView};
use crate::exit::{Code, Failure};
use crate::output::{self, Consent, Form, counted, duration};
use crate::store::{Address, AnyStore, Tables, told, with_store};
use crate::terminal::{named, quoted};

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("happened").required(true).args(["answer", "answer_file", "status", "not_done"]))]
pub(crate) struct Args {
    #[command(flatten)]
    request: Named,
    #[command(flatten)]
    answer: typed::Answer,
    /// It was done, and its HTTP answer has this status
    #[arg(long, value_name = "CODE")]
    status: Option<StatusCode>,
    /// It was not done: free the key
    #[arg(long)]
    not_done: bool,
    /// With --status: a header line of the answer, `name: value`
    #[arg(long, value_name = "LINE", requires = "status", conflicts_with = "not_done", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// With --status: the body of the answer
    #[arg(long, value_name = "TEXT", requires = "status", conflicts_with_all = ["body_file", "not_done"])]
    body: Option<String>,
    /// With --status: the file that the body of the answer is in (- for standard input)
    #[arg(long, value_name = "FILE", requires = "status", conflicts_with = "not_done")]
    body_file: Option<PathBuf>,
    /// How long the answer is kept: that of the service, so that it is replayed as long as any other
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = typed::lasting)]
    retention: Duration,
    /// With --answer, where the scope names a route, or it looks like a job of exec: a service calls the library itself, so that
    /// neither the HTTP layer, nor the proxy, nor exec has to read the answer
    #[arg(long, conflicts_with_all = ["status", "not_done"])]
    plain: bool,
    #[command(flatten)]
    consent: Consent,
}

/// What a person has found out.
enum Happened {
    Done(Vec<u8>),
    Answered(Box<Response<Vec<u8>>>),
    NotDone,
}

/// What became of it.
#[derive(Serialize)]
struct ResolvedView {
    key: String,
    scope: String,
    /// `recorded` or `freed`.
    resolved: &'static str,
}

pub(super) async fn run(store: &Address, form: Form, args: Args) -> Result<(), Failure> {
    let happened = happened(&args)?;
    let store = store.open(Tables::Leave).await?;
    let entry = args.request.find(&store).await?;
    let id = &entry.id;
    let view = RecordView::of(&entry, Bodies::Hidden);
    if let Some(result) = &view.result {
        let mut told = format!("{id} is {}, and nothing was changed: {}", view.told(), result.told());
        if view.settled {
            let (scope, key) = (quoted(id.scope()), named(id.key()));
            told.push_str(&format!(
                "; what was settled wrongly is taken back by oneflight records erase --scope={scope} --answers {key} if it was done and \
                 only its answer is wrong, and without --answers if it was not done, so that the next call does it"
            ));
        }
        return Err(Failure::new(Code::No, told));
    }
    if let Some(left) = view.lease_left_ms {
        let left = duration(Duration::from_millis(left));
        let told = format!(
            "{id} is not in doubt: its holder is alive, or was a moment ago, and its lease runs for another {left}; nothing was \
             changed. To have it wait for you then, say oneflight records hold"
        );
        return Err(Failure::new(Code::Temporary, told));
    }
    if let Some(told) = no_job_s(&entry, &happened, args.plain) {
        return Err(Failure::new(Code::Data, format!("{id}: {told} Nothing was changed")));
    }
    let meaning = meaning(&store, &entry, &happened, args.retention, args.plain).await?;
    if let Some(misfit) = misfit(&entry, &happened, args.plain) {
        // Who has consented before has read no question.
        if args.consent.is_given() && matches!(happened, Happened::Done(_)) {
            let told = format!("{id}: {misfit} Nothing was changed");
            return Err(Failure::new(Code::Usage, told));
        }
        if args.consent.is_given() {
            output::note(&format!("oneflight: {id}: {misfit}"));
        }
    }
    args.consent
        .ask(&format!("{id}: {}, attempt {}.\n{meaning}", view.told(), view.attempt))?;
    unchanged(&store, &entry).await?;
    let resolved = with_store!(&store, |store| {
        let idem = Idempotency::builder(store.clone()).retention(args.retention).build();
        match happened {
            Happened::Done(json) => {
                let resolution = Resolution::completed_with(&AsTyped, &json);
                let resolution = resolution.map_err(|error| Failure::new(Code::Data, told(&error)))?;
                idem.resolve(id, resolution).await
            }
            Happened::Answered(answer) => idem.resolve_answered(id, *answer).await,
            Happened::NotDone => idem.resolve(id, Resolution::Rerun).await,
        }
    });
    let resolved = became(&entry, resolved)?;
    let view = ResolvedView {
        key: id.key().to_owned(),
        scope: id.scope().to_owned(),
        resolved,
    };
    output::either(form, &view, || match resolved {
        "freed" => format!("{id} is free: the next call with its key runs the work"),
        _ => format!("{id} is completed: every call with its key gets this answer"),
    })
}

fn happened(args: &Args) -> Result<Happened, Failure> {
    if args.not_done {
        return Ok(Happened::NotDone);
    }
    let Some(status) = args.status else {
        let json = args.answer.json()?;
        return json
            .map(Happened::Done)
            .ok_or_else(|| Failure::new(Code::Usage, "what happened?"));
    };
    let body = match (&args.body, &args.body_file) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(path)) => typed::read(path)?,
        (None, None) => Vec::new(),
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    for (name, value) in &args.header {
        answer.headers_mut().append(name, value.clone());
    }
    match answered::misfit(&answer) {
        Some(told) => Err(Failure::new(Code::Usage, told)),
        None => Ok(Happened::Answered(Box::new(answer))),
    }
}

/// What the change means to those who call, as it is told before it is made.
async fn meaning(
    store: &AnyStore,
    entry: &RecordEntry,
    happened: &Happened,
    retention: Duration,
    plain: bool,
) -> Result<String, Failure> {
    let kept = duration(retention);
    let steps = recorded(store, &entry.id).await?.map_or(0, |known| known.steps.len());
    let mut meaning = match happened {
        Happened::Done(json) => format!(
            "You say: it was done, and its answer is {} of JSON. Every call with this key gets that answer for {kept}, and the \
             work does not run again.",
            counted(json.len(), "byte")
        ),
        Happened::Answered(answer) => format!(
            "You say: it was done, and its answer is HTTP {} with {} and a body of {}. Every request with this key \
             gets that answer for {kept}, and the work does not run again.",
            answer.status(),
            counted(answer.headers().len(), "header line"),
            counted(answer.body().len(), "byte")
        ),
        Happened::NotDone => {
            "You say: it was not done. Its key is freed: the next call with it is new, and runs the work. If it was \
                              done after all, or what was cut off may still land, it happens twice."
                .to_owned()
        }
    };
    if let Some(misfit) = misfit(entry, happened, plain) {
        meaning.push_str(&format!("\n{misfit}"));
    }
    if let (Happened::NotDone, 1..) = (happened, steps) {
        meaning.push_str(&format!(
            "\nIts recorded steps ({steps}) are forgotten, and run again. To go on behind them: oneflight steps resume."
        ));
    }
    Ok(meaning)
}

/// Says why a job could not end with this. That it is none, but the request of a service, is said by `--plain`.
fn no_job_s(entry: &RecordEntry, happened: &Happened, plain: bool) -> Option<String> {
    if plain || !job::is_one(entry.id.scope(), entry.correlation_id.as_ref()) {
        return None;
    }
    match happened {
        Happened::Done(json) => job::misfit(Some(json)),
        Happened::Answered(_) => job::misfit(None),
        Happened::NotDone => None,
    }
}

/// Says why the service could perhaps not read this answer, as far as the scope tells.
fn misfit(entry: &RecordEntry, happened: &Happened, plain: bool) -> Option<String> {
    match (happened, route(entry.id.scope())) {
        (Happened::Done(_), Some(route)) if !plain => Some(format!(
            "The scope names the route {route}. If that is answered by the HTTP layer or the proxy, an answer of JSON alone cannot be read \
             there: say --status, --header and --body. If the service calls the library itself, say --plain."
        )),
        (Happened::Answered(_), None) => Some(
            "The scope names no route. If the service calls the library itself, and does not answer by the HTTP layer or the proxy, it \
             cannot read an HTTP answer: say --answer."
                .to_owned(),
        ),
        _ => None,
    }
}

/// The route that a scope names, if it is that of an HTTP request: a method and a path.
fn route(scope: &str) -> Option<&str> {
    let route = scope.split('|').find_map(|part| part.strip_prefix("route="))?;
    let (method, path) = route.split_once(' ')?;
    (method.bytes().all(|byte| byte.is_ascii_uppercase()) && path.starts_with('/')).then_some(route)
}

fn became(entry: &RecordEntry, resolved: Result<Resolved, Error>) -> Result<&'static str, Failure> {
    let id = &entry.id;
    match resolved.map_err(failed)? {
        Resolved::Recorded => Ok("recorded"),
        Resolved::Freed => Ok("freed"),
        Resolved::AlreadyCompleted => {
            let told = format!("{id} was completed meanwhile by somebody else, and nothing was changed");
            Err(Failure::new(Code::No, told))
        }
        Resolved::Absent => {
            let told = format!("{id} is gone meanwhile: somebody has freed it, and nothing was changed");
            Err(Failure::new(Code::No, told))
        }
        _ => Err(Failure::new(
            Code::Temporary,
            format!("{id} was not changed; look at it again"),
        )),
    }
}

/// Reads a header line.
fn header(line: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = line.split_once(':').ok_or("a header line is `name: value`")?;
    let name = name.trim().parse().map_err(|_| "that is no name of a header")?;
    let value = value.trim().parse().map_err(|_| "that is no value of a header")?;
    Ok((name, value))
}
