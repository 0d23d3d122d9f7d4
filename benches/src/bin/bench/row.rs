//! One row of the comparison: what is aimed at, our figure, those of the other peers, and whether the aim is met. Each
//! aim is judged by medians of one run.

use oneflight_benches::contest::{Figure, Standings};
use oneflight_benches::peers::Side;
use serde::Serialize;

/// One row.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What is measured.
    pub case: String,
    /// What is aimed at.
    pub aim: String,
    /// Our figure: the median, and the minimum in brackets.
    pub ours: String,
    /// The peer that it is compared with, and that figure.
    pub best: String,
    /// Our figure through that one.
    pub ratio: String,
    /// Our figure through the better of the two maps by hand with our hasher.
    pub by_hand: String,
    /// The figures of all others, from the best to the worst.
    pub others: Vec<Other>,
    /// The peers that have no figure, and why; and what else has to be known of a figure.
    pub notes: Vec<String>,
    /// Whether the aim is met.
    pub verdict: Verdict,
}

/// What stands over a [line](Row::line).
pub const COLUMNS: [&str; 7] = [
    "case",
    "aim",
    "oneflight",
    "best peer",
    "ratio to it",
    "ratio by hand",
    "",
];

impl Row {
    /// The case in one line of a table.
    pub fn line(&self) -> [&str; 7] {
        let Self {
            case,
            aim,
            ours,
            best,
            ratio,
            by_hand,
            ..
        } = self;
        [case, aim, ours, best, ratio, by_hand, self.verdict.word()]
    }
}

/// The figure of another entrant.
#[derive(Clone, Debug, Serialize)]
pub struct Other {
    /// The entrant.
    pub name: String,
    /// The median, and the minimum in brackets if there were rounds.
    pub figure: String,
    /// Whether it is not compared with ours.
    pub is_out: bool,
}

impl Other {
    /// A figure that is compared.
    pub fn new(name: &str, figure: String) -> Self {
        Self {
            name: name.to_owned(),
            figure,
            is_out: false,
        }
    }
}

/// Whether an aim is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// It is.
    Met,
    /// It is not.
    Missed,
    /// Nothing is aimed at; the figures are for information.
    Shown,
}

/// What a figure is measured in. All are costs; throughput is shown as calls a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Nanoseconds,
    Milliseconds,
    /// From nanoseconds a call.
    MegacallsPerSecond,
    Bytes,
    Count,
}

/// What is aimed at.
#[derive(Clone, Copy, Debug)]
pub enum Aim {
    /// At most so many times the best peer's cost.
    OfBest(f64),
    /// At least so many times the best peer's throughput.
    ThroughputOfBest(f64),
    /// Less than every peer's cost.
    BelowAll,
    /// At most so much.
    AtMost(f64),
    /// None.
    Nothing,
}

impl Verdict {
    /// Of an aim that is met, or not.
    pub fn of(is_met: bool) -> Self {
        if is_met { Self::Met } else { Self::Missed }
    }

    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "missed",
            Self::Shown => "",
        }
    }
}

impl Unit {
    fn value(self, cost: f64) -> f64 {
        match self {
            Self::MegacallsPerSecond => 1e3 / cost,
            _ => cost,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Milliseconds => "ms",
            Self::MegacallsPerSecond => "Mcalls/s",
            Self::Bytes => "B",
            Self::Count => "",
        }
    }

    /// A cost, without the unit.
    pub fn format(self, cost: f64) -> String {
        let value = self.value(cost);
        let decimals = match value {
            _ if value == value.round() => 0,
            0.0..10.0 => 2,
            10.0..1000.0 => 1,
            _ => 0,
        };
        format!("{value:.decimals$}")
    }

    /// The median, with the unit, and the minimum if there were rounds.
    pub fn show(self, figure: &Figure) -> String {
        let median = self.format(figure.median);
        let median = format!("{median} {}", self.name());
        let median = median.trim_end();
        match figure.rounds {
            1 => median.to_owned(),
            _ => format!("{median} ({})", self.format(figure.minimum)),
        }
    }
}

/// A row of what was measured for everybody.
pub fn row(case: &str, standings: &Standings, unit: Unit, aim: Aim) -> Row {
    let ours = standings.ours();
    let best = standings.best_of(Side::Peer);
    let (text, verdict) = match (aim, ours, best) {
        (Aim::OfBest(times), Some(ours), Some(best)) => (
            format!("≤ {times} × the best peer"),
            Verdict::of(ours.median <= times * best.median),
        ),
        (Aim::ThroughputOfBest(times), Some(ours), Some(best)) => (
            format!("≥ {times} × the best peer"),
            Verdict::of(ours.median * times <= best.median),
        ),
        (Aim::BelowAll, Some(ours), Some(best)) => (
            "better than every peer".to_owned(),
            Verdict::of(ours.median < best.median),
        ),
        (Aim::AtMost(most), Some(ours), _) => (
            format!("≤ {} {}", unit.format(most), unit.name()),
            Verdict::of(ours.median <= most),
        ),
        (Aim::Nothing, ..) => (String::new(), Verdict::Shown),
        // A side that was left out has met nothing.
        _ => ("a figure to compare".to_owned(), Verdict::Missed),
    };
    let is_rate = unit == Unit::MegacallsPerSecond;
    let to = |side| ratio(ours?, standings.best_of(side)?, is_rate);
    let (others, notes) = others(standings, unit);
    Row {
        case: case.to_owned(),
        aim: text.trim_end().to_owned(),
        ours: ours.map_or_else(|| "left out".to_owned(), |ours| unit.show(ours)),
        best: best.map_or_else(String::new, |best| format!("{} {}", best.name, unit.show(best))),
        ratio: to(Side::Peer).unwrap_or_default(),
        by_hand: to(Side::Tuned).unwrap_or_default(),
        others,
        notes,
        verdict,
    }
}

/// Our figure through the other's, of medians, and of minima if there were rounds.
pub fn ratio(ours: &Figure, other: &Figure, is_rate: bool) -> Option<String> {
    let through = |ours: f64, other: f64| if is_rate { other / ours } else { ours / other };
    let medians = through(ours.median, other.median);
    let shown = match ours.rounds {
        1 => format!("{medians:.2} ×"),
        _ => format!("{medians:.2} × ({:.2})", through(ours.minimum, other.minimum)),
    };
    medians.is_finite().then_some(shown)
}

/// Every other peer, from the best to the worst, and why one has no figure, or one that is not compared.
fn others(standings: &Standings, unit: Unit) -> (Vec<Other>, Vec<String>) {
    // Ours too, if something speaks against it: it has no other place then.
    let is_other = |figure: &&Figure| figure.side != Side::Ours || figure.objection.is_some();
    let mut others: Vec<&Figure> = standings.figures.iter().filter(is_other).collect();
    others.sort_by(|one, other| one.median.total_cmp(&other.median));
    let objections = others.iter().filter_map(|figure| {
        let objection = figure.objection.as_ref()?;
        Some(format!("{} is not compared: {objection}", figure.name))
    });
    let mut notes: Vec<String> = objections.collect();
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for (name, reason) in &standings.left_out {
        match reasons.iter_mut().find(|(other, _)| other == reason) {
            Some((_, names)) => names.push(name),
            None => reasons.push((reason, vec![name])),
        }
    }
    let left_out = reasons.iter();
    notes.extend(left_out.map(|(reason, names)| format!("left out, {reason}: {}", names.join(", "))));
    let show = |figure: &Figure| Other {
        name: figure.name.clone(),
        figure: unit.show(figure),
        is_out: figure.objection.is_some(),
    };
    (others.into_iter().map(show).collect(), notes)
}

/// A number with its thousands apart.
pub fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(String::from_utf8_lossy)
        .collect();
    groups.join(",")
}
