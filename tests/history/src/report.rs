//! The result of a check.

use std::{fmt, ops::Range};

use crate::Violation;

/// What an engine may do by design without being at fault. The default allows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Changes that were acknowledged in this window may be lost, as in the failover to an asynchronous replica. The
    /// times are those of [`History::now`](crate::History::now): before the last change that was surely replicated, and
    /// after the failover.
    pub lost: Option<Range<u64>>,
    /// A request may find a state from before an acknowledged change, as on another node of a Galera cluster without
    /// `wsrep_sync_wait`. It can be refused for it, or change nothing; it cannot write.
    pub stale_reads: bool,
}

impl Allowance {
    fn covers(&self, violation: &Violation) -> bool {
        let is_lost = self.lost.as_ref().zip(violation.lost_at()).is_some_and(|(window, time)| window.contains(&time));
        is_lost || (self.stale_reads && violation.is_stale_read())
    }
}

/// The contradictions that a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What must not be.
    pub violations: Vec<Violation>,
    /// What the [`Allowance`] explains.
    pub allowed: Vec<Violation>,
}

impl Report {
    pub(crate) fn new(violations: Vec<Violation>, allowance: &Allowance) -> Self {
        let (allowed, violations) = violations.into_iter().partition(|violation| allowance.covers(violation));
        Self { violations, allowed }
    }

    /// Returns whether nothing was found that must not be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }
}

impl fmt::Display for Report {
    /// Writes a line for each violation, and then for each allowed one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.violations.iter().try_for_each(|violation| writeln!(f, "{violation}"))?;
        self.allowed.iter().try_for_each(|violation| writeln!(f, "allowed: {violation}"))
    }
}
