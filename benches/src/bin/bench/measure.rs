//! Runs all cases of the comparison and keeps their figures. It judges nothing.

use oneflight_benches::cases::abandon::Abandon;
use oneflight_benches::cases::fan_in::FanIn;
use oneflight_benches::cases::flights::Flights;
use oneflight_benches::cases::gap::{Gap, Workers};
use oneflight_benches::cases::hand_over::HandOver;
use oneflight_benches::cases::hot_path::{Keys, Ready, Yielding};
use oneflight_benches::cases::memory::Weight;
use oneflight_benches::cases::tasks::Tasks;
use oneflight_benches::cases::threads::{HotTasks, Spread, Threads};
use oneflight_benches::cases::wakeups;
use oneflight_benches::contest::{Entrants, Run, Standings, Trial, hold};
use oneflight_benches::peers::{Peer, Side};
use std::error::Error;
use std::process::Command;
use std::time::Instant;

/// Rounds of what takes less than a millisecond.
const MANY_ROUNDS: usize = 101;
/// Rounds of all else that is compared.
pub const ROUNDS: usize = 15;
/// Rounds of what is only drawn or shown.
const FEW_ROUNDS: usize = 5;
const FEWEST_ROUNDS: usize = 2;

/// Followers, in the comparison and for the plot.
pub const FOLLOWERS: [usize; 6] = [1, 10, 100, 1_000, 10_000, 100_000];
/// Followers as real tasks, for the plot.
pub const TASKS: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];
/// Followers as real tasks, in the comparison.
pub const COMPARED_TASKS: [usize; 2] = [1_000, 10_000];
/// Followers as real tasks, in front of another task.
pub const HUGE: usize = 100_000;
/// Followers that may be woken by progress.
pub const WAITING: [usize; 2] = [100, 10_000];
/// Threads, on keys of their own.
pub const THREADS: [usize; 3] = [1, 2, 4];
/// Flights at once, each with a caller.
pub const FLIGHTS: [usize; 7] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000];
/// With so many flights at once a round takes seconds.
const MANY_FLIGHTS: usize = 1_000_000;
/// A peer that needs longer for a flight with a tenth of these in flight is left out of those rounds, in nanoseconds.
const TOO_SLOW: f64 = 3_000.0;

/// All figures of a run.
#[derive(Default)]
pub struct Measured {
    pub ready: Standings,
    pub ready_borrowed: Standings,
    pub yielding: Standings,
    pub yielding_borrowed: Standings,
    pub fan_in: Vec<(usize, Standings)>,
    pub tasks: Vec<(usize, Standings)>,
    pub distinct: [Standings; 3],
    pub zipf: [Standings; 1],
    pub hot: [Standings; 1],
    pub hot_tasks: Standings,
    pub hand_over: Standings,
    pub abandon: Standings,
    pub wakeups: Vec<(usize, Standings)>,
    pub gap_one_worker: [Standings; 2],
    pub gap_two_workers: [Standings; 2],
    pub flights: Vec<(usize, Standings)>,
    pub weights: Vec<Weight>,
}

/// The figures of a quick run.
pub struct Quick {
    pub ready: Standings,
    pub yielding: Standings,
    pub fan_in: Vec<(usize, Standings)>,
}

/// The figures of followers as tasks.
pub struct Crowds {
    pub tasks: Vec<(usize, Standings)>,
    pub gap_two_workers: [Standings; 2],
}

/// Measures everything.
pub fn all() -> Result<Measured, Box<dyn Error>> {
    let start = Instant::now();
    let say = |what: &str| eprintln!("{:4} s  {what}", start.elapsed().as_secs());
    say("memory");
    let weights = weights()?;
    say("a leader alone");
    let [ready] = hold(&Ready(Keys::Owned), Entrants::AllAndFloors, MANY_ROUNDS);
    let [ready_borrowed] = hold(&Ready(Keys::Borrowed), Entrants::AllAndFloors, MANY_ROUNDS);
    let [yielding] = hold(&Yielding(Keys::Owned), Entrants::AllAndFloors, MANY_ROUNDS);
    let [yielding_borrowed] = hold(&Yielding(Keys::Borrowed), Entrants::AllAndFloors, MANY_ROUNDS);
    say("followers");
    let fan_in = FOLLOWERS.map(fan_in).to_vec();
    say("followers as tasks");
    let tasks = tasks(&TASKS, ROUNDS);
    say("threads");
    let distinct = hold(&Threads(Spread::Distinct, THREADS), Entrants::AllAndWork, ROUNDS);
    let zipf = hold(&Threads(Spread::Zipf, [2]), Entrants::All, ROUNDS);
    let hot = hold(&Threads(Spread::Hot, [2]), Entrants::All, ROUNDS);
    let [hot_tasks] = hold(&HotTasks { tasks: 64, calls: 200 }, Entrants::All, ROUNDS);
    say("callers who leave");
    let [hand_over] = hold(&HandOver, Entrants::All, MANY_ROUNDS);
    let [abandon] = hold(&Abandon, Entrants::All, MANY_ROUNDS);
    say("wake-ups");
    let wakeups = WAITING.map(|followers| (followers, wakeups::count(followers))).to_vec();
    say("gaps");
    let gap_one_worker = hold(&Gap(Workers::One, HUGE), Entrants::All, FEW_ROUNDS);
    let gap_two_workers = hold(&Gap(Workers::Two, HUGE), Entrants::All, ROUNDS);
    say("many flights at once");
    let flights = flights();
    Ok(Measured {
        ready,
        ready_borrowed,
        yielding,
        yielding_borrowed,
        fan_in,
        tasks,
        distinct,
        zipf,
        hot,
        hot_tasks,
        hand_over,
        abandon,
        wakeups,
        gap_one_worker,
        gap_two_workers,
        flights,
        weights,
    })
}

/// Measures a lone leader, and followers up to ten thousand.
pub fn quick() -> Quick {
    let [ready] = hold(&Ready(Keys::Owned), Entrants::AllAndFloors, MANY_ROUNDS);
    let [yielding] = hold(&Yielding(Keys::Owned), Entrants::AllAndFloors, MANY_ROUNDS);
    let followers = FOLLOWERS
        .into_iter()
        .filter(|followers| (100..=10_000).contains(followers));
    Quick {
        ready,
        yielding,
        fan_in: followers.map(fan_in).collect(),
    }
}

/// Measures followers as real tasks, and how long their end keeps another task waiting.
pub fn crowds(rounds: usize) -> Crowds {
    Crowds {
        tasks: tasks(&COMPARED_TASKS, rounds),
        gap_two_workers: hold(&Gap(Workers::Two, HUGE), Entrants::All, rounds),
    }
}

fn tasks(counts: &[usize], rounds: usize) -> Vec<(usize, Standings)> {
    let standings = |followers: &usize| {
        let rounds = match COMPARED_TASKS.contains(followers) {
            true => rounds,
            false => FEW_ROUNDS,
        };
        let [standings] = hold(&Tasks(*followers), Entrants::All, rounds);
        (*followers, standings)
    };
    counts.iter().map(standings).collect()
}

fn fan_in(followers: usize) -> (usize, Standings) {
    let rounds = if followers > 1_000 { ROUNDS } else { MANY_ROUNDS };
    let [standings] = hold(&FanIn(followers), Entrants::All, rounds);
    (followers, standings)
}

fn flights() -> Vec<(usize, Standings)> {
    let mut all: Vec<(usize, Standings)> = Vec::new();
    for count in FLIGHTS {
        let trial = Patient {
            trial: Flights::new(count),
            before: (count >= MANY_FLIGHTS)
                .then(|| all.last().map(|(_, standings)| standings.clone()))
                .flatten(),
        };
        let rounds = if count >= MANY_FLIGHTS {
            FEWEST_ROUNDS
        } else {
            FEW_ROUNDS
        };
        let [standings] = hold(&trial, Entrants::All, rounds);
        all.push((count, standings));
    }
    all
}

/// A trial whose rounds are long: it leaves out a peer that was slow before, and one that differs from another by its hasher only.
struct Patient<T> {
    trial: T,
    before: Option<Standings>,
}

impl<T: Trial> Trial for Patient<T> {
    fn enter<P: Peer<String>>(&self) -> Result<Run<1>, String> {
        if let Some(before) = &self.before {
            if P::SIDE == Side::Tuned {
                return Err("only drawn with the map's own hasher".to_owned());
            }
            if before.named(P::NAME).is_some_and(|figure| figure.median > TOO_SLOW) {
                return Err("a round would take over 3 s".to_owned());
            }
        }
        self.trial.enter::<P>()
    }
}

/// Has everybody weighed by the program next to this one.
fn weights() -> Result<Vec<Weight>, Box<dyn Error>> {
    let program = std::env::current_exe()?.with_file_name("memory");
    let output = Command::new(&program).output();
    let output = output.map_err(|error| format!("cannot run {}: {error}; build all programs", program.display()))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} ended with {}: {message}", program.display(), output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
