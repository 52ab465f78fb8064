//! The lines of a bulk response.

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
    service::{self, RowOutcome},
};

/// A line of a bulk response: the outcome of a row.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BulkLine)]
pub(in crate::http) struct BulkLine<'a> {
    /// The line of the body on which the row starts, from 1.
    #[schema(example = 1, minimum = 1)]
    line: u64,
    /// The line on which the row ends, if it is another one. With `stopped`: the last line of a body with an unclosed
    /// quote.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 3, minimum = 1)]
    last_line: Option<u64>,
    /// `stopped`: neither this row nor any after it was processed.
    outcome: Outcome,
    /// The id of the user, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Uuid>,
    /// The reason why the row was refused or the import stopped.
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

/// The number of rows by outcome: the last line of a response with `report=refused` or `report=summary`, unless a
/// `stopped` line follows.
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

/// The outcome of a summary.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BulkSummaryOutcome)]
enum Summary {
    Summary,
}

/// Formats a line for each row.
pub(super) fn of_rows(rows: &[Row], is_dry_run: bool) -> Vec<u8> {
    let mut lines = Vec::with_capacity(rows.len() * 80);
    for row in rows {
        let mut refused = None;
        let (outcome, id) = match &row.outcome {
            Ok(RowOutcome::Created(id)) => (Outcome::Created, Some(id)),
            Ok(RowOutcome::Updated(id)) => (Outcome::Updated, Some(id)),
            Ok(RowOutcome::Unchanged(id)) => (Outcome::Unchanged, Some(id)),
            Err(Refused::RolledBack) => (Outcome::Undone, None),
            Err(Refused::EmailTaken) => {
                refused = Some(service::Error::EmailTaken.into());
                (Outcome::Refused, None)
            }
            Err(Refused::Invalid(errors)) => {
                refused = Some(invalid(errors));
                (Outcome::Refused, None)
            }
        };
        // A dry run rolls its transaction back, so the id does not exist.
        let id = id.filter(|_| !(is_dry_run && matches!(outcome, Outcome::Created))).map(|id: &UserId| id.as_uuid());
        let last_line = Some(row.last_line).filter(|last| *last != row.line);
        let problem = refused.as_ref().map(|it| it.to_body(None));
        push(&mut lines, &BulkLine { line: row.line, last_line, outcome, id, problem });
    }
    lines
}

fn push(lines: &mut Vec<u8>, line: &impl Serialize) {
    // Strings and numbers always serialize, and writing to a Vec does not fail.
    let _ = serde_json::to_writer(&mut *lines, line);
    lines.push(b'\n');
}

fn invalid(errors: &[MemberError]) -> Problem {
    let field_error = |MemberError { member, error }: &MemberError| {
        let pointer = if member.is_empty() { String::new() } else { body::pointer(member) };
        FieldError::at_member(pointer, error.clone())
    };
    let errors = errors.iter().map(field_error).collect();
    Problem::with_errors(Kind::ValidationFailed, "The row is not a valid user; see `errors`.", errors)
}

/// Adds the last line of an import that stopped.
pub(super) fn push_stopped(lines: &mut Vec<u8>, line: u64, last_line: Option<u64>, problem: &Problem) {
    let problem = Some(problem.to_body(None));
    push(lines, &BulkLine { line, last_line, outcome: Outcome::Stopped, id: None, problem });
}

/// Adds the summary.
pub(super) fn push_summary(lines: &mut Vec<u8>, tally: Tally) {
    let Tally { created, updated, unchanged, refused, undone } = tally;
    push(lines, &BulkSummary { outcome: Summary::Summary, created, updated, unchanged, refused, undone });
}
