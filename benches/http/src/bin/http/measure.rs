//! Runs everything and keeps the figures. It judges nothing.

use std::error::Error;
use std::process::Command;
use std::time::Instant;

use oneflight_http_benches::count::Counts;
use oneflight_http_benches::crowd::{self, Times};
use oneflight_http_benches::entrants::Entrant;
use oneflight_http_benches::faults::{self, Conduct};
use oneflight_http_benches::load::{self, Load};
use oneflight_http_benches::rounds::{Figure, hold};

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// As little as shows that it works.
    Look,
    /// As much as a figure needs.
    Result,
}

/// The figures of all entrants under one load, in nanoseconds a request.
pub struct Loaded {
    pub load: Load,
    /// Over loopback, by the clock.
    pub requests: Vec<Figure>,
    /// Over loopback, the server's processor time.
    pub server: Vec<Figure>,
    /// Without sockets, by the clock.
    pub calls: Vec<Figure>,
}

/// All figures of a run.
pub struct Measured {
    pub loads: Vec<Loaded>,
    pub counts: Counts,
    /// A crowd each.
    pub crowds: Vec<Times>,
    pub conducts: Vec<Conduct>,
}

/// Measures everything.
pub fn all(effort: Effort) -> Result<Measured, Box<dyn Error>> {
    let start = Instant::now();
    let say = |what: &str| eprintln!("{:4} s  {what}", start.elapsed().as_secs());
    let (rounds, requests, calls, crowds) = match effort {
        Effort::Look => (3, 1_600, 1_000, 1),
        Effort::Result => (25, 6_400, 4_000, 7),
    };
    say("allocations");
    let counts = counts()?;
    say("when things go wrong");
    let conducts = faults::try_all();
    say("duplicates");
    let crowds = (0..crowds).map(|_| crowd::times()).collect();
    let mut loads = Vec::new();
    for load in [Load::Distinct, Load::Replays, Load::Keyless] {
        say(tables_name(load));
        let [requests, server] = hold(&Entrant::ALL, rounds, Entrant::name, |entrant| {
            load::over_loopback(entrant, load, requests)
        });
        let [calls] = hold(&Entrant::ALL, rounds, Entrant::name, |entrant| {
            load::without_sockets(entrant, load, calls)
        });
        loads.push(Loaded {
            load,
            requests,
            server,
            calls,
        });
    }
    Ok(Measured {
        loads,
        counts,
        crowds,
        conducts,
    })
}

fn tables_name(load: Load) -> &'static str {
    super::tables::of_load(load)
}

/// Has the allocations counted by the program next to this one.
fn counts() -> Result<Counts, Box<dyn Error>> {
    let program = std::env::current_exe()?.with_file_name("count");
    let output = Command::new(&program).output();
    let output = output.map_err(|error| format!("cannot run {}: {error}; build all programs", program.display()))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} ended with {}: {message}", program.display(), output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
