//! deadpool-postgres.

use anyhow::Result;
use deadpool_postgres::{Manager, Runtime};
use tokio_postgres::{Config, NoTls};
use uuid::Uuid;

use super::{ACQUIRE_TIMEOUT, FIND, Pool, SLEEP, User};

pub struct Deadpool(deadpool_postgres::Pool);

impl Pool for Deadpool {
    /// Timeouts are unlimited by default; here waiting, creating and recycling have the acquire timeout of the other
    /// pools. `RecyclingMethod::Fast` is the default: a connection is reused unless it is known to be closed. The pool
    /// opens connections on demand and has no minimum size.
    async fn connect(url: &str, connections: u32) -> Result<Self> {
        let config: Config = url.parse()?;
        let pool = deadpool_postgres::Pool::builder(Manager::new(config, NoTls))
            .max_size(usize::try_from(connections)?)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(ACQUIRE_TIMEOUT))
            .create_timeout(Some(ACQUIRE_TIMEOUT))
            .recycle_timeout(Some(ACQUIRE_TIMEOUT))
            .build()?;
        Ok(Self(pool))
    }

    async fn find(&self, id: Uuid) -> Result<Option<User>> {
        let client = self.0.get().await?;
        let find = client.prepare_cached(FIND).await?;
        let row = client.query_opt(&find, &[&id]).await?;
        Ok(row.as_ref().map(User::from_row).transpose()?)
    }

    async fn sleep(&self) -> Result<()> {
        let client = self.0.get().await?;
        Ok(client.batch_execute(SLEEP).await?)
    }
}
