//! Promise 3, *futurelock*: a driver that is alive but not polled holds nobody up.

mod common;

use common::{Gate, Task};
use oneflight::{Drive, Group, Role};
use std::pin::pin;
use std::time::Duration;
use tokio::sync::oneshot;

#[tokio::test]
async fn two_callers_in_one_select_the_driver_left_unpolled() {
    let group: Group<u8, u32> = Group::new();
    let work = || async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        7
    };
    let mut driver = pin!(group.run(1, work));
    // The driver begins, and loses the race.
    tokio::select! {
        biased;
        _ = &mut driver => unreachable!("it is not ready yet"),
        () = std::future::ready(()) => {}
    }
    // It is kept, and not polled, while the same task waits for another caller of the key.
    let follower = tokio::time::timeout(Duration::from_secs(5), group.run(1, work)).await;
    let follower = follower.expect("the idle driver held the follower up").unwrap();
    assert_eq!((follower.value, follower.role), (7, Role::Follower));
    assert_eq!(driver.await.unwrap().value, 7);
    let stats = group.stats();
    assert_eq!((stats.led, stats.taken_over, stats.handed_over), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_driver_in_one_task_and_followers_in_others() {
    let group: Group<u8, u32> = Group::new();
    let (open, opened) = oneshot::channel();
    let mut driver = pin!(group.run(1, move || async move {
        opened.await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
        7
    }));
    assert!(futures::poll!(&mut driver).is_pending());
    let followers: Vec<_> = (0..3)
        .map(|_| {
            let group = group.clone();
            tokio::spawn(async move { group.run(1, || async { 0 }).await.unwrap().value })
        })
        .collect();
    while group.stats().joined < 3 {
        tokio::task::yield_now().await;
    }
    open.send(()).unwrap();
    for follower in followers {
        let value = tokio::time::timeout(Duration::from_secs(5), follower).await;
        assert_eq!(value.expect("held up by the idle driver").unwrap(), 7);
    }
    assert_eq!(driver.await.unwrap().value, 7);
    assert_eq!(group.stats().led, 1);
}

#[test]
fn a_standby_of_another_task_is_told_when_many_callers_of_the_drivers_task_stand_before_it() {
    let (group, gate) = (Group::<u8, u32>::new(), Gate::new());
    let mut driver = Task::new(group.run(1, {
        let gate = gate.clone();
        move || async move {
            for _ in 0..3 {
                gate.pass().await;
            }
            7
        }
    }));
    driver.pending();
    let mut siblings: Vec<_> = (0..3)
        .map(|_| Task::beside(&driver, group.run(1, || async { 0 })))
        .collect();
    siblings.iter_mut().for_each(Task::pending);
    let mut stranger = Task::new(group.run(1, || async { 0 }));
    stranger.pending();
    // From here on nobody in the driver's task is polled.
    for step in 1..=3 {
        gate.open(1);
        assert!(stranger.wakes() >= step, "the stranger was not told of step {step}");
        if step < 3 {
            stranger.pending();
        }
    }
    assert_eq!(stranger.ready().unwrap().value, 7);
    let stats = group.stats();
    assert!(stats.taken_over >= 1, "{stats:?}");
}

#[test]
fn a_first_follower_takes_nothing_over_from_a_driver_who_is_polled() {
    let (group, gate) = (Group::<u8, u32>::new(), Gate::new());
    let mut driver = Task::new(group.run(1, {
        let gate = gate.clone();
        move || async move {
            gate.pass().await;
            gate.pass().await;
            7
        }
    }));
    driver.pending();
    let mut follower = Task::new(group.run(1, || async { 0 }));
    follower.pending();
    gate.open(1);
    assert!(driver.wakes() > 0, "the driver is told, although another polled last");
    driver.pending();
    gate.open(1);
    assert_eq!(driver.ready().unwrap().value, 7);
    assert_eq!(follower.ready().unwrap().value, 7);
    let stats = group.stats();
    assert_eq!((stats.taken_over, stats.handed_over), (0, 0));
}

#[tokio::test]
async fn spawned_work_needs_nobody_to_be_polled() {
    let group: Group<u8, u32> = Group::builder().drive(Drive::Spawned).build();
    let (tell, told) = oneshot::channel();
    let mut leader = pin!(group.run(1, || async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        tell.send(()).unwrap();
        7
    }));
    assert!(futures::poll!(&mut leader).is_pending());
    // The leader is not polled meanwhile.
    tokio::time::timeout(Duration::from_secs(5), told)
        .await
        .unwrap()
        .unwrap();
    let outcome = leader.await.unwrap();
    assert_eq!((outcome.value, outcome.role), (7, Role::Leader));
    assert_eq!(group.in_flight(), 0);
}

#[tokio::test]
async fn spawned_work_is_shared_and_survives_its_callers() {
    let group: Group<u8, u32> = Group::new();
    let (tell, told) = oneshot::channel();
    let mut leader = Box::pin(
        group
            .run(1, || async move {
                tokio::time::sleep(Duration::from_millis(2)).await;
                tell.send(()).unwrap();
                7
            })
            .drive(Drive::Spawned),
    );
    assert!(futures::poll!(&mut leader).is_pending());
    let mut follower = Box::pin(group.run(1, || async { 0 }));
    assert!(futures::poll!(&mut follower).is_pending());
    drop((leader, follower));
    told.await.unwrap();
    group.drain().await;
    let stats = group.stats();
    assert_eq!((stats.led, stats.joined, stats.finished_unattended), (1, 1, 1));
}
