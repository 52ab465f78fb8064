//! The report of the rounds as Markdown: medians over the rounds, and ratios that are computed within each round.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::PathBuf};

use anyhow::Result;

use crate::{
    engines::Engine,
    loads::{CLIENTS, Load, WARM_UP},
    machine::version_number,
    number_format::{grouped, short, times},
    peers::{PGBENCH_CLIENTS, Peer},
    plots, report_extra, report_pools,
    results::{Figure, Part, Results, median},
};

const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";

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
    if !results.only_pools {
        let _ = write!(files, ", {}", document(results.quick).display());
    }
    if !results.pools.is_empty() {
        let _ = write!(files, ", {}", pools_document(results.quick).display());
    }
    files
}

/// Writes the tables between the markers of the documents, and the plots next to the first document.
pub fn write(results: &Results) -> Result<()> {
    if !results.only_pools {
        let path = document(results.quick);
        let images = path.with_file_name("img");
        fs::create_dir_all(&images)?;
        let plots = plots::write(results, &images)?;
        let earlier = fs::read_to_string(&path).unwrap_or_else(|_| "# Performance\n".to_owned());
        fs::write(path, replace_generated(&earlier, &markdown(results, &plots)))?;
    }
    if !results.pools.is_empty() {
        let path = pools_document(results.quick);
        let earlier = fs::read_to_string(&path).unwrap_or_else(|_| "# Pools\n".to_owned());
        fs::write(path, replace_generated(&earlier, &report_pools::markdown(results)))?;
    }
    Ok(())
}

/// Replaces the text between the markers. Without markers, appends them.
fn replace_generated(text: &str, new: &str) -> String {
    let (before, after) = match (text.split_once(BEGIN), text.split_once(END)) {
        (Some((before, _)), Some((_, after))) => (before.to_owned(), after),
        _ => (format!("{}\n\n", text.trim_end()), "\n"),
    };
    format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", new.trim())
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
    let versions = results.versions.iter();
    let versions: Vec<String> =
        versions.filter_map(|(name, output)| Some(format!("{name} {}", version_number(output)?))).collect();
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
        .map(|stamp| format!("{} ({})", stamp.commit, stamp.at.split('T').next().unwrap_or_default()))
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
            let min = ratios.iter().copied().fold(f64::INFINITY, f64::min);
            let max = ratios.iter().copied().fold(0.0, f64::max);
            match median(ratios) {
                Some(ratio) => {
                    let _ = write!(text, " **{}** ({}–{}) |", times(ratio), times(min), times(max));
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
        text += "\n† Followed by the number of failed requests in all rounds. Requests per second count successful \
                 responses only.\n";
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
    if errors > 0 {
        let _ = write!(text, " †{errors}");
    }
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
    fn only_the_text_between_the_markers_is_replaced() {
        let text = format!("# A\n\nb\n\n{BEGIN}\nold\n{END}\n\nc\n");
        assert_eq!(replace_generated(&text, "new\n"), format!("# A\n\nb\n\n{BEGIN}\n\nnew\n\n{END}\n\nc\n"));
        assert_eq!(replace_generated("# A\n", "new"), format!("# A\n\n{BEGIN}\n\nnew\n\n{END}\n"));
    }
}
