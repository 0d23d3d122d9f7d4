//! Figures, the file in which they are kept, and what the two have to say to each other.
//!
//! It knows neither what is counted nor how. A figure may not grow past what is kept, instructions by no more than 3 %:
//! a change that makes a call dearer keeps the new figure in the same commit, where it is seen.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// What is counted; a section of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    Instructions,
    Allocations,
    Bytes,
    Wakes,
}

const UNITS: [Unit; 4] = [Unit::Instructions, Unit::Allocations, Unit::Bytes, Unit::Wakes];

impl Unit {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Allocations => "allocations",
            Self::Bytes => "bytes",
            Self::Wakes => "wakes",
        }
    }

    /// By how much a figure may differ from the kept one, in percent, and pass for the same.
    fn tolerance(self) -> f64 {
        match self {
            Self::Instructions => 3.0,
            Self::Allocations | Self::Bytes | Self::Wakes => 0.0,
        }
    }
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    pub unit: Unit,
    pub name: &'static str,
    /// What the name stands for.
    pub what: &'static str,
    pub value: u64,
}

impl Figure {
    #[must_use]
    pub fn new(unit: Unit, name: &'static str, what: &'static str, value: u64) -> Self {
        Self {
            unit,
            name,
            what,
            value,
        }
    }
}

/// The figures of the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// With what the instructions were counted: they depend on it.
    pub toolchain: String,
    values: BTreeMap<(Unit, String), u64>,
}

impl Kept {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// If it is not what [`file()`] writes.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut sections: BTreeMap<String, toml::Value> =
            toml::from_str(text).map_err(|error| format!("the kept figures cannot be read: {error}"))?;
        let toolchain = match sections.remove("toolchain") {
            Some(toml::Value::String(toolchain)) => toolchain,
            _ => return Err("the kept figures do not say with what `toolchain` they were counted".to_owned()),
        };
        let mut values = BTreeMap::new();
        for unit in UNITS {
            let section = sections.remove(unit.name());
            for (name, value) in section.as_ref().and_then(toml::Value::as_table).into_iter().flatten() {
                let value = value.as_integer().and_then(|value| u64::try_from(value).ok());
                let value = value.ok_or_else(|| format!("{}.{name} is no count", unit.name()))?;
                values.insert((unit, name.clone()), value);
            }
        }
        match sections.into_keys().next() {
            Some(unknown) => Err(format!("there is no section `{unknown}` among the kept figures")),
            None => Ok(Self { toolchain, values }),
        }
    }

    /// What is kept of a figure.
    #[must_use]
    pub fn value(&self, figure: &Figure) -> Option<u64> {
        self.values.get(&(figure.unit, figure.name.to_owned())).copied()
    }
}

/// The file that keeps these figures.
#[must_use]
pub fn file(toolchain: &str, figures: &[Figure]) -> String {
    let mut text = String::from(
        "# What a call costs. Counted by `bin/cost`, which fails where a figure has grown; written by `bin/cost --keep`.\n",
    );
    // Rust writes quotes and backslashes as TOML does.
    let _ = writeln!(text, "\ntoolchain = {toolchain:?}");
    for unit in UNITS {
        let _ = writeln!(text, "\n[{}]", unit.name());
        for figure in figures.iter().filter(|figure| figure.unit == unit) {
            let _ = writeln!(text, "# {}\n{} = {}", figure.what, figure.name, figure.value);
        }
    }
    text
}

/// A difference between what was counted and what is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    Grown(Figure, u64),
    Fallen(Figure, u64),
    NotKept(Figure),
    NotCounted(Unit, String),
}

impl Finding {
    /// Whether the check fails with it: always, unless something has become cheaper.
    #[must_use]
    pub fn fails(&self) -> bool {
        !matches!(self, Self::Fallen(..))
    }
}

/// Compares each figure with the kept one.
#[must_use]
pub fn compare(kept: &Kept, figures: &[Figure]) -> Vec<Finding> {
    let mut left = kept.values.clone();
    let mut findings = Vec::new();
    for figure in figures {
        let Some(old) = left.remove(&(figure.unit, figure.name.to_owned())) else {
            findings.push(Finding::NotKept(figure.clone()));
            continue;
        };
        let room = old as f64 * figure.unit.tolerance() / 100.0;
        let growth = figure.value as f64 - old as f64;
        if growth > room {
            findings.push(Finding::Grown(figure.clone(), old));
        } else if -growth > room {
            findings.push(Finding::Fallen(figure.clone(), old));
        }
    }
    findings.extend(left.into_keys().map(|(unit, name)| Finding::NotCounted(unit, name)));
    findings
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grown(figure, old) => write!(
                f,
                "GROWN    {}: make it cheaper, or `bin/cost --keep` and say why in the commit",
                change(figure, *old)
            ),
            Self::Fallen(figure, old) => write!(
                f,
                "fallen   {}: `bin/cost --keep`, so that it stays so",
                change(figure, *old)
            ),
            Self::NotKept(figure) => write!(
                f,
                "NOT KEPT {}.{}: {} counted; `bin/cost --keep`",
                figure.unit.name(),
                figure.name,
                figure.value
            ),
            Self::NotCounted(unit, name) => write!(
                f,
                "NOT COUNTED {}.{name}: kept, but nothing counts it any more; `bin/cost --keep`",
                unit.name()
            ),
        }
    }
}

fn change(figure: &Figure, old: u64) -> String {
    let percent = match old {
        0 => "from nothing".to_owned(),
        _ => format!("{:+.1} %", (figure.value as f64 / old as f64 - 1.0) * 100.0),
    };
    format!(
        "{}.{}: {old} -> {} ({percent})",
        figure.unit.name(),
        figure.name,
        figure.value
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(unit: Unit, name: &'static str, value: u64) -> Figure {
        Figure::new(unit, name, "for a test", value)
    }

    /// What comes of `counted` where `kept` was kept.
    fn finding(unit: Unit, kept: u64, counted: u64) -> Option<Finding> {
        let kept = Kept::parse(&file("rustc", &[figure(unit, "leader", kept)])).unwrap();
        compare(&kept, &[figure(unit, "leader", counted)]).pop()
    }

    #[test]
    fn instructions_may_grow_by_three_percent_and_no_more() {
        assert_eq!(finding(Unit::Instructions, 1000, 1000), None);
        assert_eq!(finding(Unit::Instructions, 1000, 1030), None);
        let grown = finding(Unit::Instructions, 1000, 1031).unwrap();
        assert!(grown.fails());
        assert_eq!(
            grown.to_string(),
            "GROWN    instructions.leader: 1000 -> 1031 (+3.1 %): make it cheaper, or `bin/cost --keep` and say why in the commit"
        );
    }

    #[test]
    fn a_fall_is_told_and_does_not_fail() {
        assert_eq!(finding(Unit::Instructions, 1000, 970), None);
        let fallen = finding(Unit::Instructions, 1000, 969).unwrap();
        assert!(!fallen.fails());
        assert_eq!(
            fallen.to_string(),
            "fallen   instructions.leader: 1000 -> 969 (-3.1 %): `bin/cost --keep`, so that it stays so"
        );
    }

    #[test]
    fn what_is_no_instruction_may_not_grow_at_all() {
        for unit in [Unit::Allocations, Unit::Bytes, Unit::Wakes] {
            assert!(finding(unit, 1000, 1001).unwrap().fails());
            assert!(
                finding(unit, 0, 1)
                    .unwrap()
                    .to_string()
                    .contains("0 -> 1 (from nothing)")
            );
            assert!(!finding(unit, 1000, 999).unwrap().fails());
            assert_eq!(finding(unit, 0, 0), None);
        }
    }

    #[test]
    fn a_figure_on_one_side_only_fails() {
        let kept = Kept::parse(&file("rustc", &[figure(Unit::Bytes, "flight", 1)])).unwrap();
        let findings = compare(&kept, &[figure(Unit::Allocations, "flight", 1)]);
        assert_eq!(
            findings,
            [
                Finding::NotKept(figure(Unit::Allocations, "flight", 1)),
                Finding::NotCounted(Unit::Bytes, "flight".to_owned()),
            ]
        );
        assert!(findings.iter().all(Finding::fails));
    }

    #[test]
    fn what_is_no_file_of_figures_is_told() {
        for (text, told) in [
            ("toolchain = 'x'\n[hours]\nleader = 1", "no section `hours`"),
            ("toolchain = 'x'\n[bytes]\nleader = -1", "bytes.leader is no count"),
            ("[bytes]\nleader = 1", "`toolchain`"),
            ("[bytes", "cannot be read"),
        ] {
            assert!(Kept::parse(text).unwrap_err().contains(told), "{text}");
        }
    }

    #[test]
    fn a_toolchain_is_kept_as_it_is() {
        let toolchain = "rustc 1.0 (\"quoted\"), target\\glibc";
        assert_eq!(Kept::parse(&file(toolchain, &[])).unwrap().toolchain, toolchain);
    }
}
