//! A cache stampede: a thousand callers miss the cache at once, one of them asks the database, and each waits no longer
//! than it likes.

use std::error::Error;
use std::time::Duration;

use futures::future::join_all;
use oneflight::Group;
use tokio::time::{sleep, timeout};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let prices: Group<&str, u32> = Group::new();
    let price = async |patience| {
        let looked_up = prices.run("tea", || async {
            sleep(Duration::from_millis(100)).await; // … the database …
            290
        });
        timeout(patience, looked_up).await
    };

    // One in ten is impatient and leaves. The others get the answer all the same, whichever of them had begun the
    // look-up.
    let callers = (0..1_000).map(|n| match n % 10 {
        0 => price(Duration::from_millis(5)),
        _ => price(Duration::from_secs(5)),
    });
    let answers = join_all(callers).await;

    let answered = answers
        .iter()
        .filter(|answer| matches!(answer, Ok(Ok(outcome)) if outcome.value == 290));
    println!("{} answered, {} look-up", answered.count(), prices.stats().led);
    assert_eq!(prices.stats().led, 1);
    Ok(())
}
