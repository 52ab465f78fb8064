//! One shared, bounded connection pool for SeaORM, on a runtime of its own.
//!
//! `orm-pool` knows nothing about users, HTTP or settings files, so that any SeaORM service can use it. It opens the
//! driver's connections itself (sqlx 0.9, as SeaORM does) and hands them to *operations*, one at a time. An operation
//! sees a [`Connection`], which every SeaORM query takes as it takes a `DatabaseConnection`.
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
//! let answer = pool
//!     .read("example.one", |db| async move {
//!         let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), "SELECT 1")).await?;
//!         Ok::<_, Error>(row.is_some())
//!     })
//!     .await?;
//! assert!(answer);
//! pool.close(Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # A guided tour
//!
//! The modules are layers: each uses those below it and none above. From bottom to top:
//!
//! 1. `error_kind`: what an error of the database means, by the driver's code and never by its text ([`DbErrorKind`]).
//!    `options`: [`PoolOptions`] with their limits.
//! 2. `connect`: from a URL to an open connection, the only part that speaks to the drivers. [`DatabaseUrl`] names the
//!    [`Engine`] and displays itself without the password.
//! 3. `context`: the operation that runs and the request behind it. A [`RequestContext`] says which request that is and how
//!    long its caller waits.
//! 4. `health`: Up, Down, Recovering, since when and why.
//! 5. `set`: the open connections, who uses them, and who waits. Admission is fair and bounded, and an operation that cannot
//!    be served in time is refused on arrival ([`AcquireError`]).
//! 6. `stats`: counters, times and the [`Snapshot`]; the `metrics` crate gets them too. `error`: [`Error`].
//! 7. `inner`: what the parts share. `inner/connections` is the one task that opens connections, and everything that closes
//!    them; `inner/probe` finds out whether the database answers, `inner/lost_answers` whether it has answered already;
//!    `inner/housekeeper` closes what is idle or too old, warns
//!    of long holds, and ends operations that get no answer. A `lease` is a connection in use.
//! 8. `exec`: an operation runs as a task of the pool's own `runtime`, so that a caller that goes away neither ends it
//!    half-way nor loses its connection, and is repeated where that is safe. `progress` keeps what it has done on its
//!    connection. [`PooledConnection`] is a connection that its caller holds instead.
//! 9. `pool`: [`Pool`], which ties all this together: [`read`](Pool::read), [`write`](Pool::write),
//!    [`transaction`](Pool::transaction), [`acquire`](Pool::acquire), [`reconfigure`](Pool::reconfigure),
//!    [`close`](Pool::close).
//! 10. `batch` and `bulk`, on top: operations that ask alike share one statement ([`Batch`]), and those that come without
//!     end keep to a share of the pool ([`Pool::bulk_read`]). A reader who needs only the pool can skip both.
//!
//! # Features
//!
//! `sqlite`, `postgres` and `mysql` (MySQL and MariaDB) are the engines; `batch` and `bulk` are the optional layers. All five are
//! on by default. `utoipa` derives OpenAPI schemas for [`Snapshot`]. What a URL and [`PoolOptions`] do not say is set by
//! [`Pool::builder`]: options of the drivers, pragmas, and statements for each new connection.
//!
//! # Why not sqlx's own pool
//!
//! sqlx's pool pings a connection each time it comes back, without a time limit (sqlx #4349), queues without a bound
//! (#1860), reports no cause when the database is away, does not restore `min`, and its reaper may spin (#3645). None of
//! that can be fixed from outside, so this crate uses sqlx's connections and not its pool.

#![cfg_attr(
    not(all(feature = "sqlite", feature = "postgres", feature = "mysql", feature = "batch", feature = "bulk")),
    allow(unused, clippy::unnecessary_wraps, clippy::unused_self, reason = "what only some engines and layers use")
)]

#[cfg(not(any(feature = "sqlite", feature = "postgres", feature = "mysql")))]
compile_error!("orm-pool needs an engine: enable its feature `sqlite`, `postgres` or `mysql`");

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
    stats::snapshot::{Advice, Cause, Counters, Limits, OperationInfo, PoolState, Quantiles, Snapshot, Status},
};
