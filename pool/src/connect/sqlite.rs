//! Opens connections to SQLite databases.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sea_orm::{
    DatabaseConnection, SqlxSqliteConnector,
    sqlx::{
        self, ConnectOptions as _, Row as _,
        sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
    },
};

use super::{
    driver::{Driver, DriverConnection, DriverMut},
    driver_options::{self, DriverOptions},
    file::DatabaseFile,
    session::{ServerInfo, Session},
    url::{FileAddress, OpenMode},
};
use crate::{
    error_kind::{DbErrorKind, PoolError},
    options::PoolOptions,
};

/// Opens connections to an SQLite database.
#[derive(Clone)]
pub(super) struct SqliteConnector {
    // Created once, because an in-memory database is identified by its options.
    options: SqliteConnectOptions,
    /// `None` for an in-memory database.
    file: Option<Arc<DatabaseFile>>,
}

impl SqliteConnector {
    pub(super) fn new(file: &FileAddress, pool_options: &PoolOptions, driver_options: &DriverOptions) -> Self {
        // Readers run concurrently with one writer, and no acknowledged write is lost in a power failure.
        let mut options = connect_options(file)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true);
        for (name, value) in &driver_options.pragmas {
            options = options.pragma(name.clone(), value.clone());
        }
        // Only `DatabaseFile` creates the file, never a connection that is opened later.
        let options = driver_options::apply(options, driver_options.map_sqlite.as_ref())
            .busy_timeout(pool_options.acquire)
            .create_if_missing(file.is_in_memory());
        let file = (!file.is_in_memory()).then(|| Arc::new(DatabaseFile::new(options.get_filename(), file.creates())));
        Self { options, file }
    }

    /// Returns a copy with another busy timeout. The file stays the one that was opened.
    pub(super) fn with_busy_timeout(&self, limit: Duration) -> Self {
        Self { options: self.options.clone().busy_timeout(limit), file: self.file.clone() }
    }

    /// Checks that the file is still the one that was opened.
    pub(super) fn check_file(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.check())
    }

    pub(super) async fn open(&self, session: &Session) -> Result<DriverConnection, sqlx::Error> {
        if let Some(file) = &self.file {
            file.prepare()?;
        }
        let opened = self.options.connect().await;
        let mut opened = opened.map_err(|error| match (DbErrorKind::of_driver(&error), &self.file) {
            (DbErrorKind::NoSuchDatabase | DbErrorKind::ReadOnly, Some(file)) => {
                file.explain(&io::Error::other(error)).into()
            }
            _ => error,
        })?;
        check(session, &mut opened).await?;
        Ok(DriverConnection::new(Driver::Sqlite(opened), None))
    }

    /// Returns a separate SeaORM connection.
    pub(super) fn database_connection(
        &self,
        acquire: Duration,
        driver_options: Arc<DriverOptions>,
    ) -> DatabaseConnection {
        let pool = SqlitePoolOptions::new().max_connections(1).acquire_timeout(acquire).after_connect(move |raw, _| {
            let driver_options = Arc::clone(&driver_options);
            Box::pin(async move { driver_options.run_after_connect(DriverMut::Sqlite(raw)).await })
        });
        SqlxSqliteConnector::from_sqlx_sqlite_pool(pool.connect_lazy_with(self.options.clone()))
    }
}

/// Translates the address into driver options.
pub(super) fn connect_options(file: &FileAddress) -> SqliteConnectOptions {
    static IN_MEMORY: AtomicUsize = AtomicUsize::new(0);
    let options = if let Some(path) = &file.file {
        SqliteConnectOptions::new().filename(path)
    } else {
        // Each anonymous database has a unique name, through which the connections of one pool share it.
        let number = IN_MEMORY.fetch_add(1, Ordering::Relaxed);
        SqliteConnectOptions::new().filename(format!("file:orm-pool-in-memory-{number}"))
    };
    let options = options
        .read_only(file.mode == OpenMode::ReadOnly)
        .create_if_missing(file.mode == OpenMode::Create)
        .in_memory(file.mode == OpenMode::Memory)
        .shared_cache(file.shared_cache.unwrap_or(file.mode == OpenMode::Memory))
        .immutable(file.immutable);
    match &file.vfs {
        Some(vfs) => options.vfs(vfs.clone()),
        None => options,
    }
}

/// Checks a database whose session settings the driver has applied.
async fn check(session: &Session, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let sql = "SELECT (SELECT encoding FROM pragma_encoding), (SELECT journal_mode FROM pragma_journal_mode)";
    let row = sqlx::raw_sql(sql).fetch_one(connection).await?;
    let (encoding, journal): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    if encoding != "UTF-8" {
        return Err(PoolError::unsuitable(format!(
            "the file stores text as {encoding}, which sorts differently; recreate it with PRAGMA encoding = 'UTF-8'"
        )));
    }
    let is_first = session.record(ServerInfo::default());
    if is_first && !["wal", "memory"].contains(&journal.as_str()) {
        tracing::warn!(journal_mode = journal, "SQLite does not use WAL; readers and writers block each other");
    }
    Ok(())
}
