//! The layers that settings are made of, and where each value came from.

use std::{collections::BTreeMap, fmt, path::Path};

use config::{Config, File, FileFormat, Value, ValueKind};
use orm_pool::DatabaseUrl;

use super::{Settings, SettingsError};

const DEFAULTS: &str = include_str!("../../config/default.toml");
const PREFIX: &str = "USERS_API__";
/// Variables with a short name of their own.
const ALIASES: [(&str, &str); 2] = [("DATABASE_URL", "database.url"), ("RUST_LOG", "log.filter")];
/// Values that are never shown.
const SECRETS: [&str; 1] = ["users.cursor_key"];
/// What each kind of value looks like, for values that are not of their kind.
const KINDS: [(&str, &str); 32] = [
    ("server.host", "an IP address such as 127.0.0.1 or ::"),
    ("server.port", "a whole number from 0 to 65535"),
    ("server.workers", "a whole number from 0 to 512"),
    ("server.max_connections", "a whole number from 0 to 1000000"),
    ("server.allowed_hosts", "names separated by commas, or *"),
    ("server.request_timeout", DURATION),
    ("server.write_timeout", DURATION),
    ("server.drain_delay", DURATION),
    ("server.shutdown_timeout", DURATION),
    ("database.migrate", "auto, check or off"),
    ("pool.max", "a whole number from 1 to 10000"),
    ("pool.min", "a whole number from 0 to pool.max"),
    ("pool.acquire", DURATION),
    ("pool.idle", DURATION),
    ("pool.lifetime", DURATION),
    ("pool.wait", "true or false"),
    ("pool.queue_limit", "a whole number, 0 = no limit"),
    ("pool.batch", "true or false"),
    ("pool.batch_max", "a whole number from 1 to 1000"),
    ("pool.bulk_share", "a whole number from 1 to 100"),
    ("pool.outage_wait", DURATION),
    ("pool.slow_hold", DURATION),
    ("pool.validate_after", DURATION),
    ("pool.statement_timeout", DURATION),
    ("pool.threads", "a whole number from 0 to 64"),
    ("users.require_if_match", "true or false"),
    ("idempotency.keep", DURATION),
    ("log.format", "auto, human or json"),
    ("log.filter", "a text"),
    ("telemetry.otlp_endpoint", "a text"),
    ("telemetry.service_name", "a text"),
    ("pool.application_name", "a text"),
];
const DURATION: &str = "a duration such as 250ms, 5s or 10m";

/// Where a value came from. Later ones win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// `config/default.toml`, embedded in the binary.
    Default,
    /// The file named by `--config` or `USERS_API_CONFIG`.
    File,
    /// The file `.env`.
    DotEnv,
    /// The environment.
    Environment,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::DotEnv => ".env",
            Self::Environment => "environment",
        })
    }
}

/// The variables that settings are read from, taken once at start: nothing reads the process's environment later.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// What the `.env` file says.
    pub dot_env: BTreeMap<String, String>,
    /// What the process was started with.
    pub process: BTreeMap<String, String>,
}

impl Environment {
    /// The process's own variables, and those of the file `.env` in the working directory, if there is one.
    ///
    /// # Errors
    ///
    /// [`SettingsError::File`] if there is a `.env` that cannot be read.
    pub fn of_process() -> Result<Self, SettingsError> {
        let unreadable =
            |cause: dotenvy::Error| SettingsError::File { path: ".env".to_owned(), cause: cause.to_string() };
        let dot_env = match dotenvy::from_filename_iter(".env") {
            Ok(variables) => variables.collect::<Result<_, _>>().map_err(unreadable)?,
            Err(error) if error.not_found() => BTreeMap::new(),
            Err(error) => return Err(unreadable(error)),
        };
        let mut process = BTreeMap::new();
        for (name, value) in std::env::vars_os() {
            // A name that is no Unicode cannot be one of ours.
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => drop(process.insert(name, value)),
                Err(_) if is_ours(&name) => return Err(SettingsError::NotUnicode { name }),
                Err(_) => {}
            }
        }
        Ok(Self { dot_env, process })
    }
}

/// One value, where it stands, and by what name.
#[derive(Clone, Debug)]
struct Entry {
    value: Value,
    origin: Origin,
    name: String,
}

/// Every value with its origin, before it is understood.
#[derive(Debug)]
pub struct Layers {
    entries: BTreeMap<String, Entry>,
}

impl Layers {
    /// Reads all layers and refuses keys that mean nothing.
    ///
    /// # Errors
    ///
    /// [`SettingsError::File`] or [`SettingsError::UnknownKey`].
    pub fn read(file: Option<&Path>, environment: &Environment) -> Result<Self, SettingsError> {
        let defaults = flatten(toml("config/default.toml", DEFAULTS)?);
        let mut entries: BTreeMap<String, Entry> = defaults
            .into_iter()
            .map(|(key, value)| (key.clone(), Entry { value, origin: Origin::Default, name: key }))
            .collect();
        let mut lay = |values: Vec<(String, String, Value)>, origin: Origin| {
            for (name, key, value) in values {
                let Some(entry) = entries.get_mut(&key) else {
                    let nearest = nearest(&key).map(|key| if name == key { key.to_owned() } else { variable(key) });
                    return Err(SettingsError::UnknownKey { name, nearest });
                };
                *entry = Entry { value, origin, name };
            }
            Ok(())
        };
        if let Some(path) = file {
            let shown = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|error| SettingsError::File { path: shown.clone(), cause: error.to_string() })?;
            let values = flatten(toml(&shown, &text)?);
            lay(values.into_iter().map(|(key, value)| (key.clone(), key, value)).collect(), Origin::File)?;
        }
        lay(variables(&environment.dot_env), Origin::DotEnv)?;
        lay(variables(&environment.process), Origin::Environment)?;
        Ok(Self { entries })
    }

    /// Understands and checks every value.
    ///
    /// # Errors
    ///
    /// [`SettingsError::Invalid`].
    pub fn settings(&self) -> Result<Settings, SettingsError> {
        // Each value alone first, so that the one that is wrong is the one that is named.
        for key in self.entries.keys() {
            self.understand([key])?;
        }
        let settings = self.understand(self.entries.keys())?;
        settings.validate().map_err(|invalid| self.invalid(&invalid.key, &invalid.allowed))?;
        Ok(settings)
    }

    /// Every key with its value as it may be shown, and its origin.
    pub fn shown(&self) -> impl Iterator<Item = (&str, String, Origin)> {
        self.entries.iter().map(|(key, entry)| (key.as_str(), shown(key, &entry.value), entry.origin))
    }

    /// Takes over the values of these keys.
    pub fn take_over(&mut self, other: &Self, keys: &[&str]) {
        for key in keys {
            if let Some(entry) = other.entries.get(*key) {
                self.entries.insert((*key).to_owned(), entry.clone());
            }
        }
    }

    /// The keys whose values are others than there.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&str> {
        let text =
            |layers: &Self, key: &str| layers.entries.get(key).and_then(|entry| entry.value.clone().into_string().ok());
        self.entries.keys().map(String::as_str).filter(|key| text(self, key) != text(other, key)).collect()
    }

    /// Puts the named values over the defaults and reads the whole.
    fn understand<'a>(&'a self, keys: impl IntoIterator<Item = &'a String>) -> Result<Settings, SettingsError> {
        let mut builder = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        let mut last = "";
        for key in keys {
            last = key;
            let value = self.entries[key].value.clone();
            builder = builder.set_override(key, value).map_err(|_| self.invalid(key, "a plain value"))?;
        }
        if let Ok(settings) = builder.build().and_then(Config::try_deserialize::<Settings>) {
            return Ok(settings);
        }
        let kind = KINDS.iter().find(|(key, _)| *key == last).map_or("a plain value", |(_, kind)| kind);
        Err(self.invalid(last, kind))
    }

    fn invalid(&self, key: &str, allowed: &str) -> SettingsError {
        let (name, value, origin) = match self.entries.get(key) {
            Some(entry) => (entry.name.clone(), shown(key, &entry.value), entry.origin),
            None => (key.to_owned(), String::new(), Origin::Default),
        };
        SettingsError::Invalid { name, value, allowed: allowed.to_owned(), origin }
    }
}

/// The environment's name of a key.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

fn toml(path: &str, text: &str) -> Result<BTreeMap<String, Value>, SettingsError> {
    Config::builder()
        .add_source(File::from_str(text, FileFormat::Toml))
        .build()
        .and_then(Config::try_deserialize)
        // Between the place and the reason the parser's message has a drawing; one line is promised.
        .map_err(|error| {
            let text = error.to_string();
            let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let cause = match lines[..] {
                [] => String::new(),
                [only] => only.to_owned(),
                [place, .., reason] => format!("{place}: {reason}"),
            };
            SettingsError::File { path: path.to_owned(), cause }
        })
}

fn flatten(values: BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let mut flat = BTreeMap::new();
    for (key, value) in values {
        match value.kind {
            ValueKind::Table(inner) => {
                let inner = flatten(inner.into_iter().collect());
                flat.extend(inner.into_iter().map(|(rest, value)| (format!("{key}.{rest}"), value)));
            }
            _ => {
                flat.insert(key, value);
            }
        }
    }
    flat
}

fn is_ours(variable: &str) -> bool {
    variable.starts_with(PREFIX) || ALIASES.iter().any(|(name, _)| *name == variable)
}

/// The settings among a set of variables: name, key and value; short names first, so that the long ones win within it.
fn variables(variables: &BTreeMap<String, String>) -> Vec<(String, String, Value)> {
    let short = ALIASES.iter().filter_map(|(name, key)| {
        let value = variables.get(*name)?;
        Some(((*name).to_owned(), (*key).to_owned(), Value::from(value.as_str())))
    });
    let long = variables.iter().filter_map(|(name, value)| {
        let key = name.strip_prefix(PREFIX)?.replace("__", ".").to_lowercase();
        Some((name.clone(), key, Value::from(value.as_str())))
    });
    short.chain(long).collect()
}

fn shown(key: &str, value: &Value) -> String {
    let text = value.clone().into_string().unwrap_or_else(|_| "(not a plain value)".to_owned());
    if key == "database.url" {
        return DatabaseUrl::parse(&text).map_or_else(|_| "(hidden)".to_owned(), |url| url.to_string());
    }
    if SECRETS.contains(&key) && !text.is_empty() {
        return "***".to_owned();
    }
    text
}

/// The known key that shares most of its letters with an unknown one, if it is close at all.
fn nearest(unknown: &str) -> Option<&'static str> {
    KINDS
        .iter()
        .map(|(key, _)| *key)
        .chain(["database.url", "users.cursor_key"])
        .map(|key| (strsim::damerau_levenshtein(key, unknown), key))
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let process = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Environment { process, ..Environment::default() }
    }

    fn refused(variables: &[(&str, &str)]) -> String {
        Settings::load(None, &environment(variables)).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_the_contract() {
        let settings = Settings::load(None, &Environment::default()).unwrap();
        assert_eq!((settings.server.host.to_string().as_str(), settings.server.port), ("127.0.0.1", 8080));
        assert_eq!(settings.pool, orm_pool::PoolOptions { application_name: "users-api".into(), ..Default::default() });
        assert_eq!(settings.database.url().unwrap().to_string(), "sqlite://users.db?mode=rwc");
        assert_eq!(settings.database.migrate, super::super::Migrate::Auto);
    }

    #[test]
    fn later_layers_win() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("users.toml");
        std::fs::write(&file, "[pool]\nmax = 3\nmin = 3\nqueue_limit = 7\n").unwrap();
        let mut environment = environment(&[("USERS_API__POOL__MAX", "5")]);
        environment.dot_env.insert("USERS_API__POOL__MAX".into(), "4".into());
        environment.dot_env.insert("USERS_API__POOL__MIN".into(), "4".into());
        let layers = Layers::read(Some(&file), &environment).unwrap();
        let pool = layers.settings().unwrap().pool;
        assert_eq!((pool.max, pool.min, pool.queue_limit), (5, 4, 7));
        let origin = |key| layers.shown().find(|(shown, _, _)| *shown == key).unwrap().2;
        assert_eq!(origin("pool.max"), Origin::Environment);
        assert_eq!(origin("pool.min"), Origin::DotEnv);
        assert_eq!(origin("pool.queue_limit"), Origin::File);
        assert_eq!(origin("pool.wait"), Origin::Default);
    }

    #[test]
    fn the_short_names_yield_to_the_long_ones() {
        let url = |variables: &[_]| Settings::load(None, &environment(variables)).unwrap().database.url().unwrap();
        assert_eq!(url(&[("DATABASE_URL", "postgres://a@h/d")]).to_string(), "postgres://a@h/d");
        let both = [("DATABASE_URL", "postgres://a@h/d"), ("USERS_API__DATABASE__URL", "mysql://b@h/d")];
        assert_eq!(url(&both).to_string(), "mysql://b@h/d");
    }

    #[test]
    fn a_bad_value_is_named_with_what_is_allowed() {
        for (name, value, message) in [
            (
                "USERS_API__POOL__MAX",
                "abc",
                "USERS_API__POOL__MAX=abc: must be a whole number from 1 to 10000 (from environment)",
            ),
            (
                "USERS_API__POOL__MAX",
                "0",
                "USERS_API__POOL__MAX=0: must be a whole number from 1 to 10000 (from environment)",
            ),
            (
                "USERS_API__POOL__MIN",
                "11",
                "USERS_API__POOL__MIN=11: must be a whole number from 0 to pool.max (10) (from environment)",
            ),
            (
                "USERS_API__POOL__ACQUIRE",
                "5",
                "USERS_API__POOL__ACQUIRE=5: must be a duration such as 250ms, 5s or 10m (from environment)",
            ),
            (
                "USERS_API__POOL__ACQUIRE",
                "0s",
                "USERS_API__POOL__ACQUIRE=0s: must be a duration from 1ms to 1h (from environment)",
            ),
            ("USERS_API__POOL__WAIT", "maybe", "USERS_API__POOL__WAIT=maybe: must be true or false (from environment)"),
            (
                "USERS_API__SERVER__PORT",
                "65536",
                "USERS_API__SERVER__PORT=65536: must be a whole number from 0 to 65535 (from environment)",
            ),
            (
                "USERS_API__SERVER__HOST",
                "localhost",
                "USERS_API__SERVER__HOST=localhost: must be an IP address such as 127.0.0.1 or :: (from environment)",
            ),
            (
                "USERS_API__DATABASE__MIGRATE",
                "yes",
                "USERS_API__DATABASE__MIGRATE=yes: must be auto, check or off (from environment)",
            ),
            (
                "USERS_API__POOL__MAXX",
                "1",
                "USERS_API__POOL__MAXX: unknown setting; did you mean USERS_API__POOL__MAX?",
            ),
            ("USERS_API__COLOUR", "1", "USERS_API__COLOUR: unknown setting"),
            (
                "USERS_API__TELEMETRY__OTLP_ENDPOINT",
                "here",
                "USERS_API__TELEMETRY__OTLP_ENDPOINT=here: must be empty, or the http:// URL of an OTLP receiver near by (from environment)",
            ),
        ] {
            assert_eq!(refused(&[(name, value)]), message);
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let refusal = refused(&[("DATABASE_URL", "mongodb://ann:hunter2@h/d")]);
        assert!(!refusal.contains("hunter2") && refusal.starts_with("DATABASE_URL="), "{refusal}");
        let variables = [("DATABASE_URL", "postgres://ann:hunter2@h/d"), ("USERS_API__USERS__CURSOR_KEY", "hunter2")];
        let layers = Layers::read(None, &environment(&variables)).unwrap();
        assert!(layers.shown().all(|(_, value, _)| !value.contains("hunter2")));
        assert!(!format!("{:?}", layers.settings().unwrap()).contains("hunter2"));
    }

    #[test]
    fn every_key_has_a_kind() {
        let layers = Layers::read(None, &Environment::default()).unwrap();
        for (key, _, _) in layers.shown().filter(|(key, _, _)| !["database.url", "users.cursor_key"].contains(key)) {
            assert!(KINDS.iter().any(|(kind, _)| *kind == key), "{key}");
        }
    }
}
