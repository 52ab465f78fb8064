//! Schema preparation at startup: checks the server, and applies or reports pending migrations.

use orm_pool::Pool;

use super::StopRequest;
use crate::{
    error_chain::chain,
    service::{self, Progress},
    settings::Migrate,
};

/// A schema error that prevents startup.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// Migrations are pending, and `database.migrate` is `check`.
    #[error("{} pending; run `users-api migrate up`, or set database.migrate to auto", migrations(*.0, "is", "are"))]
    Pending(usize),
    /// Reading or migrating the schema failed.
    #[error("cannot migrate the database")]
    Failed(#[from] service::SchemaFailure),
    /// A signal stopped the startup.
    #[error("stopped; {} applied", migrations(*.applied, "was", "were"))]
    Stopped {
        /// Migrations that had been applied.
        applied: usize,
    },
    /// The database does not meet the requirements.
    #[error("cannot use the database")]
    Unusable(#[source] service::SchemaFailure),
}

/// Returns a number of migrations with its verb.
fn migrations(count: usize, singular: &str, plural: &str) -> String {
    if count == 1 { format!("1 migration {singular}") } else { format!("{count} migrations {plural}") }
}

/// Checks the server, and applies or checks migrations according to `database.migrate`.
pub(crate) async fn prepare_schema(pool: &Pool, migrate: Migrate, stop: &StopRequest) -> Result<(), SchemaError> {
    let stopped = SchemaError::Stopped { applied: 0 };
    let schema = service::SchemaService::new(pool.clone());
    let Some(checked) = stop.run_until_requested(schema.check_server()).await else { return Err(stopped) };
    checked.map_err(SchemaError::Unusable)?;
    match migrate {
        Migrate::Auto => {
            let Progress { changed, is_stopped } = schema.up(stop.clone().requested()).await?;
            if changed > 0 {
                tracing::info!(applied = changed, "schema migrated");
            }
            if is_stopped {
                return Err(SchemaError::Stopped { applied: changed });
            }
        }
        Migrate::Check => {
            let Some(status) = stop.run_until_requested(schema.status()).await else { return Err(stopped) };
            let pending = status?.iter().filter(|migration| !migration.applied).count();
            if pending > 0 {
                return Err(SchemaError::Pending(pending));
            }
        }
        Migrate::Off => {}
    }
    Ok(())
}

/// Checks that the service may read and write its tables, unless `database.migrate` is `off`: then nothing in the schema is
/// checked, not even whether its tables exist.
pub(crate) async fn check_privileges(pool: &Pool, migrate: Migrate, stop: &StopRequest) -> Result<(), SchemaError> {
    if migrate == Migrate::Off {
        return Ok(());
    }
    let schema = service::SchemaService::new(pool.clone());
    let Some(checked) = stop.run_until_requested(schema.check_privileges()).await else {
        return Err(SchemaError::Stopped { applied: 0 });
    };
    match checked {
        // A replica or a locked table: that may be temporary. If not, the first write reports it.
        Err(service::SchemaFailure::Pool(error)) => {
            tracing::warn!(error = chain(&error), "cannot check database privileges");
            Ok(())
        }
        checked => checked.map_err(SchemaError::Unusable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_migration_is_singular() {
        let pending = |count| SchemaError::Pending(count).to_string();
        assert!(pending(1).starts_with("1 migration is pending;"), "{}", pending(1));
        assert!(pending(2).starts_with("2 migrations are pending;"), "{}", pending(2));
        let stopped = |applied| SchemaError::Stopped { applied }.to_string();
        assert_eq!(stopped(0), "stopped; 0 migrations were applied");
        assert_eq!(stopped(1), "stopped; 1 migration was applied");
    }
}
