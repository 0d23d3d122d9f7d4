//! Every case that a claim can meet, and what `decide` says about it: for stores that decide in a language of their own.

use std::time::Duration;

use oneflight::identity::{Fingerprint, RequestIdentity, Scope};
use oneflight::record::{CodecId, FencingToken, HolderId, Record, RecordedResult, State, Timestamp, Verdict};
use oneflight::store::{ClaimOutcome, ClaimRequest, Decision, Denied, Store, Takeover, decide};

pub const HOUR: Duration = Duration::from_secs(3600);

/// What an answer comes to, without what depends on the moment.
#[derive(Debug, PartialEq)]
pub enum Answer {
    Granted {
        new: bool,
        attempt: u32,
        took_over: Option<FencingToken>,
    },
    Completed(RecordedResult),
    InProgress {
        attempt: u32,
    },
    Conflict,
    InDoubt {
        token: FencingToken,
        attempt: u32,
    },
}

/// What an outcome comes to where a record with this token was there.
pub fn of_outcome(outcome: ClaimOutcome, there: Option<FencingToken>) -> Answer {
    match outcome {
        ClaimOutcome::Granted(claim) => Answer::Granted {
            new: there != Some(claim.token()),
            attempt: claim.attempt(),
            took_over: claim.took_over(),
        },
        ClaimOutcome::Denied(Denied::Completed(record)) => Answer::Completed(record.result().unwrap().clone()),
        ClaimOutcome::Denied(Denied::InProgress {
            lease_remaining,
            attempt,
        }) => {
            assert!(lease_remaining > HOUR / 2, "{lease_remaining:?}");
            Answer::InProgress { attempt }
        }
        ClaimOutcome::Denied(Denied::Conflict) => Answer::Conflict,
        ClaimOutcome::Denied(Denied::InDoubt { token, attempt }) => Answer::InDoubt { token, attempt },
        other => panic!("{other:?}"),
    }
}

fn of_decision(decision: Decision, there: Option<FencingToken>) -> Answer {
    match decision {
        Decision::Grant { attempt, took_over } => Answer::Granted {
            new: true,
            attempt,
            took_over,
        },
        Decision::Unchanged(outcome) => of_outcome(outcome, there),
    }
}

#[derive(Clone, Copy, Debug)]
pub enum There {
    Nothing,
    InProgress { lease_runs: bool },
    Completed { is_kept: bool },
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Never,
    Expired,
    OfThis,
    OfAnother,
}

/// A record at an instant of its own; the code that puts it into a store moves its times to the store's now.
pub fn record(
    there: There,
    fingerprint: Option<Fingerprint>,
    holder: HolderId,
    attempt: u32,
    token: FencingToken,
) -> Option<Record> {
    let now = Timestamp::from_millis(10 * 3_600_000);
    let (past, future) = (Timestamp::from_millis(9 * 3_600_000), now.after(HOUR));
    let state = match there {
        There::Nothing => return None,
        There::InProgress { lease_runs } => State::InProgress {
            lease_expires: if lease_runs { future } else { past },
        },
        There::Completed { is_kept } => State::Completed {
            result: RecordedResult::value(Verdict::Performed, CodecId::Json, b"1"),
            completed: past,
            expires: if is_kept { future } else { past },
        },
    };
    Some(Record::new(fingerprint, token, holder, attempt, state, now))
}

/// By how many milliseconds an instant of a record is after the one at which the record was read.
pub fn offset(record: &Record, at: Timestamp) -> i64 {
    at.as_millis().cast_signed() - record.observed.as_millis().cast_signed()
}

/// Holds a store's claim against `decide`, case by case; those of requests that are held among them if `helds` says so.
/// `token` makes a token that the store could have drawn for an
/// identity, and another one for each other number; `put` puts a record there.
pub async fn agrees<S: Store>(
    store: &S,
    helds: &[bool],
    token: impl AsyncFn(&RequestIdentity, u64) -> FencingToken,
    put: impl AsyncFn(&RequestIdentity, &Record),
) {
    let (us, other) = (HolderId::random(), HolderId::random());
    let prints = [None, Some(Fingerprint::of("one")), Some(Fingerprint::of("two"))];
    let states = [
        There::Nothing,
        There::InProgress { lease_runs: true },
        There::InProgress { lease_runs: false },
        There::Completed { is_kept: true },
        There::Completed { is_kept: false },
    ];
    let mut cases = Vec::new();
    for there in states {
        for print_there in prints {
            for print_asked in prints {
                for holder in [us, other] {
                    for attempt in [1, 7, u32::MAX] {
                        for asked in [Asked::Never, Asked::Expired, Asked::OfThis, Asked::OfAnother] {
                            for &held in helds {
                                cases.push((there, print_there, print_asked, holder, attempt, asked, held));
                            }
                        }
                    }
                }
            }
        }
    }
    let mut granted = 0;
    for (number, &(there, print_there, print_asked, holder, attempt, asked, held)) in cases.iter().enumerate() {
        let id = RequestIdentity::new(Scope::new("case"), format!("k{number}")).unwrap();
        let id = match print_asked {
            Some(print) => id.with_known_fingerprint(print),
            None => id,
        };
        let this = token(&id, 0).await;
        let takeover = match asked {
            Asked::Never => Takeover::Never,
            Asked::Expired => Takeover::Expired,
            Asked::OfThis => Takeover::Of(this),
            Asked::OfAnother => Takeover::Of(token(&id, 1).await),
        };
        let mut record = record(there, print_there, holder, attempt, this);
        if let Some(record) = &mut record {
            // What is completed waits for no decision any more.
            record.held = held && matches!(there, There::InProgress { .. });
            put(&id, record).await;
        }
        let request = ClaimRequest::new(&id, HOUR).holder(us).takeover(takeover);
        let case = format!(
            "{there:?}, {print_there:?} asked with {print_asked:?}, holder is us: {}, attempt {attempt}, {asked:?}, \
             held: {held}",
            holder == us
        );
        let expected = of_decision(decide(record.clone(), &request), Some(this));
        let answered = of_outcome(store.claim(request).await.unwrap(), Some(this));
        assert_eq!(answered, expected, "{case}");
        // And what is there now is what was answered.
        let after = store.load(&id).await.unwrap().unwrap();
        if let Answer::Granted { new: true, attempt, .. } = answered {
            granted += 1;
            let is = (after.holder, after.attempt, after.fingerprint);
            assert_eq!(is, (us, attempt, id.fingerprint()), "{case}");
            assert!(after.lease_remaining().unwrap() > HOUR / 2, "{case}");
            // A holder that has taken a held one over may die as well, and has not told by then what became of it.
            let still_in_doubt = matches!(there, There::InProgress { .. }) && held;
            assert_eq!(after.held, still_in_doubt, "{case}");
        } else {
            let before = record.unwrap();
            let (is, was) = (
                (after.token, after.holder, after.attempt, after.held),
                (before.token, before.holder, before.attempt, before.held),
            );
            assert_eq!(is, was, "{case}");
            assert_eq!(after.result(), before.result(), "{case}");
        }
    }
    println!("{} cases, {granted} of them granted anew", cases.len());
    assert_eq!(cases.len(), 5 * 3 * 3 * 2 * 3 * 4 * helds.len());
    assert!(granted > 0 && granted < cases.len());
}
