//! `docs/benchmarks.md`: the parts between markers are written anew by each run, all else is kept as somebody wrote it.

use super::facts::Facts;
use super::row::Row;
use oneflight_benches::semantics::{Conduct, SCENARIOS, Verdict};
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

/// What the page is like before anything was measured.
const TEMPLATE: &str = include_str!("template.md");

/// A part that is written by a run.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// The comparison.
    Comparison,
    /// What everybody does when things go wrong.
    Semantics,
}

impl Part {
    fn markers(self) -> (String, String) {
        let name = match self {
            Self::Comparison => "comparison",
            Self::Semantics => "semantics",
        };
        let generated = "written by a run; edit nothing in here";
        (
            format!("<!-- {name}: begin ({generated}) -->"),
            format!("<!-- {name}: end -->"),
        )
    }
}

/// Writes one part of the page, which is begun if it does not exist.
///
/// # Errors
///
/// If the page cannot be read or written, or somebody took the markers out.
pub fn write(page: &Path, part: Part, text: &str) -> io::Result<()> {
    let old = match fs::read_to_string(page) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => TEMPLATE.to_owned(),
        read => read?,
    };
    let (begin, end) = part.markers();
    let replaced = old.split_once(&begin).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(&end)?;
        Some(format!("{before}{begin}\n\n{}\n\n{end}{after}", text.trim()))
    });
    let missing = || io::Error::other(format!("{} has no part between `{begin}` and `{end}`", page.display()));
    fs::write(page, replaced.ok_or_else(missing)?)
}

/// The comparison, with the pictures that were drawn in this folder: one line a case, and the figures of all peers folded.
pub fn comparison(facts: &Facts, rows: &[Row], pictures: &[(String, &'static str)]) -> String {
    let mut text = facts_table(facts);
    text.push_str(
        "\n| case | aim | oneflight | best peer | ratio of medians (of minima) | |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let line = [
            row.case.clone(),
            row.aim.clone(),
            row.ours.clone(),
            row.best.clone(),
            row.ratio.join("<br>"),
            row.verdict.word().to_owned(),
        ];
        let _ = writeln!(text, "| {} |", line.join(" | "));
    }
    details(&mut text, rows);
    for (file, title) in pictures {
        let _ = writeln!(text, "\n![{title}](benchmarks/{file})");
    }
    text
}

/// The figures of all peers, a column each, folded; then what has to be known of some.
fn details(text: &mut String, rows: &[Row]) {
    let mut names: Vec<&str> = Vec::new();
    for other in rows.iter().flat_map(|row| &row.others) {
        if !names.contains(&other.name.as_str()) {
            names.push(&other.name);
        }
    }
    names.sort_unstable();
    text.push_str("\n<details>\n<summary>The figures of all peers</summary>\n\n");
    let _ = writeln!(
        text,
        "| case | oneflight | {} |\n|{}",
        names.join(" | "),
        " --- |".repeat(2 + names.len())
    );
    for row in rows.iter().filter(|row| !row.others.is_empty()) {
        let figure = |name: &&str| match row.others.iter().find(|other| other.name == *name) {
            Some(other) if other.is_out => format!("*{}*", other.figure),
            Some(other) => other.figure.clone(),
            None => String::new(),
        };
        let figures: Vec<_> = names.iter().map(figure).collect();
        let _ = writeln!(text, "| {} | {} | {} |", row.case, row.ours, figures.join(" | "));
    }
    text.push_str("\nFigures in italics are not compared with ours, and an empty cell is somebody left out:\n\n");
    for row in rows {
        for note in &row.notes {
            let _ = writeln!(text, "* {}: {note}", row.case);
        }
    }
    text.push_str("\n</details>\n");
}

/// What everybody does when things go wrong; what nobody would wish is bold.
pub fn semantics(facts: &Facts, conducts: &[Conduct]) -> String {
    let mut text = facts_table(facts);
    let _ = writeln!(
        text,
        "\n| | {} |\n|{}",
        SCENARIOS.join(" | "),
        " --- |".repeat(1 + SCENARIOS.len())
    );
    for conduct in conducts {
        let findings = conduct.findings.iter().map(|finding| match finding.verdict {
            Verdict::Right => finding.what.clone(),
            Verdict::Wrong => format!("**{}**", finding.what),
        });
        let _ = writeln!(
            text,
            "| {} | {} |",
            conduct.name,
            findings.collect::<Vec<_>>().join(" | ")
        );
    }
    text
}

fn facts_table(facts: &Facts) -> String {
    let lines = facts.lines();
    let lines: String = lines
        .iter()
        .map(|(name, fact)| format!("| {name} | {fact} |\n"))
        .collect();
    format!("| | |\n| --- | --- |\n{lines}")
}
