//! The report of the rounds as Markdown: medians over the rounds, and ratios that are computed within each round.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::{
    engines::Engine,
    loads::{CLIENTS, Load, WARM_UP},
    machine::named_versions,
    number_format::{FAILED_NOTE, failed_mark, grouped, short, times, times_with_range},
    peers::{PGBENCH_CLIENTS, Peer},
    plots, report_auth, report_extra, report_pools,
    results::{Figure, Part, Results, ResultsFile, Stamp},
    spread::{median, spread},
};

/// The section of a document that a run replaces, by the name in its markers.
const SECTION: &str = "bench";
/// The section about authentication, which has separate results.
const AUTH_SECTION: &str = "bench-auth";

fn document(quick: bool) -> PathBuf {
    if quick { "bench/results/quick/PERFORMANCE.md".into() } else { "docs/PERFORMANCE.md".into() }
}

/// The document of the pool benchmark.
fn pools_document(quick: bool) -> PathBuf {
    if quick { "bench/results/quick/POOL.md".into() } else { "pool/README.md".into() }
}

/// The files that a run has written.
pub fn written_files(results: &Results) -> String {
    let mut files = results.path().display().to_string();
    if results.file != ResultsFile::Pools {
        let _ = write!(files, ", {}", document(results.quick).display());
    }
    if !results.pools.is_empty() {
        let _ = write!(files, ", {}", pools_document(results.quick).display());
    }
    files
}

/// Writes the tables between the markers of the documents, and the plots next to the first document.
pub fn write(results: &Results) -> Result<()> {
    let path = document(results.quick);
    match results.file {
        ResultsFile::Main => {
            let images = path.with_file_name("img");
            fs::create_dir_all(&images)?;
            let plots = plots::write(results, &images)?;
            replace_in(&path, "# Performance\n", SECTION, &markdown(results, &plots))?;
        }
        ResultsFile::Auth => {
            let text = report_auth::markdown(results) + &excluded(results);
            replace_in(&path, "# Performance\n", AUTH_SECTION, &text)?;
        }
        ResultsFile::Pools => {}
    }
    if !results.pools.is_empty() {
        replace_in(&pools_document(results.quick), "# Pools\n", SECTION, &report_pools::markdown(results))?;
    }
    Ok(())
}

/// Replaces a section of a document. `empty` is the text of a new document.
fn replace_in(path: &Path, empty: &str, section: &str, new: &str) -> Result<()> {
    let earlier = fs::read_to_string(path).unwrap_or_else(|_| empty.to_owned());
    Ok(fs::write(path, replace_generated(&earlier, section, new))?)
}

/// Replaces the text between the markers of a section. Without markers, appends them.
fn replace_generated(text: &str, section: &str, new: &str) -> String {
    let (begin, end) = (format!("<!-- {section}:begin -->"), format!("<!-- {section}:end -->"));
    let (before, after) = match (text.split_once(&begin), text.split_once(&end)) {
        (Some((before, _)), Some((_, after))) => (before.to_owned(), after),
        _ => (format!("{}\n\n", text.trim_end()), "\n"),
    };
    format!("{before}{begin}\n\n{}\n\n{end}{after}", new.trim())
}

fn markdown(results: &Results, plots: &[&str]) -> String {
    let mut text = conditions(results);
    text += &ratio_table(results);
    for name in plots {
        text += &format!("![{}](img/{name})\n\n", plots::description(name));
    }
    for engine in [Engine::Postgres, Engine::MariaDb, Engine::Sqlite] {
        for load in Load::ALL {
            text += &workload(results, engine, load);
        }
    }
    text += &report_extra::markdown(results);
    text += &excluded(results);
    text
}

fn conditions(results: &Results) -> String {
    let names: Vec<&str> = results.versions.keys().map(String::as_str).collect();
    let versions = named_versions(&results.versions, &names);
    let mut text = format!("{}. {}.\n\n", results.machine, versions.join(", "));
    let runs: BTreeSet<String> = results
        .stamps
        .iter()
        .filter(|(part, _)| !matches!(part, Part::Pages | Part::Memory | Part::Start | Part::Bulk | Part::Pool))
        .flat_map(|(_, stamps)| stamps)
        .map(|stamp| {
            let clients: Vec<String> = stamp.clients.iter().map(usize::to_string).collect();
            let clients = clients.join(", ");
            let scope = if clients.is_empty() { "otherwise".to_owned() } else { format!("with {clients} clients") };
            format!("{} rounds of {} s each {scope}", stamp.rounds, stamp.seconds)
        })
        .collect();
    let commits: BTreeSet<String> = results
        .stamps
        .iter()
        .filter(|(part, _)| **part != Part::Pool)
        .flat_map(|(_, stamps)| stamps)
        .map(Stamp::commit_and_day)
        .collect();
    let join = |set: BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join("; ");
    let _ = writeln!(
        text,
        "Measured at commit {}. {}; warm-up {WARM_UP} s. In each round all peers run in turn, in an order that changes \
         from round to round. Figures are medians over the rounds; a ratio is computed within each round before its \
         median is taken. The load generator, the peer and the database share the machine's cores.\n",
        join(commits),
        join(runs)
    );
    text
}

/// The figures of one peer in a cell, one per round.
fn figures(results: &Results, (engine, load, clients): Cell, peer: Peer) -> impl Iterator<Item = &Figure> + Clone {
    let clients = if peer == Peer::Pgbench { PGBENCH_CLIENTS } else { clients };
    results.figures.iter().filter(move |figure| {
        (figure.engine, figure.load, figure.clients, figure.peer) == (engine, load, clients, peer)
    })
}

/// Engine, workload and number of clients.
type Cell = (Engine, Load, usize);

/// The throughput of users-api divided by that of the peer, in each round that measured both.
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

/// A table of the ratios at [`CLIENTS`] clients for all workloads, with their range over the rounds.
fn ratio_table(results: &Results) -> String {
    let mut cells: Vec<Cell> = results.figures.iter().map(|figure| (figure.engine, figure.load, CLIENTS)).collect();
    cells.sort_unstable();
    cells.dedup();
    let mut text = format!(
        "### Throughput of users-api relative to each peer\n\nRequests per second of users-api divided by those of the \
         peer, at {CLIENTS} clients; in brackets the minimum and the maximum of the rounds.\n\n| |"
    );
    for (engine, load, _) in &cells {
        let _ = write!(text, " {engine}<br>{} |", load.name());
    }
    let _ = write!(text, "\n|---|{}\n", "---:|".repeat(cells.len()));
    for peer in peers(results, |figure| figure.peer != Peer::UsersApi) {
        let _ = write!(text, "| {} |", peer.name());
        for cell in &cells {
            let is_measured = peer != Peer::Pgbench || cell.1 == Load::Get;
            let ratios = if is_measured { ratios(results, *cell, peer) } else { Vec::new() };
            match spread(ratios) {
                Some(ratios) => {
                    let _ = write!(text, " {} |", times_with_range(ratios));
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
        "### {}, {engine}\n\nRequests per second (in brackets: users-api relative to this peer), p50 / p99 latency in \
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
        text += FAILED_NOTE;
    }
    text + "\n"
}

fn cell(results: &Results, cell: Cell, peer: Peer) -> (String, bool) {
    let figures = figures(results, cell, peer);
    let median_of = |value: fn(&Figure) -> Option<f64>| median(figures.clone().filter_map(value).collect());
    let Some(per_second) = median_of(|figure| Some(figure.per_second)) else { return (String::new(), false) };
    let mut text = grouped(per_second);
    if let Some(ratio) = median(ratios(results, cell, peer)).filter(|_| peer != Peer::UsersApi) {
        let _ = write!(text, " ({})", times(ratio));
    }
    let errors: u64 = figures.clone().map(|figure| figure.errors).sum();
    text += &failed_mark(errors);
    if let (Some(p50), Some(p99)) = (median_of(|figure| figure.p50_ms), median_of(|figure| figure.p99_ms)) {
        let _ = write!(text, "<br>{} / {}", short(p50), short(p99));
    }
    if peer == Peer::Pgbench {
        let _ = write!(text, "<br>{PGBENCH_CLIENTS} connections");
    }
    (text, errors > 0)
}

/// The list of what was not measured, with reasons.
fn excluded(results: &Results) -> String {
    if results.excluded.is_empty() {
        return String::new();
    }
    let mut text = "### Excluded\n\n".to_owned();
    for excluded in &results.excluded {
        let reason = excluded.reason.split_whitespace().collect::<Vec<_>>().join(" ");
        let _ = writeln!(text, "* {}, {}: {}", excluded.scope, excluded.name, reason.replace('|', "\\|"));
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_between_the_markers_of_a_section_is_replaced() {
        let text = |old: &str, other: &str| {
            format!(
                "# A\n\nb\n\n<!-- bench:begin -->\n\n{old}\n\n<!-- bench:end -->\n\n\
                 <!-- bench-auth:begin -->\n\n{other}\n\n<!-- bench-auth:end -->\n\nc\n"
            )
        };
        assert_eq!(replace_generated(&text("old", "x"), SECTION, "new\n"), text("new", "x"));
        assert_eq!(replace_generated(&text("old", "x"), AUTH_SECTION, "new\n"), text("old", "new"));
        let appended = "# A\n\n<!-- bench:begin -->\n\nnew\n\n<!-- bench:end -->\n";
        assert_eq!(replace_generated("# A\n", SECTION, "new"), appended);
    }
}
