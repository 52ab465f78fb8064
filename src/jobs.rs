//! Background jobs of the running service.

mod idempotency_sweeper;
mod metrics_upkeep;

use std::time::Duration;

use orm_pool::Pool;
use tokio::task::JoinSet;

/// The running jobs. Dropping it aborts them.
pub(crate) struct Jobs {
    _tasks: JoinSet<()>,
}

impl Jobs {
    /// Starts all jobs. `retention` is how long stored responses are kept.
    pub(crate) fn start(pool: Pool, retention: Duration) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(metrics_upkeep::run());
        tasks.spawn(idempotency_sweeper::run(pool, retention));
        Self { _tasks: tasks }
    }
}
