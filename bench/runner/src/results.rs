//! The results of a run, and the file that stores them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{
    auth_results::AuthFigures,
    engines::Engine,
    loads::{CLIENTS, Load},
    machine::Machine,
    peers::Peer,
    pool_results::PoolFigures,
};

/// A part of the benchmark that can run alone.
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
    /// Throughput by pool size, with and without batching
    Sweep,
    /// Load up to three times the peak throughput
    Overload,
    /// The first page compared with a deep one, in large tables
    Pages,
    /// Memory, idle and with ten thousand connections
    Memory,
    /// Time from the start to the first response
    Start,
    /// Imports and exports, on all engines
    Bulk,
    /// orm-pool compared with other pools, on PostgreSQL
    Pool,
    /// users-api with and without authentication, on PostgreSQL and SQLite
    Auth,
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

/// A file of results. Results of another machine replace a file as a whole, so parts that are measured alone have
/// separate ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResultsFile {
    #[default]
    Main,
    /// The pool benchmark, if no other part runs.
    Pools,
    /// Authentication, always.
    Auth,
}

impl ResultsFile {
    fn name(self) -> &'static str {
        match self {
            Self::Main => "results.json",
            Self::Pools => "pool.json",
            Self::Auth => "auth.json",
        }
    }
}

#[derive(Default, Serialize, Deserialize)]
pub struct Results {
    pub quick: bool,
    #[serde(skip)]
    pub file: ResultsFile,
    pub machine: Machine,
    pub versions: BTreeMap<String, String>,
    /// When and at which commit each part was measured.
    pub stamps: BTreeMap<Part, Vec<Stamp>>,
    #[serde(rename = "left_out")]
    pub excluded: Vec<Excluded>,
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
    #[serde(default, skip_serializing_if = "AuthFigures::is_empty")]
    pub auth: AuthFigures,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Stamp {
    /// The numbers of clients, for parts that are measured at several.
    pub clients: Vec<usize>,
    pub at: String,
    pub commit: String,
    pub rounds: usize,
    pub seconds: u64,
}

impl Stamp {
    /// The commit and the day.
    pub fn commit_and_day(&self) -> String {
        format!("{} ({})", self.commit, self.at.split('T').next().unwrap_or_default())
    }
}

/// A peer or a part that was not measured, or only in part.
#[derive(Serialize, Deserialize)]
pub struct Excluded {
    /// The engine or the part.
    #[serde(rename = "place")]
    pub scope: String,
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

/// The throughput of a peer whose clients send the next request as soon as they have a response.
#[derive(Serialize, Deserialize)]
pub struct Peak {
    pub peer: Peer,
    pub round: usize,
    pub per_second: f64,
}

#[derive(Serialize, Deserialize)]
pub struct OverloadFigure {
    pub peer: Peer,
    /// The offered load divided by the peak.
    pub times: f64,
    pub round: usize,
    pub offered_per_second: f64,
    /// Goodput: responses with status 200 within a second of when the request was due, until the end of the window.
    pub good_per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Responses with another status or too late, and broken connections.
    pub failed: usize,
    /// Requests that got no free connection or no response in time.
    #[serde(rename = "given_up")]
    pub abandoned: usize,
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
    /// By the engine's native client.
    #[serde(rename = "own_import_s")]
    pub native_import_s: f64,
    pub import_kib: u64,
    pub export_s: f64,
    #[serde(rename = "own_export_s")]
    pub native_export_s: f64,
    pub export_kib: u64,
    /// GET by id without bulk operations.
    pub idle_p99_ms: f64,
    /// GET by id during bulk operations.
    #[serde(rename = "beside_p99_ms")]
    pub busy_p99_ms: f64,
}

impl Results {
    /// Reads the results of an earlier run; `None` if there are none that this version can read.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
    }

    /// The file of these results. Quick runs have a separate folder.
    pub fn path(&self) -> PathBuf {
        Path::new("bench/results").join(if self.quick { "quick" } else { "" }).join(self.file.name())
    }

    pub fn save(&self) -> Result<()> {
        let path = self.path();
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        Ok(fs::write(path, text)?)
    }

    /// Records that something is not measured, and prints it.
    pub fn exclude(&mut self, scope: impl ToString, name: &str, reason: impl ToString) {
        let (scope, name, reason) = (scope.to_string(), name.to_owned(), reason.to_string());
        println!("excluded: {scope}: {name}: {reason}");
        self.excluded.push(Excluded { scope, name, reason });
    }

    /// Undoes an earlier [`Self::exclude`], before the next attempt.
    pub fn include(&mut self, scope: impl ToString, name: &str) {
        let scope = scope.to_string();
        self.excluded.retain(|excluded| (excluded.scope.as_str(), excluded.name.as_str()) != (&scope, name));
    }

    /// Deletes the figures that are about to be measured again: those with these numbers of clients, or all if none are
    /// given.
    pub fn clear(&mut self, part: Part, clients: &[usize]) {
        let is_repeated = |count: usize| clients.is_empty() || clients.contains(&count);
        self.figures.retain(|figure| {
            // pgbench records its number of connections here.
            let count = if figure.peer == Peer::Pgbench { CLIENTS } else { figure.clients };
            Part::of(figure.engine, figure.load) != part || !is_repeated(count)
        });
        if let Some(stamps) = self.stamps.get_mut(&part) {
            for stamp in stamps.iter_mut() {
                stamp.clients.retain(|count| !is_repeated(*count));
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
            Part::Auth => self.auth = AuthFigures::default(),
            _ => {}
        }
    }
}
