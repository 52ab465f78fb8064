//! A line of the answer to work in bulk.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    domain::UserId,
    exchange::{MemberError, Refused, Row, Tally},
    http::{
        body,
        problem::{FieldError, Kind, Problem, ProblemBody},
    },
    service::Written,
};

/// What became of a row: a line of the answer.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BulkLine)]
pub(in crate::http) struct BulkLine<'a> {
    /// The line of the body that the row begins in, from 1.
    #[schema(example = 1, minimum = 1)]
    line: u64,
    /// The line that the row ends in, if that is another one. Of `stopped`: the last line of a body in which a quoted cell
    /// is not closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 3, minimum = 1)]
    last_line: Option<u64>,
    /// `stopped`: neither this row nor any after it was processed.
    outcome: Outcome,
    /// The user, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Uuid>,
    /// Why the row was refused, or why it was stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<ProblemBody<'a>>,
}

#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BulkOutcome)]
enum Outcome {
    Created,
    Updated,
    Unchanged,
    Refused,
    Undone,
    Stopped,
}

/// How many rows had which outcome: the last line of an answer with `report=refused` or `report=summary`, unless a `stopped` line
/// follows.
#[derive(Serialize, ToSchema)]
#[schema(as = BulkSummary)]
pub(in crate::http) struct BulkSummary {
    outcome: Summary,
    #[schema(example = 199_990)]
    created: u64,
    #[schema(example = 0)]
    updated: u64,
    #[schema(example = 0)]
    unchanged: u64,
    #[schema(example = 10)]
    refused: u64,
    #[schema(example = 0)]
    undone: u64,
}

/// What a summary has in the place of an outcome.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BulkSummaryOutcome)]
enum Summary {
    Summary,
}

/// The lines of some rows.
pub(super) fn of_rows(rows: &[Row], is_dry_run: bool) -> Vec<u8> {
    let mut lines = Vec::with_capacity(rows.len() * 80);
    for row in rows {
        let mut refused = None;
        let (outcome, id) = match &row.outcome {
            Ok(Written::Created(id)) => (Outcome::Created, Some(id)),
            Ok(Written::Updated(id)) => (Outcome::Updated, Some(id)),
            Ok(Written::Unchanged(id)) => (Outcome::Unchanged, Some(id)),
            Err(Refused::RolledBack) => (Outcome::Undone, None),
            Err(Refused::EmailTaken) => {
                refused = Some(Problem::new(Kind::EmailTaken, "Another user has this email."));
                (Outcome::Refused, None)
            }
            Err(Refused::Invalid(faults)) => {
                refused = Some(invalid(faults));
                (Outcome::Refused, None)
            }
        };
        // What is only tried has no id that would mean anything.
        let id = id.filter(|_| !(is_dry_run && matches!(outcome, Outcome::Created))).map(|id: &UserId| id.as_uuid());
        let last_line = Some(row.last_line).filter(|last| *last != row.line);
        let problem = refused.as_ref().map(|it| it.to_body(None));
        push(&mut lines, &BulkLine { line: row.line, last_line, outcome, id, problem });
    }
    lines
}

fn push(lines: &mut Vec<u8>, line: &impl Serialize) {
    // Texts and numbers always serialize, and a Vec takes them all.
    let _ = serde_json::to_writer(&mut *lines, line);
    lines.push(b'\n');
}

fn invalid(faults: &[MemberError]) -> Problem {
    let error = |MemberError { member, fault }: &MemberError| {
        let pointer = if member.is_empty() { String::new() } else { body::pointer(member) };
        FieldError::at_member(pointer, fault.clone())
    };
    Problem::with_errors(
        Kind::ValidationFailed,
        "The row is not a valid user; see errors.",
        faults.iter().map(error).collect(),
    )
}

/// The last line of an import that did not come to its end.
pub(super) fn push_stopped(lines: &mut Vec<u8>, line: u64, last_line: Option<u64>, problem: &Problem) {
    let problem = Some(problem.to_body(None));
    push(lines, &BulkLine { line, last_line, outcome: Outcome::Stopped, id: None, problem });
}

/// The line that counts all others.
pub(super) fn push_summary(lines: &mut Vec<u8>, tally: Tally) {
    let Tally { created, updated, unchanged, refused, undone } = tally;
    push(lines, &BulkSummary { outcome: Summary::Summary, created, updated, unchanged, refused, undone });
}
