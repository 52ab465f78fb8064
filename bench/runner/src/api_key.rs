//! A key of the service.

use anyhow::{Result, ensure};

use crate::{engines::Database, peers::SERVICE};

/// A key with the scopes of the workloads. It is neither printed nor stored in a file, so it has no `Debug`.
pub struct ApiKey(String);

impl ApiKey {
    /// Creates a key in the table of the service.
    pub async fn create(database: &Database) -> Result<Self> {
        let arguments = ["keys", "create", "--name", "bench", "--scope", "users:read", "--scope", "users:write"];
        let output = database.run_service(&std::path::absolute(SERVICE)?, &arguments).await?;
        let key = output.trim();
        ensure!(key.starts_with("uak_") && !key.contains(char::is_whitespace), "users-api keys create printed no key");
        Ok(Self(key.to_owned()))
    }

    /// The value of the `Authorization` header.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }
}
