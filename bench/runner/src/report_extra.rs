//! The report of the measurements besides the rounds, as Markdown.

use std::{collections::BTreeSet, fmt::Write as _};

use crate::{
    bulk::REQUESTS_PER_SECOND,
    engines::Engine,
    loads::CLIENTS,
    number_format::{grouped, short},
    peers::Peer,
    results::{BulkFigure, OverloadFigure, Results, SweepFigure},
    spread::median,
};

pub fn markdown(results: &Results) -> String {
    [sweep(results), overload(results), pages(results), memory(results), start(results), bulk(results)].concat()
}

/// The median over the rounds for a pool size.
pub fn sweep_median(results: &Results, batch: bool, max: u32, value: fn(&SweepFigure) -> f64) -> Option<f64> {
    let figures = results.sweep.iter().filter(|figure| figure.batch == batch && figure.max == max);
    median(figures.map(value).collect())
}

pub fn sweep_sizes(results: &Results) -> BTreeSet<u32> {
    results.sweep.iter().map(|figure| figure.max).collect()
}

fn sweep(results: &Results) -> String {
    if results.sweep.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "### Pool size\n\nGET by id on PostgreSQL, {CLIENTS} clients, `pool.min` = `pool.max`: requests per second, \
         p50 / p99 latency in milliseconds.\n\n\
         | `pool.max` | `pool.batch=true` | `pool.batch=false` |\n|---:|---:|---:|\n"
    );
    for max in sweep_sizes(results) {
        let _ = write!(text, "| {max} |");
        for batch in [true, false] {
            let median_of = |value| sweep_median(results, batch, max, value).unwrap_or(f64::NAN);
            let per_second = median_of(|figure| figure.per_second);
            let (p50, p99) = (median_of(|figure| figure.p50_ms), median_of(|figure| figure.p99_ms));
            let _ = write!(text, " {}<br>{} / {}", grouped(per_second), short(p50), short(p99));
            let errors: u64 = results
                .sweep
                .iter()
                .filter(|figure| (figure.batch, figure.max) == (batch, max))
                .map(|figure| figure.errors)
                .sum();
            if errors > 0 {
                let _ = write!(text, " ({errors} failed)");
            }
            text += " |";
        }
        text += "\n";
    }
    text + "\n"
}

pub fn overload_peers(results: &Results) -> BTreeSet<Peer> {
    results.overload.points.iter().map(|point| point.peer).collect()
}

pub fn peak(results: &Results, peer: Peer) -> Option<f64> {
    let peaks = results.overload.peaks.iter().filter(|peak| peak.peer == peer);
    median(peaks.map(|peak| peak.per_second).collect())
}

/// The loads that were offered to a peer, as multiples of its peak, each with the figures of all rounds.
pub fn offered(results: &Results, peer: Peer) -> Vec<(f64, Vec<&OverloadFigure>)> {
    let mut loads: Vec<(f64, Vec<&OverloadFigure>)> = Vec::new();
    for point in results.overload.points.iter().filter(|point| point.peer == peer) {
        match loads.iter_mut().find(|(times, _)| *times == point.times) {
            Some((_, points)) => points.push(point),
            None => loads.push((point.times, vec![point])),
        }
    }
    loads.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    loads
}

pub fn overload_median(points: &[&OverloadFigure], value: fn(&OverloadFigure) -> f64) -> f64 {
    median(points.iter().map(|point| value(point)).collect()).unwrap_or(f64::NAN)
}

fn overload(results: &Results) -> String {
    if results.overload.points.is_empty() {
        return String::new();
    }
    let mut text = "### Overload\n\nGET by id on PostgreSQL, open loop: requests are due at a fixed rate, regardless \
                    of earlier responses, and share at most 512 connections. A request that gets no connection within \
                    100 ms or no response within 1 s is abandoned. Goodput counts the responses with status 200 within \
                    1 s. Latency is that of these responses, measured from when the request was due, so it includes \
                    the wait for a connection.\n\n"
        .to_owned();
    for peer in overload_peers(results) {
        let peak = peak(results, peer).unwrap_or(f64::NAN);
        let _ = write!(
            text,
            "{}, peak {}/s:\n\n| offered / peak | offered/s | goodput/s | p50, ms | p99, ms | failed | abandoned |\n\
             |---:|---:|---:|---:|---:|---:|---:|\n",
            peer.name(),
            grouped(peak)
        );
        for (times, points) in offered(results, peer) {
            let _ = writeln!(
                text,
                "| {times} | {} | {} | {} | {} | {} | {} |",
                grouped(overload_median(&points, |point| point.offered_per_second)),
                grouped(overload_median(&points, |point| point.good_per_second)),
                short(overload_median(&points, |point| point.p50_ms)),
                short(overload_median(&points, |point| point.p99_ms)),
                grouped(overload_median(&points, |point| point.failed as f64)),
                grouped(overload_median(&points, |point| point.abandoned as f64)),
            );
        }
        text += "\n";
    }
    text
}

fn pages(results: &Results) -> String {
    if results.pages.is_empty() {
        return String::new();
    }
    let mut text = "### Deep pages\n\nOne client, PostgreSQL, `limit=20`, both pages in turn: p50 in milliseconds.\n\n\
                    | rows | page 1 | deep page | ratio |\n|---:|---:|---:|---:|\n"
        .to_owned();
    for figure in &results.pages {
        let _ = writeln!(
            text,
            "| {} | {:.3} | page {}: {:.3} | {:.2} |",
            grouped(figure.rows as f64),
            figure.first_p50_ms,
            grouped(figure.page as f64),
            figure.further_p50_ms,
            figure.further_p50_ms / figure.first_p50_ms
        );
    }
    text + "\n"
}

fn memory(results: &Results) -> String {
    let Some(memory) = &results.memory else { return String::new() };
    let mib = |kib: u64| kib as f64 / 1024.0;
    let each = (memory.connected_kib as f64 - memory.idle_kib as f64) / memory.connections as f64;
    format!(
        "### Memory\n\nResident memory of users-api on SQLite: {:.1} MiB idle after startup, {:.1} MiB with {} idle \
         connections that have each served one request ({each:.1} KiB per connection).\n\n",
        mib(memory.idle_kib),
        mib(memory.connected_kib),
        grouped(memory.connections as f64)
    )
}

fn start(results: &Results) -> String {
    let Some(start) = &results.start else { return String::new() };
    let min = start.times_ms.iter().copied().fold(f64::INFINITY, f64::min);
    let max = start.times_ms.iter().copied().fold(0.0, f64::max);
    format!(
        "### Startup\n\nusers-api on an existing SQLite database, from the start of the process to the first 200 from \
         `/health/ready`: {:.0} ms, the median of {} starts ({min:.0} to {max:.0} ms).\n\n",
        median(start.times_ms.clone()).unwrap_or(f64::NAN),
        start.times_ms.len()
    )
}

fn bulk(results: &Results) -> String {
    let Some(first) = results.bulk.first() else { return String::new() };
    let mut text = format!(
        "### Imports and exports\n\n{} users, imported into an empty table by `users-api import` and exported by \
         `users-api export`: rows per second, the speed relative to the engine's native client with the same rows \
         (`COPY`; `LOAD DATA LOCAL INFILE` and `SELECT` by `mariadb --quick`; Python's sqlite3; below 1: slower), and \
         the peak memory of the process. Then GET by id at {REQUESTS_PER_SECOND} requests per second: p99 latency \
         without other load, and during `POST /users/bulk` and repeated `GET /users/export`. Medians over the \
         rounds.\n\n\
         | | import, rows/s | vs. native client | memory, MiB | export, rows/s | vs. native client | memory, MiB \
         | p99 idle, ms | p99 during bulk, ms | ratio |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        grouped(first.rows as f64)
    );
    for engine in [Engine::Postgres, Engine::MariaDb, Engine::Sqlite] {
        let figures: Vec<&BulkFigure> = results.bulk.iter().filter(|figure| figure.engine == engine).collect();
        let median_of = |value: fn(&BulkFigure) -> f64| {
            median(figures.iter().map(|figure| value(figure)).collect()).unwrap_or(f64::NAN)
        };
        if figures.is_empty() {
            continue;
        }
        let _ = writeln!(
            text,
            "| {engine} | {} | {:.2}× | {:.0} | {} | {:.2}× | {:.0} | {:.1} | {:.1} | {:.1} |",
            grouped(median_of(|figure| figure.rows as f64 / figure.import_s)),
            median_of(|figure| figure.native_import_s / figure.import_s),
            median_of(|figure| figure.import_kib as f64 / 1024.0),
            grouped(median_of(|figure| figure.rows as f64 / figure.export_s)),
            median_of(|figure| figure.native_export_s / figure.export_s),
            median_of(|figure| figure.export_kib as f64 / 1024.0),
            median_of(|figure| figure.idle_p99_ms),
            median_of(|figure| figure.busy_p99_ms),
            median_of(|figure| figure.busy_p99_ms / figure.idle_p99_ms),
        );
    }
    text + "\n"
}
