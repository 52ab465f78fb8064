//! Tests of the pool without the service, on every engine: `cargo test -p orm-pool --test pool`.
//!
//! Each case runs on each available engine, with a fresh database; missing engines are reported and counted as skipped.
//! Servers are started when the first case needs them, and stopped at the end of the run.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::duration_suboptimal_units,
    clippy::print_stdout,
    clippy::similar_names,
    clippy::unused_async,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "tests fail by panicking, and no crate depends on them"
)]

mod application_runtime;
mod batch_failures;
mod batches;
mod bulk;
mod connect_failures;
mod connection_state;
mod driver_options;
mod guards;
mod hosts;
mod layers;
mod operations;
mod outages;
mod queue;
mod storm;
mod transactions;

use std::{ops::Deref, process::ExitCode, sync::Arc, time::Duration};

use test_support::{CaseContext, Databases, Engine, suite};

/// A case that takes longer fails, so that a hang is reported by the name of its case.
const CASE_LIMIT: Duration = Duration::from_secs(120);

/// The context of a case: its databases.
#[derive(Clone)]
pub struct Context(Arc<Databases>);

impl Deref for Context {
    type Target = Databases;

    fn deref(&self) -> &Databases {
        &self.0
    }
}

impl CaseContext for Context {
    fn new(engine: Engine) -> Self {
        Self(Arc::new(Databases::new(engine)))
    }

    async fn clean_up(&self) {
        self.0.drop_all().await;
    }
}

fn main() -> ExitCode {
    let suites = vec![
        suite("operations", operations::cases()),
        suite("connection_state", connection_state::cases()),
        suite("transactions", transactions::cases()),
        suite("guards", guards::cases()),
        suite("application_runtime", application_runtime::cases()),
        suite("driver_options", driver_options::cases()),
        suite("queue", queue::cases()),
        suite("batches", batches::cases()),
        suite("batch_failures", batch_failures::cases()),
        suite("bulk", bulk::cases()),
        suite("outages", outages::cases()).on_servers(),
        suite("hosts", hosts::cases()).on_servers(),
        suite("storm", storm::cases()),
        suite("layers", layers::cases()).without_engine(),
        suite("connect_failures", connect_failures::cases()).on_servers(),
    ];
    test_support::run(suites, CASE_LIMIT)
}
