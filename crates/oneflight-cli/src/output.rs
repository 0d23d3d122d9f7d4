//! What the desk prints: a table for people, or one JSON document for programs; and what it asks before it changes something.

use std::io::{BufRead, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::exit::{Code, Failure};

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As a table.
    Table,
    /// As one JSON document.
    Json,
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
        Form::Table => {
            let mut table = Table::new();
            table
                .load_preset(presets::NOTHING)
                .set_content_arrangement(ContentArrangement::Disabled)
                .set_header(columns.iter().copied());
            for row in rows {
                table.add_row(cells(row));
            }
            line(&table.trim_fmt())
        }
    }
}

/// Prints one value as JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(Code::Software, format!("the answer is no JSON: {error}")))?;
    line(&text)
}

/// Prints a line. A reader that went away, as `head` does, ends the command in silence.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout().lock(), "{text}").map_err(|_| Failure::new(Code::System, ""))
}

/// Asks whether to go on with a change, unless that was answered by `--yes`. Without a terminal there is nobody to ask.
pub(crate) fn confirm(yes: bool, what: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let advice = format!("{what} Nothing was changed: there is no terminal to ask on. Say --yes to go on.");
        return Err(Failure::new(Code::Usage, advice));
    }
    eprint!("{what} Go on? [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    match read {
        Ok(_) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(()),
        _ => Err(Failure::new(Code::No, "nothing was changed")),
    }
}
