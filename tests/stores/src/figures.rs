//! A figure, its target, and the table of them. Knows nothing of stores.

use std::fmt::Write;
use std::path::Path;

use crate::Failure;

/// The part of a page that a run with this option writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    Write,
    Curves,
}

impl Written {
    /// The lines before it and behind it.
    fn marks(self) -> [String; 2] {
        let option = match self {
            Self::Write => "--write",
            Self::Curves => "--curves",
        };
        ["from here", "to here"].map(|mark| format!("<!-- bin/stores {option}: {mark} -->\n"))
    }
}

/// What was measured.
#[derive(Debug)]
pub(crate) struct Figure {
    case: String,
    target: String,
    value: String,
    verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Met,
    Missed,
}

impl Figure {
    /// A count that may not be exceeded.
    pub(crate) fn count(case: impl Into<String>, count: usize, at_most: usize) -> Self {
        Self {
            case: case.into(),
            target: format!("≤ {at_most}"),
            value: count.to_string(),
            verdict: met(count <= at_most),
        }
    }

    /// Ratios, of which the worst counts, with the times that they are made of.
    pub(crate) fn ratio_at_most(case: impl Into<String>, ratios: &[f64], at_most: f64, times: &str) -> Self {
        Self {
            case: case.into(),
            target: format!("≤ {at_most}"),
            value: format!("{} ({times})", listed(ratios)),
            verdict: met(ratios.iter().all(|ratio| *ratio <= at_most)),
        }
    }

    /// The same, where more is better.
    pub(crate) fn ratio_at_least(case: impl Into<String>, ratios: &[f64], at_least: f64, times: &str) -> Self {
        Self {
            case: case.into(),
            target: format!("≥ {at_least}"),
            value: format!("{} ({times})", listed(ratios)),
            verdict: met(ratios.iter().all(|ratio| *ratio >= at_least)),
        }
    }

    /// Something that was checked elsewhere, and holds.
    pub(crate) fn held(case: impl Into<String>, target: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            case: case.into(),
            target: target.into(),
            value: value.into(),
            verdict: Verdict::Met,
        }
    }

    pub(crate) fn is_met(&self) -> bool {
        self.verdict == Verdict::Met
    }
}

fn met(condition: bool) -> Verdict {
    match condition {
        true => Verdict::Met,
        false => Verdict::Missed,
    }
}

fn listed(ratios: &[f64]) -> String {
    let ratios: Vec<_> = ratios.iter().map(|ratio| format!("{ratio:.2} ×")).collect();
    ratios.join(", ")
}

/// All of them, as Markdown.
pub(crate) fn table(figures: &[Figure]) -> String {
    let mut table = String::from("| measured | target | figure | |\n| --- | --- | --- | --- |\n");
    for Figure {
        case,
        target,
        value,
        verdict,
    } in figures
    {
        let verdict = match verdict {
            Verdict::Met => "met",
            Verdict::Missed => "**missed**",
        };
        // Writing into a string does not fail.
        let _ = writeln!(table, "| {case} | {target} | {value} | {verdict} |");
    }
    table
}

/// Puts the text between the two marks of its part of a file.
pub(crate) fn write(file: &Path, part: Written, text: &str) -> Result<(), Failure> {
    let old = std::fs::read_to_string(file)?;
    let [begin, end] = part.marks();
    let marks = || format!("{} lacks its marks, {begin:?} and {end:?}", file.display());
    let (before, rest) = old.split_once(&begin).ok_or_else(marks)?;
    let (_, after) = rest.split_once(&end).ok_or_else(marks)?;
    std::fs::write(file, format!("{before}{begin}\n{text}\n{end}{after}"))?;
    Ok(())
}
