//! The tables, for a terminal.

use super::facts::Facts;
use super::row::{COLUMNS, Row};
use comfy_table::presets::UTF8_FULL;
use comfy_table::{ContentArrangement, Table};
use oneflight_benches::semantics::{Conduct, SCENARIOS, Verdict};

/// The width of a table if it does not go to a terminal.
const WIDTH: u16 = 190;

fn table<'h>(header: impl IntoIterator<Item = &'h str>) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    if !table.is_tty() {
        table.set_width(WIDTH);
    }
    table
}

/// The facts, one a line.
pub fn facts(facts: &Facts) -> String {
    let lines = facts.lines();
    lines.iter().map(|(name, fact)| format!("{name:12} {fact}\n")).collect()
}

/// The comparison: one line a case.
pub fn comparison(rows: &[Row]) -> Table {
    let mut table = table(COLUMNS);
    for row in rows {
        table.add_row(row.line());
    }
    table
}

/// The figures of all peers, and what has to be known of them.
pub fn details(rows: &[Row]) -> Table {
    let mut table = table(["case", "all others, from the best to the worst"]);
    for row in rows {
        let others = row
            .others
            .iter()
            .map(|other| format!("{} {}", other.name, other.figure));
        let others: Vec<_> = others.chain(row.notes.iter().cloned()).collect();
        if !others.is_empty() {
            table.add_row([row.case.clone(), others.join(" · ")]);
        }
    }
    table
}

/// What everybody does when things go wrong.
pub fn semantics(conducts: &[Conduct]) -> Table {
    let mut table = table([""].into_iter().chain(SCENARIOS));
    for conduct in conducts {
        let findings = conduct.findings.iter().map(|finding| match finding.verdict {
            Verdict::Right => finding.what.clone(),
            Verdict::Wrong => format!("✗ {}", finding.what),
        });
        table.add_row([conduct.name.to_owned()].into_iter().chain(findings));
    }
    table
}
