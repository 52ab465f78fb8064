//! A database that exists only for a demonstration.

use orm_pool::{ConnectError, DatabaseUrl, Engine, InvalidUrl, Pool, PoolOptions};
use sea_orm::ConnectionTrait;
use secrecy::{ExposeSecret, SecretString};

use super::{Error, error::database};

/// A database on an existing server, from [`create`](Self::create) to [`drop`](Self::drop).
pub struct TemporaryDatabase {
    server: Pool,
    name: String,
    url: SecretString,
}

/// An error of a temporary database.
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
    /// Connects to the server of this URL. The database has a new name.
    ///
    /// # Errors
    ///
    /// [`TemporaryDatabaseError`].
    pub async fn connect(server: &str) -> Result<Self, TemporaryDatabaseError> {
        let url = DatabaseUrl::parse(server)?;
        if url.engine() == Engine::Sqlite {
            return Err(TemporaryDatabaseError::NoServer);
        }
        let name = format!("users_api_demo_{:08x}", getrandom::u32().unwrap_or_default());
        Ok(Self {
            server: Pool::connect(&url, &PoolOptions::default().max(1).min(0)).await?,
            url: with_database(server, &name).into(),
            name,
        })
    }

    /// Creates it. Must be completed: the server may create a database whose creation was cancelled.
    ///
    /// # Errors
    ///
    /// [`TemporaryDatabaseError::Database`].
    pub async fn create(&self) -> Result<(), TemporaryDatabaseError> {
        self.execute("CREATE DATABASE").await
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its URL.
    #[must_use]
    pub fn url(&self) -> &str {
        self.url.expose_secret()
    }

    /// Drops it, if it exists, and disconnects. Its connections must be closed.
    ///
    /// # Errors
    ///
    /// [`TemporaryDatabaseError::Database`].
    pub async fn drop(self) -> Result<(), TemporaryDatabaseError> {
        let dropped = self.execute("DROP DATABASE IF EXISTS").await;
        if let Err(error) = self.server.close(PoolOptions::default().acquire).await {
            tracing::warn!(%error, "pool not closed");
        }
        dropped
    }

    async fn execute(&self, verb: &str) -> Result<(), TemporaryDatabaseError> {
        // The name needs no quotes.
        let sql = format!("{verb} {}", self.name);
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
    let (base, parameters) = url.split_once('?').unwrap_or((url, ""));
    let parameters: Vec<&str> =
        parameters.split('&').filter(|parameter| !parameter.is_empty() && !parameter.starts_with("dbname=")).collect();
    let parameters = if parameters.is_empty() { String::new() } else { format!("?{}", parameters.join("&")) };
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
            ("postgres://app@localhost?dbname=app", "postgres://app@localhost/demo"),
            ("postgres://app@localhost?sslmode=disable&dbname=app", "postgres://app@localhost/demo?sslmode=disable"),
            ("postgres://app@/app?host=/run/postgresql", "postgres://app@/demo?host=/run/postgresql"),
        ] {
            assert_eq!(with_database(url, "demo"), expected);
        }
    }
}
