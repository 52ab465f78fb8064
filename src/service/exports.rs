//! The progress of the copies of the feed in other systems. One process copies at a time: the one that holds a lease, by
//! the clock of the database.

use std::time::Duration;

use entity::users_exports as exports;
use orm_pool::{Connection, Pool};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, EntityTrait, ExprTrait, QueryFilter, UpdateMany,
    sea_query::{Expr, OnConflict},
};

use super::{Error, error::database, statement::now_ms};

/// How long a lease is valid.
const LEASE: Duration = Duration::from_secs(15);

/// An export, and the process that wants to copy.
#[derive(Clone, Debug)]
pub struct ExportStore {
    pool: Pool,
    name: String,
    holder: String,
}

impl ExportStore {
    /// Creates the store of the export with this name, for this process.
    #[must_use]
    pub fn new(pool: Pool, name: String) -> Self {
        Self { pool, name, holder: format!("{:016x}", getrandom::u64().unwrap_or_default()) }
    }

    /// Takes the lease, or renews it. Returns the position that has been copied, empty before the first one; `None` if
    /// another process has the lease.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn acquire(&self) -> Result<Option<String>, Error> {
        let new = exports::ActiveModel {
            name: Set(self.name.clone()),
            exported: Set(String::new()),
            holder: Set(String::new()),
            held_ms: Set(0),
        };
        let ignore = OnConflict::column(exports::Column::Name).do_nothing_on([exports::Column::Name]).to_owned();
        let now = now_ms(self.pool.engine());
        let is_free = Expr::cust(format!("held_ms < {now} - {}", LEASE.as_millis()));
        let update = self.renewal().filter(exports::Column::Holder.eq(&self.holder).or(is_free));
        let find = exports::Entity::find_by_id(self.name.clone());
        let acquire = move |db: Connection| {
            let insert = exports::Entity::insert_many([new.clone()]).on_conflict(ignore.clone());
            let (update, find) = (update.clone(), find.clone());
            async move {
                insert.exec_without_returning(&db).await.map_err(database)?;
                if update.exec(&db).await.map_err(database)?.rows_affected == 0 {
                    return Ok::<_, Error>(None);
                }
                Ok(find.one(&db).await.map_err(database)?.map(|row| row.exported))
            }
        };
        Box::pin(self.pool.transaction("exports.acquire", acquire)).await
    }

    /// Renews the lease and stores the position that has been copied. Returns `false` if another process has the lease.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn advance(&self, exported: String) -> Result<bool, Error> {
        let update = self
            .renewal()
            .col_expr(exports::Column::Exported, Expr::value(exported))
            .filter(exports::Column::Holder.eq(&self.holder));
        let advance = move |db: Connection| {
            let update = update.clone();
            async move { Ok::<_, Error>(update.exec(&db).await.map_err(database)?.rows_affected > 0) }
        };
        Box::pin(self.pool.transaction("exports.advance", advance)).await
    }

    /// Gives the lease back, so that another process need not wait until it ends.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn release(&self) -> Result<(), Error> {
        let update = exports::Entity::update_many()
            .col_expr(exports::Column::HeldMs, Expr::value(0))
            .filter(exports::Column::Name.eq(&self.name))
            .filter(exports::Column::Holder.eq(&self.holder));
        let release = move |db: Connection| {
            let update = update.clone();
            async move { update.exec(&db).await.map(drop).map_err(database) }
        };
        Box::pin(self.pool.transaction("exports.release", release)).await
    }

    fn renewal(&self) -> UpdateMany<exports::Entity> {
        exports::Entity::update_many()
            .col_expr(exports::Column::Holder, Expr::value(self.holder.clone()))
            .col_expr(exports::Column::HeldMs, Expr::cust(now_ms(self.pool.engine())))
            .filter(exports::Column::Name.eq(&self.name))
    }
}
