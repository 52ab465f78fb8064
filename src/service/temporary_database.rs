//! A database that exists only for a demonstration.

use orm_pool::{ConnectError, DatabaseUrl, Engine, InvalidUrl, Pool, PoolOptions};
use sea_orm::ConnectionTrait;

use super::{Error, error::database};

/// A database on an existing server, until it is dropped with [`drop`](Self::drop).
#[derive(Debug)]
pub struct TemporaryDatabase {
    server: Pool,
    name: String,
    url: String,
}

/// Why there is no temporary database.
#[derive(Debug, thiserror::Error)]
pub enum TemporaryDatabaseError {
    /// The URL is invalid.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    /// The URL is not that of a server.
    #[error("needs a server: PostgreSQL, MariaDB or MySQL")]
    NoServer,
    /// The server could not be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The database could not be created or dropped.
    #[error("cannot create or drop the temporary database {name}")]
    Database {
        /// Its name.
        name: String,
        /// The cause.
        #[source]
        cause: Error,
    },
}

impl TemporaryDatabase {
    /// Creates a database on the server of this URL, with a new name.
    ///
    /// # Errors
    ///
    /// [`TemporaryDatabaseError`].
    pub async fn create(server: &str) -> Result<Self, TemporaryDatabaseError> {
        let url = DatabaseUrl::parse(server)?;
        if url.engine() == Engine::Sqlite {
            return Err(TemporaryDatabaseError::NoServer);
        }
        let name = format!("users_api_demo_{:08x}", getrandom::u32().unwrap_or_default());
        let database = Self {
            server: Pool::connect(&url, &PoolOptions::default().max(1).min(0)).await?,
            url: with_database(server, &name),
            name,
        };
        database.execute("CREATE").await?;
        Ok(database)
    }

    /// Returns its URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Drops it. Its connections must be closed.
    ///
    /// # Errors
    ///
    /// [`TemporaryDatabaseError::Database`].
    pub async fn drop(self) -> Result<(), TemporaryDatabaseError> {
        let dropped = self.execute("DROP").await;
        if let Err(error) = self.server.close(PoolOptions::default().acquire).await {
            tracing::warn!(%error, "pool not closed");
        }
        dropped
    }

    async fn execute(&self, verb: &str) -> Result<(), TemporaryDatabaseError> {
        // The name needs no quotes.
        let sql = format!("{verb} DATABASE {}", self.name);
        let executed = self.server.write("demo.temporary_database", move |connection| {
            let sql = sql.clone();
            async move { connection.execute_unprepared(&sql).await.map_err(database) }
        });
        let Err(cause) = executed.await else { return Ok(()) };
        Err(TemporaryDatabaseError::Database { name: self.name.clone(), cause })
    }
}

/// Returns a valid URL with another database.
fn with_database(url: &str, name: &str) -> String {
    let (base, parameters) = url.split_at(url.find('?').unwrap_or(url.len()));
    let authority = base.find("://").map_or(0, |at| at + 3);
    let end = base[authority..].find('/').map_or(base.len(), |at| authority + at);
    format!("{}/{name}{parameters}", &base[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_database_of_the_url_is_replaced() {
        for (url, expected) in [
            ("postgres://app:a%2Fb@localhost:5432/app", "postgres://app:a%2Fb@localhost:5432/demo"),
            ("postgres://localhost", "postgres://localhost/demo"),
            ("mysql://root@[::1]/app?ssl-mode=DISABLED", "mysql://root@[::1]/demo?ssl-mode=DISABLED"),
            ("postgres://app@/app?host=/run/postgresql", "postgres://app@/demo?host=/run/postgresql"),
        ] {
            assert_eq!(with_database(url, "demo"), expected);
        }
    }
}
