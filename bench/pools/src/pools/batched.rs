//! orm-pool with batching: reads that would wait for each other share a statement. `batch_max` is the default, 128.

use std::{collections::HashMap, sync::Arc};

use anyhow::Result;
use orm_pool::{Batch, Connection};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement};
use uuid::Uuid;

use super::{FIND_MANY, Pool, User, orm};

pub struct OrmPoolBatched {
    pool: orm_pool::Pool,
    finds: Batch<Uuid, Option<User>>,
}

impl Pool for OrmPoolBatched {
    async fn connect(url: &str, connections: u32) -> Result<Self> {
        let pool = orm::open(url, connections).await?;
        let finds = pool.batch_reads("users.find", find_many);
        Ok(Self { pool, finds })
    }

    async fn find(&self, id: Uuid) -> Result<Option<User>> {
        Ok(self.finds.load(id).await?)
    }

    async fn sleep(&self) -> Result<()> {
        orm::sleep(&self.pool).await
    }
}

/// Reads the users with these ids, in the order of the ids.
async fn find_many(db: Connection, ids: Arc<[Uuid]>) -> Result<Vec<Option<User>>, DbErr> {
    let find = Statement::from_sql_and_values(DbBackend::Postgres, FIND_MANY, [ids.to_vec().into()]);
    let rows = db.query_all_raw(find).await?;
    let users = rows.iter().map(|row| User::from_result(row).map(|user| (user.id, user)));
    let mut found: HashMap<Uuid, User> = users.collect::<Result<_, _>>()?;
    Ok(ids.iter().map(|id| found.remove(id)).collect())
}
