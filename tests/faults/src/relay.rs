//! A worker that delivers: a relay over HTTP to the receiver, and nothing else.

use std::time::Duration;

use oneflight::outbox::{
    Delivery, DeliveryError, HttpTarget, OnDead, Relay, RelayHandle, Retry, Target, TargetOptions,
};
use oneflight::store::OutboxStore;

use crate::messages::{Post, Said};
use crate::notes::{Note, Topic};
use crate::receiver::TIME_LIMIT;
use crate::worker::say;

/// More than a message can be tried in a round: what dies was refused for good.
const ATTEMPTS: u32 = 100;

/// Short against the time within which everything has to end.
const LONGEST_CIRCUIT_PAUSE: Duration = Duration::from_secs(1);

/// Says what it delivers.
struct Told(HttpTarget);

impl Target for Told {
    async fn deliver(&self, delivery: Delivery) -> Result<(), DeliveryError> {
        let note: Note = delivery.json()?;
        say(&Said::Delivers { key: note.key });
        self.0.deliver(delivery).await
    }
}

/// Begins to deliver, with settings that differ from relay to relay.
pub fn start<S: OutboxStore>(store: S, post: &Post) -> RelayHandle {
    let retry = Retry::new()
        .first_pause(Duration::from_millis(20))
        .longest_pause(Duration::from_millis(200))
        .attempts(ATTEMPTS);
    let park_after = [Duration::ZERO, Duration::from_millis(150), Duration::from_secs(30)];
    let mut relay = Relay::builder(store)
        .lease(post.lease)
        .buffer([4, 5000][fastrand::usize(..2)], 1024 * 1024)
        .park_after(park_after[fastrand::usize(..park_after.len())]);
    for topic in [Topic::Charge, Topic::Mail, Topic::Audit] {
        for path in topic.paths() {
            let url = format!("{}{path}", post.receiver);
            let target = HttpTarget::new(&url).expect("it is a URL");
            // The receiver goes on to fail now and then when it is back, and each message that is tried may meet that.
            let options = TargetOptions::new()
                .name(*path)
                .retry(retry)
                .time_limit(TIME_LIMIT)
                .longest_circuit_pause(LONGEST_CIRCUIT_PAUSE);
            let options = match topic {
                Topic::Mail => options.on_dead(OnDead::Skip).batch(3),
                _ => options,
            };
            relay = relay.target_with(topic.word(), Told(target), options);
        }
    }
    relay.build().expect("each target has a name").spawn()
}
