//! Shared by the pools of tokio-postgres connections.

use tokio_postgres::{Error, Row};

use super::User;

impl User {
    /// Decodes a row of tokio-postgres.
    pub(super) fn from_row(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            id: row.try_get(0)?,
            name: row.try_get(1)?,
            email: row.try_get(2)?,
            version: row.try_get(3)?,
            created_at: row.try_get(4)?,
            updated_at: row.try_get(5)?,
        })
    }
}
