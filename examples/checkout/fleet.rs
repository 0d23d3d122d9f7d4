//! Several services on one store, each in a process of its own, with a further relay and the stand-ins in theirs.
//!
//! They are this program, told to `serve` and so on, and they end with this process in whichever way it ends: each stops
//! when its standard input does, whose other end is held here and nowhere else. Unless it is killed before:
//! [`kill_at_random`](Fleet::kill_at_random).

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::database::Failure;
use crate::place::Kind;
use crate::storm::Storm;

/// A process gets so long to open its database and to listen.
const START_TIME: Duration = Duration::from_secs(30);

/// A process gets so long to end: a service drains what is in flight, twice five seconds at most.
const STOP_TIME: Duration = Duration::from_secs(20);

/// The processes: first the stand-ins, then what sends to them.
pub(crate) struct Fleet(Vec<Part>);

/// A process.
struct Part {
    arguments: Vec<OsString>,
    process: Child,
    /// Where it listens, if it does.
    address: Option<SocketAddr>,
}

impl Fleet {
    /// Starts so many services for this storm, with these arguments, and what they need; and waits until each of them is
    /// ready.
    pub(crate) async fn start(services: u16, storm: &Storm, serve: &[OsString]) -> Result<Self, Failure> {
        let mut parts = Vec::new();
        let mut place = storm.place.arguments();
        if storm.sends() {
            for (stand_in, said_by) in [("payments", "--payments"), ("mail", "--mail")] {
                let ledger = storm.ledger.clone().into();
                let part = Part::start(vec![stand_in.into(), "--ledger".into(), ledger])?
                    .ready()
                    .await?;
                let address = part.address.ok_or("a stand-in does not listen")?;
                place.extend([said_by.into(), address.to_string().into()]);
                parts.push(part);
            }
        }
        let named = |name: &str, more: &[OsString]| [&[OsString::from(name)], &place[..], more].concat();
        // All at once.
        let mut starting = Vec::new();
        if storm.place.kind() != Kind::Redis && storm.handler != "naive" {
            starting.push(Part::start(named("relay", &[]))?);
        }
        for _ in 0..services {
            starting.push(Part::start(named("serve", serve))?);
        }
        for part in starting {
            parts.push(part.ready().await?);
        }
        Ok(Self(parts))
    }

    /// Where the services listen.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let services = self.0.iter().filter(|part| part.is("serve"));
        services.filter_map(|part| part.address).collect()
    }

    /// Kills so many processes while the storm goes on, and starts each again: all of them in random order, and again. When,
    /// is random as well, within a share of the storm for each.
    pub(crate) async fn kill_at_random(&mut self, kills: u16, seed: u64, storm: &ProgressBar) -> Result<(), Failure> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut order = Vec::new();
        for kill in 0..kills {
            let progress = (f64::from(kill) + random.f64()) / f64::from(kills);
            while !storm.is_finished() && storm.position() as f64 <= progress * storm.length().unwrap_or(0) as f64 {
                sleep(Duration::from_millis(1)).await;
            }
            if order.is_empty() {
                order = (0..self.0.len()).collect();
                random.shuffle(&mut order);
            }
            if let Some(part) = order.pop().and_then(|at| self.0.get_mut(at)) {
                part.kill_and_start().await?;
            }
        }
        Ok(())
    }

    /// Asks all of them to stop and waits until they have: the stand-ins at last.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        let stand_ins = self
            .0
            .iter()
            .take_while(|part| part.is("payments") || part.is("mail"))
            .count();
        let senders = self.0.split_off(stand_ins);
        for mut parts in [senders, self.0] {
            for part in &mut parts {
                drop(part.process.stdin.take());
            }
            for part in &mut parts {
                let status = timeout(STOP_TIME, part.process.wait())
                    .await
                    .map_err(|_| format!("{} did not stop within {STOP_TIME:?}, and is killed", part.name()))??;
                if !status.success() {
                    return Err(format!("{} ended badly ({status}); standard error says why", part.name()).into());
                }
            }
        }
        Ok(())
    }
}

impl Part {
    /// Starts this program with these arguments.
    fn start(arguments: Vec<OsString>) -> Result<Self, Failure> {
        let process = Command::new(std::env::current_exe()?)
            .args(&arguments)
            .arg("--until-eof")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self {
            arguments,
            process,
            address: None,
        })
    }

    fn is(&self, name: &str) -> bool {
        self.arguments.first().is_some_and(|first| first == name)
    }

    fn name(&self) -> String {
        let name = self.arguments.first().map(|name| name.to_string_lossy());
        format!("a process ({})", name.unwrap_or_default())
    }

    /// Waits until it says that it is ready, and reads where it listens from that.
    async fn ready(mut self) -> Result<Self, Failure> {
        let stdout = self.process.stdout.take().ok_or("a process has no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let first = timeout(START_TIME, lines.next_line())
            .await
            .map_err(|_| format!("{} was not ready within {START_TIME:?}", self.name()))??
            .ok_or_else(|| format!("{} ended before it was ready; standard error says why", self.name()))?;
        let mut words = first.split_whitespace();
        self.address = words.find_map(|word| word.split_once("://")?.1.parse().ok());
        // What else it prints is read and let go, so that it never waits for us.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(self)
    }

    /// `kill -9`, and the same again, at the same address.
    async fn kill_and_start(&mut self) -> Result<(), Failure> {
        self.process.kill().await?;
        let mut arguments = self.arguments.clone();
        if let Some(address) = self.address {
            arguments.extend(["--port".into(), address.port().to_string().into()]);
        }
        let again = Self::start(arguments)?.ready().await?;
        (self.process, self.address) = (again.process, again.address);
        Ok(())
    }
}
