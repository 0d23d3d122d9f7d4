//! The tables: what is aimed at and was reached, all figures, and what happens when things go wrong.

use std::fmt::Write;

use oneflight_http_benches::crowd::{ANSWER, CROWD, Times};
use oneflight_http_benches::entrants::Entrant;
use oneflight_http_benches::faults::SCENARIOS;
use oneflight_http_benches::load::Load;
use oneflight_http_benches::rounds::Figure;

use super::facts::Facts;
use super::measure::{Loaded, Measured};

/// What a load is called.
pub fn of_load(load: Load) -> &'static str {
    match load {
        Load::Distinct => "distinct keys",
        Load::Replays => "replays of one key",
        Load::Keyless => "no key",
    }
}

/// Everything, as it stands on the page.
pub fn text(facts: &Facts, measured: &Measured) -> String {
    let mut text = String::new();
    table(
        &mut text,
        &["", ""],
        facts
            .0
            .iter()
            .map(|(name, fact)| vec![(*name).to_owned(), fact.clone()]),
    );
    let aims = aims(measured);
    table(
        &mut text,
        &["case", "aim", "reached", ""],
        aims.into_iter().map(Vec::from),
    );
    figures(&mut text, measured);
    allocations(&mut text, measured);
    crowd(&mut text, measured);
    faults(&mut text, measured);
    text
}

fn table(text: &mut String, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let _ = writeln!(text, "| {} |\n|{}", head.join(" | "), " --- |".repeat(head.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text.push('\n');
}

fn verdict(is_met: bool) -> String {
    let word = if is_met { "met" } else { "missed" };
    word.to_owned()
}

fn named(figures: &[Figure], entrant: Entrant) -> &Figure {
    let figure = figures.iter().find(|figure| figure.name == entrant.name());
    figure.expect("every entrant runs under every load")
}

/// How many requests we answer in the time in which the other one answers one: of medians, and of minima.
fn ratios(figures: &[Figure], other: Entrant) -> (f64, f64) {
    let (ours, other) = (named(figures, Entrant::Oneflight), named(figures, other));
    (other.median / ours.median, other.minimum / ours.minimum)
}

fn aims(measured: &Measured) -> Vec<[String; 4]> {
    let mut aims = Vec::new();
    let mut compared = |load: Load, what: &str, figures: &[Figure], other: Entrant, least: f64| {
        let (medians, minima) = ratios(figures, other);
        aims.push([
            format!("{}, {what}, against the {}", of_load(load), other.name()),
            format!("≥ {least} ×"),
            format!("{medians:.2} × ({minima:.2})"),
            verdict(medians >= least),
        ]);
    };
    for loaded in &measured.loads {
        let mut against = |other, least| compared(loaded.load, "requests/s", &loaded.requests, other, least);
        match loaded.load {
            Load::Distinct => against(Entrant::Bare, 0.8),
            Load::Keyless => against(Entrant::Bare, 0.97),
            Load::Replays => {}
        }
        if loaded.load != Load::Keyless {
            against(Entrant::PeerByHeader, 1.5);
            against(Entrant::PeerByHash, 1.5);
        }
    }
    let routes = &measured.counts.routes;
    let keyless = |entrant: Entrant| {
        routes
            .iter()
            .find(|route| route.name == entrant.name())
            .map(|route| route.keyless)
    };
    let more = |of, than| Some(keyless(of)? - keyless(than)?);
    let [bare, _, ours] = measured.counts.plain;
    let over_axums = more(Entrant::Oneflight, Entrant::Identity).unwrap_or(f64::NAN);
    aims.push([
        "no key: heap allocations more, around a plain tower service; around axum's route, more than a layer that does nothing"
            .to_owned(),
        "0".to_owned(),
        format!("{}; {over_axums}", ours - bare),
        verdict(ours <= bare && over_axums <= 0.0),
    ]);
    let times = middle(&measured.crowds);
    aims.push([
        format!(
            "{CROWD} duplicates in flight, answer of 1 MiB, without sockets: p99 of the followers after the leader"
        ),
        "≤ 50 ms".to_owned(),
        format!("{:.1} ms", times.p99 - times.leader),
        verdict(times.p99 - times.leader <= 50.0),
    ]);
    let copies = measured.counts.held.answered / ANSWER as f64;
    aims.push([
        format!("the same: heap while all hold their answers, the record in memory included, in answers of 1 MiB ({CROWD} copies: {CROWD})"),
        "one copy, and the record's".to_owned(),
        format!("{copies:.1}"),
        // What each response takes for itself is not another copy.
        verdict(copies < 2.0 + CROWD as f64 * MOST_OF_ITS_OWN / ANSWER as f64),
    ]);
    aims
}

/// What a response may take without its body, in bytes.
const MOST_OF_ITS_OWN: f64 = 2048.0;

/// The crowd that is in the middle by what is aimed at.
fn middle(crowds: &[Times]) -> Times {
    let mut crowds = crowds.to_vec();
    crowds.sort_by(|one, other| (one.p99 - one.leader).total_cmp(&(other.p99 - other.leader)));
    crowds[crowds.len() / 2]
}

fn figures(text: &mut String, measured: &Measured) {
    let _ = writeln!(text, "Microseconds a request, median and minimum of the rounds:\n");
    let Some(first) = measured.loads.first() else { return };
    let names = first.requests.iter().map(|figure| figure.name.as_str());
    let head: Vec<&str> = [""].into_iter().chain(names).collect();
    let row = |loaded: &Loaded, what: &str, figures: &[Figure]| {
        let first = format!("{}, {what}", of_load(loaded.load));
        let micros = |figure: &Figure| format!("{:.1} ({:.1})", figure.median / 1e3, figure.minimum / 1e3);
        [first].into_iter().chain(figures.iter().map(micros)).collect()
    };
    let rows: Vec<Vec<String>> = measured
        .loads
        .iter()
        .flat_map(|loaded| {
            [
                row(loaded, "over loopback", &loaded.requests),
                row(loaded, "over loopback, the server's processor time", &loaded.server),
                row(loaded, "without sockets", &loaded.calls),
            ]
        })
        .collect();
    table(text, &head, rows);
}

fn allocations(text: &mut String, measured: &Measured) {
    let _ = writeln!(
        text,
        "Heap allocations of a request, without sockets, the handler's included:\n"
    );
    let rows = measured.counts.routes.iter().map(|route| {
        let counted = [route.keyless, route.executed, route.replayed].map(|count| format!("{count:.1}"));
        [route.name.clone()].into_iter().chain(counted).collect()
    });
    table(text, &["", "no key", "executed", "replayed"], rows);
    let [bare, identity, ours] = measured.counts.plain;
    let _ = writeln!(
        text,
        "A request without a key, around a tower service that allocates nothing: {bare} without a layer, {identity} with one that \
         does nothing, {ours} with ours.\n"
    );
}

fn crowd(text: &mut String, measured: &Measured) {
    let times = middle(&measured.crowds);
    let held = &measured.counts.held;
    let each = (held.answered - 2.0 * ANSWER as f64) / CROWD as f64;
    let _ = writeln!(
        text,
        "{CROWD} duplicates as tasks on two workers, in milliseconds after the handler was let go on, when all waited: the leader \
         has its answer after {:.1}; of the others half have it after {:.1}, 99 % after {:.1}, the last after {:.1}. While it \
         waits, a duplicate takes {:.0} bytes of the heap, its task and its request included. When all hold their answers, each \
         takes {each:.0} bytes beside the one copy that they share and the one in the record.\n",
        times.leader, times.median, times.p99, times.last, held.waiting
    );
}

fn faults(text: &mut String, measured: &Measured) {
    let _ = writeln!(text, "When things go wrong; what nobody would wish is bold:\n");
    let head: Vec<&str> = [""]
        .into_iter()
        .chain(measured.conducts.iter().map(|conduct| conduct.name.as_str()))
        .collect();
    let rows = SCENARIOS.iter().enumerate().map(|(at, scenario)| {
        let found = measured.conducts.iter().map(|conduct| match &conduct.findings[at] {
            finding if finding.is_wrong => format!("**{}**", finding.what),
            finding => finding.what.clone(),
        });
        [(*scenario).to_owned()].into_iter().chain(found).collect()
    });
    table(text, &head, rows);
}

#[cfg(test)]
mod tests {
    use oneflight_http_benches::count::{Allocations, Counts};
    use oneflight_http_benches::crowd::Held;
    use oneflight_http_benches::faults::{Conduct, Finding};

    use super::*;

    const ALL: [(Entrant, f64); 5] = [
        (Entrant::Bare, 8_000.0),
        (Entrant::Identity, 8_100.0),
        (Entrant::Oneflight, 10_000.0),
        (Entrant::PeerByHeader, 14_000.0),
        (Entrant::PeerByHash, 16_000.0),
    ];

    fn loaded(load: Load) -> Loaded {
        let figures = || -> Vec<Figure> {
            let figure =
                |(entrant, nanos): (Entrant, f64)| Figure::new(entrant.name(), vec![nanos, nanos / 2.0, nanos]);
            ALL.into_iter().map(figure).collect()
        };
        Loaded {
            load,
            requests: figures(),
            server: figures(),
            calls: figures(),
        }
    }

    fn measured() -> Measured {
        let route = |(entrant, _): (Entrant, f64)| Allocations {
            name: entrant.name().to_owned(),
            keyless: if entrant == Entrant::Bare { 5.0 } else { 7.0 },
            executed: 40.0,
            replayed: 30.5,
        };
        let finding = |what: &str, is_wrong| Finding {
            what: what.to_owned(),
            is_wrong,
        };
        let times = |p99| Times {
            leader: 1.0,
            median: 2.0,
            p99,
            last: 100.0,
        };
        Measured {
            loads: vec![loaded(Load::Distinct), loaded(Load::Replays), loaded(Load::Keyless)],
            counts: Counts {
                routes: ALL.into_iter().map(route).collect(),
                plain: [0.0; 3],
                held: Held {
                    waiting: 900.0,
                    answered: 2.0 * ANSWER as f64 + 500.0 * CROWD as f64,
                },
            },
            crowds: vec![times(90.0), times(40.0), times(30.0)],
            conducts: vec![Conduct {
                name: "a layer".to_owned(),
                findings: SCENARIOS.map(|_| finding("executed twice", true)).to_vec(),
            }],
        }
    }

    #[test]
    fn aims_are_judged_by_the_medians() {
        let text = text(&Facts(vec![("machine", "two cores".to_owned())]), &measured());
        for line in [
            "| machine | two cores |",
            "| distinct keys, requests/s, against the bare route | ≥ 0.8 × | 0.80 × (0.80) | met |",
            "| distinct keys, requests/s, against the axum-idempotent, by header | ≥ 1.5 × | 1.40 × (1.40) | missed |",
            "| replays of one key, requests/s, against the axum-idempotent, by hash | ≥ 1.5 × | 1.60 × (1.60) | met |",
            "| no key, requests/s, against the bare route | ≥ 0.97 × | 0.80 × (0.80) | missed |",
            "| 0 | 0; 0 | met |",
            "| ≤ 50 ms | 39.0 ms | met |",
            "| one copy, and the record's | 6.8 | met |",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn all_figures_and_findings_are_shown() {
        let text = text(&Facts(Vec::new()), &measured());
        for line in [
            "| | bare route | layer that does nothing | oneflight | axum-idempotent, by header | axum-idempotent, by hash |",
            "| replays of one key, without sockets | 8.0 (4.0) | 8.1 (4.0) | 10.0 (5.0) | 14.0 (7.0) | 16.0 (8.0) |",
            "| oneflight | 7.0 | 40.0 | 30.5 |",
            "each takes 500 bytes",
            "| two duplicates at once | **executed twice** |",
        ] {
            assert!(text.replace("|  |", "| |").contains(line), "{line}\n{text}");
        }
    }
}
