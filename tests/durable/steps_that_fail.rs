//! Promise 16: an attempt does nothing behind a step of which nobody knows whether it was done, and nothing after its end.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use oneflight::idempotency::{Step, StepError, Steps, Stopped};
use oneflight::store::StepId;
use oneflight::{Error, ErrorKind, Idempotency, MemoryStore, RequestIdentity, Scope};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

const SOON: Duration = Duration::from_millis(5);

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), key).unwrap()
}

fn idem() -> Idempotency<MemoryStore> {
    Idempotency::builder(MemoryStore::new()).build()
}

fn timed_out<T>() -> Result<T, io::Error> {
    Err(io::Error::from(io::ErrorKind::TimedOut))
}

fn stopped(error: &Error) -> &StepError {
    match error.kind() {
        ErrorKind::Stopped(stopped) => stopped,
        other => panic!("{other:?}"),
    }
}

/// What was done in the world outside, in order.
#[derive(Clone, Default)]
struct Done(Arc<Mutex<Vec<&'static str>>>);

impl Done {
    fn now(&self, what: &'static str) -> Result<(), io::Error> {
        self.0.lock().push(what);
        Ok(())
    }

    fn all(&self) -> Vec<&'static str> {
        self.0.lock().clone()
    }
}

/// The answer to the charge is lost the first time, and the work would release the stock then.
#[tokio::test]
async fn nothing_new_is_done_behind_a_step_that_failed() {
    let (idem, done) = (idem(), Done::default());
    let place = || {
        let done = done.clone();
        idem.run_steps(id("a"), &7, |steps| async move {
            let charged = steps.run("charge", |_| async {
                match done.all().is_empty() {
                    true => done.now("charge").and(timed_out()),
                    false => Ok(()),
                }
            });
            match charged.await {
                Ok(()) => steps.run("book", |_| async { done.now("book") }).await?,
                Err(_) => steps.run("release", |_| async { done.now("release") }).await?,
            }
            Ok(())
        })
    };
    let error = place().await.unwrap_err();
    let StepError::Behind { step, failed, .. } = stopped(&error) else {
        panic!("{error}")
    };
    assert_eq!((step.name(), failed.name()), ("release", "charge"));
    let cause: &io::Error = error.cause().unwrap();
    assert_eq!(cause.kind(), io::ErrorKind::TimedOut);
    let _ = place().await.unwrap();
    assert_eq!(done.all(), ["charge", "book"]);
}

#[tokio::test]
async fn nothing_new_is_done_behind_a_step_that_was_dropped() {
    let (idem, done) = (idem(), Done::default());
    let place = idem.run_steps(id("a"), &7, |steps| async move {
        let charge = steps.run("charge", |_| std::future::pending::<Result<(), io::Error>>());
        if timeout(SOON, charge).await.is_err() {
            steps.run("release", |_| async { done.now("release") }).await?;
        }
        Ok(())
    });
    let error = place.await.unwrap_err();
    assert!(matches!(stopped(&error), StepError::Behind { .. }), "{error}");
}

#[tokio::test]
async fn once_it_has_succeeded_the_work_goes_on_and_what_ran_beside_it_may_end() {
    let (idem, done) = (idem(), Done::default());
    let reply = idem.run_steps(id("a"), &7, |steps| async move {
        let beside = steps.run("beside", |_| async {
            tokio::task::yield_now().await;
            done.now("beside")
        });
        let charge = || {
            steps.run("charge", |_| async {
                done.now("charge")?;
                match done.all().len() {
                    1 => timed_out(),
                    _ => Ok(()),
                }
            })
        };
        let (beside, charged) = tokio::join!(beside, charge());
        beside?;
        charged.unwrap_err();
        charge().await?;
        steps.run("book", |_| async { done.now("book") }).await?;
        Ok(done.all().join(", "))
    });
    assert_eq!(*reply.await.unwrap(), "charge, beside, charge, book");
}

#[tokio::test]
async fn behind_a_failure_that_is_recorded_every_attempt_takes_the_same_way() {
    let (idem, done) = (idem(), Done::default());
    let place = |end: Result<(), &'static str>| {
        let done = done.clone();
        idem.run_steps(id("a"), &7, move |steps| async move {
            let charged = steps.run_recording_errors("charge", |_| async { done.now("charge").and(timed_out::<()>()) });
            let charged = charged.await?;
            if charged.is_err() {
                steps.run("release", |_| async { done.now("release") }).await?;
            }
            end.map_err(Stopped::because)?;
            Ok(charged)
        })
    };
    let error = place(Err("later")).await.unwrap_err();
    assert!(matches!(stopped(&error), StepError::Work { .. }), "{error}");
    assert_eq!(*place(Ok(())).await.unwrap(), Err("timed out".to_owned()));
    assert_eq!(done.all(), ["charge", "release"]);
}

/// A limit around the step drops it. It was begun, and must not be again.
#[tokio::test]
async fn a_step_that_may_run_once_and_was_dropped_is_in_doubt() {
    for asked_again in [true, false] {
        let (idem, done) = (idem(), Done::default());
        let run = || {
            let done = done.clone();
            idem.run_steps(id("a"), &7, move |steps| async move {
                let fax = || {
                    let faxed = steps.run(Step::new("fax").at_most_once(), |_| async {
                        done.now("fax")?;
                        std::future::pending::<Result<(), io::Error>>().await
                    });
                    timeout(SOON, faxed)
                };
                let _ = fax().await;
                if asked_again {
                    let _ = fax().await;
                }
                Ok(())
            })
        };
        let error = run().await.unwrap_err();
        assert!(matches!(stopped(&error), StepError::InDoubt { .. }), "{error}");
        let error = run().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InDoubt { .. }), "{error}");
        assert_eq!(done.all(), ["fax"]);
    }
}

#[tokio::test]
async fn a_step_that_may_run_once_and_failed_says_why_it_is_in_doubt() {
    let idem = idem();
    let fax = idem.run_steps(id("a"), &7, |steps| async move {
        let faxed = steps.run(Step::new("fax").at_most_once(), |_| async { timed_out::<()>() });
        let stopped = faxed.await.unwrap_err();
        assert!(
            matches!(stopped.reason(), StepError::InDoubt { source: Some(_), .. }),
            "{stopped}"
        );
        Err::<(), _>(stopped)
    });
    let error = fax.await.unwrap_err();
    let cause: &io::Error = error.cause().unwrap();
    assert_eq!(cause.kind(), io::ErrorKind::TimedOut);
}

/// A task that the work left behind has a clone of the steps.
#[tokio::test]
async fn no_step_is_begun_after_the_end_of_the_attempt() {
    let ends: [fn() -> Result<(), Stopped>; 3] = [
        || Ok(()),
        || Err(Stopped::because("later")),
        || panic!("the attempt ends"),
    ];
    for end in ends {
        let (idem, done) = (idem(), Done::default());
        let (over, outlives) = (Arc::new(Notify::new()), Arc::new(Mutex::new(None)));
        let (waits, left) = (Arc::clone(&over), Arc::clone(&outlives));
        let late = done.clone();
        let _ = idem
            .run_steps(id("a"), &7, move |steps| async move {
                *left.lock() = Some(tokio::spawn(async move {
                    waits.notified().await;
                    steps.run("late", |_| async { late.now("late") }).await
                }));
                end()
            })
            .await;
        over.notify_one();
        let task = outlives.lock().take().unwrap();
        let stopped = task.await.unwrap().unwrap_err();
        assert!(matches!(stopped.reason(), StepError::Ended), "{stopped}");
        assert_eq!(done.all(), [""; 0]);
    }
}

#[tokio::test]
async fn work_that_does_not_wait_for_its_steps_has_no_result() {
    let idem = idem();
    let begun = Arc::new(AtomicUsize::new(0));
    let (says, count) = (Arc::new(Notify::new()), Arc::clone(&begun));
    let (send, end) = oneshot::channel::<()>();
    let waits = Arc::clone(&says);
    let run = idem.run_steps(id("a"), &7, move |steps: Steps<MemoryStore>| async move {
        let beside = steps.clone();
        tokio::spawn(async move {
            beside
                .run("beside", |_| async {
                    count.fetch_add(1, SeqCst);
                    says.notify_one();
                    end.await
                })
                .await
        });
        waits.notified().await;
        Ok(())
    });
    let error = run.await.unwrap_err();
    assert!(
        matches!(stopped(&error), StepError::Unawaited { step } if step.name() == "beside"),
        "{error}"
    );
    assert_eq!(begun.load(SeqCst), 1);
    drop(send);
}

/// What a person has found out is what the next attempt goes on with.
#[tokio::test]
async fn a_step_in_doubt_is_settled_by_a_person() {
    for was_done in [true, false] {
        let (idem, done) = (idem(), Done::default());
        let run = || {
            let done = done.clone();
            idem.run_steps(id("a"), &7, move |steps| async move {
                let faxed = steps.run(Step::new("fax").at_most_once(), |_| async {
                    done.now("fax")?;
                    match done.all().len() {
                        1 => timed_out(),
                        pages => Ok(pages),
                    }
                });
                faxed.await
            })
        };
        let fax = StepId::new("fax", "");
        assert!(!idem.step_was_done(&id("a"), &fax, &7).await.unwrap(), "there is none");
        run().await.unwrap_err();
        assert!(
            !idem
                .step_was_not_done(&id("a"), &StepId::new("mail", ""))
                .await
                .unwrap()
        );
        let settled = match was_done {
            true => idem.step_was_done(&id("a"), &fax, &7_usize).await,
            false => idem.step_was_not_done(&id("a"), &fax).await,
        };
        assert!(settled.unwrap());
        assert!(!idem.step_was_not_done(&id("a"), &fax).await.unwrap(), "it is settled");
        assert!(idem.resume_steps(&id("a")).await.unwrap());
        let expected = if was_done { (7, 1) } else { (2, 2) };
        assert_eq!((*run().await.unwrap(), done.all().len()), expected);
    }
}

/// Without a fingerprint, nothing else tells two payloads apart.
#[tokio::test]
async fn another_input_does_not_go_on_with_what_was_begun() {
    let idem = idem();
    let run = |input: u32, with: RequestIdentity, end: Result<(), &'static str>| {
        idem.run_steps(with, &input, move |steps| async move {
            steps.run("charge", |_| async { Ok::<_, io::Error>(input) }).await?;
            end.map_err(Stopped::because)
        })
    };
    run(7, id("a"), Err("later")).await.unwrap_err();
    let error = run(8, id("a"), Ok(())).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Conflict), "{error}");
    let _ = run(7, id("a"), Ok(())).await.unwrap();
    // Where there is one, the encoding of the input does not matter.
    let marked = || id("b").with_fingerprint("one");
    run(7, marked(), Err("later")).await.unwrap_err();
    let _ = run(8, marked(), Ok(())).await.unwrap();
}
