//! SIGHUP: the settings are read again, and those of the pool take effect while requests go on.

use std::path::PathBuf;

use orm_pool::Pool;

use crate::{
    settings::{Environment, Layers, Override, SettingsError},
    telemetry::chain,
};

/// What takes effect alive. Of the URL it is the credentials; the pool refuses another database.
const ALIVE: [&str; 15] = [
    "database.password",
    "database.url",
    "pool.acquire",
    "pool.batch",
    "pool.batch_max",
    "pool.bulk_share",
    "pool.idle",
    "pool.lifetime",
    "pool.max",
    "pool.min",
    "pool.outage_wait",
    "pool.queue_limit",
    "pool.slow_hold",
    "pool.validate_after",
    "pool.wait",
];

/// Reads the settings again from where they came from at first.
#[derive(Debug)]
pub struct Reload {
    file: Option<PathBuf>,
    overrides: Vec<Override>,
    /// What is in force.
    layers: Layers,
}

impl Reload {
    /// The layers that the process was started with, and of these the file and the command line.
    #[must_use]
    pub fn new(file: Option<PathBuf>, overrides: Vec<Override>, layers: Layers) -> Self {
        Self { file, overrides, layers }
    }

    /// Reads all layers again and tells the log what became of them. Whatever is wrong changes nothing.
    pub async fn run(&mut self, pool: &Pool) {
        let (layers, settings) = match self.read() {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(error = chain(&error), "reload: the settings are not valid; the old ones stay");
                return;
            }
        };
        let (alive, restart): (Vec<&str>, Vec<&str>) =
            layers.differences(&self.layers).into_iter().partition(|key| ALIVE.contains(key));
        if !restart.is_empty() {
            tracing::warn!(settings = restart.join(", "), "reload: these take effect at the next start");
        }
        if alive.is_empty() {
            tracing::info!("reload: nothing to change");
            return;
        }
        // Validated with the rest of the settings.
        let Ok(url) = settings.database.url() else { return };
        let changed = alive.join(", ");
        match pool.reconfigure(&url, &settings.pool).await {
            Ok(()) => {
                tracing::info!(settings = changed, "reload: changed");
                // The others are not in force, and stay to be told.
                self.layers.take_over(&layers, &alive);
            }
            Err(error) => tracing::error!(error = chain(&error), settings = changed, "reload: not all was changed"),
        }
    }

    fn read(&self) -> Result<(Layers, crate::settings::Settings), SettingsError> {
        let layers = Layers::read(self.file.as_deref(), &Environment::of_process()?)?.overridden(&self.overrides);
        let settings = layers.settings()?;
        Ok((layers, settings))
    }
}
