//! Runs the scenarios of the model: see `bin/model`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use oneflight_model::scenario::{self, Scenario};
use oneflight_model::{Claims, Sight, properties};
use stateright::{Checker, Model};

/// What a scenario came to.
struct Checked {
    states: usize,
    depth: usize,
    failed: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let long = arguments.iter().any(|argument| argument == "--long");
    let names: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let chosen = |scenario: &Scenario| match names.is_empty() {
        true => long || !scenario.long,
        false => names.iter().any(|name| scenario.name.contains(name.as_str())),
    };
    let begun = Instant::now();
    let checked: Vec<Checked> = scenario::all().into_iter().filter(chosen).map(check).collect();
    let states: usize = checked.iter().map(|it| it.states).sum();
    let depth = checked.iter().map(|it| it.depth).max().unwrap_or(0);
    let failed = checked.iter().filter(|it| it.failed).count();
    println!(
        "claim protocol: {} scenarios, {states} states, depth up to {depth}, {} properties, {:.0?}: {failed} failed",
        checked.len(),
        properties::all().len(),
        begun.elapsed(),
    );
    match checked.is_empty() || failed > 0 {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

fn check(scenario: Scenario) -> Checked {
    let begun = Instant::now();
    let model = Claims::new(scenario.clone());
    let sightings = model.sightings.clone().unwrap_or_default();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = model.checker().threads(threads).spawn_bfs().join();
    let unseen: Vec<&str> = (scenario.must_see.iter())
        .filter(|sight| sightings.of(**sight) == 0)
        .map(|sight| sight.text())
        .collect();
    let discoveries = checker.discoveries();
    println!(
        "{:<24} {:>10} states, depth {:>3}, {:>7.1?}",
        scenario.name,
        checker.unique_state_count(),
        checker.max_depth(),
        Duration::from_millis(begun.elapsed().as_millis().try_into().unwrap_or(u64::MAX)),
    );
    for (property, path) in &discoveries {
        println!("  FAILED: {property}");
        for step in path.to_string().lines() {
            println!("    {step}");
        }
    }
    for sight in &unseen {
        println!("  NOT SEEN: {sight}");
    }
    if std::env::var_os("ONEFLIGHT_SIGHTS").is_some() {
        for sight in Sight::ALL {
            println!("  {:>9} x {}", sightings.of(*sight), sight.text());
        }
    }
    Checked {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        failed: !discoveries.is_empty() || !unseen.is_empty(),
    }
}
