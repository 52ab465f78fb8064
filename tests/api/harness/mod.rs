//! The test harness: applications, processes, clients.

mod app;
pub mod bulk;
mod context;
mod crashes;
mod events;
mod feed_readers;
mod flaky_proxy;
mod identity_provider;
mod load;
mod process;
mod prometheus;
mod raw;
mod recorded_load;
mod reverse_proxy;
mod socket;

use std::{process::ExitCode, time::Duration};

pub use test_support::{
    Account, Authority, BrokerKind, BrokerServer, End, Engine, Locked, PgBouncer, Proxy, Server, Version, bare,
    connect, env_or, eventually, eventually_within, kill_all, new_database, number, pgbouncers, sqlite_url, suite,
};

pub use self::{
    app::{App, Reply, client},
    context::Context,
    crashes::{DurableDatabase, Progress},
    events::EventStream,
    feed_readers::FeedReaders,
    flaky_proxy::FlakyProxy,
    identity_provider::{SigningKey, token},
    load::{Load, Sample, by_status, quantile},
    process::{Service, binary},
    prometheus::{Prometheus, lint},
    raw::{Upload, read_message},
    recorded_load::{Answer, RecordedLoad, longest_gaps, statuses},
    reverse_proxy::{Kind as ProxyKind, ReverseProxy},
    socket::Socket,
};

pub type Suite = test_support::Suite<Context>;

/// Whether the applications batch concurrent operations (`pool.batch`): not with `USERS_API_TEST_BATCH=false`.
pub fn is_batching() -> bool {
    std::env::var("USERS_API_TEST_BATCH").map_or(true, |text| text != "false")
}

/// A case that takes longer fails, so that a hang is reported by the name of its case.
/// Seconds; `USERS_API_TEST_LIMIT` for cases that other variables make longer.
const CASE_LIMIT: u64 = 300;

/// Runs all cases.
pub fn run(suites: Vec<Suite>) -> ExitCode {
    let long = crate::contract::command().map(|_| crate::contract::LIMIT).or_else(crate::soak::duration);
    let limit = Duration::from_secs(env_or("USERS_API_TEST_LIMIT", CASE_LIMIT));
    test_support::run(suites, limit + long.unwrap_or_default())
}
