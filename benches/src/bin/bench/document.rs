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

/// The comparison, with the pictures that were drawn in this folder.
pub fn comparison(facts: &Facts, rows: &[Row], pictures: &[(String, &'static str)]) -> String {
    let mut text = facts_table(facts);
    text.push_str("\n| case | aim | oneflight | others | ratio of medians (of minima) | |\n| --- | --- | --- | --- | --- | --- |\n");
    for row in rows {
        let line = [
            row.case.clone(),
            row.aim.clone(),
            row.ours.clone(),
            row.others.join("<br>"),
            row.ratio.join("<br>"),
            row.verdict.word().to_owned(),
        ];
        let _ = writeln!(text, "| {} |", line.join(" | "));
    }
    for (file, title) in pictures {
        let _ = writeln!(text, "\n![{title}](benchmarks/{file})");
    }
    text
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
