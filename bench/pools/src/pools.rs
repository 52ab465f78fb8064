//! The pools, each behind the same few operations.
//!
//! All get the same number of connections, open from the start where the pool can do that, and wait for one for 5 s at the
//! most. The rest is the default of each, unless its file says otherwise. All send the same text as a prepared statement,
//! and read the same columns by their place.

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

pub use self::{batched::OrmPoolBatched, bb8::Bb8, deadpool::Deadpool, orm::OrmPool, sqlx::SeaOrm};

const FIND: &str = "SELECT id, name, email, version, created_at, updated_at FROM users WHERE id = $1";
const FIND_MANY: &str = "SELECT id, name, email, version, created_at, updated_at FROM users WHERE id = ANY($1)";
const SLEEP: &str = "SELECT pg_sleep(1)";
/// Longest wait for a connection.
const ACQUIRE: Duration = Duration::from_secs(5);

pub trait Pool: Sized + Send + Sync + 'static {
    fn connect(url: &str, connections: u32) -> impl Future<Output = Result<Self>> + Send;

    /// Reads one user.
    fn find(&self, id: Uuid) -> impl Future<Output = Result<Option<User>>> + Send;

    /// Keeps a connection busy for a second.
    fn sleep(&self) -> impl Future<Output = Result<()>> + Send;
}

#[derive(Clone, Debug)]
#[allow(dead_code, reason = "read from the row as a service reads it, and looked at no further")]
pub struct User {
    pub id: Uuid,
    pub name: String,
    pub email: String,
    pub version: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl User {
    /// From a row of SeaORM.
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
