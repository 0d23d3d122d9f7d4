//! How the command ends: the codes of BSD's `sysexits.h`, each with what it says.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use crate::terminal::note;

/// Why the command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    what: String,
}

/// A code of `sysexits.h`, or one of those that the command's manual adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    /// What was looked for is not there, or the answer is "no".
    No = 1,
    /// The command was typed wrongly: `EX_USAGE`.
    Usage = 64,
    /// What was given is no valid data: `EX_DATAERR`.
    Data = 65,
    /// A file that was named is not there, or cannot be read: `EX_NOINPUT`.
    NoInput = 66,
    /// The store or a backend cannot be reached: `EX_UNAVAILABLE`.
    Unavailable = 69,
    /// A fault of the command's own: `EX_SOFTWARE`.
    Software = 70,
    /// The operating system refused something: `EX_OSERR`.
    System = 71,
    /// What was to be read or written cannot be: `EX_IOERR`.
    Io = 74,
    /// Something failed for now, and may be tried again: `EX_TEMPFAIL`.
    Temporary = 75,
    /// The store or the user may not do that: `EX_NOPERM`.
    NoPermission = 77,
    /// The configuration is wrong: `EX_CONFIG`.
    Config = 78,
}

impl Failure {
    pub(crate) fn new(code: Code, what: impl Into<String>) -> Self {
        Self {
            code: code as u8,
            what: what.into(),
        }
    }

    /// Ends the command with a code of its own: that of a command which it has run.
    pub(crate) fn with_code(code: u8, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
        }
    }

    /// Ends the command in silence, since the reader of its answer went away.
    pub(crate) fn unread() -> Self {
        Self::with_code(0, "")
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// Why an address cannot be listened on: another program does, this user may not, or the machine does not have it.
pub(crate) fn not_listening(address: SocketAddr, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::PermissionDenied => Code::NoPermission,
        _ => Code::System,
    };
    Failure::new(code, format!("{address} cannot be listened on: {error}"))
}

/// Ends a check that has printed what it found. What was found comes first: that the reader went away, as `head` does, is no good news.
pub(crate) fn checked(printed: Result<(), Failure>, found: Found) -> Result<(), Failure> {
    match (found, printed) {
        (Found::Nothing, printed) => printed,
        (Found::Something, Err(failure)) if failure.code != 0 => Err(failure),
        (Found::Something, _) => Err(Failure::new(Code::No, "")),
    }
}

/// Whether a check has found what it is to fail for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Something,
}

impl Found {
    pub(crate) fn is(found: bool) -> Self {
        match found {
            true => Self::Something,
            false => Self::Nothing,
        }
    }
}

/// Says why the command failed, if it did, and returns its code. A failure without words is silent.
pub(crate) fn report(ended: Result<(), Failure>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.what.is_empty() {
                note(&format!("oneflight: {failure}"));
            }
            ExitCode::from(failure.code)
        }
    }
}
