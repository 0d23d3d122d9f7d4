//! The statements on `oneflight_workflows` and `oneflight_steps`, and how their rows are read.
//!
//! There is one writer. So a token that was checked within a transaction stays what it is until its end.

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::busy::unavailable;
use super::claims::{self, Before, Claims};
use super::ending::End;
use super::file::{DatabaseFile, Databases, databases};
use super::records::{self, Along, Statement, and_commit, column, fingerprint, number, unsigned};
use super::seal::open_seal_for_record;
use oneflight::identity::RequestIdentity;
use oneflight::record::{FencingToken, RecordedResult};
use oneflight::store::{
    Claim, ClaimOutcome, ClaimRequest, Decision, Denied, Standing, StartedBy, StepId, StepRecord, StepsClaim,
    StoreError, WorkflowRecord, WorkflowStart, decide_steps,
};

/// What is known beside a record: one row for each step, or one without a step.
macro_rules! known {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            "SELECT w.id, w.token, w.name, w.version, w.input, w.tries, w.held AND w.open,
                    s.name, s.key, s.input, s.result, main_file, attached
             FROM ",
            databases!(),
            " LEFT JOIN main.oneflight_workflows w ON w.scope = ?1 AND w.key = ?2
                AND EXISTS (SELECT 1 FROM main.oneflight_records r WHERE r.token = w.token)
              LEFT JOIN main.oneflight_steps s ON s.workflow = w.id ORDER BY s.rowid",
            $after
        )
    };
}

/// Records a step, if its token holds the claim.
macro_rules! record {
    ($before:literal, $after:expr) => {
        concat!(
            $before,
            "INSERT INTO main.oneflight_steps (workflow, name, key, token, input, result, recorded_at)
             SELECT w.id, ?4, ?5, ?3, ?6, ?7, CAST(unixepoch('subsec') * 1000 AS INTEGER)
             FROM main.oneflight_workflows w JOIN main.oneflight_records r ON r.token = w.token
             WHERE w.scope = ?1 AND w.key = ?2 AND w.token = ?3 AND r.state = 'in_progress'
             ON CONFLICT (workflow, name, key) DO UPDATE
             SET token = CASE WHEN result IS NULL THEN excluded.token ELSE token END,
                 result = coalesce(result, excluded.result)",
            $after
        )
    };
}

/// Whether the lease of a record `r` is over.
macro_rules! is_over {
    () => {
        " AND r.lease_expires_at <= CAST(unixepoch('subsec') * 1000 AS INTEGER)"
    };
}

macro_rules! set_standing {
    ($set:expr, $if:expr) => {
        concat!(
            "UPDATE main.oneflight_workflows SET ",
            $set,
            " WHERE scope = ?1 AND key = ?2 AND token = ?3
                AND EXISTS (SELECT 1 FROM main.oneflight_records r WHERE r.token = ?3 AND r.state = 'in_progress'",
            $if,
            ")"
        )
    };
}

/// Changes a step of a mutation that is held and whose lease is over. The first statement tells whether it is.
macro_rules! settle {
    ($change:literal) => {
        concat!(
            set_standing!("held = held", concat!(" AND oneflight_workflows.held = 1", is_over!())),
            "; ",
            $change,
            " AND name = ?4 AND key = ?5 AND workflow IN (
                SELECT w.id FROM main.oneflight_workflows w JOIN main.oneflight_records r ON r.token = w.token
                WHERE w.scope = ?1 AND w.key = ?2 AND w.token = ?3 AND w.held = 1 AND r.state = 'in_progress'",
            is_over!(),
            ")"
        )
    };
}

/// Records a step.
pub(super) fn record<'q>(id: &'q RequestIdentity, token: FencingToken, step: &'q StepRecord) -> Statement<'q> {
    bind_step(sqlx::query(record!("", "")), id, token, step)
}

fn bind_step<'q>(
    statement: Statement<'q>,
    id: &'q RequestIdentity,
    token: FencingToken,
    step: &'q StepRecord,
) -> Statement<'q> {
    statement
        .bind(id.scope())
        .bind(id.key())
        .bind(number(token))
        .bind(step.id.name())
        .bind(step.id.key())
        .bind(step.input.map(|input| input.as_bytes().to_vec()))
        .bind(step.result.as_ref().map(RecordedResult::as_bytes))
}

/// Writes down the answer of a step, or deletes one that has no result.
pub(super) fn settle<'q>(
    id: &'q RequestIdentity,
    token: FencingToken,
    step: &'q StepId,
    answer: Option<&'q RecordedResult>,
) -> Statement<'q> {
    let settle = match answer {
        Some(_) => settle!(
            "UPDATE main.oneflight_steps
             SET result = ?6, token = ?3, recorded_at = CAST(unixepoch('subsec') * 1000 AS INTEGER) WHERE true"
        ),
        None => settle!("DELETE FROM main.oneflight_steps WHERE result IS NULL"),
    };
    let settle = sqlx::query(settle).bind(id.scope()).bind(id.key()).bind(number(token));
    let settle = settle.bind(step.name()).bind(step.key());
    match answer {
        Some(answer) => settle.bind(answer.as_bytes()),
        None => settle,
    }
}

/// Sets what becomes of a mutation.
pub(super) fn set_standing(id: &RequestIdentity, token: FencingToken, standing: Standing) -> Statement<'_> {
    sqlx::query(match standing {
        Standing::HandedBack => set_standing!("tries = max(tries - 1, 0)", ""),
        Standing::Held => set_standing!("held = 1", ""),
        Standing::GivenUp => set_standing!(
            "held = 1",
            concat!(is_over!(), " AND main.oneflight_workflows.held = 0")
        ),
        Standing::Resumed => set_standing!("tries = 0, held = 0", ""),
    })
    .bind(id.scope())
    .bind(id.key())
    .bind(number(token))
}

/// Reads what is known beside a record, in a transaction of its own. The rows are for [`known()`].
pub(super) fn load(id: &RequestIdentity) -> Statement<'_> {
    sqlx::query(known!("BEGIN; ", "; COMMIT"))
        .bind(id.scope())
        .bind(id.key())
}

/// Returns what is known beside a record, if anything is.
pub(super) fn known(rows: &[SqliteRow]) -> Result<Option<WorkflowRecord>, StoreError> {
    let Some(first) = rows.first() else { return Ok(None) };
    if column::<Option<i64>>(first, 0)?.is_none() {
        return Ok(None);
    }
    let mut known = WorkflowRecord {
        token: FencingToken::new(unsigned(column(first, 1)?)?),
        name: column(first, 2)?,
        version: column(first, 3)?,
        input: RecordedResult::from_stored(column::<&[u8]>(first, 4)?),
        tries: column(first, 5)?,
        held: column(first, 6)?,
        steps: Vec::with_capacity(rows.len()),
    };
    for row in rows {
        let Some(name) = column::<Option<String>>(row, 7)? else {
            break;
        };
        known.steps.push(StepRecord {
            id: StepId::new(name, column::<String>(row, 8)?),
            input: fingerprint(row, 9)?,
            result: column::<Option<&[u8]>>(row, 10)?.map(RecordedResult::from_stored),
        });
    }
    Ok(Some(known))
}

/// Decides under the write lock, and writes what follows from that.
pub(super) async fn begin(
    connection: &mut SqliteConnection,
    request: &ClaimRequest,
    start: WorkflowStart,
    file: &DatabaseFile,
) -> Result<(End, ClaimOutcome<StepsClaim>), StoreError> {
    let id = &request.id;
    let (record, _) = records::select_within(connection, id, file).await?;
    let before = record.as_ref().map(Before::of);
    let rows = sqlx::query(known!("", "")).bind(id.scope()).bind(id.key());
    let known = known(&rows.fetch_all(&mut *connection).await.map_err(unavailable)?)?;
    let (decision, goes_on) = decide_steps(record, known.as_ref(), request, &start);
    let (attempt, took_over) = match (decision, known.as_ref()) {
        (Decision::Grant { attempt, took_over }, _) => (attempt, took_over),
        (Decision::Unchanged(ClaimOutcome::Denied(denied)), _) => {
            return Ok((End::RollBack, ClaimOutcome::Denied(denied)));
        }
        (Decision::Unchanged(ClaimOutcome::Granted(claim)), Some(workflow)) => {
            let workflow = workflow.clone();
            return Ok((End::RollBack, ClaimOutcome::Granted(StepsClaim { claim, workflow })));
        }
        // This very holder has claimed without steps.
        (Decision::Unchanged(ClaimOutcome::Granted(claim)), None) => {
            let denied = Denied::InProgress {
                lease_remaining: request.lease,
                attempt: claim.attempt(),
            };
            return Ok((End::RollBack, ClaimOutcome::Denied(denied)));
        }
    };
    let (tries, version) = (u32::from(start.by == StartedBy::Completer), start.version);
    let workflow = known.filter(|_| goes_on).unwrap_or(WorkflowRecord {
        token: FencingToken::new(0),
        name: start.name,
        version: version.clone(),
        input: start.input,
        tries: 0,
        held: false,
        steps: start.steps,
    });
    let written = write(
        connection,
        request,
        (before, attempt),
        tries,
        version,
        workflow,
        goes_on,
    )
    .await;
    let workflow = written.map_err(unavailable)?;
    let claim = Claim::new(id.clone(), workflow.token, attempt, took_over);
    Ok((End::Commit, ClaimOutcome::Granted(StepsClaim { claim, workflow })))
}

/// Draws a token, and writes the record and what stands beside it.
async fn write(
    connection: &mut SqliteConnection,
    request: &ClaimRequest,
    (before, attempt): (Option<Before>, u32),
    tries: u32,
    version: String,
    mut workflow: WorkflowRecord,
    goes_on: bool,
) -> sqlx::Result<WorkflowRecord> {
    let (scope, key) = (request.id.scope(), request.id.key());
    // What stands there is not deleted with the record that is replaced, unless it is to be.
    let apart = match goes_on {
        true => "UPDATE main.oneflight_workflows SET token = -token WHERE scope = ?1 AND key = ?2",
        false => {
            "DELETE FROM main.oneflight_steps WHERE workflow IN
                (SELECT id FROM main.oneflight_workflows WHERE scope = ?1 AND key = ?2);
             DELETE FROM main.oneflight_workflows WHERE scope = ?1 AND key = ?2"
        }
    };
    let apart = sqlx::query(apart).bind(scope).bind(key);
    apart.execute(&mut *connection).await?;
    let token = claims::grant(&mut *connection, request, before, attempt, Claims::Outside).await?;
    workflow.token = token;
    workflow.version = version;
    workflow.tries = workflow.tries.saturating_add(tries);
    if goes_on {
        let update = sqlx::query(
            "UPDATE main.oneflight_workflows SET token = ?, version = ?, tries = ?, open = 1 WHERE scope = ? AND key = ?",
        );
        let update = update.bind(number(token)).bind(&workflow.version).bind(workflow.tries);
        let update = update.bind(scope).bind(key);
        update.execute(connection).await?;
        return Ok(workflow);
    }
    let insert = sqlx::query(
        "INSERT INTO main.oneflight_workflows (id, scope, key, token, name, version, input, tries, started_at)
         VALUES (?1, ?2, ?3, ?1, ?4, ?5, ?6, ?7, CAST(unixepoch('subsec') * 1000 AS INTEGER))",
    );
    let insert = insert.bind(number(token)).bind(scope).bind(key);
    let insert = insert.bind(&workflow.name).bind(&workflow.version);
    let insert = insert.bind(workflow.input.as_bytes()).bind(workflow.tries);
    insert.execute(&mut *connection).await?;
    for step in &workflow.steps {
        record(&request.id, token, step).execute(&mut *connection).await?;
    }
    Ok(workflow)
}

/// Sees to it that a token holds the claim, and sets the savepoint of the work.
pub(super) async fn hold(
    connection: &mut SqliteConnection,
    id: &RequestIdentity,
    token: FencingToken,
    file: &DatabaseFile,
) -> Result<Databases, StoreError> {
    let hold = sqlx::query(concat!(
        "SELECT EXISTS (SELECT 1 FROM main.oneflight_workflows w JOIN main.oneflight_records r ON r.token = w.token
                        WHERE w.scope = ? AND w.key = ? AND w.token = ? AND r.state = 'in_progress'),
                main_file, attached
         FROM ",
        databases!(),
        "; SAVEPOINT oneflight_work"
    ));
    let hold = hold.bind(id.scope()).bind(id.key()).bind(number(token));
    let rows = hold.fetch_all(connection).await.map_err(unavailable)?;
    let row = rows.first().ok_or(sqlx::Error::RowNotFound).map_err(unavailable)?;
    let databases = file.seen_in(row)?;
    match column(row, 0)? {
        true => Ok(databases),
        false => Err(StoreError::Outdated { token }),
    }
}

/// Releases the savepoint of the work, records the step, and opens the seal for that. The row is for
/// [`put`](super::answers::put).
pub(super) fn release_and_record<'q>(
    along: Along,
    id: &'q RequestIdentity,
    token: FencingToken,
    step: &'q StepRecord,
) -> Statement<'q> {
    let statement = match along {
        Along::Nothing => record!("RELEASE oneflight_work; ", open_seal_for_record!()),
        Along::Commit => record!(
            "RELEASE oneflight_work; ",
            concat!(open_seal_for_record!(), and_commit!())
        ),
    };
    bind_step(sqlx::query(statement), id, token, step)
}

/// Returns whether a step is recorded, in the transaction that is open. `None` if its mutation is not there any more.
pub(super) async fn is_recorded(
    connection: &mut SqliteConnection,
    id: &RequestIdentity,
    token: FencingToken,
    step: &StepId,
) -> Result<Option<bool>, StoreError> {
    let look = sqlx::query(
        "SELECT s.token = ?3 FROM main.oneflight_workflows w
         LEFT JOIN main.oneflight_steps s ON s.workflow = w.id AND s.name = ?4 AND s.key = ?5
         WHERE w.scope = ?1 AND w.key = ?2",
    );
    let look = look.bind(id.scope()).bind(id.key()).bind(number(token));
    let look = look.bind(step.name()).bind(step.key());
    let row = look.fetch_optional(connection).await.map_err(unavailable)?;
    row.map(|row| Ok(column::<Option<bool>>(&row, 0)?.unwrap_or(false)))
        .transpose()
}
