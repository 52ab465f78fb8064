//! Returns connections to the pool after use.

use super::connection::{Connection, ReclaimOutcome};
use crate::{inner::lease::Lease, set::CloseReason};

/// Returns a connection to the pool after its operation, or closes it.
pub(super) async fn check_in(connection: &Connection, lease: Lease) {
    match connection.reclaim().await {
        ReclaimOutcome::Reusable(entry) => lease.end(entry),
        ReclaimOutcome::SessionChanged(entry) => lease.end_and_close(entry, CloseReason::SessionChanged),
        // Dropping the lease closes the connection.
        ReclaimOutcome::Broken => drop(lease),
    }
}
