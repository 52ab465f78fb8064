//! Background jobs of the running service.

mod idempotency_sweeper;
mod key_refresh;
mod metrics_upkeep;
mod rate_limit_upkeep;

use std::{sync::Arc, time::Duration};

use orm_pool::Pool;
use tokio::task::JoinSet;

pub(crate) use self::key_refresh::refresh as refresh_keys;
use crate::auth::{Authenticator, RateLimits};

/// The running jobs. Dropping it aborts them.
pub(crate) struct Jobs {
    _tasks: JoinSet<()>,
}

impl Jobs {
    /// Starts all jobs. `retention` is how long stored responses are kept, `key_refresh` how often API keys are read.
    pub(crate) fn start(
        pool: Pool,
        retention: Duration,
        authenticator: Arc<Authenticator>,
        key_refresh: Duration,
        rate_limits: Arc<RateLimits>,
    ) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(metrics_upkeep::run());
        if authenticator.is_required() {
            tasks.spawn(rate_limit_upkeep::run(rate_limits));
            tasks.spawn(key_refresh::run(pool.clone(), authenticator, key_refresh));
        }
        tasks.spawn(idempotency_sweeper::run(pool, retention));
        Self { _tasks: tasks }
    }
}
