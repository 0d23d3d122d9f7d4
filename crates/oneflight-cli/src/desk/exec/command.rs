//! A command that runs under a claim: it is started, gets this process's signals, and its output is shown and kept.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oneflight::RequestIdentity;
use oneflight::correlation::CorrelationId;
use oneflight::idempotency::{Context, NotDone, Unfinished, Unknown};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use super::args::{Args, NOT_RECORDED, OnFailure, OnKill, settle};
use super::recording::{Recorded, Recorder, Stream};
use super::signals::{code, is_of_the_terminal};
use crate::output::note;

/// How long output is waited for after the end of the command, from processes that it left behind.
const LEFT_BEHIND: Duration = Duration::from_secs(2);
/// How long it is waited for once a signal has come after that end.
const HURRIED: Duration = Duration::from_millis(500);

/// A command that is to be run once.
pub(super) struct Job {
    command: Vec<OsString>,
    id: RequestIdentity,
    correlation: CorrelationId,
    on_failure: OnFailure,
    on_kill: OnKill,
    lease: humantime::Duration,
    signals: UnboundedReceiver<Signal>,
    shared: Arc<Shared>,
}

/// What the job and those that wait for it have in common.
#[derive(Debug)]
struct Shared {
    gate: Mutex<Option<Gate>>,
    recorder: Mutex<Recorder>,
    /// How many streams have something under way to where it is shown.
    showing: Mutex<u32>,
    status: watch::Sender<Option<u8>>,
}

/// Whether the command may begin: one of the two comes first, and that is that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Begun,
    Closed,
}

/// Closes the way to the command.
#[derive(Clone, Debug)]
pub(super) struct GateKeeper(Arc<Shared>);

impl GateKeeper {
    /// Sees to it that the command does not begin, unless it has.
    pub(super) fn close(&self) -> Gate {
        *locked(&self.0.gate).get_or_insert(Gate::Closed)
    }
}

/// How the command ended, once it has.
#[derive(Clone, Debug)]
pub(super) struct Ended(Arc<Shared>);

impl Ended {
    pub(super) fn status(&self) -> Option<u8> {
        *self.0.status.borrow()
    }

    /// Waits for the end, and returns the status.
    pub(super) async fn over(&self) -> u8 {
        let mut status = self.0.status.subscribe();
        let over = status.wait_for(Option::is_some).await.map(|status| *status);
        match over {
            Ok(Some(status)) => status,
            // The sender is where this is.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

/// With what this process ends, where nothing is recorded.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) code: u8,
    pub(super) what: String,
    pub(super) key: Key,
}

/// What becomes of the key where nothing is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// It is given back.
    GivenBack,
    /// This attempt is in doubt.
    InDoubt,
    /// This attempt did nothing, and an earlier one is in doubt.
    InDoubtBefore,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Told {}

impl Job {
    pub(super) fn new(
        args: &Args,
        id: RequestIdentity,
        correlation: CorrelationId,
    ) -> (Self, GateKeeper, UnboundedSender<Signal>) {
        let (sender, signals) = unbounded_channel();
        let shared = Arc::new(Shared {
            gate: Mutex::new(None),
            recorder: Mutex::new(Recorder::new(args.max_output)),
            showing: Mutex::new(0),
            status: watch::Sender::new(None),
        });
        let keeper = GateKeeper(Arc::clone(&shared));
        let job = Self {
            command: args.command.clone(),
            id,
            correlation,
            on_failure: args.on_failure,
            on_kill: args.on_kill,
            lease: args.lease,
            signals,
            shared,
        };
        (job, keeper, sender)
    }

    pub(super) fn ended(&self) -> Ended {
        Ended(Arc::clone(&self.shared))
    }

    /// Runs the command.
    pub(super) async fn run(mut self, context: Context) -> Result<Recorded, Unfinished> {
        if *locked(&self.shared.gate).get_or_insert(Gate::Begun) == Gate::Closed {
            return Err(NotDone::because("interrupted before the command began").into());
        }
        let without_trace = match context.attempt() {
            1 => Key::GivenBack,
            _ => Key::InDoubtBefore,
        };
        let begun = Instant::now();
        let child = match self.start(&context) {
            Ok(child) => child,
            Err(error) => {
                let code = if error.kind() == io::ErrorKind::NotFound {
                    127
                } else {
                    126
                };
                let program = self
                    .command
                    .first()
                    .map(|program| program.to_string_lossy().into_owned());
                let (what, key) = (format!("{}: {error}", program.unwrap_or_default()), without_trace);
                return Err(NotDone::because(Told { code, what, key }).into());
            }
        };
        let status = self.attend(child, &context).await.map_err(|error| {
            let what = format!("the command was started, and its end is not known: {error}");
            Unknown::because(Told {
                code: NOT_RECORDED,
                what,
                key: Key::InDoubt,
            })
        })?;
        let exit = match (status.code(), status.signal()) {
            (Some(code), _) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
            (None, signal) => 128_u8.saturating_add(signal.and_then(|signal| u8::try_from(signal).ok()).unwrap_or(127)),
        };
        self.shared.status.send_replace(Some(exit));
        let told = |what: String, key: Key| Told { code: exit, what, key };
        match status.signal() {
            Some(signal) => match self.on_kill {
                OnKill::Record => {}
                OnKill::Doubt => {
                    let what = format!(
                        "{} was killed by signal {signal}: it is in doubt what it did. {}",
                        self.id,
                        settle(&self.id)
                    );
                    return Err(Unknown::because(told(what, Key::InDoubt)).into());
                }
                OnKill::Free => {
                    let what = format!("{} was killed by signal {signal}", self.id);
                    return Err(NotDone::because(told(what, without_trace)).into());
                }
            },
            None if exit != 0 && self.on_failure == OnFailure::Free => {
                let what = format!("{} failed with status {exit}", self.id);
                return Err(NotDone::because(told(what, without_trace)).into());
            }
            None => {}
        }
        Ok(locked(&self.shared.recorder).end(exit, self.correlation.as_str(), begun.elapsed()))
    }

    fn start(&self, context: &Context) -> io::Result<Child> {
        let (program, arguments) = match &*self.command {
            [program, arguments @ ..] => (program, arguments),
            [] => return Err(io::ErrorKind::NotFound.into()),
        };
        Command::new(program)
            .args(arguments)
            .env("ONEFLIGHT_KEY", self.id.key())
            .env("ONEFLIGHT_DOWNSTREAM_KEY", context.downstream_key("exec"))
            .env("ONEFLIGHT_ATTEMPT", context.attempt().to_string())
            .env("ONEFLIGHT_CORRELATION_ID", self.correlation.as_str())
            // A secret of another command's.
            .env_remove("ONEFLIGHT_DASHBOARD_TOKEN")
            .stdin(Stdio::inherit())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }

    /// Waits for the end of the command and of its output, and passes signals on to it meanwhile.
    async fn attend(&mut self, mut child: Child, context: &Context) -> io::Result<ExitStatus> {
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (from, to) = (Arc::clone(&self.shared), Arc::clone(&self.shared));
        let mut output = pin!(async move {
            tokio::join!(
                copy(out, tokio::io::stdout(), Stream::Out, &from),
                copy(err, tokio::io::stderr(), Stream::Err, &to),
            );
        });
        let mut is_over = false;
        let mut is_lost = false;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                () = &mut output, if !is_over => is_over = true,
                Some(signal) = self.signals.recv() => pass(&child, signal),
                () = context.lease_lost(), if !is_lost => {
                    is_lost = true;
                    note(&format!(
                        "oneflight: the lease of {} is lost: this machine or the store stood still for {}. The command goes on; \
                         its end is recorded unless another machine has taken the key meanwhile",
                        self.id, self.lease,
                    ));
                }
            }
        };
        // What came before the end was for the command, and says nothing of its output.
        while self.signals.try_recv().is_ok() {}
        let mut hurried: Option<tokio::time::Instant> = None;
        while !is_over {
            let seen = locked(&self.shared.recorder).seen();
            let patience = tokio::time::Instant::now() + LEFT_BEHIND;
            tokio::select! {
                () = &mut output => is_over = true,
                Some(_) = self.signals.recv() => {
                    hurried.get_or_insert_with(|| tokio::time::Instant::now() + HURRIED);
                }
                () = tokio::time::sleep_until(hurried.unwrap_or(patience)) => {
                    let is_still = *locked(&self.shared.showing) == 0 && locked(&self.shared.recorder).seen() == seen;
                    if hurried.is_some() {
                        locked(&self.shared.recorder).cut();
                        note(
                            "oneflight: a signal came after the end of the command, while its output was still open or under way: \
                             what had not been read by then is neither shown nor recorded",
                        );
                        break;
                    }
                    if is_still {
                        note(
                            "oneflight: the command has ended, and a process that it left behind still has its output open; what \
                             that prints from now on is neither shown nor recorded",
                        );
                        break;
                    }
                }
            }
        }
        Ok(status)
    }
}

/// Sends the command a signal. It has not been waited for yet, so its number is its own.
fn pass(child: &Child, signal: Signal) {
    if is_of_the_terminal(signal) {
        return;
    }
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal)) {
        note(&format!(
            "oneflight: signal {} was not passed on: {error}",
            code(signal) - 128
        ));
    }
}

/// Shows what the command prints, and keeps it. If it cannot be shown any more, it is kept all the same.
async fn copy(from: Option<impl AsyncRead + Unpin>, mut to: impl AsyncWrite + Unpin, stream: Stream, shared: &Shared) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; 16 * 1024];
    let mut is_shown = true;
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => &buffer[..read],
        };
        locked(&shared.recorder).add(stream, read);
        if is_shown {
            *locked(&shared.showing) += 1;
            let mut shown = to.write_all(read).await;
            if shown.is_ok() {
                shown = to.flush().await;
            }
            *locked(&shared.showing) -= 1;
            if let Err(error) = shown {
                is_shown = false;
                // A reader that went away has read what it wanted.
                if error.kind() != io::ErrorKind::BrokenPipe {
                    note(&format!(
                        "oneflight: the command's {stream} cannot be written from here on: {error}. It is recorded all the same"
                    ));
                }
            }
        }
    }
}

/// Nothing panics while it has one of these.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
