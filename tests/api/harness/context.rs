use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, Statement};
use tempfile::TempDir;
use users_api::{
    app::Application,
    settings::{Environment, Settings},
};

use super::{App, Engine};

/// What a case works with. Cleans up after it, whether it passed or not.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    engine: Engine,
    folder: TempDir,
    databases: Mutex<Vec<String>>,
    urls: Mutex<Vec<String>>,
    apps: Mutex<Vec<App>>,
}

impl Context {
    pub fn new(engine: Engine) -> Self {
        let folder = tempfile::Builder::new().prefix("users-api-case-").tempdir().unwrap();
        Self(Arc::new(Inner {
            engine,
            folder,
            databases: Mutex::default(),
            urls: Mutex::default(),
            apps: Mutex::default(),
        }))
    }

    pub fn engine(&self) -> Engine {
        self.0.engine
    }

    /// A folder of the case's own.
    pub fn folder(&self) -> &Path {
        self.0.folder.path()
    }

    /// The URL of a fresh, empty database.
    pub async fn database(&self) -> String {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("users_test_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let url = match self.0.engine {
            Engine::Sqlite => sqlite_url(&self.folder().join(format!("{name}.db"))),
            engine => {
                let admin = connect(&engine.admin_url()).await;
                admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
                admin.close().await.unwrap();
                let url = with_database(&engine.admin_url(), &name);
                self.0.databases.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                url
            }
        };
        self.0.urls.lock().unwrap_or_else(PoisonError::into_inner).push(url.clone());
        url
    }

    /// The URL of the database that was made last.
    pub fn last_database(&self) -> String {
        self.0.urls.lock().unwrap_or_else(PoisonError::into_inner).last().unwrap().clone()
    }

    /// An application on a fresh database, with the defaults.
    pub async fn app(&self) -> App {
        self.app_with(&[]).await
    }

    /// An application on a fresh database, with some settings (`pool.max`).
    pub async fn app_with(&self, settings: &[(&str, &str)]) -> App {
        let url = self.database().await;
        self.app_on(&url, settings).await
    }

    /// An application on this database, with some settings.
    pub async fn app_on(&self, url: &str, settings: &[(&str, &str)]) -> App {
        let application = Application::build(self.settings(url, settings)).await.unwrap();
        let app = App::run(application, url);
        self.0.apps.lock().unwrap_or_else(PoisonError::into_inner).push(app.clone());
        app
    }

    /// Settings read the way production reads them.
    pub fn settings(&self, url: &str, settings: &[(&str, &str)]) -> Settings {
        let batch = super::is_batching().to_string();
        let defaults =
            [("server.port", "0"), ("server.workers", "2"), ("database.url", url), ("pool.batch", batch.as_str())];
        let process: BTreeMap<String, String> = defaults
            .iter()
            .chain(settings)
            .map(|(key, value)| (format!("USERS_API__{}", key.replace('.', "__").to_uppercase()), (*value).to_owned()))
            .collect();
        Settings::load(None, &Environment { process, ..Environment::default() }).unwrap()
    }

    /// Stops what still runs and drops what was made.
    pub async fn clean_up(&self) {
        let apps = std::mem::take(&mut *self.0.apps.lock().unwrap_or_else(PoisonError::into_inner));
        for app in apps {
            // A case that stops its application itself has looked at the outcome itself.
            drop(app.stop().await);
        }
        let databases = std::mem::take(&mut *self.0.databases.lock().unwrap_or_else(PoisonError::into_inner));
        if databases.is_empty() {
            return;
        }
        let admin = connect(&self.0.engine.admin_url()).await;
        for name in databases {
            let force = if self.0.engine == Engine::Postgres { " WITH (FORCE)" } else { "" };
            admin.execute_unprepared(&format!("DROP DATABASE {name}{force}")).await.unwrap();
        }
        admin.close().await.unwrap();
    }
}

/// A connection past the service, to look behind it.
pub async fn connect(url: &str) -> DatabaseConnection {
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false);
    Database::connect(options).await.unwrap()
}

pub fn sqlite_url(path: &Path) -> String {
    format!("sqlite://{}?mode=rwc", path.display())
}

/// Ends every connection to this database, as an administrator would.
pub async fn kill_all(context: &Context, admin: &DatabaseConnection, url: &str) {
    let name = url::Url::parse(url).unwrap().path().trim_start_matches('/').to_owned();
    let sql = match context.engine() {
        Engine::Postgres => format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"),
        engine => format!("SELECT CAST(id AS SIGNED) FROM {} WHERE db = '{name}'", engine.sessions()),
    };
    let rows = admin.query_all_raw(Statement::from_string(admin.get_database_backend(), sql)).await.unwrap();
    if context.engine().is_mysql_like() {
        for row in rows {
            let id: i64 = row.try_get_by_index(0).unwrap();
            // It may have gone by itself.
            let _ = admin.execute_unprepared(&format!("KILL {id}")).await;
        }
    }
}

/// A new database on the server of this URL, which nobody drops: the server is the case's own.
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
