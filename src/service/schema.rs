//! The schema: migrations through the one pool.

use migration::MigrationStatus;
use orm_pool::Pool;

/// A change of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The change's name; it begins with its date.
    pub name: String,
    /// Whether the database has it.
    pub applied: bool,
}

/// Why the schema could not be looked at or changed.
#[derive(Debug, thiserror::Error)]
#[error("the schema could not be read or changed")]
pub struct SchemaFailure(#[from] orm_pool::Error);

/// The schema of the database behind the pool.
#[derive(Clone, Debug)]
pub struct SchemaService {
    pool: Pool,
}

impl SchemaService {
    /// The schema behind this pool.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Applies what is pending; any number of processes may do so at once. Gives the number of changes applied.
    ///
    /// # Errors
    ///
    /// [`SchemaFailure`].
    pub async fn up(&self) -> Result<usize, SchemaFailure> {
        let up = |db| async move { Ok::<_, orm_pool::Error>(migration::up(&db).await?) };
        Ok(self.pool.direct("schema.up", up).await?)
    }

    /// Takes back the newest `steps` changes, or all. Gives the number of changes taken back.
    ///
    /// # Errors
    ///
    /// [`SchemaFailure`].
    pub async fn down(&self, steps: Option<u32>) -> Result<usize, SchemaFailure> {
        let down = move |db| async move { Ok::<_, orm_pool::Error>(migration::down(&db, steps).await?) };
        Ok(self.pool.direct("schema.down", down).await?)
    }

    /// All changes, oldest first. Writes nothing.
    ///
    /// # Errors
    ///
    /// [`SchemaFailure`].
    pub async fn status(&self) -> Result<Vec<Migration>, SchemaFailure> {
        let status = |db| async move { Ok::<_, orm_pool::Error>(migration::status(&db).await?) };
        let migrations = self.pool.direct("schema.status", status).await?;
        let applied = |status| status == MigrationStatus::Applied;
        Ok(migrations.into_iter().map(|(name, status)| Migration { name, applied: applied(status) }).collect())
    }
}
