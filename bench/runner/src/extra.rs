//! Measurements besides the rounds: pool size, overload, deep pages, memory, startup.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::{
    engines::Database,
    http::{self, Client},
    loads::{CLIENTS, Load, Target, WARM_UP, next_page},
    measure::{Run, Stage, Variant},
    open_loop,
    peers::{Peer, Running, SERVICE},
    results::{Memory, OverloadFigure, PagesFigure, Peak, Start, SweepFigure},
    seed,
    spread::median,
};

const SIZES: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];

pub fn sweep_weight(run: &Run) -> f64 {
    (run.rounds() * SIZES.len() * 2) as f64 * run.weight()
}

/// Measures GET by id for several pool sizes, with and without batching.
pub async fn sweep(run: &mut Run, stage: &mut Stage) -> Result<()> {
    for round in 0..run.rounds() {
        for max in SIZES {
            for batch in [true, false] {
                let variables = [
                    ("USERS_API__POOL__MAX", max.to_string()),
                    ("USERS_API__POOL__MIN", max.to_string()),
                    ("USERS_API__POOL__BATCH", batch.to_string()),
                ];
                let Stage { database, loads, .. } = stage;
                let variant = Variant { peer: Peer::UsersApi, variables: &variables, key: None };
                let measured = run.wrk(database, loads, variant, Load::Get, CLIENTS, round).await?;
                let per_second = measured.per_second;
                let text = format!("sweep, round {}, max={max}, batch={batch}: {per_second:.0}/s", round + 1);
                run.progress.advance(run.weight(), &text);
                run.results.sweep.push(SweepFigure {
                    batch,
                    max,
                    round,
                    per_second,
                    p50_ms: measured.p50_ms,
                    p99_ms: measured.p99_ms,
                    errors: measured.errors,
                });
            }
        }
    }
    Ok(())
}

/// The peers that are measured under overload.
pub const OVERLOADED: [Peer; 2] = [Peer::UsersApi, Peer::ActixSeaorm];
/// Offered loads, as multiples of the peak.
const TIMES: [f64; 8] = [0.25, 0.5, 0.75, 0.9, 1.0, 1.5, 2.0, 3.0];
const OVERLOAD_ROUNDS: usize = 3;

fn overload_rounds(run: &Run) -> usize {
    run.rounds().min(OVERLOAD_ROUNDS)
}

/// Longer than other measurements, because a queue takes time to build up.
fn window(run: &Run) -> Duration {
    Duration::from_secs(run.seconds() * 2)
}

pub fn overload_weight(run: &Run) -> f64 {
    let each = run.weight() + window(run).as_secs_f64();
    (overload_rounds(run) * OVERLOADED.len() * (TIMES.len() + 1)) as f64 * each
}

/// Offers requests at a fixed rate, up to three times the peak throughput of the peer.
pub async fn overload(run: &mut Run, stage: &mut Stage) -> Result<()> {
    let requests: Arc<[Vec<u8>]> =
        (1..=stage.database.rows).map(|n| http::get(&format!("/users/{}", seed::id(n)))).collect();
    let each = run.weight() + window(run).as_secs_f64();
    let peers: Vec<Peer> = OVERLOADED.into_iter().filter(|peer| stage.peers.contains(peer)).collect();
    for round in 0..overload_rounds(run) {
        for peer in &peers {
            let outcome = offer(run, stage, *peer, &requests, None, round).await?;
            let per_second = outcome.good_per_second;
            run.results.overload.peaks.push(Peak { peer: *peer, round, per_second });
            run.progress.advance(each, &format!("overload, peak of {}: {per_second:.0}/s", peer.name()));
        }
    }
    for round in 0..overload_rounds(run) {
        for times in TIMES {
            for peer in &peers {
                let peaks = run.results.overload.peaks.iter().filter(|peak| peak.peer == *peer);
                let peak = median(peaks.map(|peak| peak.per_second).collect()).context("no peak was measured")?;
                let offered = peak * times;
                let outcome = offer(run, stage, *peer, &requests, Some(offered), round).await?;
                let text = format!(
                    "overload, round {}, {times} x {peak:.0}/s offered to {}: goodput {:.0}/s, p99 {:.1} ms",
                    round + 1,
                    peer.name(),
                    outcome.good_per_second,
                    outcome.p99_ms
                );
                run.progress.advance(each, &text);
                run.results.overload.points.push(OverloadFigure {
                    peer: *peer,
                    times,
                    round,
                    offered_per_second: offered,
                    good_per_second: outcome.good_per_second,
                    p50_ms: outcome.p50_ms,
                    p99_ms: outcome.p99_ms,
                    failed: outcome.failed,
                    abandoned: outcome.abandoned,
                    connections: outcome.connections,
                });
            }
        }
    }
    Ok(())
}

async fn offer(
    run: &Run,
    stage: &mut Stage,
    peer: Peer,
    requests: &Arc<[Vec<u8>]>,
    per_second: Option<f64>,
    round: usize,
) -> Result<open_loop::Outcome> {
    let mut running = peer.start(&stage.database, &run.work, &[]).await?;
    let target = Target { peer, port: running.port, key: None };
    stage.loads.run(Load::Get, target, CLIENTS, WARM_UP, round).await?;
    let outcome = open_loop::offer(running.port, Arc::clone(requests), per_second, window(run)).await?;
    running.check()?;
    running.stop().await?;
    Ok(outcome)
}

const TABLES: [u64; 2] = [1_000_000, 10_000_000];
const PAGE: u64 = 50_000;
const LIMIT: u64 = 20;
const PAIRS: usize = 2000;
pub const PAGES_WEIGHT: f64 = 400.0;

/// Compares the first page with a deep one, in tables of one and ten million rows.
pub async fn pages(run: &mut Run, database: &Database) -> Result<()> {
    let large = database.create_another("pages").await?;
    large.migrate(&std::path::absolute(SERVICE)?).await?;
    let mut existing = 0;
    for rows in TABLES {
        run.progress.report(&format!("pages: inserting rows up to {rows}"));
        insert(&large, existing + 1, rows).await?;
        existing = rows;
        let service = Peer::UsersApi.start(&large, &run.work, &[]).await?;
        run.progress.report(&format!("pages: finding the cursor of page {PAGE}"));
        let figure = measure_pages(&service, rows).await?;
        service.stop().await?;
        let text = format!(
            "pages, {rows} rows: page 1 in {:.3} ms, page {PAGE} in {:.3} ms",
            figure.first_p50_ms, figure.further_p50_ms
        );
        run.progress.advance(PAGES_WEIGHT / 2.0, &text);
        run.results.pages.push(figure);
    }
    large.remove().await
}

/// Inserts rows. Indexes are dropped before and created afterwards, which is many times faster than updating them.
async fn insert(database: &Database, from: u64, to: u64) -> Result<()> {
    database
        .sql(&format!(
            "SET maintenance_work_mem = '256MB';
             ALTER TABLE users DROP CONSTRAINT users_pkey, DROP CONSTRAINT users_email_key_uq;
             DROP INDEX users_name_key_ix, users_last_word_key_ix;
             INSERT INTO users (id, name, name_key, last_word_key, email, email_key, version, created_at, updated_at)
             SELECT gen_random_uuid(), 'User ' || n, 'user ' || n, n || ' user', 'user' || n || '@example.com', 'user' || n || '@example.com', 1,
                    moment, moment
             FROM generate_series({from}, {to}) AS n,
                  LATERAL (SELECT timestamptz '2026-01-01 00:00:00.000123Z' + n * interval '1 ms') AS m (moment);
             ALTER TABLE users ADD CONSTRAINT users_pkey PRIMARY KEY (id),
                               ADD CONSTRAINT users_email_key_uq UNIQUE (email_key);
             CREATE INDEX users_name_key_ix ON users (name_key, id);
             CREATE INDEX users_last_word_key_ix ON users (last_word_key)"
        ))
        .await?;
    database.sql("VACUUM (ANALYZE) users").await?;
    database.sql("CHECKPOINT").await.map(drop)
}

async fn measure_pages(service: &Running, rows: u64) -> Result<PagesFigure> {
    let mut client = service.client().await?;
    let first = format!("/users?limit={LIMIT}");
    let deep = path_of_page(&mut client, PAGE).await?;
    let (mut firsts, mut deeps) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS + PAIRS / 10 {
        for (path, times) in [(&first, &mut firsts), (&deep, &mut deeps)] {
            let request = http::get(path);
            let began = Instant::now();
            let response = client.send(&request).await?;
            let ms = began.elapsed().as_secs_f64() * 1e3;
            ensure!(response.status == 200, "GET {path} returned status {}", response.status);
            // The first pairs warm up.
            if pair < PAIRS / 10 {
                let users = response.json()?.as_array().map_or(0, Vec::len);
                ensure!(users as u64 == LIMIT, "GET {path} returned {users} users");
            } else {
                times.push(ms);
            }
        }
    }
    let p50 = |times| median(times).context("no times were measured");
    Ok(PagesFigure { rows, page: PAGE, pairs: PAIRS, first_p50_ms: p50(firsts)?, further_p50_ms: p50(deeps)? })
}

/// The path of a page by its number, found by following `next` with the largest limit possible.
async fn path_of_page(client: &mut Client, number: u64) -> Result<String> {
    let stride = |left: u64| if left >= 100 { 100 } else { LIMIT };
    let mut left = (number - 1) * LIMIT;
    let mut path = format!("/users?limit={}", stride(left));
    while left > 0 {
        let page = next_page(client, &path).await?.context("the list has too few pages")?;
        left -= stride(left);
        path = page.path_by_cursor(stride(left));
    }
    Ok(path)
}

const CONNECTIONS: usize = 10_000;
/// The pause before memory is read, so that freed memory has been returned.
const SETTLE_TIME: Duration = Duration::from_secs(2);
pub const MEMORY_WEIGHT: f64 = 10.0;

/// Measures the service's memory on SQLite: idle, and with connections that have served one request each.
pub async fn memory(run: &mut Run, database: &Database) -> Result<()> {
    let service = Peer::UsersApi.start(database, &run.work, &[]).await?;
    sleep(SETTLE_TIME).await;
    let idle_kib = resident_kib(&service)?;
    let mut clients = Vec::with_capacity(CONNECTIONS);
    for number in 0..CONNECTIONS {
        let client = service.client().await;
        let mut client = client.with_context(|| format!("connection {number}; see `ulimit -n`"))?;
        let status = client.get("/health/live").await?.status;
        ensure!(status == 200, "GET /health/live returned status {status}");
        clients.push(client);
    }
    sleep(SETTLE_TIME).await;
    let files = std::fs::read_dir(format!("/proc/{}/fd", service.process.id()))?.count();
    ensure!(files >= CONNECTIONS, "the service has only {files} open files for {CONNECTIONS} connections");
    let connected_kib = resident_kib(&service)?;
    drop(clients);
    service.stop().await?;
    let text = format!("memory: {idle_kib} KiB idle, {connected_kib} KiB with {CONNECTIONS} connections");
    run.progress.advance(MEMORY_WEIGHT, &text);
    run.results.memory = Some(Memory { idle_kib, connections: CONNECTIONS, connected_kib });
    Ok(())
}

fn resident_kib(service: &Running) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.process.id()))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS is missing")?;
    Ok(resident.trim().trim_end_matches(" kB").parse()?)
}

const STARTS: usize = 11;
pub const START_WEIGHT: f64 = 3.0;

/// Measures the time from the start of the process until `/health/ready` returns 200, on an existing SQLite database.
pub async fn start(run: &mut Run, database: &Database) -> Result<()> {
    let mut times_ms = Vec::new();
    for _ in 0..STARTS {
        let began = Instant::now();
        // The default setting, which checks for pending migrations.
        let variables = [("USERS_API__DATABASE__MIGRATE", "auto".to_owned())];
        let mut service = Peer::UsersApi.spawn(database, &run.work, &variables)?;
        let mut poll = interval(Duration::from_millis(1));
        poll.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while http::probe(service.port, "/health/ready").await != Some(200) {
            service.check()?;
            ensure!(began.elapsed() < Duration::from_secs(30), "the service is not ready after 30 s");
            poll.tick().await;
        }
        times_ms.push(began.elapsed().as_secs_f64() * 1e3);
        service.stop().await?;
    }
    let ms = median(times_ms.clone()).unwrap_or_default();
    run.progress.advance(START_WEIGHT, &format!("start: ready after {ms:.1} ms"));
    run.results.start = Some(Start { times_ms });
    Ok(())
}
