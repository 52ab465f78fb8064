//! One shared, bounded connection pool for SeaORM, on a runtime of its own.
//!
//! `orm-pool` knows nothing about users, HTTP or settings files, so that any SeaORM service can take it. It opens the
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
//! let pool = Pool::connect(&url, &PoolOptions::default()).await?;
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
//! In the order in which an operation meets them:
//!
//! 1. `url`: [`DatabaseUrl`] says which [`Engine`] is meant, and shows itself without the password. `options`:
//!    [`PoolOptions`] are the knobs, with their limits.
//! 2. `pool`: [`Pool::connect`] waits for the database as long as `acquire` allows, and tells the true cause if it never
//!    comes. [`Pool::read`], [`Pool::write`] and [`Pool::transaction`] take operations by name. [`Pool::change`] changes
//!    limits and credentials while they run; [`Pool::drain`] and [`Pool::close`] end it.
//! 3. `context`: who asks. A [`RequestContext`] tells which request is behind an operation and how long anybody will wait for it.
//! 4. `admission`: the queue. Fair, bounded, and honest: what cannot be served in time is refused on arrival.
//! 5. `store`: which connections there are, and who holds them; a `lease` is one in use. `inner` is what all parts
//!    share, and the life of a connection from its opening to its end. `connector` opens it, `session` sets what
//!    its statements rely on, `raw` speaks SeaORM's statements on it, `peek` sees that the server has closed it,
//!    and `file` that an SQLite database is no longer where it was.
//! 6. `operation`: an operation runs as a task of the pool's own `runtime`. A caller that goes away neither ends it
//!    half-way nor loses its connection; what may safely be repeated is repeated. `connection` is what its body sees, and
//!    `transaction` what it may begin there.
//!    [`Batch`] (`batch`) lets operations that ask alike share one statement while they would have to wait for each other;
//!    `bulk` keeps those that come without end ([`Pool::bulk_read`]) to a share of the pool.
//! 7. `fault`: what an error means, by the driver's code ([`DbErrorKind`]); `error`: what becomes of it ([`Error`], [`AcquireError`]).
//!    `health`: Up, Down, Recovering, and why.
//! 8. `housekeeper`: the pool's own care. It looks after the database, closes what has rested too long or is too old, keeps
//!    `min`, warns of long holds, and gives up connections that a silent peer has swallowed.
//! 9. `record`, `view` and `snapshot`: what happened and what is going on ([`Pool::snapshot`]); the `metrics` crate gets it too.
//!
//! # What it takes over from sqlx's pool, and why
//!
//! sqlx's own pool pings a connection each time it comes back, without a time limit (sqlx #4349), queues without a bound
//! (#1860), tells no cause when the database is away, does not restore `min`, and its reaper may spin (#3645). None of
//! that can be mended from outside, so this crate uses sqlx's connections and not its pool.

mod batch;
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

pub use crate::{
    batch::Batch,
    connect::{
        pooler::Pooler,
        url::{DatabaseUrl, Engine, InvalidUrl},
    },
    context::RequestContext,
    error::{CloseError, ConnectError, Error, PoolUsage, ReconfigureError},
    error_kind::DbErrorKind,
    exec::{connection::Connection, pooled::PooledConnection, transaction::Transaction},
    options::{InvalidOption, PoolOptions},
    pool::Pool,
    set::AcquireError,
    stats::snapshot::{
        Advice, BulkUsage, Cause, Counters, Limits, OperationInfo, PoolState, Quantiles, Snapshot, Status,
    },
};
