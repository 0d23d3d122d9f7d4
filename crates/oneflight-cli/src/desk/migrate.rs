//! The schema of a store: which migrations it has, what they say, and applying them.

use std::time::Duration;

use clap::Subcommand;
use oneflight::store::SchemaStatus;
use serde::Serialize;

use super::locks;
use crate::exit::{Code, Failure, Found, checked};
use crate::output::{self, Consent, Form, counted};
use crate::store::{Address, Kind, Tables, unreachable};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say which version the schema has, and what it lacks
    Status(StatusArgs),
    /// Print the migrations as one script, to be applied by other means
    Print(PrintArgs),
    /// Make the tables that are missing, and upgrade those that are old
    Up(UpArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// End with the exit code 1 if it lacks something, for a check
    #[arg(long)]
    fail: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PrintArgs {
    /// Only what a schema of this version lacks (0: an empty database)
    #[arg(long, default_value_t = 0, value_name = "VERSION")]
    from: usize,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    /// PostgreSQL: how long each lock is waited for, before it is tried again. All requests wait meanwhile
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = locks::longest)]
    lock_timeout: Duration,
    #[command(flatten)]
    consent: Consent,
}

/// How a schema stands, as it is printed.
#[derive(Serialize)]
struct Status {
    /// The version of the schema: 0 if there is none, `null` where there is nothing to migrate.
    found: Option<i64>,
    /// The newest version that this command knows.
    known: Option<i64>,
    /// The oldest version that works with the schema once what is missing is applied.
    compatible_from: Option<i64>,
    missing: Vec<Missing>,
}

#[derive(Serialize)]
struct Missing {
    version: i64,
    what: &'static str,
}

const NOTHING: &str = "there is nothing to migrate in Redis: its records carry their own version";

pub(crate) async fn run(store: &Address, form: Form, command: Command) -> Result<(), Failure> {
    match command {
        Command::Status(args) => status(store, form, args).await,
        Command::Print(args) => print(store, &args),
        Command::Up(args) => up(store, form, args).await,
    }
}

async fn status(store: &Address, form: Form, args: StatusArgs) -> Result<(), Failure> {
    let status = Status::of(store).await?;
    let printed = output::either(form, &status, || status.text());
    if args.fail && status.is_too_new() {
        // What is printed has said it, unless nobody reads that.
        printed?;
        return Err(status.too_new());
    }
    checked(printed, Found::is(args.fail && !status.missing.is_empty()))
}

fn print(store: &Address, args: &PrintArgs) -> Result<(), Failure> {
    let script = match store.kind()? {
        Kind::Sqlite => Ok(store.sqlite_options().upgrade_sql(args.from)),
        Kind::Postgres => store.postgres_options().upgrade_sql(args.from),
        Kind::Redis => return output::line(NOTHING),
    };
    output::bytes(script.map_err(unreachable)?.as_bytes())
}

async fn up(store: &Address, form: Form, args: UpArgs) -> Result<(), Failure> {
    if store.kind()? == Kind::Sqlite && !store.file()?.exists() {
        let file = store.file()?.display();
        args.consent
            .ask(&format!("This makes the file {file}, with the tables of oneflight."))?;
        store.open(Tables::Make).await?;
    }
    let before = Status::of(store).await?;
    if before.is_too_new() {
        return Err(before.too_new());
    }
    if !before.missing.is_empty() {
        args.consent.ask(&format!(
            "{}\nThis applies them, in one transaction.{}",
            before.text(),
            before.older_processes()
        ))?;
        match store.kind()? {
            Kind::Postgres => locks::upgrade(store, args.lock_timeout).await?,
            Kind::Sqlite | Kind::Redis => drop(store.open(Tables::Make).await?),
        }
    }
    let after = Status::of(store).await?;
    output::either(form, &after, || match before.missing.len() {
        0 => after.text(),
        applied => format!("applied {}; {}", counted(applied, "migration"), after.text()),
    })
}

impl Status {
    async fn of(store: &Address) -> Result<Self, Failure> {
        let known = store.schema_status().await?;
        Ok(match known {
            Some(SchemaStatus {
                found,
                known,
                compatible_from,
                missing,
                ..
            }) => Self {
                found: Some(found),
                known: Some(known),
                compatible_from: Some(compatible_from),
                missing: missing
                    .into_iter()
                    .map(|(version, what)| Missing { version, what })
                    .collect(),
            },
            None => Self {
                found: None,
                known: None,
                compatible_from: None,
                missing: Vec::new(),
            },
        })
    }

    /// What becomes of processes of the version that the schema is of, once what is missing is applied.
    fn older_processes(&self) -> String {
        match (self.found, self.compatible_from) {
            // Nobody can have it open.
            (Some(0), _) => String::new(),
            (Some(found), Some(from)) if found >= from => {
                format!(" Processes of version {from} and newer go on, and can be started anew.")
            }
            (_, Some(from)) => format!(
                " Processes of an older version than {from} that have the store open go on; one that is started anew finds the \
                 schema too new."
            ),
            _ => String::new(),
        }
    }

    /// Whether this command is too old for the schema.
    fn is_too_new(&self) -> bool {
        self.compatible_from > self.known
    }

    fn too_new(&self) -> Failure {
        Failure::new(Code::Config, format!("{}; nothing was changed", self.text()))
    }

    fn text(&self) -> String {
        let (Some(found), Some(known), Some(from)) = (self.found, self.known, self.compatible_from) else {
            return NOTHING.to_owned();
        };
        if found > known {
            let it_is = format!("the schema is of version {found}, and this command knows up to {known}");
            return match from > known {
                true => format!("{it_is}; it needs version {from} or newer: upgrade the command"),
                false => format!("{it_is}; it works with version {from} and newer"),
            };
        }
        let mut text = match self.missing.is_empty() {
            true => return format!("the schema is of version {found}, which is the newest"),
            false if found == 0 => format!("there are no tables of oneflight; version {known} has"),
            false => format!("the schema is of version {found}; version {known} has besides"),
        };
        for Missing { version, what } in &self.missing {
            text.push_str(&format!("\n  {version}  {what}"));
        }
        text
    }
}
