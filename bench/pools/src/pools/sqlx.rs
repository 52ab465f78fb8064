//! SeaORM's built-in pool, which is sqlx's.

use anyhow::Result;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement};
use uuid::Uuid;

use super::{ACQUIRE_TIMEOUT, FIND, Pool, SLEEP, User};

pub struct SeaOrm(DatabaseConnection);

impl Pool for SeaOrm {
    /// Statement logging is off; by default it is on, at level `info`. Other settings are the defaults: a connection is
    /// pinged before each use and caches up to 100 prepared statements.
    async fn connect(url: &str, connections: u32) -> Result<Self> {
        let mut options = ConnectOptions::new(url);
        options
            .max_connections(connections)
            .min_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .sqlx_logging(false);
        Ok(Self(Database::connect(options).await?))
    }

    async fn find(&self, id: Uuid) -> Result<Option<User>> {
        let find = Statement::from_sql_and_values(DbBackend::Postgres, FIND, [id.into()]);
        let row = self.0.query_one_raw(find).await?;
        Ok(row.as_ref().map(User::from_result).transpose()?)
    }

    async fn sleep(&self) -> Result<()> {
        self.0.execute_unprepared(SLEEP).await?;
        Ok(())
    }
}
