//! The end of a connection's use.

use super::connection::{Connection, Reclaimed};
use crate::{inner::lease::Lease, set::CloseReason};

/// Returns a connection after its operation, or closes it.
pub(super) async fn give_back(connection: &Connection, lease: Lease) {
    match connection.reclaim().await {
        Reclaimed::Works(entry) => lease.end(entry),
        Reclaimed::SessionChanged(entry) => lease.end_and_close(entry, CloseReason::SessionChanged),
        // Closes it.
        Reclaimed::Broken => drop(lease),
    }
}
