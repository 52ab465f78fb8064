//! The schema: migrations through the one pool.

use orm_pool::Pool;

/// A change of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The change's name; it begins with its date.
    pub name: String,
    /// Whether the database has it.
    pub applied: bool,
}

/// Why the schema could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum SchemaFailure {
    /// The migrations stopped, or never began.
    #[error(transparent)]
    Migration(#[from] migration::Error),
    /// The pool gave no connection, or lost it.
    #[error("the schema could not be read or changed")]
    Pool(#[from] orm_pool::Error),
}

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

    /// Applies the pending migrations and returns their number; any number of processes may do so at once.
    ///
    /// # Errors
    ///
    /// [`SchemaFailure`].
    pub async fn up(&self) -> Result<usize, SchemaFailure> {
        self.pool.direct("schema.up", |db| async move { Ok(migration::up(&db).await?) }).await
    }

    /// Reverts the newest `steps` migrations, or all, and returns their number.
    ///
    /// # Errors
    ///
    /// [`SchemaFailure`].
    pub async fn down(&self, steps: Option<u32>) -> Result<usize, SchemaFailure> {
        self.pool.direct("schema.down", move |db| async move { Ok(migration::down(&db, steps).await?) }).await
    }

    /// All changes, oldest first. Writes nothing.
    ///
    /// # Errors
    ///
    /// [`SchemaFailure`].
    pub async fn status(&self) -> Result<Vec<Migration>, SchemaFailure> {
        let migrations: Vec<(String, bool)> = self
            .pool
            .direct("schema.status", |db| async move { Ok::<_, SchemaFailure>(migration::status(&db).await?) })
            .await?;
        Ok(migrations.into_iter().map(|(name, applied)| Migration { name, applied }).collect())
    }
}
