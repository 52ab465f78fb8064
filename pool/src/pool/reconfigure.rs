//! Changes the options and credentials of a running pool.

use tokio::time::Instant;

use super::{Pool, open::effective_options};
use crate::{
    connect::url::{DatabaseUrl, Engine},
    error::ReconfigureError,
    error_kind::connection_error,
    options::PoolOptions,
};

impl Pool {
    /// Changes limits and credentials. Running operations continue.
    ///
    /// All options except `statement_timeout`, `application_name` and `threads` take effect. New credentials are tested
    /// first; connections with the old ones are closed when they are returned.
    ///
    /// # Errors
    ///
    /// [`ReconfigureError`]. If the new credentials are rejected, the old ones remain in use, but the options have been
    /// changed.
    pub async fn reconfigure(&self, url: &DatabaseUrl, options: &PoolOptions) -> Result<(), ReconfigureError> {
        let inner = self.inner();
        let connector = inner.connector();
        let current = inner.options();
        if !url.differs_in_credentials_only(connector.url()) {
            return Err(ReconfigureError::AnotherDatabase);
        }
        let mut next = effective_options(url, options)?;
        next.statement_timeout = current.statement_timeout;
        next.application_name.clone_from(&current.application_name);
        next.threads = current.threads;
        let new = connector.with_url(url, &next).map_err(|_| ReconfigureError::AnotherDatabase)?;
        let changes_busy_timeout = inner.engine == Engine::Sqlite && next.acquire != current.acquire;
        inner.set_options(next);
        if url == connector.url() {
            // On SQLite the busy timeout is a setting of each connection.
            if changes_busy_timeout && !url.is_in_memory() {
                inner.set_connector(connector.with_busy_timeout(inner.options().acquire));
            }
            return Ok(());
        }
        let began = Instant::now();
        let opened = inner.open_detached(Some(new.clone())).await.ok_or(ReconfigureError::Closed)?;
        let connection = opened.map_err(|failure| ReconfigureError::Refused {
            kind: failure.kind,
            cause: connection_error(failure.source),
        })?;
        let generation = inner.set_connector(new);
        inner.adopt(connection, generation, began.elapsed());
        Ok(())
    }
}
