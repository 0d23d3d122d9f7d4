//! Promise 16: a finished step is not done again, and what the bounds and the errors of steps are.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use oneflight::idempotency::{Forked, Step, StepError, Stopped, Workflow};
use oneflight::store::{ManualClock, StepStore, Store};
use oneflight::{Effect, Error, ErrorKind, Idempotency, MemoryStore, Origin, RequestIdentity, Scope};

/// How often something was done.
#[derive(Clone, Default)]
struct Count(Arc<AtomicUsize>);

impl Count {
    fn up(&self) -> usize {
        1 + self.0.fetch_add(1, SeqCst)
    }

    fn get(&self) -> usize {
        self.0.load(SeqCst)
    }
}

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), key).unwrap()
}

fn idem() -> Idempotency<MemoryStore> {
    Idempotency::builder(MemoryStore::new()).build()
}

fn failed<T>(_: &str) -> Result<T, io::Error> {
    Err(io::Error::from(io::ErrorKind::TimedOut))
}

fn stopped(error: &Error) -> &StepError {
    match error.kind() {
        ErrorKind::Stopped(stopped) => stopped,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_finished_step_is_not_done_again() {
    let (idem, reserved, charged) = (idem(), Count::default(), Count::default());
    let place = |id| {
        let (reserved, charged) = (reserved.clone(), charged.clone());
        idem.run_steps(id, &7, |steps| async move {
            let stock = steps
                .run("reserve", |_| async { Ok::<_, io::Error>(reserved.up()) })
                .await?;
            let charge = steps.run("charge", |_| async {
                match charged.up() {
                    1 => failed("charge"),
                    charge => Ok(charge),
                }
            });
            Ok((stock, charge.await?))
        })
    };
    let error = place(id("a")).await.unwrap_err();
    assert!(
        matches!(stopped(&error), StepError::Failed { step, .. } if step.name() == "charge"),
        "{error}"
    );
    assert_eq!(error.effect(), Effect::Unknown);
    let cause: &io::Error = error.cause().unwrap();
    assert_eq!(cause.kind(), io::ErrorKind::TimedOut);
    let known = idem.recorded_steps(&id("a")).await.unwrap().unwrap();
    assert_eq!(known.steps.len(), 1);
    // It is not in doubt: the next call goes on.
    assert_eq!(idem.in_doubt(10, None).await.unwrap(), []);
    assert_eq!(idem.unfinished_steps(10).await.unwrap().len(), 1);

    let reply = place(id("a")).await.unwrap();
    assert_eq!((*reply, reply.origin(), reply.attempt()), ((1, 2), Origin::Executed, 2));
    let reply = place(id("a")).await.unwrap();
    assert_eq!((*reply, reply.origin()), ((1, 2), Origin::Replayed));
    assert_eq!((reserved.get(), charged.get()), (1, 2));
    assert_eq!(idem.unfinished_steps(10).await.unwrap(), []);
}

#[tokio::test]
async fn steps_run_side_by_side_and_are_found_by_name_after_a_deploy_has_moved_them() {
    let (idem, done) = (idem(), Count::default());
    let count = done.clone();
    let first = idem.run_steps(id("a"), &(), |steps| async move {
        let a = steps.run("a", |_| async { Ok::<_, io::Error>(count.up()) });
        let b = steps.run_keyed("line", 7, |_| async { Ok::<_, io::Error>(count.up()) });
        let c = steps.run_keyed("line", 8, |_| async { failed::<usize>("line 8") });
        let (a, b, c) = tokio::join!(a, b, c);
        Ok((a?, b?, c?))
    });
    let error = first.await.unwrap_err();
    assert!(
        matches!(stopped(&error), StepError::Failed { step, .. } if step.key() == "8"),
        "{error}"
    );

    let count = done.clone();
    let second = idem.run_steps(id("a"), &(), |steps| async move {
        let new = steps.run("new", |_| async { Ok::<_, io::Error>(100) }).await?;
        let c = steps.run_keyed("line", 8, |_| async { Ok::<_, io::Error>(count.up()) });
        let b = steps.run_keyed("line", 7, |_| async { failed::<usize>("it is recorded") });
        let (c, b) = tokio::try_join!(c, b)?;
        let a = steps.run("a", |_| async { failed::<usize>("it is recorded") }).await?;
        Ok(vec![new, a, b, c])
    });
    assert_eq!(*second.await.unwrap(), [100, 1, 2, 3]);
}

#[tokio::test]
async fn the_same_name_twice_is_an_error_and_the_second_is_not_run() {
    let (idem, done) = (idem(), Count::default());
    let count = done.clone();
    let twice = idem.run_steps(id("a"), &(), |steps| async move {
        for _ in 0..2 {
            steps.run("mail", |_| async { Ok::<_, io::Error>(count.up()) }).await?;
        }
        Ok(())
    });
    let error = twice.await.unwrap_err();
    assert!(matches!(stopped(&error), StepError::Repeated { .. }), "{error}");
    assert_eq!(done.get(), 1);

    // Work that overlooks it is not recorded as done either, and nor is one with both at once.
    let overlooked = idem.run_steps(id("b"), &(), |steps| async move {
        let (one, other) = (Step::new("mail"), Step::new("mail"));
        let _ = tokio::join!(
            steps.run(one, |_| async {
                tokio::task::yield_now().await;
                Ok::<_, io::Error>(())
            }),
            steps.run(other, |_| async { Ok::<_, io::Error>(()) })
        );
        Ok(())
    });
    let error = overlooked.await.unwrap_err();
    assert!(matches!(stopped(&error), StepError::Repeated { .. }), "{error}");
}

#[tokio::test]
async fn a_step_that_failed_may_be_tried_again_in_its_attempt() {
    let (idem, done) = (idem(), Count::default());
    let reply = idem.run_steps(id("a"), &(), |steps| async move {
        loop {
            let tried = steps.run("charge", |_| async {
                match done.up() {
                    3 => Ok(3),
                    _ => failed("charge"),
                }
            });
            if let Ok(charge) = tried.await {
                return Ok(charge);
            }
        }
    });
    assert_eq!(*reply.await.unwrap(), 3);
}

#[tokio::test]
async fn a_recorded_step_that_the_code_does_not_know_is_an_error_unless_it_is_retired() {
    let idem = idem();
    let old = idem.run_steps(id("a"), &(), |steps| async move {
        steps.run("check", |_| async { Ok::<_, io::Error>(()) }).await?;
        steps.run("charge", |_| async { failed::<()>("charge") }).await
    });
    old.await.unwrap_err();

    let new = |idem: Idempotency<MemoryStore>| async move {
        idem.run_steps(id("a"), &(), |steps| async move {
            steps.run("charge", |_| async { Ok::<_, io::Error>(7) }).await
        })
        .await
    };
    let error = new(idem.clone()).await.unwrap_err();
    assert!(
        matches!(stopped(&error), StepError::Unknown { step } if step.name() == "check"),
        "{error}"
    );
    // Noticed at the end: the steps that were run are recorded, and the unknown one stays.
    let known = idem.recorded_steps(&id("a")).await.unwrap().unwrap();
    assert_eq!(known.steps.len(), 2);
    let retired = idem.with_workflow(Workflow::default().retired("check"));
    assert_eq!(*new(retired).await.unwrap(), 7);
}

#[tokio::test]
async fn a_recorded_step_with_another_input_is_an_error() {
    let idem = idem();
    let pay = |amount: &'static str, end: Result<(), &'static str>| {
        idem.run_steps(id("a"), &(), move |steps| async move {
            let charge = Step::new("charge").input(amount);
            let charged = steps
                .run(charge, |_| async { Ok::<_, io::Error>(amount.len()) })
                .await?;
            end.map_err(Stopped::because)?;
            Ok(charged)
        })
    };
    let error = pay("700", Err("later")).await.unwrap_err();
    assert!(matches!(stopped(&error), StepError::Work { .. }), "{error}");
    let error = pay("7000", Ok(())).await.unwrap_err();
    assert!(matches!(stopped(&error), StepError::InputChanged { .. }), "{error}");
    assert_eq!(*pay("700", Ok(())).await.unwrap(), 3);
}

#[tokio::test]
async fn downstream_keys_stay_the_same_and_differ_between_steps() {
    let idem = idem();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let (send, mut keys) = tokio::sync::mpsc::unbounded_channel();
        let run = idem.run_steps(id("a"), &(), |steps| async move {
            let context = steps.context().clone();
            send.send(context.downstream_key("charge")).unwrap();
            let mut all = Vec::new();
            for step in [Step::new("charge"), Step::new("charge").key(1), Step::new("charge1")] {
                let send = send.clone();
                let running = steps.run(step, |step| async move {
                    send.send(step.downstream_key()).unwrap();
                    tokio::task::yield_now().await;
                    failed::<()>("charge")
                });
                all.push(running);
            }
            // None of them succeeds, so that each attempt runs all.
            let _ = futures::future::join_all(all).await;
            Err::<(), _>(Stopped::because("again"))
        });
        run.await.unwrap_err();
        let mut all = Vec::new();
        while let Some(key) = keys.recv().await {
            all.push(key);
        }
        assert_eq!(all[0], all[1], "the step without a key is known by its name");
        seen.push(all);
    }
    assert_eq!(seen[0], seen[1]);
    let mut keys = seen[0].clone();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 3);
}

#[tokio::test]
async fn a_panic_in_a_step_reaches_the_caller_and_the_next_call_goes_on() {
    let (idem, done) = (idem(), Count::default());
    let run = || {
        let done = done.clone();
        idem.run_steps(id("a"), &(), |steps| async move {
            steps.run("first", |_| async { Ok::<_, io::Error>(()) }).await?;
            steps
                .run("second", |_| async {
                    assert!(done.up() > 1, "the first time");
                    Ok::<_, io::Error>(7)
                })
                .await
        })
    };
    let error = run().await.unwrap_err();
    let ErrorKind::Panicked(panic) = error.kind() else {
        panic!("{error}")
    };
    assert!(panic.message().contains("the first time"));
    assert_eq!(*run().await.unwrap(), 7);
}

#[tokio::test]
async fn an_attempt_that_has_lost_its_lease_records_nothing_and_learns_it() {
    let clock = ManualClock::new();
    let store = MemoryStore::with_clock(clock.clone());
    let make = || {
        Idempotency::builder(store.clone())
            .lease(Duration::from_secs(3_600))
            .build()
    };
    let (stale, other) = (make(), make());
    let (begun, go_on) = (
        Arc::new(tokio::sync::Notify::new()),
        Arc::new(tokio::sync::Notify::new()),
    );
    let (says, waits) = (Arc::clone(&begun), Arc::clone(&go_on));
    let late = tokio::spawn(async move {
        stale
            .run_steps(id("a"), &(), |steps| async move {
                let late = steps
                    .run("charge", |_| async {
                        says.notify_one();
                        waits.notified().await;
                        Ok::<_, io::Error>("stale".to_owned())
                    })
                    .await;
                let reason = late.as_ref().unwrap_err().reason();
                assert!(matches!(reason, StepError::LeaseLost), "{reason}");
                let next = steps
                    .run("next", |_| async { Ok::<_, io::Error>("not run".to_owned()) })
                    .await;
                assert!(next.is_err());
                Ok("overlooked".to_owned())
            })
            .await
    });
    begun.notified().await;
    clock.advance(Duration::from_secs(3_601));
    let reply = other.run_steps(id("a"), &(), |steps| async move {
        steps
            .run("charge", |_| async { Ok::<_, io::Error>("fresh".to_owned()) })
            .await
    });
    assert_eq!(*reply.await.unwrap(), "fresh");
    go_on.notify_one();
    let error = late.await.unwrap().unwrap_err();
    assert!(matches!(stopped(&error), StepError::LeaseLost), "{error}");
    let known = other.recorded_steps(&id("a")).await.unwrap().unwrap();
    assert_eq!(known.steps.len(), 1);
}

#[tokio::test]
async fn number_and_size_are_bounded() {
    let idem = idem().with_workflow(Workflow::default().max_steps(2).max_bytes(100));
    let many = idem.run_steps(id("many"), &(), |steps| async move {
        for line in 0..3 {
            steps
                .run_keyed("line", line, |_| async { Ok::<_, io::Error>(()) })
                .await?;
        }
        Ok(())
    });
    let error = many.await.unwrap_err();
    assert!(
        matches!(stopped(&error), StepError::TooMany { limit: 2, .. }),
        "{error}"
    );

    let done = Count::default();
    for held in [false, true] {
        let count = done.clone();
        let large = idem.run_steps(id("large"), &(), |steps| async move {
            let first = steps.run("a", |_| async { Ok::<_, io::Error>("x".repeat(60)) }).await?;
            let second = steps.run("b", |_| async {
                count.up();
                Ok::<_, io::Error>("y".repeat(60))
            });
            Ok((first, second.await?))
        });
        let error = large.await.unwrap_err();
        match held {
            true => assert!(matches!(error.kind(), ErrorKind::InDoubt { .. }), "{error}"),
            false => assert!(
                matches!(stopped(&error), StepError::TooLarge { size: 62, .. }),
                "{error}"
            ),
        }
    }
    // It was done, and that is recorded.
    assert_eq!(done.get(), 1);

    let large = "z".repeat(101);
    let input = idem.run_steps(id("input"), &large, |_| async { Ok(()) });
    let error = input.await.unwrap_err();
    assert!(
        matches!(stopped(&error), StepError::Codec { step: None, .. }),
        "{error}"
    );
    assert_eq!(error.effect(), Effect::Nothing);

    let named = idem.run_steps(id("name"), &(), |steps| async move {
        steps.run("", |_| async { Ok::<_, io::Error>(()) }).await
    });
    assert!(matches!(stopped(&named.await.unwrap_err()), StepError::InvalidName));
}

#[tokio::test]
async fn what_another_version_began_is_left_alone_unless_it_is_accepted() {
    let idem = idem();
    let begin = |idem: Idempotency<MemoryStore>, end: Result<(), &'static str>| async move {
        idem.run_steps(id("a"), &(), move |steps| async move {
            steps.run("a", |_| async { Ok::<_, io::Error>(()) }).await?;
            end.map_err(Stopped::because)
        })
        .await
    };
    let version = |version: &str| idem.with_workflow(Workflow::new("place_order").version(version));
    begin(version("1"), Err("later")).await.unwrap_err();
    let error = begin(version("2"), Ok(())).await.unwrap_err();
    let StepError::OtherWorkflow { version: found, .. } = stopped(&error) else {
        panic!("{error}")
    };
    assert_eq!(found, "1");
    begin(idem.with_workflow("refund"), Ok(())).await.unwrap_err();
    // Nothing was taken over: it is still the first attempt's.
    assert_eq!(idem.status(&id("a")).await.unwrap().unwrap().attempt, 1);
    let both = Workflow::new("place_order").version("2").accepts("1");
    let _ = begin(idem.with_workflow(both), Ok(())).await.unwrap();
}

#[tokio::test]
async fn a_step_that_may_run_once_and_did_not_tell_is_held() {
    let (idem, done) = (idem(), Count::default());
    let run = || {
        let done = done.clone();
        idem.run_steps(id("a"), &(), |steps| async move {
            let fax = Step::new("fax").at_most_once();
            let faxed = steps.run(fax, |_| async {
                done.up();
                failed::<()>("no answer")
            });
            faxed.await
        })
    };
    let error = run().await.unwrap_err();
    assert!(matches!(stopped(&error), StepError::InDoubt { .. }), "{error}");
    let error = run().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InDoubt { .. }), "{error}");
    assert_eq!(done.get(), 1);
    // A person is to decide.
    assert_eq!(idem.in_doubt(10, None).await.unwrap().len(), 1);
    assert!(idem.resume_steps(&id("a")).await.unwrap());
    let error = run().await.unwrap_err();
    assert!(matches!(stopped(&error), StepError::InDoubt { .. }), "{error}");
    let resolved = oneflight::Resolution::completed(&()).unwrap();
    idem.resolve(&id("a"), resolved).await.unwrap();
    let _ = run().await.unwrap();
    assert_eq!(done.get(), 1);
}

#[tokio::test]
async fn a_request_that_was_begun_without_steps_is_not_taken_over() {
    let store = MemoryStore::new();
    let idem = Idempotency::builder(store.clone()).build();
    let unknown = idem.try_run::<(), _, _>(id("a"), |_| async {
        Err(oneflight::idempotency::Unknown::because("no answer").into())
    });
    unknown.await.unwrap_err();
    let error = idem.run_steps(id("a"), &(), |_| async { Ok(()) }).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InDoubt { .. }), "{error}");
}

#[tokio::test]
async fn steps_go_with_their_record() {
    let clock = ManualClock::new();
    let store = MemoryStore::with_clock(clock.clone());
    let idem = Idempotency::builder(store.clone())
        .retention(Duration::from_secs(60))
        .build();
    let done = Count::default();
    let run = |key: &str| {
        let done = done.clone();
        idem.run_steps(id(key), &(), |steps| async move {
            steps.run("a", |_| async { Ok::<_, io::Error>(done.up()) }).await
        })
    };
    assert_eq!(*run("a").await.unwrap(), 1);
    assert_eq!(*run("b").await.unwrap(), 2);
    clock.advance(Duration::from_secs(61));
    // Past its retention it is new, with new steps.
    assert_eq!(*run("a").await.unwrap(), 3);
    assert_eq!(store.purge(10).await.unwrap(), 1);
    assert_eq!(store.load_steps(&id("b")).await.unwrap(), None);
    assert!(store.load_steps(&id("a")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_fork_has_the_steps_before_and_runs_the_others_again() {
    let (idem, done) = (idem(), Count::default());
    let run = |key: &str| {
        let done = done.clone();
        idem.run_steps(id(key), &7, |steps| async move {
            let mut all = Vec::new();
            for name in ["a", "b", "c"] {
                all.push(steps.run(name, |_| async { Ok::<_, io::Error>(done.up()) }).await?);
            }
            Ok(all)
        })
    };
    assert_eq!(*run("first").await.unwrap(), [1, 2, 3]);
    let forked = idem.fork_steps(&id("first"), &id("fork"), "b").await.unwrap();
    assert_eq!(forked, Forked::Begun { steps: 1 });
    let listed = idem.unfinished_steps(10).await.unwrap();
    assert_eq!(listed[0].id, id("fork"));
    assert_eq!(*run("fork").await.unwrap(), [1, 4, 5]);
    assert_eq!(*run("first").await.unwrap(), [1, 2, 3]);

    let absent = idem.fork_steps(&id("first"), &id("other"), "x").await.unwrap();
    assert_eq!(absent, Forked::Absent);
    let error = idem.fork_steps(&id("first"), &id("fork"), "b").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Conflict), "{error}");
}

#[tokio::test]
async fn a_declined_charge_is_an_answer_and_comes_back_the_same() {
    let (idem, done) = (idem(), Count::default());
    let run = || {
        let done = done.clone();
        idem.run_steps(id("a"), &(), |steps| async move {
            let charged: Result<u32, String> = steps
                .run("charge", |_| async {
                    done.up();
                    Ok::<_, io::Error>(Err("insufficient funds".to_owned()))
                })
                .await?;
            match done.get() {
                1 => {
                    done.up();
                    Err(Stopped::because("later"))
                }
                _ => Ok(charged.unwrap_err()),
            }
        })
    };
    run().await.unwrap_err();
    assert_eq!(*run().await.unwrap(), "insufficient funds");
    assert_eq!(done.get(), 2);
}
