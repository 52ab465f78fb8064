//! The rounds. In each round every peer is measured in turn, so that a slow phase of the machine affects all of them.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::{
    api_key::ApiKey,
    compare,
    engines::{Database, Engine},
    loads::{self, CLIENTS, Load, Loads, Measured, Page, Target, WARM_UP},
    options::Options,
    peers::{self, Peer, SERVICE},
    progress::Progress,
    results::{Figure, Part, Results},
    seed, tools,
};

/// Approximate seconds to start and stop a peer and to clean up.
const OVERHEAD: f64 = 0.8;
/// Pages whose cursors are collected.
const PAGES: usize = 5000;

/// A whole run.
pub struct Run {
    pub options: Options,
    /// The parts to measure.
    pub parts: Vec<Part>,
    /// The folder for databases.
    pub folder: PathBuf,
    /// The folder for all other files.
    pub work: PathBuf,
    /// The commit that was built.
    pub commit: String,
    pub results: Results,
    pub progress: Progress,
}

/// A seeded database, and the peers whose responses were found to be correct.
pub struct Stage {
    pub database: Database,
    pub loads: Loads,
    pub peers: Vec<Peer>,
}

/// A peer with additional environment variables, and the key that its clients send.
#[derive(Clone, Copy)]
pub struct Variant<'a> {
    pub peer: Peer,
    pub variables: &'a [(&'a str, String)],
    pub key: Option<&'a ApiKey>,
}

impl Run {
    pub fn is_selected(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    pub fn rounds(&self) -> usize {
        self.options.rounds()
    }

    pub fn seconds(&self) -> u64 {
        self.options.seconds()
    }

    /// Approximate duration of one measurement in seconds.
    pub fn weight(&self) -> f64 {
        (self.seconds() + WARM_UP) as f64 + OVERHEAD
    }

    /// The workloads and numbers of clients that wrk measures on an engine.
    pub fn cells(&self, engine: Engine) -> Vec<(Load, usize)> {
        let clients: &[usize] = match engine {
            Engine::Postgres if self.options.quick => &[1, CLIENTS],
            Engine::Postgres => &[1, 16, CLIENTS, 256],
            _ => &[CLIENTS],
        };
        let loads: &[Load] = if engine == Engine::Postgres { &Load::ALL } else { &[Load::Get, Load::Post] };
        let is_selected = |clients: &&usize| self.options.clients.is_empty() || self.options.clients.contains(clients);
        let clients: Vec<usize> = clients.iter().filter(is_selected).copied().collect();
        let loads = loads.iter().copied().filter(|load| self.is_selected(Part::of(engine, *load)));
        loads.flat_map(|load| clients.iter().map(move |clients| (load, *clients)).collect::<Vec<_>>()).collect()
    }

    /// The peers to measure on an engine.
    pub fn peers(&self, engine: Engine) -> Vec<Peer> {
        self.options.peers().into_iter().filter(|peer| peer.engines().contains(&engine)).collect()
    }

    /// The number of measurements in all rounds on an engine.
    pub fn count(&self, engine: Engine) -> usize {
        let peers = self.peers(engine);
        let measured = |cell| peers.iter().filter(|peer| is_measured(**peer, cell)).count();
        self.rounds() * self.cells(engine).into_iter().map(measured).sum::<usize>()
    }

    /// Starts and seeds the database, and excludes every peer whose responses differ from those of users-api. `others`
    /// take part besides the peers of the rounds.
    pub async fn stage(&mut self, engine: Engine, others: &[Peer]) -> Result<Stage> {
        let rows = if self.options.quick { 20_000 } else { 100_000 };
        self.progress.report(&format!("{engine}: {rows} rows"));
        let mut database = Database::start(engine, &self.folder).await?;
        database.migrate(&std::path::absolute(SERVICE)?).await?;
        database.seed(rows, &self.work).await?;

        let service = Peer::UsersApi.start(&database, &self.work, &[]).await?;
        let needs_cursors = self.cells(engine).iter().any(|(load, _)| *load == Load::Cursors);
        let pages = loads::pages(&service, if needs_cursors { PAGES } else { 10 }).await?;
        let later = pages.get(9).context("the list has too few pages")?.clone();
        let reference = compare::responses(Peer::UsersApi, &service, rows, &later).await.context("users-api")?;
        service.stop().await?;
        database.clean().await?;

        let mut candidates = if self.cells(engine).is_empty() { vec![Peer::UsersApi] } else { self.peers(engine) };
        candidates.extend(others);
        candidates.sort();
        candidates.dedup();
        let mut peers = Vec::new();
        for peer in candidates {
            self.results.include(engine, peer.name());
            match self.check(peer, &database, &later, &reference).await {
                Ok(()) => peers.push(peer),
                Err(error) => {
                    ensure!(peer != Peer::UsersApi, "users-api: {error:#}");
                    self.results.exclude(engine, peer.name(), format!("{error:#}"));
                    let cells = self.cells(engine).into_iter().filter(|cell| is_measured(peer, *cell)).count();
                    self.progress.plan(-((cells * self.rounds()) as f64 * self.weight()));
                }
            }
        }
        let loads = Loads::write(&self.work, rows, &pages)?;
        Ok(Stage { database, loads, peers })
    }

    /// Checks that a peer gives the same responses as users-api.
    async fn check(&self, peer: Peer, database: &Database, later: &Page, reference: &compare::Responses) -> Result<()> {
        if peer == Peer::Pgbench {
            return self.check_pgbench(database).await;
        }
        if let Some(folder) = peer.folder() {
            ensure!(!self.options.unbuilt.iter().any(|unbuilt| unbuilt == folder), "its build failed");
        }
        let running = peer.start(database, &self.work, &[]).await?;
        let responses = compare::responses(peer, &running, database.rows, later).await;
        running.stop().await?;
        database.clean().await?;
        compare::compare(&responses?, reference)
    }

    /// Writes the script of pgbench. It computes ids itself, so this checks that they exist.
    async fn check_pgbench(&self, database: &Database) -> Result<()> {
        std::fs::write(self.work.join("pgbench.sql"), seed::pgbench_script(database.rows))?;
        let check = self.work.join("check.sql");
        // Divides by zero if a row is missing, which fails pgbench.
        let script = seed::pgbench_script(database.rows).replace("SELECT * FROM", "SELECT 1 / count(*) FROM");
        std::fs::write(&check, script)?;
        let mut pgbench = database.postgres_client("pgbench")?;
        pgbench.args(["-n", "-M", "prepared", "-c", "1", "-t", "100", "-f"]).arg(check);
        let output = tools::output(&mut pgbench).await?;
        ensure!(output.contains("actually processed: 100/100"), "{}", tools::tail(&output));
        Ok(())
    }

    /// Measures every peer with every workload and number of clients, round by round.
    pub async fn measure(&mut self, stage: &mut Stage) -> Result<()> {
        let engine = stage.database.engine;
        let cells = self.cells(engine);
        let mut active = self.peers(engine);
        active.retain(|peer| stage.peers.contains(peer));
        for (load, _) in &cells {
            active.iter().for_each(|peer| self.results.include(scope(engine, *load), peer.name()));
        }
        for round in 0..self.rounds() {
            for (load, clients) in &cells {
                let mut order = active.clone();
                order.rotate_left(round % active.len());
                order.retain(|peer| is_measured(*peer, (*load, *clients)));
                for peer in order {
                    match self.measure_one(stage, peer, *load, *clients, round).await {
                        Ok(figure) => self.record(figure),
                        Err(error) => {
                            ensure!(peer != Peer::UsersApi, "users-api, {}, {clients} clients: {error:#}", load.name());
                            let reason = format!("from round {}, {clients} clients, on: {error:#}", round + 1);
                            self.results.exclude(scope(engine, *load), peer.name(), reason);
                            active.retain(|other| *other != peer);
                            stage.database.clean().await?;
                        }
                    }
                }
            }
            self.results.save()?;
        }
        self.results
            .figures
            .sort_by_key(|figure| (figure.engine, figure.load, figure.clients, figure.peer, figure.round));
        Ok(())
    }

    async fn measure_one(
        &self,
        stage: &mut Stage,
        peer: Peer,
        load: Load,
        clients: usize,
        round: usize,
    ) -> Result<Figure> {
        let Stage { database, loads, .. } = stage;
        let engine = database.engine;
        let figure = |clients, per_second, p50_ms, p99_ms, errors| Figure {
            engine,
            load,
            clients,
            peer,
            round,
            per_second,
            p50_ms,
            p99_ms,
            errors,
        };
        if peer == Peer::Pgbench {
            let script = self.work.join("pgbench.sql");
            peers::pgbench(database, &script, WARM_UP).await?;
            let per_second = peers::pgbench(database, &script, self.seconds()).await?;
            return Ok(figure(peers::PGBENCH_CLIENTS, per_second, None, None, 0));
        }
        let variant = Variant { peer, variables: &[], key: None };
        let Measured { per_second, p50_ms, p99_ms, errors } =
            self.wrk(database, loads, variant, load, clients, round).await?;
        Ok(figure(clients, per_second, Some(p50_ms), Some(p99_ms), errors))
    }

    /// Starts a peer, warms it up, measures it, stops it, and restores the table.
    pub async fn wrk(
        &self,
        database: &Database,
        loads: &mut Loads,
        variant: Variant<'_>,
        load: Load,
        clients: usize,
        round: usize,
    ) -> Result<Measured> {
        let Variant { peer, variables, key } = variant;
        let mut running = peer.start(database, &self.work, variables).await?;
        let target = Target { peer, port: running.port, key };
        loads.run(load, target, clients, WARM_UP, 1000 + round).await?;
        let measured = loads.run(load, target, clients, self.seconds(), round).await?;
        running.check()?;
        running.stop().await?;
        if load.writes() {
            database.clean().await?;
        }
        Ok(measured)
    }

    fn record(&mut self, figure: Figure) {
        let Figure { engine, load, clients, peer, round, per_second, errors, .. } = &figure;
        let mut text = format!(
            "{engine}, round {} of {}, {}, {clients} clients, {}: {per_second:.0}/s",
            round + 1,
            self.rounds(),
            load.name(),
            peer.name()
        );
        if let (Some(p50), Some(p99)) = (figure.p50_ms, figure.p99_ms) {
            text += &format!(", p50 {p50:.2} ms, p99 {p99:.2} ms");
        }
        if *errors > 0 {
            text += &format!(", {errors} FAILED");
        }
        self.progress.advance(self.weight(), &text);
        self.results.figures.push(figure);
    }
}

/// The scope of a workload in the list of exclusions.
fn scope(engine: Engine, load: Load) -> String {
    format!("{engine}, {}", load.name())
}

/// Whether a peer is measured with this workload and number of clients. pgbench has a single workload, at [`CLIENTS`].
fn is_measured(peer: Peer, (load, clients): (Load, usize)) -> bool {
    peer != Peer::Pgbench || (load == Load::Get && clients == CLIENTS)
}
