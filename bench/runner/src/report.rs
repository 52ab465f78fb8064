//! What was measured, as Markdown: medians of the rounds, and ratios that are made round by round.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::{
    engines::Engine,
    loads::Load,
    measure::{CLIENTS, WARM_UP},
    peers::{PGBENCH_CLIENTS, Peer},
    plots, report_extra, report_pools,
    results::{Figure, Part, Results, median},
};

const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";

/// Where the figures are kept. A quick look is kept apart from what is published.
/// The file of the results. The pool benchmark has a separate one: results of another machine replace a file as a whole.
pub fn file(results: &Results) -> PathBuf {
    let name = if results.only_pools { "pool.json" } else { "results.json" };
    Path::new("bench/results").join(if results.quick { "quick" } else { "" }).join(name)
}

fn document(quick: bool) -> PathBuf {
    if quick { "bench/results/quick/PERFORMANCE.md".into() } else { "docs/PERFORMANCE.md".into() }
}

/// The document of the pool benchmark.
fn pools_document(quick: bool) -> PathBuf {
    if quick { "bench/results/quick/POOL.md".into() } else { "pool/README.md".into() }
}

pub fn places(results: &Results) -> String {
    let mut places = file(results).display().to_string();
    if !results.only_pools {
        let _ = write!(places, ", {}", document(results.quick).display());
    }
    if !results.pools.is_empty() {
        let _ = write!(places, ", {}", pools_document(results.quick).display());
    }
    places
}

/// Writes the tables into the documents, between their markers, and the plots beside the first.
pub fn write(results: &Results) -> Result<()> {
    if !results.only_pools {
        let path = document(results.quick);
        let images = path.with_file_name("img");
        fs::create_dir_all(&images)?;
        let plots = plots::write(results, &images)?;
        let earlier = fs::read_to_string(&path).unwrap_or_else(|_| "# Performance\n".to_owned());
        fs::write(path, between(&earlier, &markdown(results, &plots)))?;
    }
    if !results.pools.is_empty() {
        let path = pools_document(results.quick);
        let earlier = fs::read_to_string(&path).unwrap_or_else(|_| "# Pools\n".to_owned());
        fs::write(path, between(&earlier, &report_pools::markdown(results)))?;
    }
    Ok(())
}

/// The text with what stands between the markers replaced. Without markers they are put at its end.
fn between(text: &str, new: &str) -> String {
    let (before, after) = match (text.split_once(BEGIN), text.split_once(END)) {
        (Some((before, _)), Some((_, after))) => (before.to_owned(), after),
        _ => (format!("{}\n\n", text.trim_end()), "\n"),
    };
    format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", new.trim())
}

fn markdown(results: &Results, plots: &[&str]) -> String {
    let mut text = conditions(results);
    text += &goals(results);
    for name in plots {
        text += &format!("![{}](img/{name})\n\n", plots::description(name));
    }
    for engine in [Engine::Postgres, Engine::MariaDb, Engine::Sqlite] {
        for load in Load::ALL {
            text += &workload(results, engine, load);
        }
    }
    text += &report_extra::markdown(results);
    text += &left_out(results);
    text
}

/// The machine in words.
pub fn machine(results: &Results) -> String {
    let machine = &results.machine;
    format!(
        "{} cores of {}, {} GiB, Linux {}, {}",
        machine.cores, machine.cpu, machine.memory_gib, machine.kernel, machine.file_system
    )
}

fn conditions(results: &Results) -> String {
    let versions: Vec<String> =
        results.versions.iter().filter_map(|(name, said)| Some(format!("{name} {}", version(said)?))).collect();
    let mut text = format!("{}. {}.\n\n", machine(results), versions.join(", "));
    let runs: BTreeSet<String> = results
        .stamps
        .iter()
        .filter(|(part, _)| !matches!(part, Part::Pages | Part::Memory | Part::Start | Part::Bulk | Part::Pool))
        .flat_map(|(_, stamps)| stamps)
        .map(|stamp| {
            let clients: Vec<String> = stamp.clients.iter().map(usize::to_string).collect();
            let of =
                if clients.is_empty() { "else".to_owned() } else { format!("with {} clients", clients.join(", ")) };
            format!("{} rounds of {} s each {of}", stamp.rounds, stamp.seconds)
        })
        .collect();
    let commits: BTreeSet<String> = results
        .stamps
        .iter()
        .filter(|(part, _)| **part != Part::Pool)
        .flat_map(|(_, stamps)| stamps)
        .map(|stamp| format!("{} at {}", stamp.commit, stamp.at.split('T').next().unwrap_or_default()))
        .collect();
    let join = |set: BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join("; ");
    let _ = writeln!(
        text,
        "Measured: commit {}. {}, after {WARM_UP} s of warm-up. The peers take turns in each round, in an order that \
         changes from round to round; figures are medians of the rounds, and ratios are made within a round before \
         their median is taken. The load generator, the peer and the database share the machine's cores.\n",
        join(commits),
        join(runs)
    );
    text
}

/// The number in what a program says of its version.
pub fn version(said: &str) -> Option<&str> {
    let words = said.split([' ', '/']).map(|word| word.trim_start_matches('v'));
    let word = words.into_iter().find(|word| word.starts_with(|letter: char| letter.is_ascii_digit()))?;
    word.split(|letter: char| !letter.is_ascii_digit() && letter != '.').next()
}

/// One peer's figures at a cell, by round.
fn figures(results: &Results, (engine, load, clients): Cell, peer: Peer) -> impl Iterator<Item = &Figure> + Clone {
    let clients = if peer == Peer::Pgbench { PGBENCH_CLIENTS } else { clients };
    results.figures.iter().filter(move |figure| {
        (figure.engine, figure.load, figure.clients, figure.peer) == (engine, load, clients, peer)
    })
}

type Cell = (Engine, Load, usize);

/// How many times as many requests as the peer users-api answers, in each round that measured both.
fn ratios(results: &Results, cell: Cell, peer: Peer) -> Vec<f64> {
    let service: Vec<&Figure> = figures(results, cell, Peer::UsersApi).collect();
    figures(results, cell, peer)
        .filter_map(|theirs| {
            let ours = service.iter().find(|ours| ours.round == theirs.round)?;
            (theirs.per_second > 0.0).then(|| ours.per_second / theirs.per_second)
        })
        .collect()
}

fn peers(results: &Results, of: impl Fn(&Figure) -> bool) -> BTreeSet<Peer> {
    results.figures.iter().filter(|figure| of(figure)).map(|figure| figure.peer).collect()
}

/// The ratios at the usual number of clients, all workloads side by side, with the range of the rounds.
fn goals(results: &Results) -> String {
    let mut cells: Vec<Cell> = results.figures.iter().map(|figure| (figure.engine, figure.load, CLIENTS)).collect();
    cells.sort_unstable();
    cells.dedup();
    let mut text = format!(
        "### How many times as many requests users-api answers\n\nAt {CLIENTS} clients; in brackets the least and the \
         most of the rounds.\n\n| |"
    );
    for (engine, load, _) in &cells {
        let _ = write!(text, " {engine}<br>{} |", load.name());
    }
    let _ = write!(text, "\n|---|{}\n", "---:|".repeat(cells.len()));
    for peer in peers(results, |figure| figure.peer != Peer::UsersApi) {
        let _ = write!(text, "| {} |", peer.name());
        for cell in &cells {
            let is_there = peer != Peer::Pgbench || cell.1 == Load::Get;
            let ratios = if is_there { ratios(results, *cell, peer) } else { Vec::new() };
            let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
            let most = ratios.iter().copied().fold(0.0, f64::max);
            match median(ratios) {
                Some(ratio) => {
                    let _ = write!(text, " **{}** ({}–{}) |", times(ratio), times(least), times(most));
                }
                None => text += " |",
            }
        }
        text += "\n";
    }
    text + "\n"
}

fn workload(results: &Results, engine: Engine, load: Load) -> String {
    let of = |figure: &Figure| figure.engine == engine && figure.load == load;
    let clients: BTreeSet<usize> = results
        .figures
        .iter()
        .filter(|figure| of(figure) && figure.peer != Peer::Pgbench)
        .map(|figure| figure.clients)
        .collect();
    if clients.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "### {}, {engine}\n\nRequests a second (in brackets: how many times as many users-api answers), p50 / p99 in \
         milliseconds.\n\n| |",
        load.name()
    );
    for clients in &clients {
        let _ = write!(text, " {clients} client{} |", if *clients == 1 { "" } else { "s" });
    }
    let _ = write!(text, "\n|---|{}\n", "---:|".repeat(clients.len()));
    let mut any_errors = false;
    for peer in peers(results, of) {
        let _ = write!(text, "| {} |", peer.name());
        for clients in &clients {
            if peer == Peer::Pgbench && *clients != CLIENTS {
                text += " |";
                continue;
            }
            let (cell, errors) = cell(results, (engine, load, *clients), peer);
            any_errors |= errors;
            let _ = write!(text, " {cell} |");
        }
        text += "\n";
    }
    if any_errors {
        text += "\n† Not every answer was a success; the number of failures, all rounds together, stands beside it. \
                 Requests a second are successes only.\n";
    }
    text + "\n"
}

fn cell(results: &Results, cell: Cell, peer: Peer) -> (String, bool) {
    let figures = figures(results, cell, peer);
    let middle = |value: fn(&Figure) -> Option<f64>| median(figures.clone().filter_map(value).collect());
    let Some(per_second) = middle(|figure| Some(figure.per_second)) else { return (String::new(), false) };
    let mut text = grouped(per_second);
    if let Some(ratio) = median(ratios(results, cell, peer)).filter(|_| peer != Peer::UsersApi) {
        let _ = write!(text, " ({})", times(ratio));
    }
    let errors: u64 = figures.clone().map(|figure| figure.errors).sum();
    if errors > 0 {
        let _ = write!(text, " †{errors}");
    }
    if let (Some(p50), Some(p99)) = (middle(|figure| figure.p50_ms), middle(|figure| figure.p99_ms)) {
        let _ = write!(text, "<br>{} / {}", short(p50), short(p99));
    }
    if peer == Peer::Pgbench {
        let _ = write!(text, "<br>{PGBENCH_CLIENTS} connections");
    }
    (text, errors > 0)
}

fn left_out(results: &Results) -> String {
    if results.left_out.is_empty() {
        return String::new();
    }
    let mut text = "### Left out\n\n".to_owned();
    for left in &results.left_out {
        let reason = left.reason.split_whitespace().collect::<Vec<_>>().join(" ");
        let _ = writeln!(text, "* {}, {}: {}", left.place, left.name, reason.replace('|', "\\|"));
    }
    text + "\n"
}

/// A whole number, its thousands apart.
pub fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A ratio, with as many digits as it is worth.
pub fn times(ratio: f64) -> String {
    match ratio {
        ratio if ratio >= 9.95 => format!("{ratio:.0}×"),
        ratio if ratio >= 1.995 => format!("{ratio:.1}×"),
        ratio => format!("{ratio:.2}×"),
    }
}

/// A time in milliseconds, with as many digits as it is worth.
pub fn short(ms: f64) -> String {
    match ms {
        ms if ms >= 99.5 => grouped(ms),
        ms if ms >= 9.95 => format!("{ms:.1}"),
        ms => format!("{ms:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let text = format!("# A\n\nb\n\n{BEGIN}\nold\n{END}\n\nc\n");
        assert_eq!(between(&text, "new\n"), format!("# A\n\nb\n\n{BEGIN}\n\nnew\n\n{END}\n\nc\n"));
        assert_eq!(between("# A\n", "new"), format!("# A\n\n{BEGIN}\n\nnew\n\n{END}\n"));
    }

    #[test]
    fn versions_are_found_in_many_words() {
        assert_eq!(version("/usr/sbin/mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian"), Some("10.11.19"));
        assert_eq!(version("wrk debian/4.1.0-3+b2"), Some("4.1.0"));
        assert_eq!(version("v20.20.2"), Some("20.20.2"));
        assert_eq!(version(""), None);
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(["7", "999", "1,000", "1,234,567"], [7.0, 999.0, 1000.0, 1_234_567.0].map(grouped));
        assert_eq!(
            (times(12.3), times(1.26), short(0.123), short(1234.0)),
            ("12×".into(), "1.26×".into(), "0.12".into(), "1,234".into())
        );
    }
}
