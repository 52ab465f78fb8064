//! The report of the pool benchmark, as Markdown.

use std::{collections::BTreeSet, fmt::Write as _};

use crate::{
    loads::CLIENTS,
    machine::named_versions,
    number_format::{grouped, short, times},
    pool_results::{Pool, PoolFigure, Throughput},
    pools::{SIZE, SIZES},
    results::{Part, Results},
    spread::median,
};

pub fn markdown(results: &Results) -> String {
    let mut text = conditions(results);
    text += "| |";
    for connections in SIZES {
        let _ = write!(text, " {connections} connections: reads/s, p99 ms |");
    }
    text += " first / 64th success after a 5 s outage | time to error in the outage (p50) | \
             first success after connections go silent | usable connections afterwards |\n";
    let _ = writeln!(text, "|---|{}", "---:|".repeat(SIZES.len() + 4));
    for pool in measured(results) {
        let _ = write!(text, "| {} |", pool.name());
        for connections in SIZES {
            let _ = write!(text, " {} |", throughput(results, pool, connections));
        }
        let _ = writeln!(text, " {} | {} |", outage(results, pool), silence(results, pool));
    }
    text
}

/// The pool that the others are compared with.
const BASE: Pool = Pool::OnCallersRuntime;

fn conditions(results: &Results) -> String {
    let mut versions = named_versions(&results.versions, &["PostgreSQL", "rustc"]);
    versions.extend(results.pools.versions.iter().map(|(name, version)| format!("{name} {version}")));
    let mut text = format!("{}. {}.", results.machine, versions.join(", "));
    for stamp in results.stamps.get(&Part::Pool).into_iter().flatten() {
        let _ = write!(
            text,
            " Commit {}: {} rounds of {} s each; {} rounds of the outage and the silent connections.",
            stamp.commit_and_day(),
            stamp.rounds,
            stamp.seconds,
            rounds(&results.pools.silence)
        );
    }
    let _ = write!(
        text,
        " {CLIENTS} tasks read one row by its id in a loop. In each round all pools run in turn; figures are medians \
         over the rounds. In brackets: the throughput of orm-pool on the callers' runtime, where all other pools run \
         too, divided by that of this pool, computed within each round. The outage and the silent connections are \
         measured with {SIZE} connections and a timeout of 1 s per read. Usable connections: {SIZE} one-second \
         statements start at the same time, and those that end within 2.5 s are counted.\n\n"
    );
    text
}

fn measured(results: &Results) -> Vec<Pool> {
    let pools = &results.pools;
    let throughput = pools.throughput.iter().map(|figure| figure.pool);
    let outage = pools.outage.iter().map(|figure| figure.pool);
    let silence = pools.silence.iter().map(|figure| figure.pool);
    throughput.chain(outage).chain(silence).collect::<BTreeSet<_>>().into_iter().collect()
}

fn rounds<T>(figures: &[PoolFigure<T>]) -> usize {
    figures.iter().map(|figure| figure.round).collect::<BTreeSet<_>>().len()
}

fn throughput(results: &Results, pool: Pool, connections: u32) -> String {
    let figures = |pool: Pool| {
        let all = results.pools.throughput.iter();
        all.filter(move |figure| (figure.pool, figure.connections) == (pool, connections))
    };
    let median_of =
        |value: fn(&Throughput) -> f64| median(figures(pool).map(|figure| value(&figure.measured)).collect());
    let (Some(per_second), Some(p99)) = (median_of(|one| one.per_second), median_of(|one| one.p99_ms)) else {
        return String::new();
    };
    let ratios = figures(pool).filter_map(|theirs| {
        let ours = figures(BASE).find(|ours| ours.round == theirs.round)?;
        (theirs.measured.per_second > 0.0).then(|| ours.measured.per_second / theirs.measured.per_second)
    });
    let ratio = median(ratios.collect()).filter(|_| pool != BASE);
    let ratio = ratio.map(|ratio| format!(" ({})", times(ratio))).unwrap_or_default();
    format!("{}{ratio}, {}", grouped(per_second), short(p99))
}

fn outage(results: &Results, pool: Pool) -> String {
    let figures = || results.pools.outage.iter().filter(|figure| figure.pool == pool).map(|figure| &figure.measured);
    let first = success(figures().map(|outage| outage.first_success_s));
    let steady = success(figures().map(|outage| outage.steady_success_s));
    let wait = median(figures().filter_map(|outage| outage.error_p50_ms).collect());
    let wait = wait.map(|wait| format!("{} ms", short(wait))).unwrap_or_default();
    if first == steady { format!("{first} | {wait}") } else { format!("{first} / {steady} | {wait}") }
}

fn silence(results: &Results, pool: Pool) -> String {
    let figures = || results.pools.silence.iter().filter(|figure| figure.pool == pool).map(|figure| &figure.measured);
    let first = success(figures().map(|silence| silence.first_success_s));
    let left = median(figures().map(|silence| silence.connections_left as f64).collect());
    let left = left.map(|left| format!("{left} of {SIZE}")).unwrap_or_default();
    format!("{first} | {left}")
}

/// The median; a round without success counts as longer than all others.
fn success(seconds: impl Iterator<Item = Option<f64>>) -> String {
    match median(seconds.map(|seconds| seconds.unwrap_or(f64::INFINITY)).collect()) {
        Some(seconds) if seconds.is_finite() => format!("{seconds:.2} s"),
        Some(_) => "none in 15 s".to_owned(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool_results::{Outage, Silence};

    #[test]
    fn ratios_are_computed_within_each_round() {
        let mut results = Results::default();
        for (round, ours, theirs) in [(0, 1000.0, 500.0), (1, 3000.0, 1000.0), (2, 800.0, 200.0)] {
            for (pool, per_second) in [(BASE, ours), (Pool::Bb8, theirs)] {
                let measured = Throughput { per_second, p50_ms: 1.0, p99_ms: 2.5 };
                results.pools.throughput.push(PoolFigure { pool, connections: 4, round, measured });
            }
        }
        assert_eq!(throughput(&results, BASE, 4), "1,000, 2.50");
        assert_eq!(throughput(&results, Pool::Bb8, 4), "500 (3.0×), 2.50");
        assert_eq!(throughput(&results, Pool::Bb8, 10), "");
    }

    #[test]
    fn a_pool_that_does_not_recover_has_no_success() {
        let mut results = Results::default();
        for (round, first) in [Some(0.5), None, None].into_iter().enumerate() {
            let measured =
                Outage { first_success_s: Some(0.25), steady_success_s: first, errors: 1, error_p50_ms: Some(3.0) };
            results.pools.outage.push(PoolFigure { pool: Pool::SeaOrm, connections: SIZE, round, measured });
            let measured = Silence { first_success_s: first, connections_left: round };
            results.pools.silence.push(PoolFigure { pool: Pool::SeaOrm, connections: SIZE, round, measured });
        }
        assert_eq!(outage(&results, Pool::SeaOrm), "0.25 s / none in 15 s | 3.00 ms");
        assert_eq!(silence(&results, Pool::SeaOrm), "none in 15 s | 1 of 10");
        assert_eq!(silence(&results, Pool::Unbatched), " | ");
        let lines: Vec<String> = markdown(&results).lines().map(str::to_owned).collect();
        let columns = |line: &String| line.matches('|').count();
        let table: Vec<usize> = lines.iter().filter(|line| line.starts_with('|')).map(columns).collect();
        assert_eq!(table, [8, 8, 8]);
    }
}
