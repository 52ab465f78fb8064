//! Settings: defaults, then a file, then `.env`, then the environment; checked as a whole before anything starts.
//!
//! Each section is declared in a separate file: its fields, and for each setting the default, the allowed values, the description,
//! and whether it is secret or reloadable. `config/default.toml` and `.env.example` are written from these declarations
//! (`users-api config --template`). `pool.max` is `USERS_API__POOL__MAX` in the environment; `DATABASE_URL`
//! also sets `database.url` and `RUST_LOG` also sets `log.filter`, both below their longer names. A secret can come from a
//! file instead: `USERS_API__DATABASE__PASSWORD_FILE`.

mod admin;
mod auth;
mod cors;
mod database;
mod declaration;
mod dotenv;
mod environment;
mod error;
mod feed;
mod idempotency;
mod journal;
mod layers;
mod limits;
mod list;
mod log;
mod pool;
mod secret_file;
mod server;
mod telemetry;
mod templates;
mod users;

use std::path::Path;

use orm_pool::PoolOptions;
use serde::Deserialize;

use self::declaration::Setting;
pub(crate) use self::secret_file::read as read_secret;
pub use self::{
    admin::AdminSettings,
    auth::{AuthMode, AuthSettings, JwtSettings},
    cors::CorsSettings,
    database::{DatabaseSettings, Migrate, PasswordSource},
    environment::Environment,
    error::SettingsError,
    feed::FeedSettings,
    idempotency::IdempotencySettings,
    journal::JournalSettings,
    layers::{Layers, Origin, Override},
    limits::LimitsSettings,
    list::List,
    log::{LogFormat, LogSettings},
    server::{ServerSettings, TlsSettings},
    telemetry::TelemetrySettings,
    templates::{default_toml, env_example},
    users::UsersSettings,
};

/// Everything that can be set.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where and how to listen.
    pub server: ServerSettings,
    /// A second listener, for operators.
    pub admin: AdminSettings,
    /// Who may use the service.
    pub auth: AuthSettings,
    /// The live feed of changes.
    pub feed: FeedSettings,
    /// Web pages of other origins.
    pub cors: CorsSettings,
    /// How many requests a caller may make.
    pub limits: LimitsSettings,
    /// Which database.
    pub database: DatabaseSettings,
    /// The one connection pool.
    pub pool: PoolOptions,
    /// The users resource.
    pub users: UsersSettings,
    /// Keys of requests that are done once.
    pub idempotency: IdempotencySettings,
    /// The record of all changes.
    pub journal: JournalSettings,
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
        let admin = self.admin.address().map(|address| ("admin.host", address.ip()));
        let hosts = std::iter::once(("server.host", self.server.host)).chain(admin);
        self.auth.validate(hosts)?;
        self.feed.validate(self.database.url().ok().map(|url| url.engine()))?;
        self.cors.validate()?;
        self.database.validate()?;
        self.pool.validate().map_err(|invalid| Invalid::new(format!("pool.{}", invalid.option), invalid.allowed))?;
        self.log.validate()?;
        self.telemetry.validate()
    }
}

/// Every setting, section by section.
fn all() -> impl Iterator<Item = &'static Setting> {
    [
        server::SETTINGS,
        server::TLS_SETTINGS,
        admin::SETTINGS,
        auth::SETTINGS,
        auth::JWT_SETTINGS,
        cors::SETTINGS,
        limits::SETTINGS,
        database::SETTINGS,
        pool::SETTINGS,
        users::SETTINGS,
        idempotency::SETTINGS,
        journal::SETTINGS,
        feed::SETTINGS,
        log::SETTINGS,
        telemetry::SETTINGS,
    ]
    .into_iter()
    .flatten()
}

/// Returns a setting by its key.
fn setting(key: &str) -> Option<&'static Setting> {
    all().find(|setting| setting.key == key)
}

/// Returns the environment variables that also set a setting, besides the one with its name, and the setting's key.
pub fn aliases() -> impl Iterator<Item = (&'static str, &'static str)> {
    all().filter_map(|setting| Some((setting.alias?, setting.key)))
}

/// Whether a change of this setting takes effect on SIGHUP.
#[must_use]
pub fn is_reloadable(key: &str) -> bool {
    setting(key).is_some_and(|setting| setting.is_reloadable)
}

fn is_secret(key: &str) -> bool {
    setting(key).is_some_and(|setting| setting.is_secret)
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
    /// The value is not among those that the setting's declaration allows.
    fn not_allowed(key: &'static str) -> Self {
        Self::new(key, setting(key).map_or(String::new(), |setting| setting.allowed.to_string()))
    }

    fn new(key: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { key: key.into(), reason: Reason::MustBe(allowed.into()) }
    }

    fn because(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { key: key.into(), reason: Reason::Because(reason.into()) }
    }
}
