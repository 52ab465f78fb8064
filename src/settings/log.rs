//! The section `[log]`.

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use super::Invalid;

/// `log.*`: the log on standard output.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    /// How a line looks.
    pub format: LogFormat,
    /// What is logged.
    pub filter: String,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Human on a terminal, else JSON.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl LogSettings {
    pub(super) fn validate(&self) -> Result<(), Invalid> {
        EnvFilter::try_new(&self.filter)
            .map(drop)
            .map_err(|_| Invalid::new("log.filter", "a filter such as info or users_api=debug,info"))
    }
}
