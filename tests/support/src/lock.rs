use sea_orm::{ConnectionTrait, DatabaseConnection};

use crate::{Databases, Engine, connect};

/// A direct connection that locks `users` against writes until it is closed.
pub struct Locked(DatabaseConnection);

impl Locked {
    pub async fn users(databases: &Databases, url: &str) -> Self {
        let database = connect(url).await;
        let statements: &[&str] = match databases.engine() {
            Engine::Postgres => &["BEGIN", "LOCK TABLE users"],
            Engine::MariaDb | Engine::MySql => &["LOCK TABLES users WRITE"],
            Engine::Sqlite => &["BEGIN IMMEDIATE"],
        };
        for statement in statements {
            database.execute_unprepared(statement).await.unwrap();
        }
        Self(database)
    }

    pub async fn unlock(self) {
        self.0.close().await.unwrap();
    }
}
