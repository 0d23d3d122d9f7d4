//! The claim decides in SQL, in one round trip. It must decide as `decide` does, in every case that there is.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use oneflight::identity::{Fingerprint, RequestId, Scope};
use oneflight::record::{CodecId, FencingToken, HolderId, Record, RecordedResult, State, Timestamp, Verdict};
use oneflight::store::{ClaimOutcome, ClaimRequest, Decision, PostgresStore, Store, Takeover, decide};

#[path = "common/postgres.rs"]
mod postgres;

use postgres::server;

const HOUR: Duration = Duration::from_secs(3600);
const TOKEN: u64 = 1_000_000;

/// What an answer comes to, without what depends on the moment.
#[derive(Debug, PartialEq)]
enum Answer {
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

fn of_outcome(outcome: ClaimOutcome) -> Answer {
    match outcome {
        ClaimOutcome::Granted(claim) => Answer::Granted {
            new: claim.token() != FencingToken::new(TOKEN),
            attempt: claim.attempt(),
            took_over: claim.took_over(),
        },
        ClaimOutcome::Completed(record) => Answer::Completed(record.result().unwrap().clone()),
        ClaimOutcome::InProgress {
            lease_remaining,
            attempt,
        } => {
            assert!(lease_remaining > HOUR / 2, "{lease_remaining:?}");
            Answer::InProgress { attempt }
        }
        ClaimOutcome::Conflict => Answer::Conflict,
        ClaimOutcome::InDoubt { token, attempt } => Answer::InDoubt { token, attempt },
        other => panic!("{other:?}"),
    }
}

fn of_decision(decision: Decision) -> Answer {
    match decision {
        Decision::Grant { attempt, took_over } => Answer::Granted {
            new: true,
            attempt,
            took_over,
        },
        Decision::Answer(outcome) => of_outcome(outcome),
        other => panic!("{other:?}"),
    }
}

#[derive(Clone, Copy, Debug)]
enum There {
    Nothing,
    InProgress { lease_runs: bool },
    Completed { is_kept: bool },
}

fn record(
    there: There,
    fingerprint: Option<Fingerprint>,
    holder: HolderId,
    attempt: u32,
    result: &RecordedResult,
) -> Option<Record> {
    let now = Timestamp::from_millis(10 * 3_600_000);
    let (past, future) = (Timestamp::from_millis(9 * 3_600_000), now.after(HOUR));
    let state = match there {
        There::Nothing => return None,
        There::InProgress { lease_runs } => State::InProgress {
            lease_expires: if lease_runs { future } else { past },
        },
        There::Completed { is_kept } => State::Completed {
            result: result.clone(),
            completed: past,
            expires: if is_kept { future } else { past },
        },
    };
    Some(Record::new(
        fingerprint,
        FencingToken::new(TOKEN),
        holder,
        attempt,
        state,
        now,
    ))
}

/// Puts the row there that the record stands for, with its times about the server's now.
async fn put(store: &PostgresStore, id: &RequestId, record: &Record) {
    let (lease, completed, expires, result) = match &record.state {
        State::InProgress { lease_expires } => (Some(*lease_expires), None, None, None),
        State::Completed {
            result,
            completed,
            expires,
        } => (None, Some(*completed), Some(*expires), Some(result)),
        other => panic!("{other:?}"),
    };
    let offset =
        |at: Option<Timestamp>| at.map(|at| at.as_millis().cast_signed() - record.observed.as_millis().cast_signed());
    sqlx::query(
        "INSERT INTO oneflight_records
            (scope, key, token, fingerprint, holder, attempt, claimed_at, lease_expires_at, completed_at, expires_at, result)
         SELECT $1, $2, $3, $4, $5, $6, now, now + $7, now + $8, now + $9, $10
         FROM (SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now) AS instant",
    )
    .bind(id.scope())
    .bind(id.key())
    .bind(record.token.get().cast_signed())
    .bind(record.fingerprint.as_ref().map(|it| it.as_bytes().to_vec()))
    .bind(record.holder.as_bytes().to_vec())
    .bind(i64::from(record.attempt))
    .bind(offset(lease))
    .bind(offset(completed))
    .bind(offset(expires))
    .bind(result.map(|it| it.as_bytes().to_vec()))
    .execute(store.pool())
    .await
    .unwrap();
}

#[tokio::test]
async fn the_statement_decides_as_the_function_does() {
    let schema = server().schema().await;
    let store = PostgresStore::open(schema.pool(2)).await.unwrap();
    let (us, other) = (HolderId::random(), HolderId::random());
    let result = RecordedResult::value(Verdict::Performed, CodecId::Json, b"1");
    let prints = [None, Some(Fingerprint::of("one")), Some(Fingerprint::of("two"))];
    let states = [
        There::Nothing,
        There::InProgress { lease_runs: true },
        There::InProgress { lease_runs: false },
        There::Completed { is_kept: true },
        There::Completed { is_kept: false },
    ];
    let takeovers = [
        Takeover::Never,
        Takeover::Expired,
        Takeover::Of(FencingToken::new(TOKEN)),
        Takeover::Of(FencingToken::new(TOKEN + 1)),
    ];
    let mut cases = 0;
    let mut granted = 0;
    for there in states {
        for print_there in prints {
            for print_asked in prints {
                for holder in [us, other] {
                    for attempt in [1, 7, u32::MAX] {
                        for takeover in takeovers {
                            cases += 1;
                            let id = RequestId::new(Scope::new("case"), format!("k{cases}")).unwrap();
                            let id = match print_asked {
                                Some(print) => id.with_known_fingerprint(print),
                                None => id,
                            };
                            let record = record(there, print_there, holder, attempt, &result);
                            if let Some(record) = &record {
                                put(&store, &id, record).await;
                            }
                            let request = ClaimRequest::new(&id, HOUR).holder(us).takeover(takeover);
                            let case = format!(
                                "{there:?}, {print_there:?} asked with {print_asked:?}, holder is us: {}, attempt {attempt}, {takeover:?}",
                                holder == us
                            );
                            let expected = of_decision(decide(record.clone(), &request));
                            let answered = of_outcome(store.claim(request).await.unwrap());
                            assert_eq!(answered, expected, "{case}");
                            // And what is there now is what was answered.
                            let after = store.load(&id).await.unwrap();
                            match answered {
                                Answer::Granted { new: true, attempt, .. } => {
                                    granted += 1;
                                    let after = after.unwrap();
                                    assert_eq!(
                                        (after.holder, after.attempt, after.fingerprint),
                                        (us, attempt, id.fingerprint()),
                                        "{case}"
                                    );
                                    assert!(after.lease_remaining().unwrap() > HOUR / 2, "{case}");
                                }
                                _ => {
                                    let (after, before) = (after.unwrap(), record.unwrap());
                                    assert_eq!(
                                        (after.token, after.holder, after.attempt),
                                        (before.token, before.holder, before.attempt),
                                        "{case}"
                                    );
                                    assert_eq!(after.result(), before.result(), "{case}");
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    println!("{cases} cases, {granted} of them granted anew");
    assert_eq!(cases, 5 * 3 * 3 * 2 * 3 * 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_while_the_statement_runs_is_what_it_answers_with() {
    let schema = server().schema().await;
    let store = PostgresStore::open(schema.pool(4)).await.unwrap();
    let result = RecordedResult::value(Verdict::Performed, CodecId::Json, b"1");
    let now = "floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    let renews = format!("UPDATE oneflight_records SET lease_expires_at = {now} + 3600000 WHERE key = $1");
    let completes = format!(
        "UPDATE oneflight_records SET lease_expires_at = NULL, completed_at = {now}, expires_at = {now} + 3600000,
                result = '\\x0100013100' WHERE key = $1"
    );
    let takes_over = format!(
        "UPDATE oneflight_records SET token = 2000000, attempt = 2, lease_expires_at = {now} + 3600000 WHERE key = $1"
    );
    let releases = "DELETE FROM oneflight_records WHERE key = $1".to_owned();
    for (change, sql) in [
        ("renews", renews),
        ("completes", completes),
        ("takes over", takes_over),
        ("releases", releases),
    ] {
        let id = RequestId::new(Scope::new("case"), change.replace(' ', "-")).unwrap();
        let there = There::InProgress { lease_runs: false };
        let record = record(there, None, HolderId::random(), 1, &result).unwrap();
        put(&store, &id, &record).await;
        let mut elsewhere = store.pool().begin().await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(id.key())
            .execute(&mut *elsewhere)
            .await
            .unwrap();
        let claiming = tokio::spawn({
            let (store, id) = (store.clone(), id.clone());
            async move {
                store
                    .claim(ClaimRequest::new(&id, HOUR).takeover(Takeover::Expired))
                    .await
            }
        });
        // It has seen a lease that is over by then, and waits for the row.
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%drawn AS%'";
        while sqlx::query_scalar::<_, i64>(waits)
            .fetch_one(store.pool())
            .await
            .unwrap()
            == 0
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        elsewhere.commit().await.unwrap();
        let answer = claiming.await.unwrap().unwrap();
        match change {
            "renews" => assert!(
                matches!(answer, ClaimOutcome::InProgress { attempt: 1, .. }),
                "{answer:?}"
            ),
            "completes" => assert!(matches!(answer, ClaimOutcome::Completed(_)), "{answer:?}"),
            "takes over" => assert!(
                matches!(answer, ClaimOutcome::InProgress { attempt: 2, .. }),
                "{answer:?}"
            ),
            _ => assert_eq!(
                of_outcome(answer),
                Answer::Granted {
                    new: true,
                    attempt: 1,
                    took_over: None
                }
            ),
        }
    }
}
