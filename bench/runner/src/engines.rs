//! Private databases in a temporary folder, on a free port, removed at the end.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use crate::{
    owner::Owner,
    seed,
    tools::{self, free_port, postgres_program, program},
};

const PASSWORD: &str = "secret";
/// The database that is measured.
const NAME: &str = "bench";
const START_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    Postgres,
    MariaDb,
    Sqlite,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "PostgreSQL",
            Self::MariaDb => "MariaDB",
            Self::Sqlite => "SQLite",
        })
    }
}

/// A database of this run.
pub struct Database {
    pub engine: Engine,
    pub rows: u64,
    name: String,
    port: u16,
    folder: PathBuf,
    server: Option<Server>,
}

impl Database {
    /// Starts the engine's server in a new folder below `parent` and creates an empty database.
    pub async fn start(engine: Engine, parent: &Path) -> Result<Self> {
        let (server, port, folder) = match engine {
            Engine::Postgres => postgres(parent).await?,
            Engine::MariaDb => mariadb(parent).await?,
            Engine::Sqlite => {
                let folder = parent.join("sqlite");
                fs::create_dir(&folder)?;
                return Ok(Self { engine, rows: 0, name: NAME.to_owned(), port: 0, folder, server: None });
            }
        };
        let server = Some(server);
        let mut database = Self { engine, rows: 0, name: String::new(), port, folder, server };
        database.await_ready().await?;
        database.sql(&format!("CREATE DATABASE {NAME}")).await?;
        NAME.clone_into(&mut database.name);
        Ok(database)
    }

    /// Creates another database on the same server.
    pub async fn create_another(&self, name: &str) -> Result<Self> {
        if self.engine != Engine::Sqlite {
            self.sql(&format!("CREATE DATABASE {name}")).await?;
        }
        let folder = self.folder.clone();
        Ok(Self { engine: self.engine, rows: 0, name: name.to_owned(), port: self.port, folder, server: None })
    }

    /// Drops a database that [`Self::create_another`] has created.
    pub async fn remove(self) -> Result<()> {
        let name = &self.name;
        match self.engine {
            Engine::Postgres => {
                let other = Self { name: "postgres".to_owned(), folder: self.folder.clone(), server: None, ..self };
                other.sql(&format!("DROP DATABASE {name} WITH (FORCE)")).await.map(drop)
            }
            Engine::MariaDb => self.sql(&format!("DROP DATABASE {name}")).await.map(drop),
            Engine::Sqlite => Ok(fs::remove_file(self.file())?),
        }
    }

    /// The `DATABASE_URL` of the peers.
    pub fn url(&self) -> String {
        let Self { name, port, .. } = self;
        match self.engine {
            Engine::Postgres => format!("postgres://postgres:{PASSWORD}@127.0.0.1:{port}/{name}"),
            Engine::MariaDb => format!("mysql://admin:{PASSWORD}@127.0.0.1:{port}/{name}"),
            Engine::Sqlite => format!("sqlite://{}?mode=rwc", self.file().display()),
        }
    }

    /// Creates the schema with the service's own migrations.
    pub async fn migrate(&self, service: &Path) -> Result<()> {
        self.run_service(service, &["migrate", "up"]).await.map(drop)
    }

    /// Runs a command of the service on this database and returns its output.
    pub async fn run_service(&self, service: &Path, arguments: &[&str]) -> Result<String> {
        let mut command = tools::command(service);
        command.args(arguments).current_dir(&self.folder).env_clear().env("DATABASE_URL", self.url());
        tools::output(&mut command).await
    }

    /// Fills the table without the service.
    pub async fn seed(&mut self, rows: u64, work: &Path) -> Result<()> {
        let csv = work.join("users.csv");
        seed::write(&csv, rows)?;
        self.load(&csv).await?;
        fs::remove_file(&csv)?;
        self.rows = rows;
        self.vacuum().await
    }

    /// Loads rows that [`seed::write`] has written, with the engine's native client.
    pub async fn load(&self, csv: &Path) -> Result<()> {
        let csv_text = csv.display();
        match self.engine {
            Engine::Postgres => {
                let copy = format!(
                    "\\copy users (id, name, name_key, last_word_key, email, email_key, version, created_at, updated_at) \
                     from '{csv_text}' with (format csv)"
                );
                self.sql(&copy).await.map(drop)
            }
            Engine::MariaDb => {
                let load = format!(
                    "LOAD DATA LOCAL INFILE '{csv_text}' INTO TABLE users FIELDS TERMINATED BY ',' \
                     (@id, name, name_key, last_word_key, email, email_key, version, created_at, updated_at) \
                     SET id = UNHEX(REPLACE(@id, '-', ''))"
                );
                self.sql(&load).await.map(drop)
            }
            Engine::Sqlite => tools::output(python(SQLITE_SEED).arg(self.file()).arg(csv)).await.map(drop),
        }
    }

    /// A command of the engine's native client that writes all users to its standard output.
    pub fn dump(&self) -> Result<Command> {
        let select = "SELECT id, name, email, version, created_at, updated_at FROM users";
        Ok(match self.engine {
            Engine::Postgres => {
                let mut client = self.postgres_client("psql")?;
                client.args(["-X", "-q", "-c", &format!("COPY ({select}) TO STDOUT (FORMAT csv)")]);
                client
            }
            Engine::MariaDb => {
                let mut client = self.mariadb_client()?;
                client.args(["--quick", "--execute", select]);
                client
            }
            Engine::Sqlite => {
                let mut client = python(SQLITE_DUMP);
                client.arg(self.file()).arg(select);
                client
            }
        })
    }

    /// Deletes all users.
    pub async fn empty(&self) -> Result<()> {
        match self.engine {
            Engine::Postgres | Engine::MariaDb => self.sql("TRUNCATE TABLE users").await.map(drop),
            Engine::Sqlite => self.sql("DELETE FROM users").await.map(drop),
        }
    }

    /// Deletes the users that a measurement has created, so that the next one starts with the same table.
    pub async fn clean(&self) -> Result<()> {
        self.sql("DELETE FROM users WHERE email LIKE 'bench-%'").await?;
        self.vacuum().await
    }

    /// Does the maintenance that the engine would otherwise do in the background after many changes.
    pub async fn vacuum(&self) -> Result<()> {
        match self.engine {
            Engine::Postgres => self.sql("VACUUM (ANALYZE) users").await.map(drop),
            Engine::MariaDb => self.sql("ANALYZE TABLE users").await.map(drop),
            Engine::Sqlite => Ok(()),
        }
    }

    /// Executes a statement with the engine's native client and returns its output.
    pub async fn sql(&self, statement: &str) -> Result<String> {
        match self.engine {
            Engine::Postgres => {
                let mut client = self.postgres_client("psql")?;
                tools::output(client.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement])).await
            }
            Engine::MariaDb => tools::output(self.mariadb_client()?.args(["--execute", statement])).await,
            Engine::Sqlite => tools::output(python(SQLITE_EXECUTE).arg(self.file()).arg(statement)).await,
        }
    }

    /// A command of a PostgreSQL client program, connected to this database as its administrator.
    pub fn postgres_client(&self, name: &str) -> Result<Command> {
        let mut client = tools::command(postgres_program(name)?);
        let database = if self.name.is_empty() { "postgres" } else { &self.name };
        client.env("PGHOST", "127.0.0.1").env("PGPORT", self.port.to_string()).env("PGDATABASE", database);
        client.env("PGUSER", "postgres").env("PGPASSWORD", PASSWORD).env("PGTZ", "UTC");
        Ok(client)
    }

    fn mariadb_client(&self) -> Result<Command> {
        let mut client = tools::command(program("mariadb")?);
        client.args(["--no-defaults", "--batch", "--skip-column-names", "--local-infile=1"]);
        client.args(["--default-character-set=utf8mb4", "--host=127.0.0.1", "--user=admin"]);
        client.arg(format!("--port={}", self.port)).env("MYSQL_PWD", PASSWORD);
        if !self.name.is_empty() {
            client.arg(format!("--database={}", self.name));
        }
        Ok(client)
    }

    fn file(&self) -> PathBuf {
        self.folder.join(format!("{}.db", self.name))
    }

    async fn await_ready(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            let Err(error) = self.sql("SELECT 1").await else { return Ok(()) };
            let ended = match &mut self.server {
                Some(server) => server.supervisor.try_wait()?.is_some(),
                None => false,
            };
            if ended || began.elapsed() > START_TIMEOUT {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                bail!("cannot start {}: {error}\n{}", self.engine, tools::tail(&log));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

fn python(script: &str) -> Command {
    let mut python = tools::command("python3");
    python.args(["-c", script]);
    python
}

/// Timestamps are in the format of the service: RFC 3339 with an offset.
const SQLITE_SEED: &str = r#"
import csv, sqlite3, sys
def timestamp(text): return text.replace(" ", "T") + "+00:00"
database = sqlite3.connect(sys.argv[1])
with open(sys.argv[2], newline="") as file, database:
    database.executemany(
        "INSERT INTO users (id, name, name_key, last_word_key, email, email_key, version, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        ((bytes.fromhex(id.replace("-", "")), *texts, int(version), timestamp(created), timestamp(updated))
         for id, *texts, version, created, updated in csv.reader(file)))
database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
"#;

const SQLITE_DUMP: &str = r#"
import csv, sqlite3, sys
csv.writer(sys.stdout).writerows(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]))
"#;

const SQLITE_EXECUTE: &str = r#"
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=60)
with database:
    for row in database.execute(sys.argv[2]): print(*row, sep="|")
"#;

/// A server that stops when this is dropped or when this process ends for any reason.
struct Server {
    supervisor: Child,
    /// The supervisor stops the server when this is closed.
    supervisor_stdin: Option<ChildStdin>,
}

impl Server {
    fn start(owner: &Owner, program: &Path, signal: &str, arguments: &[OsString], folder: &Path) -> Result<Self> {
        let log = File::create(folder.join("log"))?;
        let mut command = owner.supervised(program, folder, signal);
        command.args(arguments).stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        let mut supervisor = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let supervisor_stdin = supervisor.stdin.take();
        Ok(Self { supervisor, supervisor_stdin })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.supervisor_stdin.take());
        // Waits, because the folder is about to be removed. An error cannot be reported here.
        drop(self.supervisor.wait());
    }
}

async fn postgres(parent: &Path) -> Result<(Server, u16, PathBuf)> {
    let owner = Owner::named("postgres")?;
    let folder = owner.folder(parent, "postgres")?;
    let (data, secret) = (folder.join("data"), folder.join("password"));
    owner.write(&secret, PASSWORD)?;
    let mut initdb = owner.command(&postgres_program("initdb")?, &folder);
    initdb.arg("-D").arg(&data).args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8"]);
    tools::output(initdb.arg("--pwfile").arg(&secret)).await?;
    let port = free_port()?;
    let arguments = [
        "-D".into(),
        data.into_os_string(),
        "-p".into(),
        port.to_string().into(),
        "-clisten_addresses=127.0.0.1".into(),
        "-cmax_connections=300".into(),
        "-cshared_buffers=256MB".into(),
        // The defaults, set explicitly: a confirmed write is on the disk.
        "-cfsync=on".into(),
        "-csynchronous_commit=on".into(),
        format!("-cunix_socket_directories={}", folder.display()).into(),
    ];
    Ok((Server::start(&owner, &postgres_program("postgres")?, "INT", &arguments, &folder)?, port, folder))
}

async fn mariadb(parent: &Path) -> Result<(Server, u16, PathBuf)> {
    let owner = Owner::named("mysql")?;
    let folder = owner.folder(parent, "mariadb")?;
    let data = folder.join("data");
    let mut install = owner.command(&program("mariadb-install-db")?, &folder);
    install.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
    tools::output(install.args(["--auth-root-authentication-method=normal", "--skip-test-db"])).await?;
    let start = folder.join("start.sql");
    owner.write(
        &start,
        &format!(
            "CREATE USER IF NOT EXISTS 'admin'@'%' IDENTIFIED BY '{PASSWORD}';\n\
             GRANT ALL ON *.* TO 'admin'@'%' WITH GRANT OPTION;\n"
        ),
    )?;
    let port = free_port()?;
    let arguments = [
        "--no-defaults".into(),
        "--bind-address=127.0.0.1".into(),
        "--skip-name-resolve".into(),
        "--max-connections=300".into(),
        "--innodb-buffer-pool-size=512M".into(),
        // The default, set explicitly: a confirmed write is on the disk.
        "--innodb-flush-log-at-trx-commit=1".into(),
        format!("--port={port}").into(),
        format!("--datadir={}", data.display()).into(),
        format!("--socket={}", folder.join("socket").display()).into(),
        format!("--pid-file={}", folder.join("pid").display()).into(),
        format!("--init-file={}", start.display()).into(),
    ];
    Ok((Server::start(&owner, &program("mariadbd")?, "TERM", &arguments, &folder)?, port, folder))
}
