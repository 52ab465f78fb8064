//! A connection pooler, such as PgBouncer, between the pool and PostgreSQL.
//!
//! In session mode each client connection has its own server session, so nothing changes for the pool. In transaction
//! mode each transaction may run in another session: settings made in one do not apply to the next, and affect other
//! clients. Therefore the pool sets nothing for a session; each operation runs in a transaction that sets what it
//! relies on, and the pooler must keep the named prepared statements of its clients apart.

use serde::Serialize;

/// The mode in which a connection pooler in front of the database assigns server connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolPooler))]
pub enum Pooler {
    /// For one transaction at a time.
    Transaction,
}
