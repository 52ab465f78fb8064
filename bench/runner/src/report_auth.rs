//! The report of the service with and without authentication, as Markdown.

use std::{collections::BTreeSet, fmt::Write as _};

use crate::{
    auth_results::{Access, AuthFigure},
    engines::Engine,
    loads::{CLIENTS, Load},
    machine::named_versions,
    number_format::{FAILED_NOTE, failed_mark, grouped, short, times_with_range},
    results::{Part, Results},
    spread::median,
};

/// The section; empty if nothing was measured.
pub fn markdown(results: &Results) -> String {
    if results.auth.is_empty() {
        return String::new();
    }
    let mut text = format!("### Authentication\n\n{}", conditions(results));
    let names = Access::ALL.map(Access::name).join(" | ");
    let _ = writeln!(text, "| | {names} | API key / off | second process / off |\n|---|---:|---:|---:|---:|---:|");
    for (engine, load) in results.auth.measured() {
        let _ = write!(text, "| {engine}, {} |", load.name());
        for access in Access::ALL {
            let _ = write!(text, " {} |", throughput(results, engine, load, access));
        }
        for access in [Access::Key, Access::Control] {
            let ratio = results.auth.ratio(engine, load, access).map(times_with_range).unwrap_or_default();
            let _ = write!(text, " {ratio} |");
        }
        text += "\n";
    }
    if results.auth.figures.iter().any(|figure| figure.errors > 0) {
        text += FAILED_NOTE;
    }
    text + "\n"
}

fn conditions(results: &Results) -> String {
    let versions = named_versions(&results.versions, &["PostgreSQL", "libsqlite3-sys", "rustc", "wrk"]);
    let stamps = results.stamps.get(&Part::Auth).into_iter().flatten();
    // Each engine has a stamp.
    let stamps: BTreeSet<String> = stamps
        .map(|stamp| {
            format!(" Commit {}: {} rounds of {} s each.", stamp.commit_and_day(), stamp.rounds, stamp.seconds)
        })
        .collect();
    format!(
        "{}. {}.{} users-api with `auth.mode = off`; with `auth.mode = required`, an API key in each request and no \
         limit per caller (`limits.per_caller = 0`); and with `off` in a second process, as a control: the ratio of \
         the two processes with `off` shows the noise. Requests per second and p50 / p99 latency in milliseconds with \
         {CLIENTS} clients, medians over the rounds. The ratios are those of requests per second, computed within each \
         round; in brackets the minimum and the maximum of the rounds. In each round all three run in turn, in an \
         order that changes from round to round.\n\n",
        results.machine,
        versions.join(", "),
        stamps.into_iter().collect::<String>()
    )
}

fn throughput(results: &Results, engine: Engine, load: Load, access: Access) -> String {
    let figures = results.auth.of(engine, load, access);
    let median_of = |value: fn(&AuthFigure) -> f64| median(figures.clone().map(value).collect());
    let (Some(per_second), Some(p50), Some(p99)) =
        (median_of(|figure| figure.per_second), median_of(|figure| figure.p50_ms), median_of(|figure| figure.p99_ms))
    else {
        return String::new();
    };
    let errors: u64 = figures.map(|figure| figure.errors).sum();
    format!("{}{}<br>{} / {}", grouped(per_second), failed_mark(errors), short(p50), short(p99))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_without_results_is_empty() {
        assert_eq!(markdown(&Results::default()), "");
    }

    #[test]
    fn a_row_has_the_figures_and_both_ratios() {
        let mut results = Results::default();
        let (engine, load) = (Engine::Postgres, Load::Post);
        for (access, per_second, errors) in [(Access::Off, 2000.0, 0), (Access::Key, 1900.0, 3)] {
            let (round, p50_ms, p99_ms) = (0, 0.5, 12.0);
            let figure = AuthFigure { engine, load, access, round, per_second, p50_ms, p99_ms, errors };
            results.auth.add(figure);
        }
        let text = markdown(&results);
        let row =
            "| PostgreSQL, POST | 2,000<br>0.50 / 12.0 | 1,900 †3<br>0.50 / 12.0 |  | **0.95×** (0.95×–0.95×) |  |";
        assert_eq!(text.lines().find(|line| line.starts_with("| Post")), Some(row));
        assert!(text.contains("\n† "), "failed requests are explained");
    }
}
