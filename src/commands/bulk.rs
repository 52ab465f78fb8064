//! What imports and exports have in common on the command line.

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use orm_pool::PoolOptions;

use super::{CommandError, interruptible::on_pool};
use crate::{
    app::{self, SchemaError},
    service::UserService,
    settings::Settings,
    shutdown::StopRequest,
};

/// Works on a pool of its own, on a schema that is up to date. The first signal asks to stop where it can be resumed.
pub(super) fn run(
    settings: &Settings,
    work: impl AsyncFnOnce(UserService, StopRequest) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    // One statement after the other: more than two connections would have nothing to do.
    let options = PoolOptions { max: settings.pool.max.min(2), min: 1, ..settings.pool.clone() };
    on_pool(settings, &options, async |pool, stop| {
        app::prepare_schema(&pool, settings.database.migrate, &stop).await.map_err(|error| match error {
            SchemaError::Stopped { applied: 0 } => CommandError::nothing_done(),
            SchemaError::Stopped { .. } => CommandError::Interrupted(error.to_string()),
            error => CommandError::failed(error),
        })?;
        work(UserService::new(pool), stop).await
    })
}

/// So many of something: "1 user", "1,000 users".
pub(super) fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", HumanCount(count), if count == 1 { "" } else { "s" })
}

/// A bar on standard error, if that is a terminal.
pub(super) fn progress(length: Option<u64>, position: &str) -> ProgressBar {
    let bar = match length {
        Some(length) => ProgressBar::new(length),
        None => ProgressBar::no_length(),
    };
    let template = match length {
        Some(_) => format!("{{elapsed}} {{bar:30}} {position} {{msg}} {{eta}} left"),
        None => format!("{{elapsed}} {{spinner}} {position} {{msg}}"),
    };
    match ProgressStyle::with_template(&template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        for (count, text) in [(0, "0 users"), (1, "1 user"), (2, "2 users"), (1_000_000, "1,000,000 users")] {
            assert_eq!(counted(count, "user"), text);
        }
    }
}
