//! Notifications of PostgreSQL (`LISTEN`, `NOTIFY`), which save other processes from waiting for their next poll.

use std::{convert::Infallible, time::Duration};

use sea_orm::{
    DbErr, RuntimeErr,
    sqlx::{Error as SqlxError, PgPool, postgres::PgListener, query},
};
use tokio::time::timeout;

use crate::service::{Error, error::database};

/// The channel. Databases do not share it.
pub(super) const CHANNEL: &str = "users_api_feed";
/// After how much silence the connection is checked.
const SILENCE: Duration = Duration::from_secs(10);
/// How long the check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// Listens on a dedicated connection until it fails. Calls `on_ring` when it starts to listen and for each notification from
/// another process; notifications with the payload `own` are from this process and are ignored.
pub(super) async fn listen(pool: &PgPool, own: &str, on_ring: impl Fn()) -> Result<Infallible, Error> {
    let mut listener = PgListener::connect_with(pool).await.map_err(failed)?;
    listener.listen(CHANNEL).await.map_err(failed)?;
    // Notifications sent before this moment were missed.
    on_ring();
    loop {
        match timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(notification))) if notification.payload() == own => {}
            Ok(Ok(Some(_))) => on_ring(),
            // The driver has lost the connection. What was sent in the meantime is unknown.
            Ok(Ok(None)) => return Err(failed(SqlxError::PoolClosed)),
            Ok(Err(error)) => return Err(failed(error)),
            Err(_) => {
                let check = timeout(CHECK_TIMEOUT, query("SELECT 1").execute(&mut listener)).await;
                check.map_err(|_| failed(SqlxError::PoolTimedOut))?.map_err(failed)?;
            }
        }
    }
}

fn failed(error: SqlxError) -> Error {
    database(DbErr::Conn(RuntimeErr::SqlxError(error.into())))
}
