//! History of applied migrations, in a separate table.
//!
//! SeaORM's default table, `seaql_migrations`, is shared by all SeaORM applications of a database, and each of them
//! reports the rows of the others as missing migrations. The first releases of users-api used that table too; its rows
//! are copied once. They are kept there, so that the previous release still starts, and are deleted when their
//! migration is reverted.

use sea_orm_migration::{
    MigratorTrait,
    prelude::{Alias, DynIden, IntoIden, Query},
    sea_orm::{ConnectionTrait, DbErr, ExprTrait, QueryResult},
    sea_query::{Expr, Order},
};

use crate::{Migrator, ownership};

/// The table of the migration history.
pub(crate) const TABLE: &str = "users_api_migrations";
/// The table of earlier releases, which other applications use as well.
const SHARED_TABLE: &str = "seaql_migrations";

/// Returns the name of the history table as an identifier.
pub(crate) fn table() -> DynIden {
    Alias::new(TABLE).into_iden()
}

/// Returns the names of the applied migrations, oldest first. Writes nothing.
pub(crate) async fn applied(db: &impl ConnectionTrait) -> Result<Vec<String>, DbErr> {
    let own = own_versions(db).await?;
    if own.is_empty() { shared_versions(db).await } else { Ok(own) }
}

/// Returns the migrations in the separate table, oldest first.
pub(crate) async fn own_versions(db: &impl ConnectionTrait) -> Result<Vec<String>, DbErr> {
    versions(db, TABLE).await
}

/// Copies the history from the shared table if the separate one is empty.
pub(crate) async fn adopt(db: &impl ConnectionTrait) -> Result<(), DbErr> {
    if !own_versions(db).await?.is_empty() {
        return Ok(());
    }
    let shared = shared_versions(db).await?;
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

/// Deletes reverted migrations from the shared table.
pub(crate) async fn delete_shared(db: &impl ConnectionTrait, reverted: &[String]) -> Result<(), DbErr> {
    if reverted.is_empty() || !ownership::exists(db, SHARED_TABLE).await? {
        return Ok(());
    }
    let mut delete = Query::delete();
    delete.from_table(SHARED_TABLE).and_where(Expr::col("version").is_in(reverted));
    db.execute(&delete).await?;
    Ok(())
}

/// Returns the migrations of users-api in the shared table, if their tables exist and users-api created them.
async fn shared_versions(db: &impl ConnectionTrait) -> Result<Vec<String>, DbErr> {
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
