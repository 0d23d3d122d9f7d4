//! What is recorded of a command: JSON that an operator can read, and write when a doubt is resolved.
//!
//! ```json
//! {"exit": 0, "output": [{"stdout": "backed up\n"}, {"stderr": "1 file is new\n"}], "by": "exec-web1-4711-5f2c7a01"}
//! ```
//!
//! What is no text is written as `stdout_base64` or `stderr_base64`. Only `exit` has to be there.

use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

/// What became of a command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Recorded {
    /// Its exit status, or 128 + N if it was killed by the signal N.
    pub(super) exit: u8,
    /// What it printed, in the order in which that was read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    output: Vec<Piece>,
    /// How many bytes it printed that are not here.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) left_out: u64,
    /// Whether its output was cut off while it was still open: nobody knows how much is not here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) cut: bool,
    /// The correlation id of its run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    /// When it ended, on the clock of its machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended: Option<String>,
    /// How long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    took: Option<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Some of the output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Piece {
    Stdout(String),
    Stderr(String),
    StdoutBase64(String),
    StderrBase64(String),
}

/// Where output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Out,
    Err,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Out => "standard output",
            Self::Err => "standard error",
        })
    }
}

/// Why an output was not printed.
#[derive(Debug)]
pub(super) enum Unprinted {
    /// The record is damaged.
    Damaged(String),
    /// A stream does not take it.
    Unwritten(Stream, std::io::Error),
}

impl Recorded {
    /// Whether all of its output can be printed.
    pub(super) fn is_sound(&self) -> bool {
        self.output.iter().all(|piece| match piece {
            Piece::Stdout(_) | Piece::Stderr(_) => true,
            Piece::StdoutBase64(text) | Piece::StderrBase64(text) => BASE64_STANDARD.decode(text).is_ok(),
        })
    }

    /// Says who ran it, and when and how it ended.
    pub(super) fn story(&self) -> String {
        let by = self
            .by
            .as_ref()
            .map_or_else(|| "it ran before".to_owned(), |by| format!("it ran as {by}"));
        let ended = self.ended.as_ref().map_or_else(String::new, |at| format!(" at {at}"));
        let took = self
            .took
            .as_ref()
            .map_or_else(String::new, |took| format!(" after {took}"));
        format!("{by} and ended with status {}{ended}{took}", self.exit)
    }

    /// Prints the output to the streams to which the command had printed it, in the order in which it came. A reader that went away
    /// ends that in silence.
    pub(super) fn print(&self) -> Result<(), Unprinted> {
        let damaged = |error| Unprinted::Damaged(format!("the recorded output is no base64: {error}"));
        let mut unwritten: Vec<(Stream, std::io::Error)> = Vec::new();
        for piece in &self.output {
            let decoded;
            let (stream, bytes) = match piece {
                Piece::Stdout(text) => (Stream::Out, text.as_bytes()),
                Piece::Stderr(text) => (Stream::Err, text.as_bytes()),
                Piece::StdoutBase64(text) | Piece::StderrBase64(text) => {
                    decoded = BASE64_STANDARD.decode(text).map_err(damaged)?;
                    let stream = match piece {
                        Piece::StdoutBase64(_) => Stream::Out,
                        _ => Stream::Err,
                    };
                    (stream, &*decoded)
                }
            };
            if unwritten.iter().any(|(failed, _)| *failed == stream) {
                continue;
            }
            let written = match stream {
                Stream::Out => printed(std::io::stdout().lock(), bytes),
                Stream::Err => printed(std::io::stderr().lock(), bytes),
            };
            unwritten.extend(written.err().map(|error| (stream, error)));
        }
        let is_told = |(_, error): &(_, std::io::Error)| error.kind() != std::io::ErrorKind::BrokenPipe;
        match unwritten.into_iter().find(is_told) {
            Some((stream, error)) => Err(Unprinted::Unwritten(stream, error)),
            None => Ok(()),
        }
    }
}

/// The other stream comes after it, so it does not stay here.
fn printed(mut stream: impl Write, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes)?;
    stream.flush()
}

/// Keeps what a command prints, up to a limit.
#[derive(Debug)]
pub(super) struct Recorder {
    cut: bool,
    limit: u64,
    kept: u64,
    left_out: u64,
    pieces: Vec<(Stream, Vec<u8>)>,
}

impl Recorder {
    pub(super) fn new(limit: Size) -> Self {
        Self {
            limit: limit.0,
            kept: 0,
            left_out: 0,
            pieces: Vec::new(),
            cut: false,
        }
    }

    /// Says that what comes from here on is not read.
    pub(super) fn cut(&mut self) {
        self.cut = true;
    }

    /// How much was printed so far.
    pub(super) fn seen(&self) -> u64 {
        self.kept + self.left_out
    }

    pub(super) fn add(&mut self, stream: Stream, bytes: &[u8]) {
        // Once something is left out, nothing that comes behind it is kept.
        let room = match self.left_out {
            0 => usize::try_from(self.limit - self.kept).unwrap_or(usize::MAX),
            _ => 0,
        };
        let (kept, left_out) = bytes.split_at(bytes.len().min(room));
        self.kept += kept.len() as u64;
        self.left_out += left_out.len() as u64;
        match self.pieces.last_mut() {
            Some((last, piece)) if *last == stream => piece.extend_from_slice(kept),
            _ if kept.is_empty() => {}
            _ => self.pieces.push((stream, kept.to_vec())),
        }
    }

    /// Makes the record, and leaves nothing here.
    pub(super) fn end(&mut self, exit: u8, by: &str, took: Duration) -> Recorded {
        let pieces = std::mem::take(&mut self.pieces);
        let took = Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        Recorded {
            exit,
            output: pieces.into_iter().map(|(stream, bytes)| piece(stream, bytes)).collect(),
            left_out: self.left_out,
            cut: self.cut,
            by: Some(by.to_owned()),
            ended: Some(humantime::format_rfc3339_seconds(SystemTime::now()).to_string()),
            took: Some(humantime::format_duration(took).to_string()),
        }
    }
}

fn piece(stream: Stream, bytes: Vec<u8>) -> Piece {
    // JSON spends six bytes on most control characters.
    let is_text = |text: &str| {
        !text
            .bytes()
            .any(|byte| byte < b' ' && !matches!(byte, b'\n' | b'\r' | b'\t' | 0x1b))
    };
    let bytes = match String::from_utf8(bytes) {
        Ok(text) if is_text(&text) => {
            return match stream {
                Stream::Out => Piece::Stdout(text),
                Stream::Err => Piece::Stderr(text),
            };
        }
        Ok(text) => text.into_bytes(),
        Err(error) => error.into_bytes(),
    };
    let text = BASE64_STANDARD.encode(bytes);
    match stream {
        Stream::Out => Piece::StdoutBase64(text),
        Stream::Err => Piece::StderrBase64(text),
    }
}

/// A number of bytes: `500`, `64KiB`, `1MiB`, `10MB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(u64);

const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl Size {
    pub(super) fn new(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no size: say `500`, `64KiB`, `1MiB` or `10MB`");
        let unit = |(name, bytes): &(&str, u64)| Some((text.strip_suffix(*name)?, *bytes));
        let (number, bytes) = UNITS.iter().find_map(unit).unwrap_or((text, 1));
        let number: u64 = number.trim().parse().map_err(|_| wrong())?;
        number.checked_mul(bytes).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().take(3).find(|(_, bytes)| self.0 >= 10 * bytes) {
            Some((name, bytes)) => write!(f, "{} {name}", self.0 / bytes),
            None => write!(f, "{} B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_and_perhaps_a_unit() {
        let size = |text: &str| text.parse::<Size>().ok().map(|size| size.0);
        assert_eq!(size("500"), Some(500));
        assert_eq!(size("64KiB"), Some(65_536));
        assert_eq!(size("10 MB"), Some(10_000_000));
        assert_eq!(size("0"), Some(0));
        assert_eq!(size("much"), None);
        assert_eq!(size("99999999999999GiB"), None);
    }

    #[test]
    fn what_is_printed_in_turns_is_kept_in_turns_up_to_the_limit() {
        let mut recorder = Recorder::new(Size(5));
        recorder.add(Stream::Out, b"a");
        recorder.add(Stream::Out, b"b");
        recorder.add(Stream::Err, b"cd");
        recorder.add(Stream::Out, "\u{20ac}".as_bytes());
        recorder.add(Stream::Err, b"e");
        let recorded = recorder.end(0, "me", Duration::from_micros(1_500));
        let cut = Piece::StdoutBase64(BASE64_STANDARD.encode([0xe2]));
        assert_eq!(
            recorded.output,
            [Piece::Stdout("ab".into()), Piece::Stderr("cd".into()), cut]
        );
        assert_eq!((recorded.left_out, recorded.took.as_deref()), (3, Some("1ms")));
    }
}
