//! What was measured besides the rounds, as Markdown.

use std::{collections::BTreeSet, fmt::Write as _};

use crate::{
    bulk::BESIDE_PER_SECOND,
    engines::Engine,
    measure::CLIENTS,
    peers::Peer,
    report::{grouped, short},
    results::{BulkFigure, OverloadFigure, Results, SweepFigure, median},
};

pub fn markdown(results: &Results) -> String {
    [sweep(results), overload(results), pages(results), memory(results), start(results), bulk(results)].concat()
}

/// The median over the rounds at a size of the pool.
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
        "### The pool's size\n\nGET by id on PostgreSQL, {CLIENTS} clients, `pool.min` = `pool.max`: requests a \
         second, p50 / p99 in milliseconds.\n\n\
         | `pool.max` | `pool.batch=true` | `pool.batch=false` |\n|---:|---:|---:|\n"
    );
    for max in sweep_sizes(results) {
        let _ = write!(text, "| {max} |");
        for batch in [true, false] {
            let middle = |value| sweep_median(results, batch, max, value).unwrap_or(f64::NAN);
            let (per_second, p50, p99) =
                (middle(|figure| figure.per_second), middle(|figure| figure.p50_ms), middle(|figure| figure.p99_ms));
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

/// The loads offered to a peer, as multiples of its peak, with the figures of the rounds.
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

pub fn middle(points: &[&OverloadFigure], value: fn(&OverloadFigure) -> f64) -> f64 {
    median(points.iter().map(|point| value(point)).collect()).unwrap_or(f64::NAN)
}

fn overload(results: &Results) -> String {
    if results.overload.points.is_empty() {
        return String::new();
    }
    let mut text = "### More requests than can be answered\n\nGET by id on PostgreSQL. Requests fall due at a fixed \
                    rate, whatever becomes of those before; the generator has at most \
                    512 connections. A request that finds none of them free for 100 ms is given up, and so is one that \
                    has no answer after a second. Useful are answers with 200 within a second; times are theirs, \
                    counted from when the request was due, so the wait for a connection is part of them.\n\n"
        .to_owned();
    for peer in overload_peers(results) {
        let peak = peak(results, peer).unwrap_or(f64::NAN);
        let _ = write!(
            text,
            "{}, peak {}/s:\n\n| offered / peak | offered/s | useful/s | p50, ms | p99, ms | refused | given up |\n\
             |---:|---:|---:|---:|---:|---:|---:|\n",
            peer.name(),
            grouped(peak)
        );
        for (times, points) in offered(results, peer) {
            let _ = writeln!(
                text,
                "| {times} | {} | {} | {} | {} | {} | {} |",
                grouped(middle(&points, |point| point.offered_per_second)),
                grouped(middle(&points, |point| point.good_per_second)),
                short(middle(&points, |point| point.p50_ms)),
                short(middle(&points, |point| point.p99_ms)),
                grouped(middle(&points, |point| point.failed as f64)),
                grouped(middle(&points, |point| point.given_up as f64)),
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
    let mut text =
        "### Far pages\n\nOne client, PostgreSQL, `limit=20`, the two pages in turns: p50 in milliseconds.\n\n\
                    | rows | page 1 | far page | ratio |\n|---:|---:|---:|---:|\n"
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
        "### Memory\n\nusers-api on SQLite, resident: {:.1} MiB idle after its start, {:.1} MiB with {} idle \
         connections that have each asked one thing ({each:.1} KiB a connection).\n\n",
        mib(memory.idle_kib),
        mib(memory.connected_kib),
        grouped(memory.connections as f64)
    )
}

fn start(results: &Results) -> String {
    let Some(start) = &results.start else { return String::new() };
    let least = start.times_ms.iter().copied().fold(f64::INFINITY, f64::min);
    let most = start.times_ms.iter().copied().fold(0.0, f64::max);
    format!(
        "### Start\n\nusers-api on an SQLite file that is there, from the start of the process to the first 200 of \
         `/health/ready`: {:.0} ms, the median of {} starts ({least:.0} to {most:.0} ms).\n\n",
        median(start.times_ms.clone()).unwrap_or(f64::NAN),
        start.times_ms.len()
    )
}

fn bulk(results: &Results) -> String {
    let Some(first) = results.bulk.first() else { return String::new() };
    let mut text = format!(
        "### Imports and exports\n\n{} users, by `users-api import` into an empty table and by `users-api export` out of it, \
         beside what the engine's own client does with the same rows (`COPY`; `LOAD DATA LOCAL INFILE` and `SELECT` by \
         `mariadb --quick`; Python's sqlite3): how many times as fast (below 1: slower), and the most memory that the \
         service's process held. Then GET by id at {BESIDE_PER_SECOND} requests a second: p99 while nothing else is done, \
         and beside `POST /users/bulk` and `GET /users/export` without end. Medians of rounds.\n\n\
         | | import, rows/s | engine's own | memory, MiB | export, rows/s | engine's own | memory, MiB | p99 idle, ms | p99 beside, ms | ratio |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        grouped(first.rows as f64)
    );
    for engine in [Engine::Postgres, Engine::MariaDb, Engine::Sqlite] {
        let figures: Vec<&BulkFigure> = results.bulk.iter().filter(|figure| figure.engine == engine).collect();
        let middle = |value: fn(&BulkFigure) -> f64| {
            median(figures.iter().map(|figure| value(figure)).collect()).unwrap_or(f64::NAN)
        };
        if figures.is_empty() {
            continue;
        }
        let _ = writeln!(
            text,
            "| {engine} | {} | {:.2}× | {:.0} | {} | {:.2}× | {:.0} | {:.1} | {:.1} | {:.1} |",
            grouped(middle(|figure| figure.rows as f64 / figure.import_s)),
            middle(|figure| figure.own_import_s / figure.import_s),
            middle(|figure| figure.import_kib as f64 / 1024.0),
            grouped(middle(|figure| figure.rows as f64 / figure.export_s)),
            middle(|figure| figure.own_export_s / figure.export_s),
            middle(|figure| figure.export_kib as f64 / 1024.0),
            middle(|figure| figure.idle_p99_ms),
            middle(|figure| figure.beside_p99_ms),
            middle(|figure| figure.beside_p99_ms / figure.idle_p99_ms),
        );
    }
    text + "\n"
}
