//! What the tests of the pool and of the service stand on: engines, databases, proxies, and a runner that runs each case on
//! each engine.

#![allow(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    clippy::must_use_candidate,
    clippy::new_without_default,
    missing_docs,
    reason = "a test ends by panicking, and no one depends on it"
)]

mod account;
mod authority;
pub mod bare;
mod databases;
mod engine;
mod kept;
mod lock;
mod pgbouncer;
mod proxy;
mod runner;
mod server;

use std::time::Duration;

pub use self::{
    account::Account,
    authority::{Authority, Identity},
    databases::{Databases, connect, kill_all, new_database, number, sqlite_url},
    engine::{Engine, mysqld, program},
    kept::Kept,
    lock::Locked,
    pgbouncer::{PgBouncer, Version, pgbouncers},
    proxy::Proxy,
    runner::{Case, CaseContext, Suite, run, suite},
    server::{End, Owner, PASSWORD, Server, free_port},
};

/// How much of something a case makes: as much as the variable says.
pub fn wanted<T: std::str::FromStr>(variable: &str, otherwise: T) -> T {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Waits until `condition` gives something, 30 seconds at the most.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let limit = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < limit, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
