//! Sources of settings other than TOML files: the environment, `.env`, and the files of secrets.

use std::{
    collections::BTreeMap,
    fmt,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use config::Value;

use super::{Origin, SettingsError, all, dotenv, is_secret, secret_file};

const PREFIX: &str = "USERS_API__";
pub(super) const FILE_SUFFIX: &str = "_file";

/// The variables that settings are read from, taken once at start: nothing reads the process's environment later.
#[derive(Clone, Default)]
pub struct Environment {
    /// Variables from `.env`.
    pub dot_env: BTreeMap<String, String>,
    /// Variables of the process.
    pub process: BTreeMap<String, String>,
}

impl Environment {
    /// The process's own variables, and those of the file `.env` in the working directory, if there is one.
    ///
    /// # Errors
    ///
    /// [`SettingsError::File`] or [`SettingsError::DotEnv`] if there is a `.env` that cannot be read.
    pub fn of_process() -> Result<Self, SettingsError> {
        let mut process = BTreeMap::new();
        for (name, value) in std::env::vars_os() {
            // A name that is not Unicode cannot be one of ours.
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => drop(process.insert(name, value)),
                Err(_) if is_ours(&name) => return Err(SettingsError::NotUnicode { name }),
                Err(_) => {}
            }
        }
        let dot_env = dot_env(&process)?;
        Ok(Self { dot_env, process })
    }
}

/// The variables of the file `.env` in the working directory and in no other: a parent directory may contain another project's.
fn dot_env(process: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, SettingsError> {
    let path = Path::new(".env");
    // A directory may have this name.
    if path.is_dir() {
        return Ok(BTreeMap::new());
    }
    let unreadable = |cause: &str| SettingsError::File { path: ".env".to_owned(), cause: cause.to_owned() };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(unreadable(&error.to_string())),
    };
    let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8"))?;
    let is_used = |name: &str| is_ours(name) || is_libpq(name);
    dotenv::parse(&text, |name| process.get(name).cloned(), is_used).map_err(|bad| SettingsError::DotEnv {
        line: bad.line,
        name: bad.name,
        reason: bad.reason,
    })
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dot_env, process } = self;
        f.debug_struct("Environment").field("dot_env", &dot_env.keys()).field("process", &process.keys()).finish()
    }
}

/// A value as it was found: by what name, for which key.
pub(super) struct Found {
    pub(super) name: String,
    pub(super) key: String,
    pub(super) value: Value,
    /// The file that it comes from.
    pub(super) file: Option<PathBuf>,
}

impl Found {
    pub(super) fn new(name: String, key: String, value: Value) -> Self {
        Self { name, key, value, file: None }
    }
}

/// The environment's name of a key.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// The value of a secret that comes from a file; anything else as it is.
pub(super) fn from_file(found: Found, origin: Origin) -> Result<Found, SettingsError> {
    let Some(key) = found.key.strip_suffix(FILE_SUFFIX).filter(|key| is_secret(key)) else { return Ok(found) };
    let path = found.value.into_string().unwrap_or_default();
    match secret_file::read(&path) {
        Ok(text) => Ok(Found { file: Some(path.into()), ..Found::new(found.name, key.to_owned(), Value::from(text)) }),
        Err(reason) => Err(SettingsError::Unusable { name: found.name, reason, origin }),
    }
}

fn is_ours(variable: &str) -> bool {
    let short = variable.strip_suffix("_FILE").unwrap_or(variable);
    variable.starts_with(PREFIX) || all().any(|setting| setting.alias == Some(short))
}

pub(super) fn is_libpq(variable: &str) -> bool {
    variable.starts_with("PG")
}

/// The settings among a set of variables; short names first, so that the long ones win within it.
pub(super) fn variables(variables: &BTreeMap<String, String>) -> Vec<Found> {
    let short = all().filter_map(|setting| Some((setting.alias?, setting))).flat_map(|(name, setting)| {
        let file = (format!("{name}_FILE"), format!("{}{FILE_SUFFIX}", setting.key));
        let names = [(name.to_owned(), setting.key.to_owned()), file];
        names.into_iter().take(if setting.is_secret { 2 } else { 1 })
    });
    let short = short.filter_map(|(name, key)| {
        let value = Value::from(variables.get(&name)?.as_str());
        Some(Found::new(name, key, value))
    });
    let long = variables.iter().filter_map(|(name, value)| {
        let key = name.strip_prefix(PREFIX)?.replace("__", ".").to_lowercase();
        Some(Found::new(name.clone(), key, Value::from(value.as_str())))
    });
    short.chain(long).collect()
}
