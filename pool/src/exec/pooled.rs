//! The guard that `Pool::acquire` returns.

use std::{fmt, ops::Deref, sync::Arc};

use tracing::Instrument;

use super::{
    check_in::check_in,
    connection::Connection,
    operation::{refuse_nested, span, validate},
    runtime::PoolRuntime,
};
use crate::{
    context::OperationContext,
    error::Error,
    inner::{PoolInner, lease::Lease},
    set::Access,
};

/// A pooled connection, returned to the pool on drop.
///
/// It implements the same SeaORM traits as [`Connection`]. On drop an open transaction is rolled back. Nothing is
/// retried: prefer [`Pool::read`](crate::Pool::read), [`write`](crate::Pool::write) and
/// [`transaction`](crate::Pool::transaction).
pub struct PooledConnection {
    connection: Connection,
    lease: Option<Lease>,
    context: Arc<OperationContext>,
    inner: Arc<PoolInner>,
}

impl PooledConnection {
    pub(crate) async fn acquire(
        inner: &Arc<PoolInner>,
        runtime: &PoolRuntime,
        operation: &'static str,
        access: Access,
    ) -> Result<Self, Error> {
        refuse_nested(runtime, operation)?;
        let span = span(inner, operation);
        let context = OperationContext::of_guard(operation);
        let wait_span = tracing::info_span!(parent: &span, "wait", otel.name = "pool.wait");
        let mut lease = inner.acquire(&context, access).instrument(wait_span).await?;
        lease = validate(inner, &context, access, lease).await?;
        let entry = lease.take().ok_or(Error::Closed)?;
        let connection = Connection::new(inner, &context, entry);
        Ok(Self { connection, lease: Some(lease), context, inner: Arc::clone(inner) })
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Deref for PooledConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        let (connection, inner) = (self.connection.clone(), Arc::clone(&self.inner));
        // A rollback has to be awaited, which `drop` cannot do.
        let task = self.inner.handle.spawn(async move {
            inner.metrics.ended(1, connection.attempt().error.is_none());
            check_in(&connection, lease).await;
        });
        // Lets the housekeeper abort it if the server does not respond.
        self.context.set_task(task.abort_handle());
    }
}

impl fmt::Debug for PooledConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledConnection").field("connection", &self.connection).finish_non_exhaustive()
    }
}
