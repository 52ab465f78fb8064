//! Benchmarks a single connection pool on PostgreSQL. Each process runs one measurement of one pool and prints the
//! result as one line of JSON. `bench/run --only pool` runs it for all pools in turn.

mod failures;
mod load;
mod pools;
mod proxy;
#[path = "../../runner/src/seed.rs"]
#[allow(dead_code, reason = "the runner writes the rows; only their ids are needed here")]
mod seed;

use std::{env, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Parser, ValueEnum};
use serde::Serialize;
use tokio::{runtime::Builder, time::timeout};
use url::Url;
use uuid::Uuid;

use crate::{
    pools::{Bb8, Deadpool, OrmPool, OrmPoolBatched, OrmPoolOnCallersRuntime, Pool, SeaOrm},
    proxy::Proxy,
};

/// The longest that a measurement may run beyond its seconds. One that takes longer hangs and is aborted.
const OVERHEAD: Duration = Duration::from_secs(60);

/// Benchmarks a single connection pool. DATABASE_URL names a PostgreSQL database on this machine.
#[derive(Parser)]
struct Options {
    /// The pool to measure
    #[arg(long)]
    pool: Kind,

    /// The measurement
    #[arg(long)]
    measure: Measure,

    /// Number of connections of the pool
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=200))]
    connections: u32,

    /// Number of tasks that read in a loop
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    tasks: u16,

    /// Seconds of a throughput measurement
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=3600))]
    seconds: u16,

    /// Number of rows in the table
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rows: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    OrmPool,
    OrmPoolOnCallersRuntime,
    OrmPoolBatched,
    SeaOrm,
    Deadpool,
    #[value(name = "bb8")]
    Bb8,
}

#[derive(Clone, Copy, ValueEnum)]
enum Measure {
    /// Reads per second and their latency
    Throughput,
    /// The database is unreachable for some seconds
    Outage,
    /// All open connections go silent; new ones work
    Silence,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let url = env::var("DATABASE_URL").context("DATABASE_URL is not set")?;
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let limit = OVERHEAD + Duration::from_secs(options.seconds.into());
    let measured = runtime.block_on(async { timeout(limit, measure(&options, &url)).await });
    // Does not wait for tasks of the pool.
    runtime.shutdown_background();
    println!("{}", measured.with_context(|| format!("the measurement did not finish within {limit:?}"))??);
    Ok(())
}

async fn measure(options: &Options, url: &str) -> Result<String> {
    match options.pool {
        Kind::OrmPool => measure_pool::<OrmPool>(options, url).await,
        Kind::OrmPoolOnCallersRuntime => measure_pool::<OrmPoolOnCallersRuntime>(options, url).await,
        Kind::OrmPoolBatched => measure_pool::<OrmPoolBatched>(options, url).await,
        Kind::SeaOrm => measure_pool::<SeaOrm>(options, url).await,
        Kind::Deadpool => measure_pool::<Deadpool>(options, url).await,
        Kind::Bb8 => measure_pool::<Bb8>(options, url).await,
    }
}

async fn measure_pool<P: Pool>(options: &Options, url: &str) -> Result<String> {
    let (url, database) = local(url)?;
    let ids: Arc<[Uuid]> = (1..=options.rows).map(|n| Uuid::parse_str(&seed::id(n))).collect::<Result<_, _>>()?;
    let (connections, tasks) = (options.connections, usize::from(options.tasks));
    let connect = async |url: &Url| -> Result<Arc<P>> {
        let pool = P::connect(url.as_str(), connections).await;
        Ok(Arc::new(pool.context("the pool cannot connect")?))
    };
    match options.measure {
        Measure::Throughput => {
            let length = Duration::from_secs(options.seconds.into());
            line(&load::throughput(connect(&url).await?, ids, tasks, length).await?)
        }
        Measure::Outage => {
            let proxy = Proxy::start(database)?;
            let pool = connect(&through(&proxy, url)?).await?;
            line(&failures::outage(pool, &proxy, ids, tasks).await?)
        }
        Measure::Silence => {
            let proxy = Proxy::start(database)?;
            let pool = connect(&through(&proxy, url)?).await?;
            line(&failures::silence(pool, &proxy, ids, tasks, connections).await?)
        }
    }
}

fn line(figures: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string(figures)?)
}

/// The URL without TLS, and the address of its server.
fn local(url: &str) -> Result<(Url, SocketAddr)> {
    let mut url = Url::parse(url).context("DATABASE_URL is not a URL")?;
    let addresses = url.socket_addrs(|| Some(5432)).context("DATABASE_URL does not resolve")?;
    let address = *addresses.first().context("DATABASE_URL does not resolve")?;
    ensure!(address.ip().is_loopback(), "the database is not on this machine");
    if !url.query_pairs().any(|(name, _)| name == "sslmode") {
        url.query_pairs_mut().append_pair("sslmode", "disable");
    }
    Ok((url, address))
}

/// The same URL through the proxy.
fn through(proxy: &Proxy, mut url: Url) -> Result<Url> {
    let address = proxy.address();
    url.set_host(Some(&address.ip().to_string()))?;
    url.set_port(Some(address.port())).map_err(|()| anyhow!("DATABASE_URL cannot have a port"))?;
    Ok(url)
}
