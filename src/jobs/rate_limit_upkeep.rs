//! Forgets callers and addresses that have made no requests lately, so that the memory of rate limits stays bounded.

use std::{sync::Arc, time::Duration};

use crate::auth::RateLimits;

const INTERVAL: Duration = Duration::from_mins(1);

pub(super) async fn run(limits: Arc<RateLimits>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        limits.forget_idle();
    }
}
