//! A bounded, fair connection pool for SeaORM, on a dedicated Tokio runtime or the application's.
//!
//! The pool opens connections with the drivers of sqlx 0.9, as SeaORM does, and supports SQLite, PostgreSQL, MySQL and
//! MariaDB. It depends on no web framework and no settings format.
//!
//! * Connections and waiters are limited. An operation that cannot get a connection in time is refused on arrival.
//! * Outages are reported immediately, with their cause, and recovery is automatic.
//! * Operations are retried after deadlocks, serialization failures and lost connections, but only where that is safe.
//! * A dropped caller leaves the queue. Once its operation has started, the operation runs to completion.
//! * [`Pool::snapshot`] shows holders, waiters, timings and the cause of an outage. Counters and timings also go to the
//!   `metrics` crate.
//!
//! # Usage
//!
//! Work is passed to the pool as an *operation*: a name, which appears in logs, traces and errors, and a closure, the
//! *body*. The body runs as a task of the pool's runtime and gets a [`Connection`], which implements SeaORM's
//! `ConnectionTrait`, `StreamTrait` and `TransactionTrait`.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use orm_pool::{DatabaseUrl, Error, Pool, PoolOptions};
//! use sea_orm::{ConnectionTrait, Statement};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let url = DatabaseUrl::parse("sqlite://users.db?mode=rwc")?;
//! let pool = Pool::connect(&url, &PoolOptions::default().max(20)).await?;
//!
//! let is_found = pool
//!     .read("users.exists", |db| async move {
//!         let query = Statement::from_string(db.get_database_backend(), "SELECT 1 FROM users WHERE id = 7");
//!         Ok::<_, Error>(db.query_one_raw(query).await?.is_some())
//!     })
//!     .await?;
//!
//! // Committed when the body returns `Ok`, rolled back when it returns `Err`.
//! pool.transaction("users.clear", |tx| async move {
//!     tx.execute_unprepared("DELETE FROM sessions").await?;
//!     tx.execute_unprepared("DELETE FROM users").await?;
//!     Ok::<_, Error>(())
//! })
//! .await?;
//!
//! pool.close(Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! | to | use |
//! |---|---|
//! | read | [`Pool::read`] |
//! | write with a single statement | [`Pool::write`] |
//! | run several statements atomically | [`Pool::transaction`], [`Pool::transaction_with`] |
//! | hold a connection | [`Pool::acquire`], [`Pool::acquire_reader`] |
//! | run code that needs a `DatabaseConnection`, such as migrations | [`Pool::with_database_connection`] |
//! | serve concurrent operations with one statement | [`Pool::batch_reads`], [`Pool::batch_writes`] ([`Batch`]) |
//! | run imports and exports on a share of the pool | [`Pool::bulk_read`], [`Pool::bulk_transaction`] |
//! | give operations a deadline and a request id | [`RequestContext`] |
//! | set driver options, pragmas, statements for new connections | [`Pool::builder`] |
//! | change limits or credentials at run time | [`Pool::reconfigure`] |
//! | check the health of the database | [`Pool::ping`] |
//! | shut down | [`Pool::drain`], [`Pool::close`] |
//!
//! A body may run more than once, so it must not have side effects outside the database. Use the connection that it
//! gets: requesting a second one inside a body fails with [`Error::Nested`]. [`Error::Refused`] means that the
//! operation got no connection and had no effect, because the pool is full or closing or the database is down
//! ([`AcquireError`]); a web service responds with 503.
//!
//! # How it works
//!
//! The modules are layers: each uses only those below it. From bottom to top:
//!
//! 1. `error_kind` classifies database errors by the driver's code, never by the message ([`DbErrorKind`]). `options`
//!    defines [`PoolOptions`] and their limits.
//! 2. `connect` parses a [`DatabaseUrl`] and opens connections. Only this layer uses the drivers' APIs.
//! 3. `context` describes an operation and the request that it belongs to.
//! 4. `health` tracks whether the database is up, down or recovering, since when and why.
//! 5. `set` holds the open connections and the queue. Admission is fair and bounded.
//! 6. `stats` collects counters and timings and defines the [`Snapshot`]. `error` defines [`Error`].
//! 7. `inner` is the shared state and the background tasks. `inner/connections` opens connections in one task and
//!    closes them; `inner/probe` checks whether the database responds; `inner/lost_responses` detects lost responses;
//!    `inner/housekeeper` enforces idle timeout and max lifetime, warns about long holds and aborts operations that get
//!    no response. A `lease` is a connection in use.
//! 8. `exec` runs operations on the pool's `runtime` and retries them where that is safe. `progress` tracks what an
//!    operation has done on its connection. [`PooledConnection`] is a connection that the caller holds.
//! 9. `pool` is the public API, [`Pool`].
//! 10. `batch` and `bulk` are optional layers on top.
//!
//! # Features
//!
//! `sqlite`, `postgres` and `mysql` (MySQL and MariaDB) enable the engines; `batch` and `bulk` enable the optional
//! layers. All five are on by default. `utoipa` derives OpenAPI schemas for [`Snapshot`].
//!
//! # Why not sqlx's own pool
//!
//! sqlx's pool pings each returned connection without a timeout (sqlx #4349), has an unbounded queue (#1860), does not
//! report why the database is unavailable, does not restore `min`, and its reaper may spin (#3645). None of that can be
//! fixed from outside, so this crate uses sqlx's connections but not its pool.

#![cfg_attr(
    not(all(feature = "sqlite", feature = "postgres", feature = "mysql", feature = "batch", feature = "bulk")),
    allow(unused, clippy::unnecessary_wraps, clippy::unused_self, reason = "used by some engines and layers only")
)]

#[cfg(not(any(feature = "sqlite", feature = "postgres", feature = "mysql")))]
compile_error!("orm-pool needs a database engine: enable the feature `sqlite`, `postgres` or `mysql`");

#[cfg(feature = "batch")]
mod batch;
#[cfg(feature = "bulk")]
mod bulk;
mod clock;
mod connect;
mod context;
mod error;
mod error_kind;
mod exec;
mod health;
mod inner;
mod options;
mod pool;
mod set;
mod stats;
#[cfg(test)]
mod tests;

#[cfg(feature = "batch")]
pub use crate::batch::Batch;
#[cfg(feature = "bulk")]
pub use crate::stats::snapshot::BulkUsage;
pub use crate::{
    connect::{
        driver_options::NewConnection,
        pooler::Pooler,
        url::{DatabaseUrl, Engine, InvalidUrl},
    },
    context::RequestContext,
    error::{CloseError, ConnectError, Error, PoolUsage, ReconfigureError},
    error_kind::DbErrorKind,
    exec::{connection::Connection, pooled::PooledConnection, transaction::Transaction},
    options::{InvalidOption, PoolOptions},
    pool::{Pool, builder::PoolBuilder},
    set::AcquireError,
    stats::{
        detailed_snapshot::{ConnectionInfo, ConnectionState, DetailedSnapshot},
        snapshot::{
            Advice, Cause, Counters, HostState, HostStatus, Limits, OperationInfo, PoolState, Quantiles, Snapshot,
            Status,
        },
        time_histogram::TimeHistograms,
    },
};
