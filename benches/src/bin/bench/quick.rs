//! The quick run: a lone leader and followers, against the best peer.

use super::facts::Facts;
use super::measure::{self, Quick};
use super::row::thousands;
use oneflight_benches::contest::Standings;
use oneflight_benches::peers::Side;
use serde::Serialize;
use std::collections::BTreeMap;
use std::error::Error;

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    facts: Facts,
    hot_path: BTreeMap<String, Ratio>,
    fan_in: BTreeMap<String, Ratio>,
}

/// One case: nanoseconds, and ours through the best peer's.
#[derive(Serialize)]
struct Ratio {
    ours: f64,
    best_peer: String,
    best_peer_median: f64,
    ratio: f64,
    ratio_of_minima: f64,
    ratio_to_hand_written_with_our_hasher: Option<f64>,
}

/// Measures and prints.
pub fn run(json: bool) -> Result<(), Box<dyn Error>> {
    let facts = Facts::gather();
    let Quick {
        ready,
        yielding,
        fan_in,
    } = measure::quick();
    let hot_path = [("ready".to_owned(), &ready), ("yielding".to_owned(), &yielding)];
    let fan_in = fan_in
        .iter()
        .map(|(followers, standings)| (followers.to_string(), standings));
    let report = Report {
        facts,
        hot_path: ratios(hot_path),
        fan_in: ratios(fan_in),
    };
    if json {
        serde_json::to_writer_pretty(std::io::stdout(), &report)?;
        println!();
        return Ok(());
    }
    print!("{}", super::terminal::facts(&report.facts));
    let followers = |case: &str| {
        format!(
            "follower, N = {}",
            case.parse().map_or_else(|_| case.to_owned(), thousands)
        )
    };
    let hot_path = report
        .hot_path
        .iter()
        .map(|(case, ratio)| (format!("leader alone, {case} work"), ratio));
    let fan_in = report.fan_in.iter().map(|(case, ratio)| (followers(case), ratio));
    for (case, ratio) in hot_path.chain(fan_in) {
        let Ratio {
            ours,
            best_peer,
            best_peer_median,
            ratio,
            ..
        } = ratio;
        println!("{case:32} {ours:8.1} ns   {ratio:.2} × {best_peer} ({best_peer_median:.1} ns)");
    }
    Ok(())
}

fn ratios<'s>(cases: impl IntoIterator<Item = (String, &'s Standings)>) -> BTreeMap<String, Ratio> {
    let of_case = |(case, standings): (String, &Standings)| {
        let (ours, best) = (standings.ours()?, standings.best_of(Side::Peer)?);
        let ratio = Ratio {
            ours: ours.median,
            best_peer: best.name.clone(),
            best_peer_median: best.median,
            ratio: ours.median / best.median,
            ratio_of_minima: ours.minimum / best.minimum,
            ratio_to_hand_written_with_our_hasher: standings
                .best_of(Side::Tuned)
                .map(|tuned| ours.median / tuned.median),
        };
        Some((case, ratio))
    };
    cases.into_iter().filter_map(of_case).collect()
}
