use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
};

use test_support::{CaseContext, Databases, Engine};
use users_api::{
    app::Application,
    settings::{Environment, Settings},
};

use super::App;

/// The context of a case: databases and the applications that run on them.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    databases: Databases,
    apps: Mutex<Vec<App>>,
}

impl Deref for Context {
    type Target = Databases;

    fn deref(&self) -> &Databases {
        &self.0.databases
    }
}

impl CaseContext for Context {
    fn new(engine: Engine) -> Self {
        Self(Arc::new(Inner { databases: Databases::new(engine), apps: Mutex::default() }))
    }

    /// Stops the applications that still run, and drops the databases.
    async fn clean_up(&self) {
        let apps = std::mem::take(&mut *self.0.apps.lock().unwrap_or_else(PoisonError::into_inner));
        for app in apps {
            // A case that checks the outcome stops its application itself.
            drop(app.stop().await);
        }
        self.0.databases.drop_all().await;
    }
}

impl Context {
    /// Starts an application on a fresh database, with the default settings.
    pub async fn app(&self) -> App {
        self.app_with(&[]).await
    }

    /// Starts an application on a fresh database, with these settings (`pool.max`).
    pub async fn app_with(&self, settings: &[(&str, &str)]) -> App {
        let url = self.database().await;
        self.app_on(&url, settings).await
    }

    /// Starts an application on this database, with these settings.
    pub async fn app_on(&self, url: &str, settings: &[(&str, &str)]) -> App {
        let application = Application::build(self.settings(url, settings)).await.unwrap();
        let app = App::run(application, url);
        self.0.apps.lock().unwrap_or_else(PoisonError::into_inner).push(app.clone());
        app
    }

    /// Settings, loaded from environment variables as in production.
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
}
