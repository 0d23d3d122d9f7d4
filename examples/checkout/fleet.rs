//! Several services on one store, each in a process of its own.
//!
//! They are this program, told to `serve`, and they end with this process in whichever way it ends: each stops when its
//! standard input does, whose other end is held here and nowhere else.

use std::error::Error;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

type Failure = Box<dyn Error + Send + Sync>;

/// A service gets so long to open its database and to listen.
const START_TIME: Duration = Duration::from_secs(30);

/// A service gets so long to end: it drains what is in flight, twice five seconds at most.
const STOP_TIME: Duration = Duration::from_secs(20);

/// The services.
pub(crate) struct Fleet {
    services: Vec<Child>,
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Fleet {
    /// Starts so many services with these arguments, all at once, and waits until each of them listens.
    pub(crate) async fn start(services: u16, arguments: &[OsString]) -> Result<Self, Failure> {
        let program = std::env::current_exe()?;
        let mut fleet = Self {
            services: Vec::new(),
            addresses: Vec::new(),
        };
        for _ in 0..services {
            let service = Command::new(&program)
                .args(["serve", "--until-eof"])
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            fleet.services.push(service);
        }
        for service in &mut fleet.services {
            let address = timeout(START_TIME, address(service))
                .await
                .map_err(|_| format!("a service did not listen within {START_TIME:?}"))??;
            fleet.addresses.push(address);
        }
        Ok(fleet)
    }

    /// Asks all of them to stop and waits until they have.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        for service in &mut self.services {
            drop(service.stdin.take());
        }
        for service in &mut self.services {
            let status = timeout(STOP_TIME, service.wait())
                .await
                .map_err(|_| format!("a service did not stop within {STOP_TIME:?}, and is killed"))??;
            if !status.success() {
                return Err(format!("a service ended badly ({status}); standard error says why").into());
            }
        }
        Ok(())
    }
}

/// Reads where a service listens from the first line that it prints.
async fn address(service: &mut Child) -> Result<SocketAddr, Failure> {
    let stdout = service.stdout.take().ok_or("a service has no standard output")?;
    let mut lines = BufReader::new(stdout).lines();
    let first = lines
        .next_line()
        .await?
        .ok_or("a service ended before it listened; standard error says why")?;
    let address = first
        .split_whitespace()
        .find_map(|word| word.strip_prefix("http://"))
        .ok_or_else(|| format!("a service did not say where it listens, but: {first}"))?
        .parse()?;
    // What else it prints is read and let go, so that it never waits for us.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(address)
}
