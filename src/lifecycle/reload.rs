//! Reload on SIGHUP: reads the settings again and applies those of the pool while requests are served.

use std::path::PathBuf;

use orm_pool::Pool;

use crate::{
    error_chain::chain,
    settings::{Environment, Layers, Override, SettingsError, is_reloadable},
    tls::Certificate,
};

/// Reads the settings again from their original sources and applies changes.
#[derive(Debug)]
pub struct Reload {
    file: Option<PathBuf>,
    overrides: Vec<Override>,
    /// The settings in effect.
    layers: Layers,
}

impl Reload {
    /// Creates a reload from the settings file, the overrides and all layers that the process was started with.
    #[must_use]
    pub fn new(file: Option<PathBuf>, overrides: Vec<Override>, layers: Layers) -> Self {
        Self { file, overrides, layers }
    }

    /// Reads all layers and the certificate again, applies changes and logs the outcome. Invalid settings change nothing,
    /// and neither does a certificate that cannot be used.
    pub async fn run(&mut self, pool: &Pool, certificate: Option<&Certificate>) {
        let is_reported = certificate.is_some_and(reload_certificate);
        self.reload_settings(pool, is_reported).await;
    }

    async fn reload_settings(&mut self, pool: &Pool, is_reported: bool) {
        let (layers, settings) = match self.read() {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(error = chain(&error), "reload: invalid settings; the current ones remain in use");
                return;
            }
        };
        let (reloadable, restart): (Vec<&str>, Vec<&str>) =
            layers.differences(&self.layers).into_iter().partition(|key| is_reloadable(key));
        if !restart.is_empty() {
            tracing::warn!(settings = restart.join(", "), "reload: these settings require a restart");
        }
        if reloadable.is_empty() {
            if !is_reported {
                tracing::info!("reload: no changes");
            }
            return;
        }
        let before = self.layers.settings();
        if before.is_ok_and(|before| !settings.database.has_same_password_source(&before.database)) {
            tracing::warn!(settings = "database.password", "reload: another source of the password requires a restart");
            return;
        }
        // Validated with the rest of the settings.
        let Ok(url) = settings.database.url() else { return };
        let changed = reloadable.join(", ");
        match pool.reconfigure(&url, &settings.pool).await {
            Ok(()) => {
                tracing::info!(settings = changed, "reload: settings applied");
                // The others are not in effect, and are reported again by the next reload.
                self.layers.adopt(&layers, &reloadable);
            }
            Err(error) => {
                tracing::error!(error = chain(&error), settings = changed, "reload: settings not fully applied");
            }
        }
    }

    fn read(&self) -> Result<(Layers, crate::settings::Settings), SettingsError> {
        let layers = Layers::read(self.file.as_deref(), &Environment::of_process()?)?.overridden(&self.overrides);
        let settings = layers.settings()?;
        Ok((layers, settings))
    }
}

/// Returns whether it has logged an outcome.
fn reload_certificate(certificate: &Certificate) -> bool {
    match certificate.reload() {
        Ok(true) => {
            tracing::info!("reload: new certificate in use for new connections");
            true
        }
        Ok(false) => false,
        Err(error) => {
            tracing::error!(%error, "reload: invalid certificate; the current one remains in use");
            true
        }
    }
}
