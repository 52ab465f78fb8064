//! Settings: defaults, then a file, then `.env`, then the environment; checked as a whole before anything starts.
//!
//! Each section is a struct in a file of its own, with its limits. The defaults are `config/default.toml`, embedded in
//! the binary, where every key is explained. `pool.max` is `USERS_API__POOL__MAX` in the environment; `DATABASE_URL`
//! also sets `database.url` and `RUST_LOG` also sets `log.filter`, both below their longer names. A secret can come from a
//! file instead: `USERS_API__DATABASE__PASSWORD_FILE`.

mod database;
mod dotenv;
mod environment;
mod error;
mod idempotency;
mod kinds;
mod layers;
mod log;
mod secret_file;
mod server;
mod telemetry;
mod users;

use std::path::Path;

use orm_pool::PoolOptions;
use serde::Deserialize;

pub use self::{
    database::{DatabaseSettings, Migrate},
    environment::Environment,
    error::SettingsError,
    idempotency::IdempotencySettings,
    layers::{Layers, Origin, Override},
    log::{LogFormat, LogSettings},
    server::ServerSettings,
    telemetry::TelemetrySettings,
    users::UsersSettings,
};

/// Everything that can be set.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where and how to listen.
    pub server: ServerSettings,
    /// Which database.
    pub database: DatabaseSettings,
    /// The one connection pool.
    pub pool: PoolOptions,
    /// The users resource.
    pub users: UsersSettings,
    /// Keys of requests that are done once.
    pub idempotency: IdempotencySettings,
    /// The log.
    pub log: LogSettings,
    /// Traces.
    pub telemetry: TelemetrySettings,
}

impl Settings {
    /// Reads and checks all layers.
    ///
    /// # Errors
    ///
    /// The first [`SettingsError`]; its text names the variable, the value and what is allowed.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Self, SettingsError> {
        Layers::read(file, environment)?.settings()
    }

    /// Checks every section. The key that is named is the one whose value is refused.
    fn validate(&self) -> Result<(), Invalid> {
        self.server.validate()?;
        self.database.validate()?;
        self.pool.validate().map_err(|invalid| Invalid::new(format!("pool.{}", invalid.option), invalid.allowed))?;
        self.idempotency.validate()?;
        self.log.validate()?;
        self.telemetry.validate()
    }
}

/// A value that cannot be used.
struct Invalid {
    key: String,
    reason: Reason,
}

enum Reason {
    /// It is outside its limits, which these are.
    MustBe(String),
    /// A sentence without the value.
    Because(String),
}

impl Invalid {
    fn new(key: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { key: key.into(), reason: Reason::MustBe(allowed.into()) }
    }

    fn because(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { key: key.into(), reason: Reason::Because(reason.into()) }
    }
}
