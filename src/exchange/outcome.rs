//! The outcomes of imported rows.

use super::row::MemberError;
use crate::service::RowOutcome;

/// The reason why a row was not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The row is not a valid user.
    Invalid(Vec<MemberError>),
    /// Another user has the email address.
    EmailTaken,
    /// The row is valid, but another row was refused and the import writes all rows or none.
    RolledBack,
}

/// The outcome of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The line on which the row starts, from 1.
    pub line: u64,
    /// The line on which the row ends; differs from `line` only if the row was refused.
    pub last_line: u64,
    /// The change, or the reason why nothing was written.
    pub outcome: Result<RowOutcome, Refused>,
}

/// The number of rows by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Users that were created.
    pub created: u64,
    /// Users that were changed.
    pub updated: u64,
    /// Users that existed with the same values.
    pub unchanged: u64,
    /// Rows that were refused.
    pub refused: u64,
    /// Rows that were not written because others were refused.
    pub undone: u64,
}

impl Tally {
    pub(super) fn of(rows: &[Row]) -> Self {
        let mut tally = Self::default();
        for row in rows {
            *match &row.outcome {
                Ok(RowOutcome::Created(_)) => &mut tally.created,
                Ok(RowOutcome::Updated(_)) => &mut tally.updated,
                Ok(RowOutcome::Unchanged(_)) => &mut tally.unchanged,
                Err(Refused::Invalid(_) | Refused::EmailTaken) => &mut tally.refused,
                Err(Refused::RolledBack) => &mut tally.undone,
            } += 1;
        }
        tally
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.created += other.created;
        self.updated += other.updated;
        self.unchanged += other.unchanged;
        self.refused += other.refused;
        self.undone += other.undone;
    }
}
