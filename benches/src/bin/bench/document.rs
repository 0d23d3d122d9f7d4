//! `docs/benchmarks.md`: the parts between markers are written anew by each run, all else is kept as it was written.

#[path = "../../../common/shown.rs"]
mod shown;

use super::facts::Facts;
use super::row::{COLUMNS, Row};
use oneflight_benches::semantics::{Conduct, SCENARIOS, Verdict};
use shown::shown;
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
/// If the page cannot be read or written, or the markers were taken out.
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
    let columns = COLUMNS.len();
    let _ = writeln!(text, "\n| {} |\n|{}", COLUMNS.join(" | "), " --- |".repeat(columns));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.line().join(" | "));
    }
    details(&mut text, rows);
    for (file, title) in pictures {
        let _ = write!(text, "\n{}", shown(file, title));
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

#[cfg(test)]
mod tests {
    use super::super::row::{Aim, Unit, row};
    use super::*;
    use oneflight_benches::contest::{Figure, Standings};
    use oneflight_benches::peers::Side;

    fn rows() -> Vec<Row> {
        let figure = |name: &str, side, median| Figure::new(name, side, vec![median, median, 2.0 * median]);
        let mut old = figure("old", Side::Peer, 10.0);
        old.objection = Some("its results are old".to_owned());
        let standings = Standings {
            figures: vec![
                figure("oneflight", Side::Ours, 50.0),
                figure("peer", Side::Peer, 100.0),
                figure("slow", Side::Peer, 400.0),
                figure("by hand, our hasher", Side::Tuned, 80.0),
                old,
            ],
            left_out: vec![("absent".to_owned(), "it takes owned keys only".to_owned())],
        };
        vec![
            row("one", &standings, Unit::Nanoseconds, Aim::OfBest(0.65)),
            row("two", &standings, Unit::Nanoseconds, Aim::Nothing),
        ]
    }

    #[test]
    fn a_case_is_one_line_and_the_others_are_folded() {
        let facts = Facts::gather();
        let text = comparison(&facts, &rows(), &[("a.svg".to_owned(), "A title")]);
        let (_, table) = text.split_once("| case |").expect("a table");
        let (table, folded) = table.split_once("<details>").expect("a fold");
        assert!(
            table.contains("| one | ≤ 0.65 × the best peer | 50 ns (50) | peer 100 ns (100) | 0.50 × (0.50) | 0.62 × (0.62) | met |"),
            "{table}"
        );
        assert!(
            table.contains("\n| two |  | 50 ns (50) | peer 100 ns (100) |"),
            "{table}"
        );
        assert!(!text.contains("<br>") && !table.contains("slow"), "{text}");
        assert!(table.lines().all(|line| line.chars().count() < 120), "{table}");

        assert!(
            folded.contains("| case | oneflight | by hand, our hasher | old | peer | slow |"),
            "{folded}"
        );
        assert!(
            folded.contains("| one | 50 ns (50) | 80 ns (80) | *10 ns (10)* | 100 ns (100) | 400 ns (400) |"),
            "{folded}"
        );
        assert!(
            folded.contains("* one: old is not compared: its results are old"),
            "{folded}"
        );
        assert!(
            folded.contains("* one: left out, it takes owned keys only: absent"),
            "{folded}"
        );
        assert!(
            folded.contains("<img alt=\"A title\" src=\"benchmarks/a.svg\">"),
            "{folded}"
        );
        assert!(folded.contains("srcset=\"benchmarks/a-dark.svg\""), "{folded}");
    }

    #[test]
    fn what_is_written_by_hand_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let page = folder.path().join("benchmarks.md");
        write(&page, Part::Comparison, "| first |").expect("it is begun");
        write(&page, Part::Semantics, "| other |").expect("it goes on");
        write(&page, Part::Comparison, "| second |").expect("it is replaced");
        let text = fs::read_to_string(&page).expect("it is there");
        assert!(text.contains("| second |") && text.contains("| other |") && !text.contains("| first |"));
        assert!(text.starts_with("# Benchmarks") && text.contains("## What the benchmarks do not show"));
        fs::write(&page, "no markers").expect("it can be written");
        assert!(write(&page, Part::Comparison, "| third |").is_err());
    }
}
