//! The results of the pool benchmark, as Markdown.

use std::{collections::BTreeSet, fmt::Write as _};

use crate::{
    measure::CLIENTS,
    pools::{Pool, PoolFigure, SIZE, SIZES, Throughput},
    report::{grouped, machine, short, times, version},
    results::{Part, Results, median},
};

pub fn markdown(results: &Results) -> String {
    let mut text = conditions(results);
    text += "| |";
    for connections in SIZES {
        let _ = write!(text, " {connections} connections: reads/s, p99 ms |");
    }
    text += " first / 64th success after a 5 s outage | an error takes (p50) | first success after a silent peer | \
             connections left after a silent peer |\n";
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

fn conditions(results: &Results) -> String {
    let servers = ["PostgreSQL", "rustc"].into_iter();
    let servers = servers.filter_map(|name| Some((name, version(results.versions.get(name)?)?)));
    let crates = results.pools.versions.iter().map(|(name, version)| (name.as_str(), version.as_str()));
    let versions: Vec<String> = servers.chain(crates).map(|(name, version)| format!("{name} {version}")).collect();
    let mut text = format!("{}. {}.", machine(results), versions.join(", "));
    for stamp in results.stamps.get(&Part::Pool).into_iter().flatten() {
        let _ = write!(
            text,
            " Commit {} at {}; {} rounds of {} s each, and {} of the outage and the silent peer.",
            stamp.commit,
            stamp.at.split('T').next().unwrap_or_default(),
            stamp.rounds,
            stamp.seconds,
            rounds(&results.pools.silence)
        );
    }
    let _ = write!(
        text,
        " {CLIENTS} tasks read one row by its id, each again once it is answered. The pools take turns in each round; \
         figures are medians of the rounds. In brackets: how many times as many reads orm-pool answers, a ratio that is \
         made within each round. The outage and the silent peer are measured with {SIZE} connections and a time-out of \
         1 s at each caller; for the connections left, {SIZE} statements that take a second each start together, and \
         those that end within 2.5 s count.\n\n"
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
    let middle = |value: fn(&Throughput) -> f64| median(figures(pool).map(|figure| value(&figure.seen)).collect());
    let (Some(per_second), Some(p99)) = (middle(|seen| seen.per_second), middle(|seen| seen.p99_ms)) else {
        return String::new();
    };
    let ratios = figures(pool).filter_map(|theirs| {
        let ours = figures(Pool::OrmPool).find(|ours| ours.round == theirs.round)?;
        (theirs.seen.per_second > 0.0).then(|| ours.seen.per_second / theirs.seen.per_second)
    });
    let ratio = median(ratios.collect()).filter(|_| pool != Pool::OrmPool);
    let ratio = ratio.map(|ratio| format!(" ({})", times(ratio))).unwrap_or_default();
    format!("{}{ratio}, {}", grouped(per_second), short(p99))
}

fn outage(results: &Results, pool: Pool) -> String {
    let figures = || results.pools.outage.iter().filter(|figure| figure.pool == pool).map(|figure| &figure.seen);
    let first = success(figures().map(|seen| seen.first_success_s));
    let steady = success(figures().map(|seen| seen.steady_success_s));
    let wait = median(figures().filter_map(|seen| seen.error_p50_ms).collect());
    let wait = wait.map(|wait| format!("{} ms", short(wait))).unwrap_or_default();
    if first == steady { format!("{first} | {wait}") } else { format!("{first} / {steady} | {wait}") }
}

fn silence(results: &Results, pool: Pool) -> String {
    let figures = || results.pools.silence.iter().filter(|figure| figure.pool == pool).map(|figure| &figure.seen);
    let first = success(figures().map(|seen| seen.first_success_s));
    let left = median(figures().map(|seen| seen.connections_left as f64).collect());
    let left = left.map(|left| format!("{left} of {SIZE}")).unwrap_or_default();
    format!("{first} | {left}")
}

/// The median; a round without success counts as one that took longer than all others.
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
    use crate::pools::{Outage, Silence};

    #[test]
    fn ratios_are_made_within_a_round() {
        let mut results = Results::default();
        for (round, ours, theirs) in [(0, 1000.0, 500.0), (1, 3000.0, 1000.0), (2, 800.0, 200.0)] {
            for (pool, per_second) in [(Pool::OrmPool, ours), (Pool::Bb8, theirs)] {
                let seen = Throughput { per_second, p50_ms: 1.0, p99_ms: 2.5 };
                results.pools.throughput.push(PoolFigure { pool, connections: 4, round, seen });
            }
        }
        assert_eq!(throughput(&results, Pool::OrmPool, 4), "1,000, 2.50");
        assert_eq!(throughput(&results, Pool::Bb8, 4), "500 (3.0×), 2.50");
        assert_eq!(throughput(&results, Pool::Bb8, 10), "");
    }

    #[test]
    fn what_never_succeeds_is_said_to_be_so() {
        let mut results = Results::default();
        for (round, first) in [Some(0.5), None, None].into_iter().enumerate() {
            let seen =
                Outage { first_success_s: Some(0.25), steady_success_s: first, errors: 1, error_p50_ms: Some(3.0) };
            results.pools.outage.push(PoolFigure { pool: Pool::SeaOrm, connections: SIZE, round, seen });
            let seen = Silence { first_success_s: first, connections_left: round };
            results.pools.silence.push(PoolFigure { pool: Pool::SeaOrm, connections: SIZE, round, seen });
        }
        assert_eq!(outage(&results, Pool::SeaOrm), "0.25 s / none in 15 s | 3.00 ms");
        assert_eq!(silence(&results, Pool::SeaOrm), "none in 15 s | 1 of 10");
        assert_eq!(silence(&results, Pool::OrmPool), " | ");
        let lines: Vec<String> = markdown(&results).lines().map(str::to_owned).collect();
        let columns = |line: &String| line.matches('|').count();
        let table: Vec<usize> = lines.iter().filter(|line| line.starts_with('|')).map(columns).collect();
        assert_eq!(table, [8, 8, 8]);
    }
}
