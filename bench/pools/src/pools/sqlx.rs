//! SeaORM's own pool, which is sqlx's.

use anyhow::Result;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement};
use uuid::Uuid;

use super::{ACQUIRE, FIND, Pool, SLEEP, User};

pub struct SeaOrm(DatabaseConnection);

impl Pool for SeaOrm {
    /// Statements are not logged; by default they are, at the level `info`. A connection is pinged each time before it is
    /// handed out, which is the default, as is the cache of a hundred prepared statements on each connection.
    async fn connect(url: &str, connections: u32) -> Result<Self> {
        let mut options = ConnectOptions::new(url);
        options.max_connections(connections).min_connections(connections).acquire_timeout(ACQUIRE).sqlx_logging(false);
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
