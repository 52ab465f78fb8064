//! Imports and exports: their speed compared with the engine's native client, and their effect on other requests.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{process::Command, time::sleep};

use crate::{
    engines::Database,
    http,
    measure::Run,
    open_loop,
    peers::{Peer, Running, SERVICE},
    process::Process,
    results::BulkFigure,
    seed, tools,
};

const ROUNDS: usize = 3;
/// Requests per second during an import and exports: a fraction of the service's peak.
pub const REQUESTS_PER_SECOND: f64 = 750.0;
const POLL_INTERVAL: Duration = Duration::from_millis(5);

fn rounds(run: &Run) -> usize {
    run.rounds().min(ROUNDS)
}

fn rows(run: &Run) -> u64 {
    if run.options.quick { 100_000 } else { 1_000_000 }
}

fn window(run: &Run) -> Duration {
    Duration::from_secs(run.seconds() * 2)
}

/// Approximate duration on one engine in seconds.
pub fn weight(run: &Run) -> f64 {
    rounds(run) as f64 * (rows(run) as f64 / 15_000.0 + 2.0 * window(run).as_secs_f64())
}

pub async fn bulk(run: &mut Run, database: &Database) -> Result<()> {
    let rows = rows(run);
    let (csv, ndjson) = (run.work.join("rows.csv"), run.work.join("rows.ndjson"));
    seed::write(&csv, rows)?;
    write_ndjson(&ndjson, rows)?;
    for round in 0..rounds(run) {
        let empty = database.create_another("bulk").await?;
        empty.migrate(&std::path::absolute(SERVICE)?).await?;
        // Which import runs first alternates between rounds, because the second one starts with a warmer machine.
        let native_first_s = if round % 2 == 0 {
            None
        } else {
            let seconds = native_import(&empty, &csv, rows).await?;
            empty.empty().await?;
            Some(seconds)
        };
        let (import_s, import_kib) = run_service(run, &empty, &["import", &ndjson.display().to_string()]).await?;
        ensure_rows(&empty, rows).await?;
        // Otherwise the first reader of the new rows would do this maintenance.
        empty.vacuum().await?;
        let (export_s, export_kib) = run_service(run, &empty, &["export"]).await?;
        let (native_export_s, _) = timed(empty.dump()?, &run.work.join("bulk.log")).await?;
        let native_import_s = match native_first_s {
            Some(seconds) => seconds,
            None => {
                empty.empty().await?;
                native_import(&empty, &csv, rows).await?
            }
        };
        empty.remove().await?;
        let (idle_p99_ms, busy_p99_ms) = latency_during_bulk(run, database, &ndjson).await?;
        let figure = BulkFigure {
            engine: database.engine,
            round,
            rows,
            import_s,
            native_import_s,
            import_kib,
            export_s,
            native_export_s,
            export_kib,
            idle_p99_ms,
            busy_p99_ms,
        };
        let text = format!(
            "bulk on {}, round {}: import {import_s:.1} s (native client {native_import_s:.1} s), \
             export {export_s:.1} s ({native_export_s:.1} s), p99 {idle_p99_ms:.1} ms idle, \
             {busy_p99_ms:.1} ms during bulk",
            database.engine,
            round + 1,
        );
        run.progress.advance(weight(run) / rounds(run) as f64, &text);
        run.results.bulk.push(figure);
    }
    fs::remove_file(csv)?;
    Ok(fs::remove_file(ndjson)?)
}

/// Writes users as NDJSON, with emails that [`Database::clean`] deletes.
fn write_ndjson(path: &Path, rows: u64) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for n in 1..=rows {
        writeln!(file, r#"{{"name":"User {n}","email":"bench-{n}@example.com"}}"#)?;
    }
    Ok(file.flush()?)
}

/// Imports the rows with the engine's native client and returns the duration in seconds.
async fn native_import(database: &Database, csv: &Path, rows: u64) -> Result<f64> {
    let began = Instant::now();
    database.load(csv).await?;
    let seconds = began.elapsed().as_secs_f64();
    ensure_rows(database, rows).await?;
    Ok(seconds)
}

async fn ensure_rows(database: &Database, rows: u64) -> Result<()> {
    let count = database.sql("SELECT count(*) FROM users").await?;
    ensure!(count.trim() == rows.to_string(), "the table has {} rows, expected {rows}", count.trim());
    Ok(())
}

/// Runs a command of the service and returns its duration in seconds and its peak memory in KiB.
async fn run_service(run: &Run, database: &Database, arguments: &[&str]) -> Result<(f64, u64)> {
    let mut command = tools::command(std::path::absolute(SERVICE)?);
    command.args(arguments).current_dir(&run.work).env_clear();
    command.env("DATABASE_URL", database.url()).env("RUST_LOG", "off");
    timed(command, &run.work.join("bulk.log")).await
}

/// Runs a command and returns its duration in seconds and its peak memory in KiB.
async fn timed(mut command: Command, log: &Path) -> Result<(f64, u64)> {
    let began = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(File::create(log)?).spawn()?;
    let status = PathBuf::from(format!("/proc/{}/status", child.id().context("the process has already exited")?));
    let mut peak_kib = 0;
    let ended = loop {
        if let Some(ended) = child.try_wait()? {
            break ended;
        }
        let text = fs::read_to_string(&status).unwrap_or_default();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak_kib = peak.map_or(Ok(peak_kib), str::parse)?;
        sleep(POLL_INTERVAL).await;
    };
    if !ended.success() {
        bail!("{ended}: {}", tools::tail(&fs::read_to_string(log)?));
    }
    Ok((began.elapsed().as_secs_f64(), peak_kib))
}

/// The p99 latency of GET by id in milliseconds: without other load, and during an import and repeated exports.
async fn latency_during_bulk(run: &Run, database: &Database, ndjson: &Path) -> Result<(f64, f64)> {
    let service = Peer::UsersApi.start(database, &run.work, &[]).await?;
    let requests: Arc<[Vec<u8>]> = (1..=database.rows).map(|n| http::get(&format!("/users/{}", seed::id(n)))).collect();
    let p99 = async || -> Result<f64> {
        let outcome =
            open_loop::offer(service.port, Arc::clone(&requests), Some(REQUESTS_PER_SECOND), window(run)).await?;
        ensure!(outcome.failed + outcome.abandoned == 0, "some requests failed or were abandoned");
        Ok(outcome.p99_ms)
    };
    p99().await?;
    let idle = p99().await?;
    let (import, export) = (start_import(run, &service, ndjson)?, start_exports(run, &service)?);
    let busy = p99().await?;
    for process in [import, export] {
        ensure!(!process.has_ended()?, "a bulk operation ended early: {}", process.output_tail());
        process.stop().await?;
    }
    service.stop().await?;
    database.clean().await?;
    Ok((idle, busy))
}

fn start_import(run: &Run, service: &Running, ndjson: &Path) -> Result<Process> {
    let mut curl = std::process::Command::new("curl");
    curl.args(["-sS", "--fail", "-o", "/dev/null", "-X", "POST", "-H", "content-type: application/x-ndjson", "-T"]);
    curl.arg(ndjson).arg(format!("http://127.0.0.1:{}/users/bulk", service.port));
    Process::start(curl, &run.work.join("import.log"))
}

fn start_exports(run: &Run, service: &Running) -> Result<Process> {
    let mut shell = std::process::Command::new("sh");
    let url = format!("http://127.0.0.1:{}/users/export", service.port);
    shell.arg("-c").arg(format!("while curl -sS --fail -o /dev/null {url}; do :; done"));
    Process::start(shell, &run.work.join("export.log"))
}
