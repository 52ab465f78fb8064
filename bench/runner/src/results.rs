//! Everything that was measured, as it is kept in results.json.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{engines::Engine, loads::Load, machine::Machine, measure::CLIENTS, peers::Peer, pools::PoolFigures};

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// GET by id, on PostgreSQL
    Get,
    /// GET by email, on PostgreSQL
    Email,
    /// The first page of the list, on PostgreSQL
    First,
    /// Random pages of the list, on PostgreSQL
    Cursors,
    /// POST, on PostgreSQL
    Post,
    /// 80 % GET by id, 10 % first page, 10 % POST, on PostgreSQL
    Mix,
    /// GET by id and POST on MariaDB
    #[value(name = "mariadb")]
    MariaDb,
    /// GET by id and POST on SQLite
    Sqlite,
    /// The pool's size, with and without batching
    Sweep,
    /// More requests than can be answered
    Overload,
    /// The first page against a far one, in large tables
    Pages,
    /// Memory, idle and with ten thousand connections
    Memory,
    /// Time from the start to the first answer
    Start,
    /// Imports and exports, on all engines
    Bulk,
    /// orm-pool beside other pools, on PostgreSQL
    Pool,
}

impl Part {
    pub fn of(engine: Engine, load: Load) -> Self {
        match (engine, load) {
            (Engine::MariaDb, _) => Self::MariaDb,
            (Engine::Sqlite, _) => Self::Sqlite,
            (Engine::Postgres, Load::Get) => Self::Get,
            (Engine::Postgres, Load::Email) => Self::Email,
            (Engine::Postgres, Load::First) => Self::First,
            (Engine::Postgres, Load::Cursors) => Self::Cursors,
            (Engine::Postgres, Load::Post) => Self::Post,
            (Engine::Postgres, Load::Mix) => Self::Mix,
        }
    }
}

#[derive(Default, Serialize, Deserialize)]
pub struct Results {
    pub quick: bool,
    /// Whether only the pool benchmark runs.
    #[serde(default)]
    pub only_pools: bool,
    pub machine: Machine,
    pub versions: BTreeMap<String, String>,
    /// When, and of which commit, each part was measured.
    pub stamps: BTreeMap<Part, Vec<Stamp>>,
    pub left_out: Vec<LeftOut>,
    pub figures: Vec<Figure>,
    pub sweep: Vec<SweepFigure>,
    pub overload: Overload,
    pub pages: Vec<PagesFigure>,
    pub memory: Option<Memory>,
    pub start: Option<Start>,
    #[serde(default)]
    pub bulk: Vec<BulkFigure>,
    #[serde(default)]
    pub pools: PoolFigures,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Stamp {
    /// Of so many clients, where that makes a difference.
    pub clients: Vec<usize>,
    pub at: String,
    pub commit: String,
    pub rounds: usize,
    pub seconds: u64,
}

/// A peer or a part that was not measured, or not to its end.
#[derive(Serialize, Deserialize)]
pub struct LeftOut {
    /// The engine or the part.
    pub place: String,
    pub name: String,
    pub reason: String,
}

/// One measurement of one peer.
#[derive(Serialize, Deserialize)]
pub struct Figure {
    pub engine: Engine,
    pub load: Load,
    pub clients: usize,
    pub peer: Peer,
    pub round: usize,
    pub per_second: f64,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub errors: u64,
}

#[derive(Serialize, Deserialize)]
pub struct SweepFigure {
    pub batch: bool,
    pub max: u32,
    pub round: usize,
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub errors: u64,
}

#[derive(Default, Serialize, Deserialize)]
pub struct Overload {
    pub peaks: Vec<Peak>,
    pub points: Vec<OverloadFigure>,
}

/// What a peer answers when it is asked as fast as it answers.
#[derive(Serialize, Deserialize)]
pub struct Peak {
    pub peer: Peer,
    pub round: usize,
    pub per_second: f64,
}

#[derive(Serialize, Deserialize)]
pub struct OverloadFigure {
    pub peer: Peer,
    /// How many times its peak was offered.
    pub times: f64,
    pub round: usize,
    pub offered_per_second: f64,
    /// Answers with 200 within a second of when they were due, by the end of the window, a second.
    pub good_per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Answers with another status, and broken connections.
    pub failed: usize,
    /// What found no free connection, or had no answer in time.
    pub given_up: usize,
    pub connections: usize,
}

#[derive(Serialize, Deserialize)]
pub struct PagesFigure {
    pub rows: u64,
    pub page: u64,
    pub pairs: usize,
    pub first_p50_ms: f64,
    pub further_p50_ms: f64,
}

#[derive(Serialize, Deserialize)]
pub struct Memory {
    pub idle_kib: u64,
    pub connections: usize,
    pub connected_kib: u64,
}

#[derive(Serialize, Deserialize)]
pub struct Start {
    pub times_ms: Vec<f64>,
}

#[derive(Serialize, Deserialize)]
pub struct BulkFigure {
    pub engine: Engine,
    pub round: usize,
    pub rows: u64,
    pub import_s: f64,
    /// By the engine's own client.
    pub own_import_s: f64,
    pub import_kib: u64,
    pub export_s: f64,
    pub own_export_s: f64,
    pub export_kib: u64,
    pub idle_p99_ms: f64,
    pub beside_p99_ms: f64,
}

impl Results {
    /// An earlier run's; `None` if there is none that this version can read.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        Ok(fs::write(path, text)?)
    }

    pub fn leave_out(&mut self, place: impl ToString, name: &str, reason: impl ToString) {
        let (place, name, reason) = (place.to_string(), name.to_owned(), reason.to_string());
        println!("left out, {place}: {name}: {reason}");
        self.left_out.push(LeftOut { place, name, reason });
    }

    /// Forgets that something was left out, as it is about to be tried again.
    pub fn take_in(&mut self, place: impl ToString, name: &str) {
        let place = place.to_string();
        self.left_out.retain(|left| (left.place.as_str(), left.name.as_str()) != (&place, name));
    }

    /// Forgets what is about to be measured anew: with so many clients, or with any if none are named.
    pub fn forget(&mut self, part: Part, clients: &[usize]) {
        let is_again = |count: usize| clients.is_empty() || clients.contains(&count);
        self.figures.retain(|figure| {
            // Its own number is that of its connections.
            let count = if figure.peer == Peer::Pgbench { CLIENTS } else { figure.clients };
            Part::of(figure.engine, figure.load) != part || !is_again(count)
        });
        if let Some(stamps) = self.stamps.get_mut(&part) {
            for stamp in stamps.iter_mut() {
                stamp.clients.retain(|count| !is_again(*count));
            }
            stamps.retain(|stamp| !stamp.clients.is_empty());
        }
        match part {
            Part::Sweep => self.sweep.clear(),
            Part::Overload => self.overload = Overload::default(),
            Part::Pages => self.pages.clear(),
            Part::Memory => self.memory = None,
            Part::Start => self.start = None,
            Part::Bulk => self.bulk.clear(),
            Part::Pool => self.pools = PoolFigures::default(),
            _ => {}
        }
    }
}

/// The middle one, or the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// The value that a share of the sorted values does not pass.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    if sorted.is_empty() {
        return f64::NAN;
    }
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }
}
