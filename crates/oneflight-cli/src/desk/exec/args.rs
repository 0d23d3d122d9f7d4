//! What is typed behind `oneflight exec`, and what is to be typed after a doubt.

use std::ffi::OsString;
use std::time::Duration;

use clap::ValueEnum;
use oneflight::{Fingerprint, RequestIdentity, Scope};

use super::job::SCOPE;
use super::recording::Size;
use crate::desk::typed::lasting;
use crate::exit::{Code, Failure};
use crate::terminal::{named, quoted};

/// An earlier attempt is in doubt.
pub(super) const IN_DOUBT: u8 = 80;
/// The command ran, and its end is not recorded.
pub(super) const NOT_RECORDED: u8 = 81;
/// The command ran before, and what was recorded of that was erased.
pub(super) const ERASED: u8 = 82;

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Exit codes: that of the command, the first time and in every replay; 128 + N if signal N killed it; 126 or 127 if it cannot be \
started.
  64  the command line is wrong
  65  the key was used before for another command, or was settled with what is no end of one
  69  the store cannot be reached: the command did not run
  75  it runs elsewhere, and still did after --wait
  77  the store does not let this user do it: the command did not run
  78  the tables are missing, or of another version: see oneflight migrate
  80  in doubt: an earlier attempt did not tell what it did
  81  the command ran, and its end could not be recorded
  82  the command ran before, and its status and output were erased since")]
pub(crate) struct Args {
    /// What names this run of the job, the same on all machines: the date, for one that runs daily
    #[arg(long)]
    pub(super) key: String,
    /// Where the key is valid: what names the job
    #[arg(long, default_value = SCOPE)]
    pub(super) scope: String,
    /// How long to wait while it runs elsewhere
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub(super) wait: humantime::Duration,
    /// How long a machine that does not show a sign of life counts as alive
    #[arg(long, value_name = "TIME", default_value = "1m")]
    pub(super) lease: humantime::Duration,
    /// How long the output and the exit status are kept. After that the key is new
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = lasting)]
    pub(super) retention: Duration,
    /// How long is tried to record the end of the command, where the store is away by then. It is given up with the lease as well, but
    /// not before 10 s
    #[arg(long, value_name = "TIME", default_value = "1m")]
    pub(super) record_within: humantime::Duration,
    /// What becomes of the key when the command ends with another status than 0
    #[arg(long, value_enum, default_value_t = OnFailure::Record)]
    pub(super) on_failure: OnFailure,
    /// What becomes of the key when a signal kills the command
    #[arg(long, value_enum, default_value_t = OnKill::Doubt)]
    pub(super) on_kill: OnKill,
    /// What to do when an earlier attempt did not tell what it did
    #[arg(long, value_enum, default_value_t = InDoubt::Hold)]
    pub(super) in_doubt: InDoubt,
    /// How much of the output is recorded, of both streams together. All of it goes through
    #[arg(long, value_name = "SIZE", default_value = "1MiB")]
    pub(super) max_output: Size,
    /// What has to be the same under one key, in place of the command line
    #[arg(long, value_name = "TEXT")]
    pub(super) fingerprint: Option<String>,
    /// Do not say that an output is a replayed one
    #[arg(long, short)]
    pub(super) quiet: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OnFailure {
    /// It is a result as any other: the command does not run again
    Record,
    /// The key is free: the next call runs the command
    Free,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OnKill {
    /// It was cut off, so nobody knows what it did: the key waits for a decision
    Doubt,
    /// It is a result as any other: the command does not run again
    Record,
    /// The key is free: the next call runs the command
    Free,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum InDoubt {
    /// End with 80, until it is resolved
    Hold,
    /// Run the command again
    Rerun,
}

impl Args {
    pub(super) fn identity(&self) -> Result<RequestIdentity, Failure> {
        let wrong = |error| Failure::new(Code::Usage, format!("{error}"));
        let fingerprint = match &self.fingerprint {
            Some(text) => Fingerprint::of(text),
            None => {
                let line = Fingerprint::builder().part("purpose", "oneflight exec 1");
                let parts = self.command.iter().enumerate();
                parts
                    .fold(line, |line, (at, part)| {
                        line.part(at.to_string(), part.as_encoded_bytes())
                    })
                    .build()
            }
        };
        let id = RequestIdentity::new(Scope::new(&self.scope), self.key.as_str()).map_err(wrong)?;
        Ok(id.with_known_fingerprint(fingerprint))
    }
}

/// Says what to do where a run is known, and nothing of what it came to.
pub(super) fn run_anew(id: &RequestIdentity) -> String {
    format!(
        "To have it run once more, take another --key, or forget this one by\n  oneflight records erase --scope={} {}",
        quoted(id.scope()),
        named(id.key())
    )
}

/// Says how to take back what was settled with an answer that tells no end of a command.
pub(super) fn take_back(id: &RequestIdentity) -> String {
    let erase = format!("oneflight records erase --scope={}", quoted(id.scope()));
    let key = named(id.key());
    format!(
        "If it did run, take that back by\n  {erase} --answers {key}\nwhich leaves that it ran (later calls end with {ERASED}); if it \
         did not, or is to run once more, by\n  {erase} {key}"
    )
}

/// Says what to do about a doubt.
pub(super) fn settle(id: &RequestIdentity) -> String {
    let resolve = format!("oneflight records resolve --scope={}", quoted(id.scope()));
    let key = named(id.key());
    format!(
        "See whether it still runs, and what it did. Then say that it was done, by\n  {resolve} --answer '{{\"exit\": 0}}' {key}\nor that \
         it was not, by\n  {resolve} --not-done {key}\nor have it run again, by --in-doubt rerun. All doubts are listed by oneflight doubts"
    )
}
