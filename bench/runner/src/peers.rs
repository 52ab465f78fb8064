//! The peers: how each is started, and on which engines.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::{
    engines::{Database, Engine},
    http,
    process::Process,
    tools::{self, free_port},
};

pub const SERVICE: &str = "target/release/users-api";
/// The pool size of every peer.
const POOL_MAX: &str = "10";
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// The number of pgbench connections.
pub const PGBENCH_CLIENTS: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    UsersApi,
    UsersApiUnbatched,
    ActixSeaorm,
    ActixSeaormNoPool,
    ActixPipelined,
    AxumSqlx,
    FastifyPg,
    ExpressSequelize,
    FastapiSqlalchemy,
    /// Without HTTP: PostgreSQL's load generator, with a single workload.
    Pgbench,
}

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Self::UsersApi => "users-api",
            Self::UsersApiUnbatched => "users-api, pool.batch=false",
            Self::ActixSeaorm => "actix + SeaORM",
            Self::ActixSeaormNoPool => "actix + SeaORM, no pool",
            Self::ActixPipelined => "actix + tokio-postgres, pipelined",
            Self::AxumSqlx => "axum + sqlx",
            Self::FastifyPg => "Fastify + pg",
            Self::ExpressSequelize => "Express + Sequelize",
            Self::FastapiSqlalchemy => "FastAPI + SQLAlchemy",
            Self::Pgbench => "pgbench -M prepared (database only, no HTTP)",
        }
    }

    /// The folder of a peer that is not written in Rust and has a build script.
    pub fn folder(self) -> Option<&'static str> {
        match self {
            Self::FastifyPg => Some("fastify-pg"),
            Self::ExpressSequelize => Some("express-sequelize"),
            Self::FastapiSqlalchemy => Some("fastapi-sqlalchemy"),
            _ => None,
        }
    }

    pub fn engines(self) -> &'static [Engine] {
        match self {
            Self::UsersApi | Self::UsersApiUnbatched | Self::ActixSeaorm => {
                &[Engine::Postgres, Engine::MariaDb, Engine::Sqlite]
            }
            Self::ExpressSequelize => &[Engine::Postgres, Engine::MariaDb],
            _ => &[Engine::Postgres],
        }
    }

    /// Whether it is users-api, which pages by cursor; the other peers page by `after`.
    pub fn has_cursors(self) -> bool {
        matches!(self, Self::UsersApi | Self::UsersApiUnbatched)
    }

    fn program(self) -> PathBuf {
        match self {
            Self::UsersApi | Self::UsersApiUnbatched => SERVICE.into(),
            Self::ActixSeaorm | Self::ActixSeaormNoPool => "bench/target/release/actix-seaorm".into(),
            Self::ActixPipelined => "bench/target/release/actix-pipelined".into(),
            Self::AxumSqlx => "bench/target/release/axum-sqlx".into(),
            Self::Pgbench => "pgbench".into(),
            Self::FastifyPg | Self::ExpressSequelize | Self::FastapiSqlalchemy => {
                PathBuf::from("bench/peers").join(self.folder().unwrap_or_default()).join("start")
            }
        }
    }

    fn variables(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::UsersApi => &[("USERS_API__POOL__MAX", POOL_MAX)],
            Self::UsersApiUnbatched => &[("USERS_API__POOL__MAX", POOL_MAX), ("USERS_API__POOL__BATCH", "false")],
            Self::ActixSeaormNoPool => &[("POOL_MAX", POOL_MAX), ("NO_POOL", "1")],
            _ => &[("POOL_MAX", POOL_MAX)],
        }
    }

    /// Starts the process with additional environment variables, without waiting until it is ready.
    pub fn spawn(self, database: &Database, work: &std::path::Path, more: &[(&str, String)]) -> Result<Running> {
        let program = std::path::absolute(self.program())?;
        if !program.is_file() {
            bail!("not built: {} does not exist", self.program().display());
        }
        let port = free_port()?;
        let port_text = port.to_string();
        let mut command = std::process::Command::new(program);
        // The service reads `.env` in its working directory. This one has none.
        command.current_dir(work).env_clear();
        command.envs(["PATH", "HOME", "LANG"].iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.env("DATABASE_URL", database.url()).envs(self.variables().iter().copied());
        if self.has_cursors() {
            command.env("USERS_API__SERVER__PORT", port_text).env("RUST_LOG", "off");
            command.env("USERS_API__DATABASE__MIGRATE", "off");
        } else {
            command.env("PORT", port_text);
        }
        command.envs(more.iter().map(|(name, value)| (name, value)));
        Ok(Running { process: Process::start(command, &work.join("peer.log"))?, port })
    }

    /// Starts the process and waits until it responds.
    pub async fn start(self, database: &Database, work: &std::path::Path, more: &[(&str, String)]) -> Result<Running> {
        let mut running = self.spawn(database, work, more)?;
        let began = Instant::now();
        while http::probe(running.port, "/health/live").await != Some(200) {
            running.check()?;
            if began.elapsed() > START_TIMEOUT {
                bail!("no response from /health/live after {START_TIMEOUT:?}: {}", running.process.output_tail());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(running)
    }
}

/// A running peer; it is stopped when this is dropped.
pub struct Running {
    pub process: Process,
    pub port: u16,
}

impl Running {
    /// Returns an error if the process has exited.
    pub fn check(&mut self) -> Result<()> {
        if self.process.has_ended()? {
            bail!("the process has exited: {}", self.process.output_tail());
        }
        Ok(())
    }

    pub async fn stop(self) -> Result<()> {
        self.process.stop().await
    }

    pub async fn client(&self) -> Result<http::Client> {
        http::Client::connect(self.port).await.context("cannot connect to the peer")
    }
}

/// Runs pgbench and returns the transactions per second.
pub async fn pgbench(database: &Database, script: &std::path::Path, seconds: u64) -> Result<f64> {
    let mut pgbench = database.postgres_client("pgbench")?;
    let (clients, seconds) = (PGBENCH_CLIENTS.to_string(), seconds.to_string());
    pgbench.args(["-n", "-M", "prepared", "-c", &clients, "-j", "2", "-T", &seconds, "-f"]).arg(script);
    let output = tools::output(&mut pgbench).await?;
    // Older versions print two rates; the last one excludes the time to connect.
    let rate = output.lines().rev().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.with_context(|| format!("pgbench printed no rate: {}", tools::tail(&output)))
}
