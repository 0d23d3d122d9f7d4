//! The worker processes: started, told, stopped and killed, each by its own process id, and heard.
//!
//! Not one outlives the driver: each ends with the pipe that it reads orders from, is killed with the thread that started it
//! (also while it is stopped), and is killed when the crew is dropped.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

use crate::messages::{Order, Post, Role, Said};

/// How far the clock of a worker may be from what it should be, in seconds: it takes a while to start.
const CLOCK_MARGIN: i64 = 300;

/// A worker's number. Numbers are not used again.
pub type Number = usize;

pub struct Heard {
    pub from: Number,
    pub at: Instant,
    pub said: Said,
}

/// What a worker is started as.
#[derive(Clone, Copy)]
pub struct Place {
    pub role: Role,
    /// How far its clock is off, in seconds.
    pub off: i64,
}

struct Worker {
    process: Child,
    orders: ChildStdin,
    place: Place,
}

pub struct Crew {
    post: Post,
    workers: BTreeMap<Number, Worker>,
    next: Number,
    told: mpsc::UnboundedSender<Heard>,
    hear: mpsc::UnboundedReceiver<Heard>,
}

impl Crew {
    /// A worker for each place.
    pub fn start(post: Post, places: &[Place]) -> Self {
        let (told, hear) = mpsc::unbounded_channel();
        let mut crew = Self {
            post,
            workers: BTreeMap::new(),
            next: 0,
            told,
            hear,
        };
        for &place in places {
            crew.add(place);
        }
        crew
    }

    /// Starts one more worker. Only the thread that drives may do so: they die with it.
    fn add(&mut self, place: Place) -> Number {
        let Place { role, off } = place;
        let post = Post {
            role,
            ..self.post.clone()
        };
        let post = serde_json::to_string(&post).expect("it can be written");
        let mut command = Command::new(std::env::current_exe().expect("we know ourselves"));
        command
            .arg("--as-worker")
            .arg(post)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if off != 0 {
            command
                .env("LD_PRELOAD", faketime())
                .env("FAKETIME", format!("{off:+}s"))
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
                .env("DONT_FAKE_MONOTONIC", "1");
        }
        let mut process = command.spawn().expect("we can start ourselves");
        let number = self.next;
        self.next += 1;
        let mut lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let told = self.told.clone();
        tokio::spawn(async move {
            // The last line of one that was killed may be cut short.
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(said) = serde_json::from_str(&line) else { break };
                let at = Instant::now();
                let _ = told.send(Heard { from: number, at, said });
            }
            let (at, said) = (Instant::now(), Said::Gone);
            let _ = told.send(Heard { from: number, at, said });
        });
        let orders = process.stdin.take().expect("it is piped");
        let worker = Worker { process, orders, place };
        self.workers.insert(number, worker);
        number
    }

    pub fn numbers(&self) -> Vec<Number> {
        self.workers.keys().copied().collect()
    }

    /// Those that are told what to call for.
    pub fn services(&self) -> Vec<Number> {
        let services = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.place.role == Role::Service);
        services.map(|(number, _)| *number).collect()
    }

    pub fn is_service(&self, number: Number) -> bool {
        let worker = self.workers.get(&number);
        worker.is_some_and(|worker| worker.place.role == Role::Service)
    }

    pub async fn order(&mut self, number: Number, order: &Order) {
        let Some(worker) = self.workers.get_mut(&number) else {
            return;
        };
        let mut line = serde_json::to_vec(order).expect("it can be written");
        line.push(b'\n');
        // One that is gone is heard of.
        let _ = worker.orders.write_all(&line).await;
    }

    /// `kill -9`. The process is gone when this returns; what it had said may still be heard.
    pub async fn kill(&mut self, number: Number) {
        if let Some(mut worker) = self.workers.remove(&number) {
            worker.process.kill().await.expect("it is our child");
        }
    }

    /// Kills a worker and starts another one in its place.
    pub async fn replace(&mut self, number: Number) -> Number {
        let role = Role::Service;
        let place = self.workers.get(&number).map(|worker| worker.place);
        self.kill(number).await;
        self.add(place.unwrap_or(Place { role, off: 0 }))
    }

    /// Sends a signal, if the worker is there.
    pub fn signal(&self, number: Number, signal: Signal) {
        let pid = self.workers.get(&number).and_then(|worker| worker.process.id());
        if let Some(pid) = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            kill_process(pid, signal).expect("it is our child, and not waited for yet");
        }
    }

    pub async fn next(&mut self) -> Heard {
        let heard = self.hear.recv().await.expect("we hold an end ourselves");
        if let Said::Ready { clock } = heard.said
            && let Some(worker) = self.workers.get(&heard.from)
        {
            let ours = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("after 1970")
                .as_secs();
            let off = clock.cast_signed() - ours.cast_signed();
            let wrong = (off - worker.place.off).abs();
            assert!(
                wrong < CLOCK_MARGIN,
                "a worker's clock is off by {off} s, not {} s",
                worker.place.off
            );
        }
        heard
    }
}

/// Debian's library that shifts a program's clock.
fn faketime() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut found = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let found = found.find(|library| library.exists());
    found.expect("there is no libfaketime in /usr/lib; install Debian's package `libfaketime`")
}
