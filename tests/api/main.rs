//! Black-box tests of the service: over HTTP, on every engine, built by `Application::build` as in production.
//!
//! Each case runs on each available engine, with a fresh database; missing engines are reported and counted as skipped.
//! Servers are started when the first case needs them, and stopped at the end of the run.

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
    reason = "tests fail by panicking, and no crate depends on them"
)]

mod admin_listener;
mod api_keys;
mod architecture;
mod auth;
mod batching;
mod bulk;
mod bulk_csv;
mod bulk_idempotency;
mod bulk_responses;
mod cli;
mod clusters;
mod concurrency;
mod conditions;
mod contract;
mod cors;
mod dashboard;
mod demo;
mod docs;
mod exports;
mod feed;
mod feed_brokers;
mod feed_consistency;
mod feed_failures;
mod feed_positions;
mod feed_tail;
mod galera;
mod harness;
mod hostile;
mod http_semantics;
mod https;
mod idempotency;
mod import_export;
mod journal;
mod journal_crashes;
#[cfg(feature = "kafka")]
mod kafka;
mod limits;
mod lists;
mod logging;
mod migrations;
mod nats_cluster;
mod observability;
mod ops;
mod outage_causes;
mod outages;
mod overload;
mod pages;
mod pagination;
mod pgbouncer;
mod pipelines;
mod pool;
mod presence;
mod query_plans;
mod rate_limits;
mod readme;
mod reload;
mod requirements;
mod reverse_proxies;
mod secrets;
mod secure_start;
mod session_settings;
mod shutdown;
mod signals;
mod soak;
mod sqlite_file;
mod timeouts;
mod tls;
mod tokens;
mod traces;
mod urls;
mod users;
mod websocket;
mod websocket_frames;
mod websocket_tickets;

use std::process::ExitCode;

use harness::{Suite, suite};
pub(crate) use test_support::cases;

fn main() -> ExitCode {
    if soak::duration().is_some() {
        return harness::run(vec![suite("soak", soak::cases()).on_servers()]);
    }
    if contract::command().is_some() {
        return harness::run(vec![
            suite("contract", contract::cases()),
            suite("contract", contract::locked::cases()).without_engine(),
        ]);
    }
    let mut suites = with_and_without_batching();
    if harness::is_batching() {
        suites.extend(with_batching_only());
        suites.extend(without_engine().into_iter().map(Suite::without_engine));
    }
    harness::run(suites)
}

fn with_and_without_batching() -> Vec<Suite> {
    vec![
        suite("users", users::cases()),
        suite("conditions", conditions::cases()),
        suite("idempotency", idempotency::cases()),
        suite("pagination", pagination::cases()),
        suite("query_plans", query_plans::cases()),
        suite("lists", lists::cases()),
        suite("hostile", hostile::cases()),
        suite("concurrency", concurrency::cases()),
        suite("pool", pool::cases()),
        suite("ops", ops::cases()),
        suite("outages", outages::cases()).on_servers(),
        suite("outage_causes", outage_causes::cases()).on_servers(),
        suite("overload", overload::cases()).alone(),
        suite("reload", reload::cases()),
        suite("shutdown", shutdown::cases()),
        suite("journal", journal::cases()),
        suite("journal_crashes", journal_crashes::cases()),
        suite("feed", feed::cases()),
        suite("feed_positions", feed_positions::cases()),
        suite("feed_failures", feed_failures::cases()),
        suite("feed_consistency", feed_consistency::cases()),
    ]
}

fn with_batching_only() -> Vec<Suite> {
    vec![
        suite("auth", auth::cases()),
        suite("feed_brokers", feed_brokers::cases()),
        suite("feed_tail", feed_tail::cases()),
        #[cfg(feature = "kafka")]
        suite("kafka", kafka::cases()),
        suite("dashboard", dashboard::cases()),
        suite("demo", demo::cases()),
        suite("presence", presence::cases()),
        suite("websocket", websocket::cases()),
        suite("websocket_tickets", websocket_tickets::cases()),
        suite("api_keys", api_keys::cases()),
        suite("bulk", bulk::cases()),
        suite("bulk_responses", bulk_responses::cases()),
        suite("bulk_csv", bulk_csv::cases()),
        suite("bulk_idempotency", bulk_idempotency::cases()),
        suite("exports", exports::cases()),
        suite("batching", batching::cases()),
        suite("migrations", migrations::cases()),
        suite("signals", signals::cases()),
        suite("timeouts", timeouts::cases()).on_servers(),
        suite("session_settings", session_settings::cases()),
        suite("pgbouncer", pgbouncer::cases()).on_postgres(),
        suite("import_export", import_export::cases()),
        suite("requirements", requirements::cases()).on_servers(),
        suite("urls", urls::cases()),
        suite("tls", tls::cases()).on_servers(),
        suite("secrets", secrets::cases()),
    ]
}

/// Suites that do not depend on the engine.
fn without_engine() -> Vec<Suite> {
    vec![
        suite("demo", demo::once::cases()),
        suite("pages", pages::cases()),
        suite("observability", observability::cases()),
        suite("websocket_frames", websocket_frames::cases()),
        suite("secure_start", secure_start::cases()),
        suite("signals", signals::alone::cases()),
        suite("sqlite_file", sqlite_file::cases()),
        suite("http_semantics", http_semantics::cases()),
        suite("pipelines", pipelines::cases()),
        suite("reverse_proxies", reverse_proxies::cases()),
        suite("nats_cluster", nats_cluster::cases()),
        suite("clusters", clusters::cases()).alone(),
        suite("galera", galera::cases()).alone(),
        suite("cli", cli::cases()),
        suite("rate_limits", rate_limits::cases()),
        suite("tokens", tokens::cases()),
        suite("admin_listener", admin_listener::cases()),
        suite("cors", cors::cases()),
        suite("https", https::cases()),
        suite("limits", limits::cases()),
        suite("logging", logging::cases()),
        suite("docs", docs::cases()),
        suite("readme", readme::cases()),
        suite("traces", traces::cases()),
        suite("architecture", architecture::cases()),
    ]
}
