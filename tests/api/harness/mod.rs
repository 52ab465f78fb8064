//! What the cases stand on: applications, processes, clients.

mod app;
mod context;
mod cutter;
mod load;
mod process;
mod prometheus;
mod raw;
mod reverse_proxy;

use std::{process::ExitCode, time::Duration};

pub use test_support::{
    Account, Authority, End, Engine, Locked, PgBouncer, Proxy, Server, Version, bare, connect, eventually, kill_all,
    new_database, number, pgbouncers, sqlite_url, suite, wanted,
};

pub use self::{
    app::{App, Reply, client},
    context::Context,
    cutter::Cutter,
    load::{Load, Sample, by_status, quantile},
    process::{Service, binary},
    prometheus::{Prometheus, lint},
    raw::{Upload, read_message},
    reverse_proxy::{Kind as ProxyKind, ReverseProxy},
};

pub type Suite = test_support::Suite<Context>;

/// Whether the applications let requests that ask alike share a statement: `USERS_API_TEST_BATCH=false` says no.
pub fn is_batching() -> bool {
    std::env::var("USERS_API_TEST_BATCH").map_or(true, |text| text != "false")
}

/// No case takes longer; one that hangs is a failure with a name.
const CASE_LIMIT: Duration = Duration::from_secs(300);

/// Runs all cases.
pub fn run(suites: Vec<Suite>) -> ExitCode {
    let long = crate::contract::command().map(|_| crate::contract::LIMIT).or_else(crate::soak::duration);
    test_support::run(suites, CASE_LIMIT + long.unwrap_or_default())
}
