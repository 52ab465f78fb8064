//! Fresh databases for a case, and direct connections to them.

use std::{
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, DbErr, Statement};
use tempfile::TempDir;

use crate::Engine;

/// The databases of a case, and a temporary folder.
pub struct Databases {
    engine: Engine,
    folder: TempDir,
    names: Mutex<Vec<String>>,
    urls: Mutex<Vec<String>>,
}

impl Databases {
    pub fn new(engine: Engine) -> Self {
        let folder = tempfile::Builder::new().prefix("users-api-case-").tempdir().unwrap();
        Self { engine, folder, names: Mutex::default(), urls: Mutex::default() }
    }

    pub fn engine(&self) -> Engine {
        self.engine
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Creates an empty database and returns its URL.
    pub async fn database(&self) -> String {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("users_test_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let url = match self.engine {
            Engine::Sqlite => sqlite_url(&self.folder().join(format!("{name}.db"))),
            engine => {
                let admin = connect(&engine.admin_url()).await;
                admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
                admin.close().await.unwrap();
                let url = with_database(&engine.admin_url(), &name);
                self.names.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                url
            }
        };
        self.urls.lock().unwrap_or_else(PoisonError::into_inner).push(url.clone());
        url
    }

    /// The URL of the database that was created last.
    pub fn last_database(&self) -> String {
        self.urls.lock().unwrap_or_else(PoisonError::into_inner).last().unwrap().clone()
    }

    /// Drops all databases that were created.
    pub async fn drop_all(&self) {
        let names = std::mem::take(&mut *self.names.lock().unwrap_or_else(PoisonError::into_inner));
        if names.is_empty() {
            return;
        }
        let admin = connect(&self.engine.admin_url()).await;
        for name in names {
            let force = if self.engine == Engine::Postgres { " WITH (FORCE)" } else { "" };
            admin.execute_unprepared(&format!("DROP DATABASE {name}{force}")).await.unwrap();
        }
        admin.close().await.unwrap();
    }
}

/// Connects directly to the database, without the service or its pool.
pub async fn connect(url: &str) -> DatabaseConnection {
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false);
    Database::connect(options).await.unwrap()
}

pub fn sqlite_url(path: &Path) -> String {
    format!("sqlite://{}?mode=rwc", path.display())
}

/// Terminates every connection to this database, as an administrator would.
pub async fn kill_all(databases: &Databases, admin: &DatabaseConnection, url: &str) {
    let name = url::Url::parse(url).unwrap().path().trim_start_matches('/').to_owned();
    let sql = match databases.engine {
        Engine::Postgres => format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"),
        engine => format!("SELECT CAST(id AS SIGNED) FROM {} WHERE db = '{name}'", engine.sessions()),
    };
    let rows = admin.query_all_raw(Statement::from_string(admin.get_database_backend(), sql)).await.unwrap();
    if databases.engine.is_mysql_like() {
        for row in rows {
            let id: i64 = row.try_get_by_index(0).unwrap();
            // It may have ended in the meantime.
            let _ = admin.execute_unprepared(&format!("KILL {id}")).await;
        }
    }
}

/// Creates a database on the server of this URL. No one drops it: the server belongs to the case.
pub async fn new_database(url: &str) -> String {
    let admin = connect(url).await;
    admin.execute_unprepared("CREATE DATABASE app").await.unwrap();
    admin.close().await.unwrap();
    with_database(url, "app")
}

fn with_database(url: &str, name: &str) -> String {
    let mut url = url::Url::parse(url).unwrap();
    url.set_path(name);
    url.into()
}

/// The integer that a query returns.
pub async fn number(db: &impl ConnectionTrait, sql: &str) -> Result<i64, DbErr> {
    let sql = format!("SELECT CAST(({sql}) AS {})", if is_mysql(db) { "SIGNED" } else { "BIGINT" });
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await?.unwrap();
    row.try_get_by_index(0)
}

fn is_mysql(db: &impl ConnectionTrait) -> bool {
    db.get_database_backend() == DbBackend::MySql
}
