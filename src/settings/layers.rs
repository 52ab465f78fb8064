//! The layers that settings are made of, and where each value came from.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use config::{Config, File, FileFormat, Value, ValueKind};
use orm_pool::DatabaseUrl;
use secrecy::SecretString;

use super::{
    Reason, Settings, SettingsError, all,
    declaration::Allowed,
    environment::{Environment, FILE_SUFFIX, Found, from_file, is_libpq, variable, variables},
    is_secret, setting,
    templates::default_toml,
};
use crate::feed::Broker;

static DEFAULTS: LazyLock<String> = LazyLock::new(default_toml);

/// Where a value came from. Later ones take precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The declaration of the setting.
    Default,
    /// The file named by `--config` or `USERS_API_CONFIG`.
    File,
    /// The file `.env`.
    DotEnv,
    /// The environment.
    Environment,
    /// The command line.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::DotEnv => ".env",
            Self::Environment => "environment",
            Self::CommandLine => "command line",
        })
    }
}

/// A value from the command line, which takes precedence over all others.
#[derive(Clone, Debug)]
pub struct Override {
    /// The setting.
    pub key: &'static str,
    /// The option that gave it (`--port`).
    pub option: &'static str,
    /// What was given.
    pub value: String,
}

/// A value, its source, and the name it was set by.
#[derive(Clone)]
struct Entry {
    value: Value,
    origin: Origin,
    name: String,
    /// The file of a secret.
    file: Option<PathBuf>,
}

impl Entry {
    fn new(value: Value, origin: Origin, name: String) -> Self {
        Self { value, origin, name, file: None }
    }
}

/// Every value with its origin, before it is deserialized.
pub struct Layers {
    entries: BTreeMap<String, Entry>,
    /// libpq's variables (`PGSSLMODE`), for what a PostgreSQL URL leaves open.
    libpq: BTreeMap<String, String>,
}

impl Layers {
    /// Reads all layers and refuses unknown keys.
    ///
    /// # Errors
    ///
    /// [`SettingsError`], except for values that are not valid.
    pub fn read(file: Option<&Path>, environment: &Environment) -> Result<Self, SettingsError> {
        let defaults = flatten(toml("config/default.toml", &DEFAULTS)?);
        let mut entries: BTreeMap<String, Entry> = defaults
            .into_iter()
            .map(|(key, value)| {
                let value = list_as_text(&key, value);
                (key.clone(), Entry::new(value, Origin::Default, key))
            })
            .collect();
        let mut lay = |values: Vec<Found>, origin: Origin| {
            let mut before: BTreeMap<String, String> = BTreeMap::new();
            for found in values {
                let Found { name, key, value, file } = from_file(found, origin)?;
                let Some(entry) = entries.get_mut(&key) else {
                    let nearest = nearest(&key).map(|key| if name == key { key.to_owned() } else { variable(key) });
                    return Err(SettingsError::UnknownKey { name: shown_name(name), nearest });
                };
                // `DATABASE_URL` yields to the longer name, but not to itself.
                if let Some(other) = before.insert(key, name.clone()).filter(|other| is_same_but_for_file(other, &name))
                {
                    return Err(SettingsError::Twice { name, other, origin });
                }
                *entry = Entry { file, ..Entry::new(value, origin, name) };
            }
            Ok(())
        };
        if let Some(path) = file {
            let shown = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|error| SettingsError::File { path: shown.clone(), cause: error.to_string() })?;
            let values = flatten(toml(&shown, &text)?);
            lay(
                values
                    .into_iter()
                    .map(|(key, value)| Found::new(key.clone(), key.clone(), list_as_text(&key, value)))
                    .collect(),
                Origin::File,
            )?;
        }
        lay(variables(&environment.dot_env), Origin::DotEnv)?;
        lay(variables(&environment.process), Origin::Environment)?;
        let libpq = environment.dot_env.iter().chain(&environment.process).filter(|(name, _)| is_libpq(name));
        Ok(Self { entries, libpq: libpq.map(|(name, value)| (name.clone(), value.clone())).collect() })
    }

    /// Overrides all other values with those of the command line.
    #[must_use]
    pub fn overridden(mut self, overrides: &[Override]) -> Self {
        for Override { key, option, value } in overrides {
            let (value, name) = (Value::from(value.as_str()), (*option).to_owned());
            self.entries.insert((*key).to_owned(), Entry::new(value, Origin::CommandLine, name));
        }
        self
    }

    /// Deserializes and checks every value.
    ///
    /// # Errors
    ///
    /// [`SettingsError::Invalid`].
    pub fn settings(&self) -> Result<Settings, SettingsError> {
        // Each value alone first, so that the one that is wrong is the one that is named.
        for (key, entry) in &self.entries {
            self.deserialize([key])?;
            if let Some(setting) = setting(key).filter(|setting| !setting.allowed.contains(&entry.value)) {
                return Err(self.invalid(key, &setting.allowed.to_string()));
            }
        }
        let mut settings = self.deserialize(self.entries.keys())?;
        settings.database.libpq =
            self.libpq.iter().map(|(name, value)| (name.clone(), SecretString::from(value.as_str()))).collect();
        settings.database.password_file = self.entries.get("database.password").and_then(|entry| entry.file.clone());
        settings.validate().map_err(|invalid| match invalid.reason {
            Reason::MustBe(allowed) => self.invalid(&invalid.key, &allowed),
            Reason::Because(reason) => {
                let (name, origin) = self.source_of(&invalid.key);
                SettingsError::Unusable { name, reason, origin }
            }
        })?;
        Ok(settings)
    }

    /// Every key with its value as it may be shown, and its origin.
    pub fn shown(&self) -> impl Iterator<Item = (&str, String, Origin)> {
        self.entries.iter().map(|(key, entry)| (key.as_str(), self.shown_value(key, &entry.value), entry.origin))
    }

    /// Adopts the values of these keys from `other`.
    pub fn adopt(&mut self, other: &Self, keys: &[&str]) {
        for key in keys {
            if let Some(entry) = other.entries.get(*key) {
                self.entries.insert((*key).to_owned(), entry.clone());
            }
        }
        if keys.contains(&"database.url") {
            self.libpq.clone_from(&other.libpq);
        }
    }

    /// Returns the keys whose values differ from those of `other`.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&str> {
        let text =
            |layers: &Self, key: &str| layers.entries.get(key).and_then(|entry| entry.value.clone().into_string().ok());
        let differs =
            |key: &str| text(self, key) != text(other, key) || (key == "database.url" && self.libpq != other.libpq);
        self.entries.keys().map(String::as_str).filter(|key| differs(key)).collect()
    }

    /// Overrides the defaults with the values of these keys and deserializes the result.
    fn deserialize<'a>(&'a self, keys: impl IntoIterator<Item = &'a String>) -> Result<Settings, SettingsError> {
        let mut builder = Config::builder().add_source(File::from_str(&DEFAULTS, FileFormat::Toml));
        let mut last = "";
        for key in keys {
            last = key;
            let value = self.entries[key].value.clone();
            builder = builder.set_override(key, value).map_err(|_| self.invalid(key, "a plain value"))?;
        }
        if let Ok(settings) = builder.build().and_then(Config::try_deserialize::<Settings>) {
            return Ok(settings);
        }
        let allowed = setting(last).map_or("a plain value".to_owned(), |setting| setting.allowed.to_string());
        Err(self.invalid(last, &allowed))
    }

    fn invalid(&self, key: &str, allowed: &str) -> SettingsError {
        let (name, origin) = self.source_of(key);
        let value = self.entries.get(key).and_then(|entry| entry.value.clone().into_string().ok());
        let value = value.filter(|text| is_quantity(text) && !is_secret(key));
        SettingsError::Invalid { name, value, allowed: allowed.to_owned(), origin }
    }

    /// Returns the name under which a key is set, and the origin of its value.
    fn source_of(&self, key: &str) -> (String, Origin) {
        let entry = self.entries.get(key);
        entry.map_or((key.to_owned(), Origin::Default), |entry| (entry.name.clone(), entry.origin))
    }

    /// Whether a value is valid on its own.
    fn is_valid(&self, key: &str) -> bool {
        let alone = self.deserialize([&key.to_owned()]);
        alone.is_ok_and(|settings| settings.validate().err().is_none_or(|invalid| invalid.key != key))
    }

    /// A value as it may be shown. One that is not of its kind may be a secret in the wrong place.
    fn shown_value(&self, key: &str, value: &Value) -> String {
        const HIDDEN: &str = "(hidden)";
        let text = value.clone().into_string().unwrap_or_default();
        match key {
            "database.url" => DatabaseUrl::parse_with(&text, |name| self.libpq.get(name).cloned())
                .map_or_else(|_| HIDDEN.to_owned(), |url| url.to_string()),
            // A URL of Kafka is valid for both.
            "feed.broker" | "feed.export" => {
                text.parse().map_or_else(|_| HIDDEN.to_owned(), |broker: Broker| broker.to_string())
            }
            _ if is_secret(key) => if text.is_empty() { "" } else { "***" }.to_owned(),
            _ if !is_quantity(&text) && !self.is_valid(key) => HIDDEN.to_owned(),
            // It may have a password or a token.
            "telemetry.otlp_endpoint" if text.contains(['@', '?', '#']) => HIDDEN.to_owned(),
            _ => text,
        }
    }
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.entries.iter().map(|(key, entry)| (key, entry.origin))).finish_non_exhaustive()
    }
}

/// Whether this is a number or a duration.
fn is_quantity(text: &str) -> bool {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    unit.len() < text.len() && text.len() <= 20 && ["", "ns", "us", "ms", "s", "m", "h", "d"].contains(&unit)
}

/// Whether one name is the other with `_FILE` behind it.
fn is_same_but_for_file(one: &str, other: &str) -> bool {
    let stem = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.strip_suffix(FILE_SUFFIX).map(str::to_owned).unwrap_or(name)
    };
    stem(one) == stem(other)
}

/// A name that looks like one: what stands in the place of a key may be a secret.
fn shown_name(name: String) -> String {
    let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if is_name { name } else { "a key".to_owned() }
}

fn toml(path: &str, text: &str) -> Result<BTreeMap<String, Value>, SettingsError> {
    Config::builder()
        .add_source(File::from_str(text, FileFormat::Toml))
        .build()
        .and_then(Config::try_deserialize)
        // The parser's message draws the line, which may hold a secret, between the place and the reason.
        .map_err(|error| {
            let text = error.to_string();
            let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let cause = match lines[..] {
                [place, .., reason] if place.starts_with("TOML parse error at") => format!("{place}: {reason}"),
                _ => "it is not TOML with plain values".to_owned(),
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

/// Joins the array of a list with commas, as it is written in the environment. An array that is not a list of texts is
/// returned unchanged, and is refused later.
fn list_as_text(key: &str, value: Value) -> Value {
    let is_list = setting(key).is_some_and(|setting| matches!(setting.allowed, Allowed::List(_)));
    match &value.kind {
        ValueKind::Array(values) if is_list => {
            let texts: Option<Vec<&str>> = values.iter().map(text_without_comma).collect();
            texts.map_or(value.clone(), |texts| Value::from(texts.join(",")))
        }
        _ => value,
    }
}

fn text_without_comma(value: &Value) -> Option<&str> {
    match &value.kind {
        ValueKind::String(text) => Some(text.as_str()).filter(|text| !text.contains(',')),
        _ => None,
    }
}

/// The known key that shares most of its letters with an unknown one, if it is close at all.
fn nearest(unknown: &str) -> Option<&'static str> {
    all()
        .map(|setting| setting.key)
        .map(|key| (strsim::damerau_levenshtein(key, unknown), key))
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, key)| key)
}

#[cfg(test)]
mod tests;
