//! Promises 15 and 16 together: steps that send messages in their transactions.

#[path = "../../../../tests/common/sending_steps.rs"]
mod steps;

use crate::postgres::server;
use crate::support::store;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_steps_that_send_on_one_topic_deliver_two_messages() {
    let store = store(&server().schema().await).await;
    steps::two_steps_that_send_on_one_topic_deliver_two_messages(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_is_dropped_while_it_commits_rings() {
    let store = store(&server().schema().await).await;
    steps::a_step_that_is_dropped_while_it_commits_rings(store).await;
}
