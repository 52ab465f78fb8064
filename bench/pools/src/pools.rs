//! The pools behind a common trait.
//!
//! All have the same number of connections, opened at the start if the pool supports it, and an acquire timeout of 5 s.
//! All other settings are the pool's defaults, unless its file says otherwise. All send the same SQL as a prepared
//! statement and read the columns by position.

mod batched;
mod bb8;
mod deadpool;
mod orm;
mod postgres;
mod sqlx;

use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, Utc};
use sea_orm::{DbErr, QueryResult};
use uuid::Uuid;

pub use self::{
    batched::OrmPoolBatched,
    bb8::Bb8,
    deadpool::Deadpool,
    orm::{OrmPool, OrmPoolOnCallersRuntime},
    sqlx::SeaOrm,
};

const FIND: &str = "SELECT id, name, email, version, created_at, updated_at FROM users WHERE id = $1";
const FIND_MANY: &str = "SELECT id, name, email, version, created_at, updated_at FROM users WHERE id = ANY($1)";
const SLEEP: &str = "SELECT pg_sleep(1)";
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

pub trait Pool: Sized + Send + Sync + 'static {
    fn connect(url: &str, connections: u32) -> impl Future<Output = Result<Self>> + Send;

    /// Reads one user by id.
    fn find(&self, id: Uuid) -> impl Future<Output = Result<Option<User>>> + Send;

    /// Keeps a connection busy for one second.
    fn sleep(&self) -> impl Future<Output = Result<()>> + Send;
}

#[derive(Clone, Debug)]
#[allow(dead_code, reason = "decoded like in a service, but not used")]
pub struct User {
    pub id: Uuid,
    pub name: String,
    pub email: String,
    pub version: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl User {
    /// Decodes a row of SeaORM.
    fn from_result(row: &QueryResult) -> Result<Self, DbErr> {
        Ok(Self {
            id: row.try_get_by_index(0)?,
            name: row.try_get_by_index(1)?,
            email: row.try_get_by_index(2)?,
            version: row.try_get_by_index(3)?,
            created_at: row.try_get_by_index(4)?,
            updated_at: row.try_get_by_index(5)?,
        })
    }
}
