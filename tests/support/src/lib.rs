//! Support for the tests of the pool and of the service: engines, databases, proxies, and a runner that runs each case
//! on each engine.

#![allow(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    clippy::must_use_candidate,
    clippy::new_without_default,
    missing_docs,
    reason = "tests fail by panicking, and no published crate depends on this one"
)]

mod account;
mod authority;
pub mod bare;
mod broker;
pub mod cluster;
mod databases;
mod engine;
mod lock;
mod managed_process;
pub mod modules;
mod network;
mod owner;
mod pgbouncer;
mod proxy;
mod runner;
mod server;

use std::time::Duration;

pub use self::{
    account::Account,
    authority::{Authority, Identity},
    broker::{BrokerKind, BrokerServer},
    databases::{Databases, connect, kill_all, new_database, number, sqlite_url},
    engine::{Engine, mysqld, program},
    lock::Locked,
    managed_process::ManagedProcess,
    network::{Link, Network},
    owner::Owner,
    pgbouncer::{PgBouncer, Version, pgbouncers},
    proxy::Proxy,
    runner::{Case, CaseContext, Suite, run, suite},
    server::{End, PASSWORD, Server, free_port},
};

/// The value of an environment variable, or the default if it is unset or invalid.
pub fn env_or<T: std::str::FromStr>(variable: &str, default: T) -> T {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Polls `condition` until it returns a value. Panics after 30 seconds.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, condition: impl FnMut() -> F) -> T {
    eventually_within(Duration::from_secs(30), what, condition).await
}

/// Like [`eventually`], with another limit.
pub async fn eventually_within<T, F: Future<Output = Option<T>>>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> F,
) -> T {
    let limit = tokio::time::Instant::now() + limit;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < limit, "timed out waiting: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
