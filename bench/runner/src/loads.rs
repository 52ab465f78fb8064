//! The workloads, and wrk, which generates them.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{
    api_key::ApiKey,
    http::Client,
    peers::{Peer, Running},
    seed,
    tools::{self, program},
};

/// Seconds of load before each measurement.
pub const WARM_UP: u64 = 1;
/// The number of clients in most comparisons.
pub const CLIENTS: usize = 64;
pub const FIRST_PAGE: &str = "/users?limit=20";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Load {
    Get,
    Email,
    First,
    Cursors,
    Post,
    Mix,
}

impl Load {
    pub const ALL: [Self; 6] = [Self::Get, Self::Email, Self::First, Self::Cursors, Self::Post, Self::Mix];

    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET by id",
            Self::Email => "GET by email",
            Self::First => "list 20, first page",
            Self::Cursors => "list 20, random cursors",
            Self::Post => "POST",
            Self::Mix => "mix 80/10/10",
        }
    }

    pub fn writes(self) -> bool {
        matches!(self, Self::Post | Self::Mix)
    }
}

/// A page of the list, by its cursor (users-api) and by the id before it (all other peers).
#[derive(Clone, Debug)]
pub struct Page {
    cursor: String,
    after: String,
}

impl Page {
    pub fn path(&self, peer: Peer) -> String {
        if peer.has_cursors() { self.path_by_cursor(20) } else { format!("/users?limit=20&after={}", self.after) }
    }

    pub fn path_by_cursor(&self, limit: u64) -> String {
        format!("/users?limit={limit}&cursor={}", self.cursor)
    }
}

/// The path that finds the n-th user by email.
pub fn email_path(n: u64) -> String {
    format!("/users?email={}", seed::email(n).replace('@', "%40"))
}

/// The page after the one at this path, from the `Link` header; `None` after the last page.
pub async fn next_page(client: &mut Client, path: &str) -> Result<Option<Page>> {
    let response = client.get(path).await?;
    ensure!(response.status == 200, "GET {path} returned status {}", response.status);
    let links = response.header("link").with_context(|| format!("GET {path} returned no Link"))?;
    let Some(next) = links.split(", ").find(|link| link.ends_with("rel=\"next\"")) else { return Ok(None) };
    let cursor = next.split_once("cursor=").and_then(|(_, rest)| rest.split_once('>')).map(|(cursor, _)| cursor);
    let cursor = cursor.with_context(|| format!("the link has no cursor: {next}"))?.to_owned();
    let last = response.json()?;
    let last = last.as_array().and_then(|users| users.last()).and_then(|user| user["id"].as_str());
    Ok(Some(Page { cursor, after: last.context("an empty page has a next page")?.to_owned() }))
}

/// The pages of the list in order, at most `max`.
pub async fn pages(service: &Running, max: usize) -> Result<Vec<Page>> {
    let mut client = service.client().await?;
    let mut pages = Vec::new();
    let mut path = FIRST_PAGE.to_owned();
    while pages.len() < max {
        let Some(page) = next_page(&mut client, &path).await? else { break };
        path = page.path_by_cursor(20);
        pages.push(page);
    }
    Ok(pages)
}

/// The files that the wrk scripts read.
pub struct Loads {
    work: PathBuf,
    /// The number of runs so far. Each run has a separate tag in its emails, so no email is sent twice.
    runs: u32,
}

/// A running peer that a workload is sent to.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub peer: Peer,
    pub port: u16,
    /// The key that each request carries.
    pub key: Option<&'a ApiKey>,
}

/// What wrk measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Responses per second with a status below 400.
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Responses with another status, broken connections, and timeouts.
    pub errors: u64,
}

impl Loads {
    pub fn write(work: &Path, rows: u64, pages: &[Page]) -> Result<Self> {
        let lines = |name: &str, paths: &mut dyn Iterator<Item = String>| -> Result<()> {
            let mut text = String::new();
            for path in paths {
                writeln!(text, "{path}")?;
            }
            fs::write(work.join(name), text).context("cannot write the paths of a workload")
        };
        lines("ids", &mut (1..=rows).map(|n| format!("/users/{}", seed::id(n))))?;
        lines("emails", &mut (1..=rows).map(email_path))?;
        lines("first", &mut std::iter::once(FIRST_PAGE.to_owned()))?;
        lines("cursors", &mut pages.iter().map(|page| page.path(Peer::UsersApi)))?;
        lines("after", &mut pages.iter().map(|page| page.path(Peer::ActixSeaorm)))?;
        Ok(Self { work: work.to_owned(), runs: 0 })
    }

    /// Runs a workload against a peer. The seed determines the order of requests.
    pub async fn run(
        &mut self,
        load: Load,
        target: Target<'_>,
        clients: usize,
        seconds: u64,
        seed: usize,
    ) -> Result<Measured> {
        let Target { peer, port, key } = target;
        self.runs += 1;
        let file = |name: &str| self.work.join(name).display().to_string();
        let (seed, tag) = (seed.to_string(), format!("{:06}", self.runs));
        let (script, arguments) = match load {
            Load::Get => ("read.lua", vec![file("ids"), seed]),
            Load::Email => ("read.lua", vec![file("emails"), seed]),
            Load::First => ("read.lua", vec![file("first"), seed]),
            Load::Cursors if peer.has_cursors() => ("read.lua", vec![file("cursors"), seed]),
            Load::Cursors => ("read.lua", vec![file("after"), seed]),
            Load::Post => ("post.lua", vec![tag]),
            Load::Mix => ("mix.lua", vec![file("ids"), file("first"), seed, tag]),
        };
        let mut wrk = tools::command(program("wrk")?);
        wrk.args(["-t1", "--latency", "--timeout", "10s", "-c", &clients.to_string(), "-d", &format!("{seconds}s")]);
        wrk.arg("-s").arg(Path::new("bench/loads").join(script));
        wrk.arg(format!("http://127.0.0.1:{port}")).arg("--").args(arguments);
        // Removed first, so that wrk does not send credentials of the caller's environment.
        wrk.env_remove("AUTHORIZATION").envs(key.map(|key| ("AUTHORIZATION", key.authorization())));
        parse(&tools::output(&mut wrk).await?)
    }
}

/// The line that `done` of the wrk scripts prints. Times are in microseconds.
#[derive(Deserialize)]
struct Line {
    requests: u64,
    duration: f64,
    p50: f64,
    p99: f64,
    status: u64,
    connect: u64,
    read: u64,
    write: u64,
    timeout: u64,
}

fn parse(output: &str) -> Result<Measured> {
    let line = output.lines().find_map(|line| line.strip_prefix("result: "));
    let line = line.with_context(|| format!("wrk printed no result: {}", tools::tail(output)))?;
    let line: Line = serde_json::from_str(line).with_context(|| format!("unexpected result of wrk: {line}"))?;
    Ok(Measured {
        per_second: line.requests.saturating_sub(line.status) as f64 / (line.duration / 1e6),
        p50_ms: line.p50 / 1e3,
        p99_ms: line.p99 / 1e3,
        errors: line.status + line.connect + line.read + line.write + line.timeout,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_line_is_parsed() -> Result<()> {
        let measured = parse(
            "Running 1s test\nresult: {\"requests\": 300, \"duration\": 2000000, \"p50\": 1500, \"p99\": 9000, \
             \"status\": 100, \"connect\": 0, \"read\": 1, \"write\": 0, \"timeout\": 2}\n",
        )?;
        let Measured { per_second, p50_ms, p99_ms, errors } = measured;
        assert_eq!((per_second, p50_ms, p99_ms, errors), (100.0, 1.5, 9.0, 103));
        Ok(())
    }
}
