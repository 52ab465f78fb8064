//! Changing the options and credentials of a pool in use.

use tokio::time::Instant;

use super::{Pool, open::fitted};
use crate::{
    connect::url::{DatabaseUrl, Engine},
    error::ReconfigureError,
    error_kind::connection_error,
    options::PoolOptions,
};

impl Pool {
    /// Changes limits and credentials while operations continue. Nothing in flight is cut.
    ///
    /// All options take effect but `statement_timeout`, `application_name` and `threads`. New credentials are tried
    /// first; connections with the old ones are replaced as they come back.
    ///
    /// # Errors
    ///
    /// [`ReconfigureError`]; when the credentials are refused, the old ones stay and the limits are changed all the same.
    pub async fn reconfigure(&self, url: &DatabaseUrl, options: &PoolOptions) -> Result<(), ReconfigureError> {
        let inner = self.inner();
        let connector = inner.connector();
        let current = inner.options();
        if !url.differs_in_credentials_only(connector.url()) {
            return Err(ReconfigureError::AnotherDatabase);
        }
        let mut next = fitted(url, options)?;
        next.statement_timeout = current.statement_timeout;
        next.application_name.clone_from(&current.application_name);
        next.threads = current.threads;
        let new = connector.with_url(url, &next).map_err(|_| ReconfigureError::AnotherDatabase)?;
        let waits_for_locks = inner.engine == Engine::Sqlite && next.acquire != current.acquire;
        inner.set_options(next);
        if url == connector.url() {
            // SQLite's busy time-out is a setting of each connection.
            if waits_for_locks && !url.is_in_memory() {
                inner.set_connector(connector.with_busy_timeout(inner.options().acquire));
            }
            return Ok(());
        }
        let began = Instant::now();
        let opened = inner.open_aside(Some(new.clone())).await.ok_or(ReconfigureError::Closed)?;
        let connection = opened.map_err(|failure| ReconfigureError::Refused {
            kind: failure.kind,
            cause: connection_error(failure.source),
        })?;
        let generation = inner.set_connector(new);
        inner.adopt(connection, generation, began.elapsed());
        Ok(())
    }
}
