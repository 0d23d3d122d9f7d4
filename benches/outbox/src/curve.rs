//! How fast a backlog goes, in all and over time.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tokio::time::sleep;

/// How often it is looked at.
const TICK: Duration = Duration::from_millis(10);
/// A point of the curve is the mean of so long.
const POINT: Duration = Duration::from_millis(1000);

/// How a backlog went.
pub struct Curve {
    pub name: String,
    /// Messages a second, over all.
    pub rate: f64,
    /// Seconds, and messages a second around then.
    pub points: Vec<(f64, f64)>,
}

/// Waits until a backlog is gone, and tells how it went.
pub async fn watch(name: String, backlog: usize, arrived: &AtomicUsize) -> Curve {
    let begun = Instant::now();
    let mut tenths = [Duration::ZERO; 2];
    let (mut points, mut last, mut most) = (Vec::new(), (Duration::ZERO, 0), 0);
    loop {
        let (now, passed) = (arrived.load(SeqCst), begun.elapsed());
        for (tenth, after) in tenths.iter_mut().zip([1, 9]) {
            if tenth.is_zero() && now >= backlog / 10 * after {
                *tenth = passed;
            }
        }
        if passed - last.0 >= POINT {
            let rate = (now - last.1) as f64 / (passed - last.0).as_secs_f64();
            points.push(((passed + last.0).as_secs_f64() / 2.0, rate));
            (last, most) = ((passed, now), most.max(resident()));
        }
        if now >= backlog {
            break;
        }
        sleep(TICK).await;
    }
    let all = begun.elapsed();
    let rate = backlog as f64 / all.as_secs_f64();
    println!(
        "{name}: {rate:.0}/s; the last tenth {:.2} × as fast as the first; at most {} MiB resident",
        tenths[0].as_secs_f64() / all.saturating_sub(tenths[1]).as_secs_f64(),
        most.max(resident()) / 1024
    );
    Curve { name, rate, points }
}

/// Resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
