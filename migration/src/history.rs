//! Which migrations were applied, kept in a table of our own.
//!
//! SeaORM's default table, `seaql_migrations`, is shared by every SeaORM application of a database, and each of them takes
//! the others' rows for migrations that it has lost. The first releases of users-api kept their history there too; it is
//! copied once. The rows are left there, so that the previous release still starts, and are removed with their migration.

use sea_orm_migration::{
    MigratorTrait,
    prelude::{Alias, DynIden, IntoIden, Query},
    sea_orm::{ConnectionTrait, DbErr, ExprTrait, QueryResult},
    sea_query::{Expr, Order},
};

use crate::{Migrator, ownership};

/// The table that the history is kept in.
pub(crate) const TABLE: &str = "users_api_migrations";
/// The table that it was kept in before, and that others use as well.
const SHARED_TABLE: &str = "seaql_migrations";

/// The name of the table, as the migrator takes it.
pub(crate) fn table() -> DynIden {
    Alias::new(TABLE).into_iden()
}

/// The names of the migrations that were applied, oldest first. Writes nothing.
pub(crate) async fn applied(db: &impl ConnectionTrait) -> Result<Vec<String>, DbErr> {
    let own = own(db).await?;
    if own.is_empty() { shared(db).await } else { Ok(own) }
}

/// The same, by our own table alone.
pub(crate) async fn own(db: &impl ConnectionTrait) -> Result<Vec<String>, DbErr> {
    versions(db, TABLE).await
}

/// Copies the history from the shared table, if it is only there.
pub(crate) async fn adopt(db: &impl ConnectionTrait) -> Result<(), DbErr> {
    if !own(db).await?.is_empty() {
        return Ok(());
    }
    let shared = shared(db).await?;
    if shared.is_empty() {
        return Ok(());
    }
    Migrator::install(db).await?;
    let mut copy = Query::insert();
    copy.into_table(TABLE).columns(["version", "applied_at"]);
    let mut rows = Query::select();
    rows.columns(["version", "applied_at"]).from(SHARED_TABLE).and_where(Expr::col("version").is_in(&shared));
    copy.select_from(rows).map_err(|error| DbErr::Custom(error.to_string()))?;
    db.execute(&copy).await?;
    Ok(())
}

/// Removes from the shared table what is no longer applied.
pub(crate) async fn forget_shared(db: &impl ConnectionTrait, reverted: &[String]) -> Result<(), DbErr> {
    if reverted.is_empty() || !ownership::exists(db, SHARED_TABLE).await? {
        return Ok(());
    }
    let mut delete = Query::delete();
    delete.from_table(SHARED_TABLE).and_where(Expr::col("version").is_in(reverted));
    db.execute(&delete).await?;
    Ok(())
}

/// Our rows of the shared table, if their tables exist and are ours.
async fn shared(db: &impl ConnectionTrait) -> Result<Vec<String>, DbErr> {
    let names: Vec<String> = Migrator::migrations().iter().map(|migration| migration.name().to_owned()).collect();
    let mut ours = Vec::new();
    for version in versions(db, SHARED_TABLE).await? {
        if names.contains(&version) {
            if !ownership::has_table_of(db, &version).await? {
                return Ok(Vec::new());
            }
            ours.push(version);
        }
    }
    Ok(ours)
}

async fn versions(db: &impl ConnectionTrait, table: &str) -> Result<Vec<String>, DbErr> {
    if !ownership::exists(db, table).await? {
        return Ok(Vec::new());
    }
    let mut select = Query::select();
    select.column("version").from(Alias::new(table)).order_by("version", Order::Asc);
    let rows: Vec<QueryResult> = db.query_all(&select).await?;
    rows.iter().map(|row| row.try_get_by_index(0)).collect()
}
