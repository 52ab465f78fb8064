//! The section `[log]`.

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use super::{
    Invalid,
    declaration::{Allowed, section},
};

section! {
    /// `log.*`: the log on standard output.
    LogSettings, SETTINGS: "log" {
        /// human, json, or auto: human on a terminal, JSON otherwise.
        pub format: LogFormat = "auto", Allowed::Described("auto, human or json");
        /// What is logged, in the syntax of tracing's EnvFilter. The default omits the errors of actix_http, which
        /// report clients that do not speak HTTP.
        pub filter: String =
            "info,actix_http=off,actix_server=warn,sea_orm_migration=warn,sqlx::postgres::notice=warn",
            Allowed::Described("a filter such as info or users_api=debug,info"), alias("RUST_LOG");
    }
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
        EnvFilter::try_new(&self.filter).map(drop).map_err(|_| Invalid::not_allowed("log.filter"))
    }
}
