//! orm-pool without batching: one statement per read.

use anyhow::Result;
use orm_pool::{DatabaseUrl, Error, PoolBuilder, PoolOptions};
use sea_orm::{ConnectionTrait, DbBackend, Statement};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::{ACQUIRE_TIMEOUT, FIND, Pool, SLEEP, User};

pub struct OrmPool(orm_pool::Pool);

impl Pool for OrmPool {
    async fn connect(url: &str, connections: u32) -> Result<Self> {
        open(url, connections).await.map(Self)
    }

    async fn find(&self, id: Uuid) -> Result<Option<User>> {
        let found = self.0.read("users.find", move |db| async move {
            let find = Statement::from_sql_and_values(DbBackend::Postgres, FIND, [id.into()]);
            let row = db.query_one_raw(find).await?;
            Ok::<_, Error>(row.as_ref().map(User::from_result).transpose()?)
        });
        Ok(found.await?)
    }

    async fn sleep(&self) -> Result<()> {
        sleep(&self.0).await
    }
}

/// orm-pool on the runtime of the tasks that use it, as all other pools.
pub struct OrmPoolOnCallersRuntime(OrmPool);

impl Pool for OrmPoolOnCallersRuntime {
    async fn connect(url: &str, connections: u32) -> Result<Self> {
        let builder = builder(url, connections)?.runtime(Handle::current());
        Ok(Self(OrmPool(builder.connect().await?)))
    }

    async fn find(&self, id: Uuid) -> Result<Option<User>> {
        self.0.find(id).await
    }

    async fn sleep(&self) -> Result<()> {
        self.0.sleep().await
    }
}

/// `acquire` is the default, set explicitly. `min` is 2 by default. A connection is pinged only if it has been idle for
/// 30 s, which is the default.
fn builder(url: &str, connections: u32) -> Result<PoolBuilder> {
    let options = PoolOptions::default().max(connections).min(connections).acquire(ACQUIRE_TIMEOUT);
    Ok(orm_pool::Pool::builder(&DatabaseUrl::parse(url)?).options(options))
}

pub(super) async fn open(url: &str, connections: u32) -> Result<orm_pool::Pool> {
    Ok(builder(url, connections)?.connect().await?)
}

pub(super) async fn sleep(pool: &orm_pool::Pool) -> Result<()> {
    let slept = pool.read("pools.sleep", |db| async move {
        db.execute_unprepared(SLEEP).await?;
        Ok::<_, Error>(())
    });
    Ok(slept.await?)
}
