//! A connection pooler, such as PgBouncer, between the pool and PostgreSQL.
//!
//! In session mode a pooler's connection is one of the server's, and nothing differs. In transaction mode each transaction
//! may meet another session: what is set in one is lost to us and found by others. Then nothing is set for a session; each
//! operation runs in a transaction that sets what it relies on, and named prepared statements must be kept apart by the
//! pooler.

use serde::Serialize;

/// How a connection pooler between here and the database hands out the server's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolPooler))]
pub enum Pooler {
    /// For a transaction at a time.
    Transaction,
}
