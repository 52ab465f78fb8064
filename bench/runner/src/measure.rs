//! The rounds: all peers one after the other, again and again, so that what slows the machine down slows all of them.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::{
    Options, compare,
    engines::{Database, Engine},
    loads::{Load, Loads, Page, Seen, walk},
    peers::{self, Peer, SERVICE},
    progress::Progress,
    report,
    results::{Figure, Part, Results},
    seed,
};

/// Seconds of load before each measurement.
pub const WARM_UP: u64 = 1;
/// Seconds to start and end a peer and to tidy up, roughly.
const AROUND: f64 = 0.8;
/// The number of clients that most comparisons are made at.
pub const CLIENTS: usize = 64;
/// Pages whose cursors are collected.
const PAGES: usize = 5000;

/// A whole run.
pub struct Run {
    pub options: Options,
    /// Where databases may be put.
    pub folder: PathBuf,
    /// Where everything else may be put.
    pub work: PathBuf,
    /// What was built.
    pub commit: String,
    pub results: Results,
    pub progress: Progress,
}

/// A seeded database, and the peers that answer from it as they should.
pub struct Stage {
    pub database: Database,
    pub loads: Loads,
    pub peers: Vec<Peer>,
}

impl Run {
    pub fn wants(&self, part: Part) -> bool {
        self.options.parts().contains(&part)
    }

    pub fn rounds(&self) -> usize {
        self.options.rounds()
    }

    pub fn seconds(&self) -> u64 {
        self.options.seconds()
    }

    /// Seconds that one measurement takes, roughly.
    pub fn weight(&self) -> f64 {
        (self.seconds() + WARM_UP) as f64 + AROUND
    }

    /// What is measured on an engine by wrk, and at how many clients.
    pub fn cells(&self, engine: Engine) -> Vec<(Load, usize)> {
        let clients: &[usize] = match engine {
            Engine::Postgres if self.options.quick => &[1, CLIENTS],
            Engine::Postgres => &[1, 16, CLIENTS, 256],
            _ => &[CLIENTS],
        };
        let loads: &[Load] = if engine == Engine::Postgres { &Load::ALL } else { &[Load::Get, Load::Post] };
        let is_wanted = |clients: &&usize| self.options.clients.is_empty() || self.options.clients.contains(clients);
        let clients: Vec<usize> = clients.iter().filter(is_wanted).copied().collect();
        let wanted = loads.iter().copied().filter(|load| self.wants(Part::of(engine, *load)));
        wanted.flat_map(|load| clients.iter().map(move |clients| (load, *clients)).collect::<Vec<_>>()).collect()
    }

    /// The peers to measure on an engine.
    pub fn peers(&self, engine: Engine) -> Vec<Peer> {
        self.options.peers().into_iter().filter(|peer| peer.engines().contains(&engine)).collect()
    }

    /// How many measurements the rounds on an engine take.
    pub fn count(&self, engine: Engine) -> usize {
        let peers = self.peers(engine);
        let measured = |cell| peers.iter().filter(|peer| takes_part(**peer, cell)).count();
        self.rounds() * self.cells(engine).into_iter().map(measured).sum::<usize>()
    }

    /// Starts and fills the database, and asks every peer what users-api is asked. One that answers otherwise is left
    /// out. Besides those of the rounds, `others` take part.
    pub async fn stage(&mut self, engine: Engine, others: &[Peer]) -> Result<Stage> {
        let rows = if self.options.quick { 20_000 } else { 100_000 };
        self.progress.tell(&format!("{engine}: {rows} rows"));
        let mut database = Database::start(engine, &self.folder).await?;
        database.migrate(&std::path::absolute(SERVICE)?).await?;
        database.seed(rows, &self.work).await?;

        let service = Peer::UsersApi.start(&database, &self.work, &[]).await?;
        let wants_cursors = self.cells(engine).iter().any(|(load, _)| *load == Load::Cursors);
        let pages = walk(&service, if wants_cursors { PAGES } else { 10 }).await?;
        let further = pages.get(9).context("the list has too few pages")?.clone();
        let reference = compare::answers(Peer::UsersApi, &service, rows, &further).await.context("users-api")?;
        service.stop().await?;
        database.clean().await?;

        let mut candidates = if self.cells(engine).is_empty() { vec![Peer::UsersApi] } else { self.peers(engine) };
        candidates.extend(others);
        candidates.sort();
        candidates.dedup();
        let mut peers = Vec::new();
        for peer in candidates {
            self.results.take_in(engine, peer.name());
            match self.admit(peer, &database, &further, &reference).await {
                Ok(()) => peers.push(peer),
                Err(error) => {
                    ensure!(peer != Peer::UsersApi, "users-api: {error:#}");
                    self.results.leave_out(engine, peer.name(), format!("{error:#}"));
                    let cells = self.cells(engine).into_iter().filter(|cell| takes_part(peer, *cell)).count();
                    self.progress.plan(-((cells * self.rounds()) as f64 * self.weight()));
                }
            }
        }
        let loads = Loads::write(&self.work, rows, &pages)?;
        Ok(Stage { database, loads, peers })
    }

    async fn admit(&self, peer: Peer, database: &Database, further: &Page, reference: &compare::Answers) -> Result<()> {
        if peer == Peer::Pgbench {
            return self.check_pgbench(database).await;
        }
        if let Some(folder) = peer.folder() {
            ensure!(!self.options.unbuilt.iter().any(|unbuilt| unbuilt == folder), "its build failed");
        }
        let running = peer.start(database, &self.work, &[]).await?;
        let answers = compare::answers(peer, &running, database.rows, further).await;
        running.stop().await?;
        database.clean().await?;
        compare::compare(&answers?, reference)
    }

    /// Writes pgbench's script. It makes ids by itself, so it is asked whether it makes those that are there.
    async fn check_pgbench(&self, database: &Database) -> Result<()> {
        std::fs::write(self.work.join("pgbench.sql"), seed::pgbench_script(database.rows))?;
        let check = self.work.join("check.sql");
        // A division by zero if a row is missing ends pgbench with an error.
        let script = seed::pgbench_script(database.rows).replace("SELECT * FROM", "SELECT 1 / count(*) FROM");
        std::fs::write(&check, script)?;
        let mut pgbench = database.postgres_client("pgbench")?;
        pgbench.args(["-n", "-M", "prepared", "-c", "1", "-t", "100", "-f"]).arg(check);
        let output = crate::tools::output(&mut pgbench).await?;
        ensure!(output.contains("actually processed: 100/100"), "{}", crate::tools::tail(&output));
        Ok(())
    }

    /// Measures every peer at every cell, round by round.
    pub async fn measure(&mut self, stage: &mut Stage) -> Result<()> {
        let engine = stage.database.engine;
        let cells = self.cells(engine);
        let mut active = self.peers(engine);
        active.retain(|peer| stage.peers.contains(peer));
        for (load, _) in &cells {
            active.iter().for_each(|peer| self.results.take_in(place(engine, *load), peer.name()));
        }
        for round in 0..self.rounds() {
            for (load, clients) in &cells {
                let mut order = active.clone();
                order.rotate_left(round % active.len());
                order.retain(|peer| takes_part(*peer, (*load, *clients)));
                for peer in order {
                    match self.measure_one(stage, peer, *load, *clients, round).await {
                        Ok(figure) => self.note(figure),
                        Err(error) => {
                            ensure!(peer != Peer::UsersApi, "users-api, {}, {clients} clients: {error:#}", load.name());
                            let reason = format!("from round {}, {clients} clients, on: {error:#}", round + 1);
                            self.results.leave_out(place(engine, *load), peer.name(), reason);
                            active.retain(|other| *other != peer);
                            stage.database.clean().await?;
                        }
                    }
                }
            }
            self.results.write(&report::file(&self.results))?;
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
        let seen = self.wrk(database, loads, peer, &[], load, clients, round).await?;
        Ok(figure(clients, seen.per_second, Some(seen.p50_ms), Some(seen.p99_ms), seen.errors))
    }

    /// Starts a peer, warms it up, measures it, ends it, and leaves the table as it was.
    #[expect(clippy::too_many_arguments, reason = "each names one thing that a measurement depends on")]
    pub async fn wrk(
        &self,
        database: &Database,
        loads: &mut Loads,
        peer: Peer,
        variables: &[(&str, String)],
        load: Load,
        clients: usize,
        round: usize,
    ) -> Result<Seen> {
        let mut running = peer.start(database, &self.work, variables).await?;
        loads.run(load, peer, running.port, clients, WARM_UP, 1000 + round).await?;
        let seen = loads.run(load, peer, running.port, clients, self.seconds(), round).await?;
        running.check()?;
        running.stop().await?;
        if load.writes() {
            database.clean().await?;
        }
        Ok(seen)
    }

    fn note(&mut self, figure: Figure) {
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
        self.progress.did(self.weight(), &text);
        self.results.figures.push(figure);
    }
}

fn place(engine: Engine, load: Load) -> String {
    format!("{engine}, {}", load.name())
}

/// Whether a peer is measured at this cell. The one without HTTP knows a single workload, beside the usual clients.
fn takes_part(peer: Peer, (load, clients): (Load, usize)) -> bool {
    peer != Peer::Pgbench || (load == Load::Get && clients == CLIENTS)
}
