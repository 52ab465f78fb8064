//! The service as a black box: over HTTP, on every engine, through production's own `Application::build`.
//!
//! Each case gets a database of its own on each engine that this machine has; an engine that is missing is told and
//! counted as skipped. Servers are started when the first case needs them, and end with the run.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::duration_suboptimal_units,
    clippy::similar_names,
    clippy::unused_self,
    clippy::needless_raw_string_hashes,
    clippy::format_collect,
    clippy::print_stdout,
    clippy::unused_async,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "a test ends by panicking, and nobody depends on it"
)]

mod bulk;
mod bulk_answers;
mod bulk_csv;
mod bulk_once;
mod causes;
mod cli;
mod conditions;
mod contract;
mod docs;
mod edges;
mod exports;
mod harness;
mod hostile;
mod idempotency;
mod limits;
mod lists;
mod logging;
mod migrations;
mod ops;
mod outages;
mod overload;
mod pages;
mod pgbouncer;
mod pipelines;
mod plans;
mod pool;
mod races;
mod reload;
mod requirements;
mod reverse_proxies;
mod secrets;
mod sessions;
mod shutdown;
mod signals;
mod soak;
mod storage;
mod timeouts;
mod tls;
mod together;
mod traces;
mod transfer;
mod urls;
mod users;
mod walls;

use std::process::ExitCode;

use harness::{Suite, suite};
pub(crate) use test_support::cases;

fn main() -> ExitCode {
    if soak::duration().is_some() {
        return harness::run(vec![suite("soak", soak::cases()).on_servers()]);
    }
    if contract::command().is_some() {
        return harness::run(vec![suite("contract", contract::cases())]);
    }
    // What requests meet, whether they share statements or not.
    let mut suites: Vec<Suite> = vec![
        suite("users", users::cases()),
        suite("conditions", conditions::cases()),
        suite("idempotency", idempotency::cases()),
        suite("pages", pages::cases()),
        suite("plans", plans::cases()),
        suite("lists", lists::cases()),
        suite("hostile", hostile::cases()),
        suite("races", races::cases()),
        suite("pool", pool::cases()),
        suite("ops", ops::cases()),
        suite("outages", outages::cases()).on_servers(),
        suite("causes", causes::cases()).on_servers(),
        suite("overload", overload::cases()).alone(),
        suite("reload", reload::cases()),
        suite("shutdown", shutdown::cases()),
    ];
    if harness::is_batching() {
        suites.extend([
            suite("bulk", bulk::cases()),
            suite("bulk_answers", bulk_answers::cases()),
            suite("bulk_csv", bulk_csv::cases()),
            suite("bulk_once", bulk_once::cases()),
            suite("exports", exports::cases()),
            suite("together", together::cases()),
            suite("migrations", migrations::cases()),
            suite("signals", signals::cases()),
            suite("signals", signals::alone::cases()).without_engine(),
            suite("timeouts", timeouts::cases()).on_servers(),
            suite("sessions", sessions::cases()),
            suite("pgbouncer", pgbouncer::cases()).on_postgres(),
            suite("transfer", transfer::cases()),
            suite("requirements", requirements::cases()).on_servers(),
            suite("storage", storage::cases()).without_engine(),
            suite("urls", urls::cases()),
            suite("tls", tls::cases()).on_servers(),
            suite("secrets", secrets::cases()),
            suite("edges", edges::cases()).without_engine(),
            suite("pipelines", pipelines::cases()).without_engine(),
            suite("reverse_proxies", reverse_proxies::cases()).without_engine(),
            suite("cli", cli::cases()).without_engine(),
            suite("limits", limits::cases()).without_engine(),
            suite("logging", logging::cases()).without_engine(),
            suite("docs", docs::cases()).without_engine(),
            suite("traces", traces::cases()).without_engine(),
            suite("walls", walls::cases()).without_engine(),
        ]);
    }
    harness::run(suites)
}
