//! What the desk prints: a table for people, or one JSON document for programs; and what it asks before it changes something.

use std::fmt::Write as _;
use std::io::{BufRead, ErrorKind, IsTerminal, Write};
use std::time::{Duration, SystemTime};

use comfy_table::{ContentArrangement, Table, presets};
use oneflight::record::Timestamp;
use serde::Serialize;

use crate::exit::{Code, Failure};
use crate::terminal::say;
pub(crate) use crate::terminal::{note, visible};

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As a table.
    Table,
    /// As one JSON document.
    Json,
}

/// The consent to a change: given on the command line, or asked for. A part of the arguments of each command that changes something.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Consent {
    /// Change it without asking once more
    #[arg(long, short)]
    yes: bool,
}

impl Consent {
    /// Returns whether it was given on the command line, so that nobody is asked.
    pub(crate) fn is_given(self) -> bool {
        self.yes
    }

    /// Says what will change, and asks whether to go on unless that was answered before. Without a terminal there is nobody to ask, and
    /// nothing is changed.
    pub(crate) fn ask(self, what: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            let advice = format!("{what}\nNothing was changed: there is no terminal to ask on. Say --yes to go on.");
            return Err(Failure::new(Code::Usage, advice));
        }
        say(&format!("{what}\nGo on? [y/N] "));
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        match read {
            Ok(_) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(()),
            _ => Err(Failure::new(Code::No, "nothing was changed")),
        }
    }
}

/// Prints rows, of which each has these columns as a table, and its own fields as JSON.
pub(crate) fn rows<T: Serialize>(
    form: Form,
    columns: &[&str],
    rows: &[T],
    cells: impl Fn(&T) -> Vec<String>,
) -> Result<(), Failure> {
    match form {
        Form::Json => json(&rows),
        Form::Table if rows.is_empty() => line("nothing"),
        Form::Table => line(&table(columns, rows, cells)),
    }
}

/// Returns rows as a table.
pub(crate) fn table<T>(columns: &[&str], rows: &[T], cells: impl Fn(&T) -> Vec<String>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(columns.iter().copied());
    for row in rows {
        table.add_row(cells(row).iter().map(|cell| visible(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Returns what is known of one thing: a name and a value a line. What has no value is left out.
pub(crate) fn fields(fields: &[(&str, Option<String>)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, value) in fields {
        if let Some(value) = value {
            // A line that goes on is no field of its own.
            let value = visible(value).replace('\n', &format!("\n{:width$}  ", ""));
            // Writing into a string does not fail.
            let _ = writeln!(text, "{name:width$}  {value}");
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// Prints one value as JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(Code::Software, format!("the answer is no JSON: {error}")))?;
    line(&text)
}

/// Prints one value as JSON, or as a text.
pub(crate) fn either<T: Serialize>(form: Form, value: &T, text: impl FnOnce() -> String) -> Result<(), Failure> {
    match form {
        Form::Json => json(value),
        Form::Table => line(&text()),
    }
}

/// Prints a line.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    bytes(format!("{text}\n").as_bytes())
}

/// Prints bytes as they are. A reader that went away, as `head` does, ends the command in silence.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::unread(),
        _ => Failure::new(Code::Io, format!("the answer cannot be written: {error}")),
    })
}

/// Returns how many there are of something: `1 byte`, `2 bytes`.
pub(crate) fn counted(number: impl TryInto<u64>, one: &str) -> String {
    match number.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {one}"),
        number => format!("{number} {one}s"),
    }
}

/// Returns a duration as people say it: its two largest units.
pub(crate) fn duration(duration: Duration) -> String {
    let whole = match duration {
        short if short < Duration::from_secs(1) => Duration::from_millis(short.as_millis().try_into().unwrap_or(0)),
        long => Duration::from_secs(long.as_secs()),
    };
    let text = humantime::format_duration(whole).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Returns an instant of a store's as RFC 3339 has it, in UTC.
pub(crate) fn instant(at: Timestamp) -> String {
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(at.as_millis()));
    // The last one that has a form is in the year 9999.
    let formed = at.map(|at| humantime::format_rfc3339_millis(at).to_string());
    let mut text = String::new();
    match formed {
        Some(formed) if write!(text, "{formed}").is_ok() => text,
        _ => "after the year 9999".to_owned(),
    }
}

/// Returns a duration in milliseconds, as JSON has all of them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_several_lines_forges_no_other_field() {
        let shown = fields(&[
            ("id", Some("7".to_owned())),
            ("last error", Some("550\nid          8\n\ntopic".to_owned())),
            ("payload", None),
        ]);
        let own: Vec<_> = shown.lines().filter(|line| !line.starts_with(' ')).collect();
        assert_eq!(own, ["id          7", "last error  550"], "{shown}");
    }
}
