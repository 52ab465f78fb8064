//! What is measured besides the rounds.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::{
    engines::Database,
    http::{self, Client},
    loads::{Load, next_page},
    measure::{CLIENTS, Run, Stage},
    open_loop,
    peers::{Peer, Running, SERVICE},
    results::{Memory, OverloadFigure, PagesFigure, Peak, Start, SweepFigure, median},
    seed,
};

const SIZES: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];

pub fn sweep_weight(run: &Run) -> f64 {
    (run.rounds() * SIZES.len() * 2) as f64 * run.weight()
}

/// GET by id over the pool's size, with and without batching.
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
                let seen = run.wrk(database, loads, Peer::UsersApi, &variables, Load::Get, CLIENTS, round).await?;
                let text = format!("sweep, round {}, max={max}, batch={batch}: {:.0}/s", round + 1, seen.per_second);
                run.progress.did(run.weight(), &text);
                run.results.sweep.push(SweepFigure {
                    batch,
                    max,
                    round,
                    per_second: seen.per_second,
                    p50_ms: seen.p50_ms,
                    p99_ms: seen.p99_ms,
                    errors: seen.errors,
                });
            }
        }
    }
    Ok(())
}

pub const OVERLOADED: [Peer; 2] = [Peer::UsersApi, Peer::ActixSeaorm];
const TIMES: [f64; 8] = [0.25, 0.5, 0.75, 0.9, 1.0, 1.5, 2.0, 3.0];
const OVERLOAD_ROUNDS: usize = 3;

fn overload_rounds(run: &Run) -> usize {
    run.rounds().min(OVERLOAD_ROUNDS)
}

/// A queue takes time to build up, so this is measured for longer.
fn window(run: &Run) -> Duration {
    Duration::from_secs(run.seconds() * 2)
}

pub fn overload_weight(run: &Run) -> f64 {
    let each = run.weight() + window(run).as_secs_f64();
    (overload_rounds(run) * OVERLOADED.len() * (TIMES.len() + 1)) as f64 * each
}

/// Requests that fall due at a fixed rate, up to three times what the peer can answer.
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
            run.progress.did(each, &format!("overload, peak of {}: {per_second:.0}/s", peer.name()));
        }
    }
    for round in 0..overload_rounds(run) {
        for times in TIMES {
            for peer in &peers {
                let peaks = run.results.overload.peaks.iter().filter(|peak| peak.peer == *peer);
                let peak = median(peaks.map(|peak| peak.per_second).collect()).context("there is no peak")?;
                let offered = peak * times;
                let outcome = offer(run, stage, *peer, &requests, Some(offered), round).await?;
                let text = format!(
                    "overload, round {}, {times} x {peak:.0}/s offered to {}: {:.0}/s useful, p99 {:.1} ms",
                    round + 1,
                    peer.name(),
                    outcome.good_per_second,
                    outcome.p99_ms
                );
                run.progress.did(each, &text);
                run.results.overload.points.push(OverloadFigure {
                    peer: *peer,
                    times,
                    round,
                    offered_per_second: offered,
                    good_per_second: outcome.good_per_second,
                    p50_ms: outcome.p50_ms,
                    p99_ms: outcome.p99_ms,
                    failed: outcome.failed,
                    given_up: outcome.given_up,
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
    stage.loads.run(Load::Get, peer, running.port, CLIENTS, crate::measure::WARM_UP, round).await?;
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

/// The first page against a far one, in tables of one and of ten million rows.
pub async fn pages(run: &mut Run, database: &Database) -> Result<()> {
    let large = database.another("pages").await?;
    large.migrate(&std::path::absolute(SERVICE)?).await?;
    let mut there = 0;
    for rows in TABLES {
        run.progress.tell(&format!("pages: {rows} rows are made"));
        fill(&large, there + 1, rows).await?;
        there = rows;
        let service = Peer::UsersApi.start(&large, &run.work, &[]).await?;
        run.progress.tell(&format!("pages: looking for page {PAGE}"));
        let figure = first_and_further(&service, rows).await?;
        service.stop().await?;
        let text = format!(
            "pages, {rows} rows: page 1 in {:.3} ms, page {PAGE} in {:.3} ms",
            figure.first_p50_ms, figure.further_p50_ms
        );
        run.progress.did(PAGES_WEIGHT / 2.0, &text);
        run.results.pages.push(figure);
    }
    large.remove().await
}

/// Adds rows. The keys' indexes are made after them: row by row it would take many times as long.
async fn fill(database: &Database, from: u64, to: u64) -> Result<()> {
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

async fn first_and_further(service: &Running, rows: u64) -> Result<PagesFigure> {
    let mut client = service.client().await?;
    let first = format!("/users?limit={LIMIT}");
    let further = path_of(&mut client, PAGE).await?;
    let (mut firsts, mut furthers) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS + PAIRS / 10 {
        for (path, times) in [(&first, &mut firsts), (&further, &mut furthers)] {
            let request = http::get(path);
            let began = Instant::now();
            let answer = client.ask(&request).await?;
            let took = began.elapsed().as_secs_f64() * 1e3;
            ensure!(answer.status == 200, "GET {path} was answered by {}", answer.status);
            // The first ones warm up.
            if pair < PAIRS / 10 {
                let users = answer.json()?.as_array().map_or(0, Vec::len);
                ensure!(users as u64 == LIMIT, "GET {path} was answered with {users} users");
            } else {
                times.push(took);
            }
        }
    }
    let p50 = |times| median(times).context("nothing was measured");
    Ok(PagesFigure { rows, page: PAGE, pairs: PAIRS, first_p50_ms: p50(firsts)?, further_p50_ms: p50(furthers)? })
}

/// The path of a page by its number, found by following `next` in strides as long as they may be.
async fn path_of(client: &mut Client, number: u64) -> Result<String> {
    let stride = |left: u64| if left >= 100 { 100 } else { LIMIT };
    let mut left = (number - 1) * LIMIT;
    let mut path = format!("/users?limit={}", stride(left));
    while left > 0 {
        let page = next_page(client, &path).await?.context("the list ends too early")?;
        left -= stride(left);
        path = page.path_by_cursor(stride(left));
    }
    Ok(path)
}

const CONNECTIONS: usize = 10_000;
/// What is freed is freed by then.
const REST: Duration = Duration::from_secs(2);
pub const MEMORY_WEIGHT: f64 = 10.0;

/// Memory that the service holds on SQLite: idle, and with connections that have asked one thing each.
pub async fn memory(run: &mut Run, database: &Database) -> Result<()> {
    let service = Peer::UsersApi.start(database, &run.work, &[]).await?;
    sleep(REST).await;
    let idle_kib = resident_kib(&service)?;
    let mut clients = Vec::with_capacity(CONNECTIONS);
    for number in 0..CONNECTIONS {
        let client = service.client().await;
        let mut client = client.with_context(|| format!("connection {number}; see `ulimit -n`"))?;
        let status = client.get("/health/live").await?.status;
        ensure!(status == 200, "GET /health/live was answered by {status}");
        clients.push(client);
    }
    sleep(REST).await;
    let files = std::fs::read_dir(format!("/proc/{}/fd", service.process.id()))?.count();
    ensure!(files >= CONNECTIONS, "it has only {files} open files for {CONNECTIONS} connections");
    let connected_kib = resident_kib(&service)?;
    drop(clients);
    service.stop().await?;
    let text = format!("memory: {idle_kib} KiB idle, {connected_kib} KiB with {CONNECTIONS} connections");
    run.progress.did(MEMORY_WEIGHT, &text);
    run.results.memory = Some(Memory { idle_kib, connections: CONNECTIONS, connected_kib });
    Ok(())
}

fn resident_kib(service: &Running) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.process.id()))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("there is no VmRSS")?;
    Ok(resident.trim().trim_end_matches(" kB").parse()?)
}

const STARTS: usize = 11;
pub const START_WEIGHT: f64 = 3.0;

/// Time from the start of the process to its first word that it is ready, on an SQLite file that is there.
pub async fn start(run: &mut Run, database: &Database) -> Result<()> {
    let mut times_ms = Vec::new();
    for _ in 0..STARTS {
        let began = Instant::now();
        // As it is started by default: it looks for migrations.
        let variables = [("USERS_API__DATABASE__MIGRATE", "auto".to_owned())];
        let mut service = Peer::UsersApi.spawn(database, &run.work, &variables)?;
        let mut look = interval(Duration::from_millis(1));
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while http::probe(service.port, "/health/ready").await != Some(200) {
            service.check()?;
            ensure!(began.elapsed() < Duration::from_secs(30), "it does not become ready");
            look.tick().await;
        }
        times_ms.push(began.elapsed().as_secs_f64() * 1e3);
        service.stop().await?;
    }
    let middle = median(times_ms.clone()).unwrap_or_default();
    run.progress.did(START_WEIGHT, &format!("start: ready after {middle:.1} ms"));
    run.results.start = Some(Start { times_ms });
    Ok(())
}
