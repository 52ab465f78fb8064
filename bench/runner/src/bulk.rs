//! Imports and exports: beside what the engine's own client does with the same rows, and their cost to whoever else asks.

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
/// What is asked for a second beside an import and an export: a part of what the service can answer.
pub const BESIDE_PER_SECOND: f64 = 750.0;
const LOOK: Duration = Duration::from_millis(5);

fn rounds(run: &Run) -> usize {
    run.rounds().min(ROUNDS)
}

fn rows(run: &Run) -> u64 {
    if run.options.quick { 100_000 } else { 1_000_000 }
}

fn window(run: &Run) -> Duration {
    Duration::from_secs(run.seconds() * 2)
}

/// Seconds that one engine takes, roughly.
pub fn weight(run: &Run) -> f64 {
    rounds(run) as f64 * (rows(run) as f64 / 15_000.0 + 2.0 * window(run).as_secs_f64())
}

pub async fn bulk(run: &mut Run, database: &Database) -> Result<()> {
    let rows = rows(run);
    let (csv, ndjson) = (run.work.join("rows.csv"), run.work.join("rows.ndjson"));
    seed::write(&csv, rows)?;
    write(&ndjson, rows)?;
    for round in 0..rounds(run) {
        let empty = database.another("bulk").await?;
        empty.migrate(&std::path::absolute(SERVICE)?).await?;
        // The one that comes first finds the machine as the last one left it, so they take turns in that as well.
        let first = if round % 2 == 0 {
            None
        } else {
            let took = own_import(&empty, &csv, rows).await?;
            empty.empty().await?;
            Some(took)
        };
        let (import_s, import_kib) = service(run, &empty, &["import", &ndjson.display().to_string()]).await?;
        ensure_rows(&empty, rows).await?;
        // The first to read new rows would do what is left to do after their transaction.
        empty.tidy().await?;
        let (export_s, export_kib) = service(run, &empty, &["export"]).await?;
        let (own_export_s, _) = timed(empty.dump()?, &run.work.join("bulk.log")).await?;
        let own_import_s = match first {
            Some(took) => took,
            None => {
                empty.empty().await?;
                own_import(&empty, &csv, rows).await?
            }
        };
        empty.remove().await?;
        let (idle_p99_ms, beside_p99_ms) = beside(run, database, &ndjson).await?;
        let figure = BulkFigure {
            engine: database.engine,
            round,
            rows,
            import_s,
            own_import_s,
            import_kib,
            export_s,
            own_export_s,
            export_kib,
            idle_p99_ms,
            beside_p99_ms,
        };
        let text = format!(
            "bulk on {}, round {}: in {import_s:.1} s ({own_import_s:.1} s), out {export_s:.1} s ({own_export_s:.1} s), p99 {idle_p99_ms:.1} \
             and {beside_p99_ms:.1} ms",
            database.engine,
            round + 1,
        );
        run.progress.did(weight(run) / rounds(run) as f64, &text);
        run.results.bulk.push(figure);
    }
    fs::remove_file(csv)?;
    Ok(fs::remove_file(ndjson)?)
}

/// Users whom [`Database::clean`] deletes again.
fn write(path: &Path, rows: u64) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for n in 1..=rows {
        writeln!(file, r#"{{"name":"User {n}","email":"bench-{n}@example.com"}}"#)?;
    }
    Ok(file.flush()?)
}

async fn own_import(database: &Database, csv: &Path, rows: u64) -> Result<f64> {
    let began = Instant::now();
    database.load(csv).await?;
    let took = began.elapsed().as_secs_f64();
    ensure_rows(database, rows).await?;
    Ok(took)
}

async fn ensure_rows(database: &Database, rows: u64) -> Result<()> {
    let count = database.sql("SELECT count(*) FROM users").await?;
    ensure!(count.trim() == rows.to_string(), "there are {} rows, and not {rows}", count.trim());
    Ok(())
}

/// The seconds that a command of the service takes, and the most memory that it held.
async fn service(run: &Run, database: &Database, arguments: &[&str]) -> Result<(f64, u64)> {
    let mut command = tools::command(std::path::absolute(SERVICE)?);
    command.args(arguments).current_dir(&run.work).env_clear();
    command.env("DATABASE_URL", database.url()).env("RUST_LOG", "off");
    timed(command, &run.work.join("bulk.log")).await
}

async fn timed(mut command: Command, log: &Path) -> Result<(f64, u64)> {
    let began = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(File::create(log)?).spawn()?;
    let status = PathBuf::from(format!("/proc/{}/status", child.id().context("it has ended before it began")?));
    let mut peak_kib = 0;
    let ended = loop {
        if let Some(ended) = child.try_wait()? {
            break ended;
        }
        let text = fs::read_to_string(&status).unwrap_or_default();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak_kib = peak.map_or(Ok(peak_kib), str::parse)?;
        sleep(LOOK).await;
    };
    if !ended.success() {
        bail!("{ended}: {}", tools::tail(&fs::read_to_string(log)?));
    }
    Ok((began.elapsed().as_secs_f64(), peak_kib))
}

/// p99 of GET by id in milliseconds: with nothing else to do, and beside an import and exports without end.
async fn beside(run: &Run, database: &Database, ndjson: &Path) -> Result<(f64, f64)> {
    let service = Peer::UsersApi.start(database, &run.work, &[]).await?;
    let requests: Arc<[Vec<u8>]> = (1..=database.rows).map(|n| http::get(&format!("/users/{}", seed::id(n)))).collect();
    let p99 = async || -> Result<f64> {
        let outcome =
            open_loop::offer(service.port, Arc::clone(&requests), Some(BESIDE_PER_SECOND), window(run)).await?;
        ensure!(outcome.failed + outcome.given_up == 0, "some requests had no useful answer");
        Ok(outcome.p99_ms)
    };
    p99().await?;
    let idle = p99().await?;
    let (import, export) = (importing(run, &service, ndjson)?, exporting(run, &service)?);
    let beside = p99().await?;
    for work in [import, export] {
        ensure!(!work.has_ended()?, "the work in bulk ended early: {}", work.last_words());
        work.stop().await?;
    }
    service.stop().await?;
    database.clean().await?;
    Ok((idle, beside))
}

fn importing(run: &Run, service: &Running, ndjson: &Path) -> Result<Process> {
    let mut curl = std::process::Command::new("curl");
    curl.args(["-sS", "--fail", "-o", "/dev/null", "-X", "POST", "-H", "content-type: application/x-ndjson", "-T"]);
    curl.arg(ndjson).arg(format!("http://127.0.0.1:{}/users/bulk", service.port));
    Process::start(curl, &run.work.join("import.log"))
}

fn exporting(run: &Run, service: &Running) -> Result<Process> {
    let mut shell = std::process::Command::new("sh");
    let url = format!("http://127.0.0.1:{}/users/export", service.port);
    shell.arg("-c").arg(format!("while curl -sS --fail -o /dev/null {url}; do :; done"));
    Process::start(shell, &run.work.join("export.log"))
}
