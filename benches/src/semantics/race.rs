//! One hot key, raced by four tasks on four workers for some seconds, so that they are interrupted at any point.

use super::Finding;
use crate::book::{Balance, Book};
use crate::peers::Peer;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio::task::yield_now;
use tokio::time::timeout;

const TASKS: usize = 4;
/// How long after its end a caller may still be waited for.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn race<P: Peer<String>>(length: Duration) -> Finding {
    let book = Book::leak();
    let runtime = Builder::new_multi_thread().worker_threads(TASKS).enable_time().build();
    let runtime = runtime.expect("a runtime of four workers");
    let peer = P::new();
    let end = Instant::now() + length;
    let all = async {
        let race = |_| {
            let peer = peer.clone();
            tokio::spawn(async move {
                let mut calls = 0;
                while Instant::now() < end {
                    book.call(&peer, steps).await;
                    calls += 1;
                    for _ in 0..steps(calls) {
                        yield_now().await;
                    }
                }
            })
        };
        let tasks: Vec<_> = (0..TASKS).map(race).collect();
        for task in tasks {
            if task.await.is_err() {
                book.error();
            }
        }
    };
    // A limit is only set inside a runtime.
    let has_ended = runtime
        .block_on(async { timeout(length + PATIENCE, all).await })
        .is_ok();
    // Not waited for, since a task that is stuck in a poll would never go.
    runtime.shutdown_background();
    judge(&book.balance(), has_ended)
}

/// Steps of an execution, and pauses between calls, so that the tasks meet in all ways.
fn steps(number: u64) -> u64 {
    number % 4
}

fn judge(balance: &Balance, has_ended: bool) -> Finding {
    let tried = format!("{} calls, {} runs", balance.calls, balance.runs);
    match (has_ended, balance.wrong()) {
        (true, None) => Finding::right(format!("clean ({tried})")),
        (true, Some(wrong)) => Finding::wrong(format!("{wrong} ({tried})")),
        (false, None) => Finding::wrong(format!("stalls ({tried})")),
        (false, Some(wrong)) => Finding::wrong(format!("stalls, {wrong} ({tried})")),
    }
}
