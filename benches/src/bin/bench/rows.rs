//! Which rows the comparison has, and what is aimed at in each.

use super::measure::{COMPARED_TASKS, Crowds, HUGE, Measured};
use super::row::{Aim, Other, Row, Unit, Verdict, ratio, row, thousands};
use oneflight_benches::cases::memory::{MANY, Weight};
use oneflight_benches::contest::{Figure, Standings};
use oneflight_benches::peers::Side;
use serde::Deserialize;

/// Where the counted instructions are kept.
const KEPT: &str = "tests/cost/figures.toml";

/// The longest that another task may have to wait on two workers, in milliseconds.
const GAP: f64 = 4.0;

/// All rows of a run.
pub fn rows(measured: &Measured) -> Vec<Row> {
    use Unit::{Bytes, Count, MegacallsPerSecond, Nanoseconds};
    let Measured {
        ready,
        ready_borrowed,
        yielding,
        yielding_borrowed,
        fan_in,
        tasks,
        distinct,
        zipf: [zipf],
        hot: [hot],
        hot_tasks,
        hand_over,
        abandon,
        wakeups,
        gap_one_worker,
        gap_two_workers,
        flights,
        weights,
    } = measured;
    let weighed = |what: fn(&Weight) -> f64| weighed(weights, what);
    let mut rows = vec![
        row("leader alone, ready work", ready, Nanoseconds, Aim::OfBest(0.5)),
        of_floor("leader alone, ready work, against the DashMap floor", ready, 0.9),
        row(
            "leader alone, work yields once",
            yielding,
            Nanoseconds,
            Aim::OfBest(0.8),
        ),
        row(
            "leader alone, ready work, key borrowed",
            ready_borrowed,
            Nanoseconds,
            Aim::Nothing,
        ),
        row(
            "leader alone, work yields once, key borrowed",
            yielding_borrowed,
            Nanoseconds,
            Aim::Nothing,
        ),
    ];
    for (followers, standings) in fan_in {
        let aim = if *followers < 100 {
            Aim::Nothing
        } else {
            Aim::OfBest(0.75)
        };
        rows.push(row(
            &format!("follower, N = {}", thousands(*followers)),
            standings,
            Nanoseconds,
            aim,
        ));
    }
    rows.push(linear(fan_in));
    rows.extend(of_tasks(tasks));
    rows.extend([
        row(
            "heap allocations of a flight, beyond the key",
            &weighed(|weight| weight.flight_allocations),
            Count,
            Aim::AtMost(1.0),
        ),
        row(
            "heap allocations per follower, beyond the key",
            &weighed(|weight| weight.follower.allocations),
            Count,
            Aim::AtMost(0.0),
        ),
        row(
            "futures of the work made per follower",
            &weighed(|weight| weight.follower.futures_made),
            Count,
            Aim::AtMost(0.0),
        ),
        row(
            "live heap of a flight, key and its share of the map included",
            &weighed(flight_heap),
            Bytes,
            Aim::AtMost(198.0),
        ),
        row(
            "live heap of a waiting follower",
            &weighed(|weight| weight.follower.heap),
            Bytes,
            Aim::AtMost(0.0),
        ),
        row(
            "waiting follower in all: heap and future",
            &weighed(|weight| weight.follower.heap + weight.follower.future),
            Bytes,
            Aim::AtMost(200.0),
        ),
        row(
            "a task's whole future: a block that owns handle, key and work, and awaits the call",
            &weighed(|weight| weight.follower.block),
            Bytes,
            Aim::AtMost(256.0),
        ),
        scaling(distinct),
        row(
            "distinct keys, 2 threads",
            &distinct[1],
            MegacallsPerSecond,
            Aim::ThroughputOfBest(1.4),
        ),
        row(
            "one hot key, 2 threads, ready work",
            hot,
            MegacallsPerSecond,
            Aim::BelowAll,
        ),
        row(
            "one hot key, 64 tasks on 2 workers, work yields once",
            hot_tasks,
            MegacallsPerSecond,
            Aim::BelowAll,
        ),
        row("Zipf keys, 2 threads", zipf, MegacallsPerSecond, Aim::Nothing),
        progress(wakeups),
        instructions(),
        row(
            "driver dropped, the next caller goes on to the end",
            hand_over,
            Nanoseconds,
            Aim::Nothing,
        ),
        row(
            "only caller dropped, the runtime finishes the work",
            abandon,
            Nanoseconds,
            Aim::Nothing,
        ),
    ]);
    rows.extend(of_gaps("1 thread", gap_one_worker, Aim::Nothing));
    rows.extend(of_gaps("2 workers", gap_two_workers, Aim::AtMost(GAP)));
    for (count, standings) in flights {
        rows.push(row(
            &format!("a flight's life, {} at once", thousands(*count)),
            standings,
            Nanoseconds,
            Aim::Nothing,
        ));
    }
    rows
}

/// The rows of followers as tasks.
pub fn of_crowds(crowds: &Crowds) -> Vec<Row> {
    let gaps = of_gaps("2 workers", &crowds.gap_two_workers, Aim::AtMost(GAP));
    of_tasks(&crowds.tasks).chain(gaps).collect()
}

fn of_tasks(tasks: &[(usize, Standings)]) -> impl Iterator<Item = Row> {
    tasks.iter().map(|(followers, standings)| {
        let case = format!(
            "follower as a task on 2 workers, spawned, N = {}",
            thousands(*followers)
        );
        let aim = match COMPARED_TASKS.contains(followers) {
            true => Aim::BelowAll,
            false => Aim::Nothing,
        };
        row(&case, standings, Unit::Nanoseconds, aim)
    })
}

fn of_gaps(workers: &str, [gap, poll]: &[Standings; 2], aim: Aim) -> [Row; 2] {
    let huge = thousands(HUGE);
    let gaps = format!("longest gap seen by another task, {huge} followers as tasks end, {workers}");
    let polls = format!("longest single poll meanwhile, {workers}");
    [
        row(&gaps, gap, Unit::Milliseconds, aim),
        row(&polls, poll, Unit::Milliseconds, Aim::Nothing),
    ]
}

fn of_floor(case: &str, standings: &Standings, times: f64) -> Row {
    // The dearer of the two floors is the map's; the other is the work alone.
    let floors = standings.figures.iter().filter(|figure| figure.side == Side::Floor);
    let floor = floors.max_by(|one, other| one.median.total_cmp(&other.median));
    let mut row = row(case, standings, Unit::Nanoseconds, Aim::Nothing);
    row.best.clear();
    row.others.clear();
    row.notes.clear();
    if let (Some(ours), Some(floor)) = (standings.ours(), floor) {
        row.aim = format!("≤ {times} × the floor");
        row.best = format!("{} {}", floor.name, Unit::Nanoseconds.show(floor));
        row.ratio = ratio(ours, floor, false).unwrap_or_default();
        row.by_hand.clear();
        row.verdict = Verdict::of(ours.median <= times * floor.median);
    }
    row
}

/// How the cost of a follower grows from a hundred to a hundred thousand of them.
fn linear(fan_in: &[(usize, Standings)]) -> Row {
    const TIMES: f64 = 2.0;
    let at = |followers: usize| {
        fan_in
            .iter()
            .find(|(count, _)| *count == followers)
            .map(|(_, standings)| standings)
    };
    growth(
        "follower: cost at N = 100,000 against N = 100 (linear: about 1, and the caches)",
        at(100),
        at(100_000),
        &format!("linear: ≤ {TIMES} ×"),
        |growth| growth <= TIMES,
    )
}

/// What two threads bring against one.
fn scaling(distinct: &[Standings; 3]) -> Row {
    const TIMES: f64 = 1.7;
    growth(
        "distinct keys, throughput of 2 threads against 1",
        Some(&distinct[1]),
        Some(&distinct[0]),
        &format!("≥ {TIMES} ×"),
        |growth| growth >= TIMES,
    )
}

/// Everybody's second cost through the first.
fn growth(
    case: &str,
    first: Option<&Standings>,
    second: Option<&Standings>,
    aim: &str,
    is_met: impl Fn(f64) -> bool,
) -> Row {
    let (Some(first), Some(second)) = (first, second) else {
        unreachable!("both are among what is measured")
    };
    let of = |figure: &Figure| second.named(&figure.name).map(|second| second.median / figure.median);
    let growths: Vec<_> = first
        .figures
        .iter()
        .filter_map(|figure| Some((figure, of(figure)?)))
        .collect();
    let ours = growths
        .iter()
        .find(|(figure, _)| figure.side == Side::Ours)
        .map(|(_, growth)| *growth);
    let others = growths.iter().filter(|(figure, _)| figure.side != Side::Ours);
    Row {
        case: case.to_owned(),
        aim: aim.to_owned(),
        ours: ours.map_or_else(String::new, |growth| format!("{growth:.2} ×")),
        best: String::new(),
        ratio: String::new(),
        by_hand: String::new(),
        others: others
            .map(|(figure, growth)| Other::new(&figure.name, format!("{growth:.2} ×")))
            .collect(),
        notes: Vec::new(),
        verdict: ours.map_or(Verdict::Missed, |growth| Verdict::of(is_met(growth))),
    }
}

/// The wake-ups of a step: they may not grow with the number of callers that wait.
fn progress(wakeups: &[(usize, Standings)]) -> Row {
    let counts: Vec<_> = wakeups.iter().map(|(followers, _)| thousands(*followers)).collect();
    let of = |name: &str| -> Vec<String> {
        let figures = wakeups.iter().filter_map(|(_, standings)| standings.named(name));
        figures.map(|figure| Unit::Count.format(figure.median)).collect()
    };
    let names = wakeups.iter().take(1).flat_map(|(_, standings)| &standings.figures);
    let others = names.filter(|figure| figure.side != Side::Ours);
    let ours: Vec<_> = wakeups.iter().filter_map(|(_, standings)| standings.ours()).collect();
    Row {
        case: format!(
            "wake-ups of waiting callers for each step of the work, N = {}",
            counts.join(" and ")
        ),
        aim: "the same for any N".to_owned(),
        ours: ours
            .iter()
            .map(|figure| Unit::Count.format(figure.median))
            .collect::<Vec<_>>()
            .join(" and "),
        best: String::new(),
        ratio: String::new(),
        by_hand: String::new(),
        others: others
            .map(|figure| Other::new(&figure.name, of(&figure.name).join(" and ")))
            .collect(),
        notes: Vec::new(),
        verdict: Verdict::of(ours.windows(2).all(|two| two[1].median <= two[0].median)),
    }
}

fn flight_heap(weight: &Weight) -> f64 {
    let flights = weight.flights.iter().find(|(count, _)| *count == MANY);
    flights.map_or(f64::NAN, |(_, heap)| *heap)
}

/// Weights as figures of one round: they are exact.
fn weighed(weights: &[Weight], what: impl Fn(&Weight) -> f64) -> Standings {
    let figure = |weight: &Weight| Figure::new(&weight.name, weight.side, vec![what(weight)]);
    Standings {
        figures: weights.iter().map(figure).collect(),
        left_out: Vec::new(),
    }
}

/// What is counted, not timed, and by another program.
fn instructions() -> Row {
    #[derive(Deserialize)]
    struct Kept {
        instructions: Instructions,
    }

    #[derive(Deserialize)]
    struct Instructions {
        leader: usize,
        follower: usize,
    }

    let kept = std::fs::read_to_string(KEPT).map_err(|error| error.to_string());
    let kept = kept.and_then(|text| toml::from_str(&text).map_err(|error| error.to_string()));
    let ours = match &kept {
        Ok(Kept { instructions }) => {
            format!(
                "{} and {}",
                thousands(instructions.leader),
                thousands(instructions.follower)
            )
        }
        Err(error) => format!("not kept: {error}"),
    };
    Row {
        case: "instructions of a lone leader, and of a follower".to_owned(),
        aim: "kept; may not grow by 3 % unnoticed".to_owned(),
        ours,
        best: String::new(),
        ratio: String::new(),
        by_hand: String::new(),
        others: Vec::new(),
        notes: vec![format!("counted by `bin/cost`, which checks it, and kept in `{KEPT}`")],
        verdict: Verdict::of(kept.is_ok()),
    }
}
