//! Database servers that a test run starts: in a temporary folder, on a free port, removed at the end.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, iter,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use tempfile::TempDir;

use crate::{Authority, Engine, Identity, ManagedProcess, Owner, eventually, mysqld, program};

pub const POSTGRES: &str = "postgres";
pub const MARIADBD: &str = "mariadbd";
pub const PASSWORD: &str = "secret";
const AUTHORITY: &str = "authority.pem";
const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";

/// A database server that the tests start and stop.
pub struct Server {
    engine: Engine,
    url: String,
    owner: Owner,
    program: PathBuf,
    arguments: Vec<OsString>,
    running: Option<ManagedProcess>,
    folder: TempDir,
    /// The network namespace in which it runs; `None` for that of this process.
    namespace: Option<PathBuf>,
}

static SERVERS: Mutex<Vec<Server>> = Mutex::new(Vec::new());

/// The administrator's URL of the engine's shared server, which is started on first use.
pub fn url(engine: Engine) -> String {
    let mut servers = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = servers.iter().find(|server| server.engine == engine) {
        return server.url.clone();
    }
    let mut server = Server::new(engine, &[]);
    server.start(End::Orderly);
    server.await_ready();
    let url = server.url.clone();
    servers.push(server);
    url
}

/// Stops every shared server.
pub fn end_all() {
    let mut servers = std::mem::take(&mut *SERVERS.lock().unwrap_or_else(PoisonError::into_inner));
    for server in &mut servers {
        server.stop();
    }
}

/// How a server is stopped.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// By an administrator, with its shutdown signal.
    Orderly,
    /// Without a shutdown, as in a crash.
    Crash,
}

impl Server {
    /// Creates a server with additional arguments. [`start`](Self::start) runs it.
    pub fn new(engine: Engine, more: &[&str]) -> Self {
        let mut server = match engine {
            Engine::Sqlite => panic!("SQLite has no server"),
            Engine::Postgres => postgres(),
            Engine::MariaDb => mariadb(),
            Engine::MySql => mysql(),
        };
        server.arguments.extend(more.iter().map(Into::into));
        server
    }

    /// Creates a server with a certificate for these hosts that requests client certificates of the same authority.
    /// Clients may connect without TLS and without a certificate, except for the user `app` on PostgreSQL.
    pub fn with_tls(engine: Engine, authority: &Authority, hosts: &[&str]) -> Self {
        let mut server = Self::new(engine, &[]);
        server.certify(authority, hosts);
        let file = |name| server.folder().join(name).display().to_string();
        let files = [("ca", file(AUTHORITY)), ("cert", file(CERTIFICATE)), ("key", file(KEY))];
        let arguments: Vec<String> = match engine {
            Engine::Postgres => {
                let rules = server.folder().join("rules");
                let records = "hostssl all app 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n\
                            host all all 127.0.0.1/32 scram-sha-256\n";
                server.owner.write(&rules, records);
                let arguments = [format!("-chba_file={}", rules.display()), "-cssl=on".to_owned()];
                arguments.into_iter().chain(files.map(|(name, path)| format!("-cssl_{name}_file={path}"))).collect()
            }
            _ => files.map(|(name, path)| format!("--ssl-{name}={path}")).into(),
        };
        server.arguments.extend(arguments.into_iter().map(Into::into));
        server
    }

    /// Writes a certificate and its key, which the server loads at its next start.
    pub fn certify(&self, authority: &Authority, hosts: &[&str]) {
        let Identity { certificate, key } = authority.sign(hosts);
        for (name, text) in [(AUTHORITY, authority.pem()), (CERTIFICATE, certificate), (KEY, key)] {
            let path = self.folder().join(name);
            self.owner.write(&path, &text);
            // PostgreSQL rejects a key that others can read.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }

    /// The administrator's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The folder of its files, including its socket.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it without waiting until it is ready. `end` says how [`stop`](Self::stop) stops it.
    pub fn start(&mut self, end: End) {
        self.start_with(end, &[]);
    }

    /// Like [`start`](Self::start), with additional arguments for this start.
    pub fn start_with(&mut self, end: End, more: &[&str]) {
        let (program, folder, signal) = (&self.program, self.folder.path(), self.signal_of(end));
        let mut command = match &self.namespace {
            None => self.owner.managed_command(program, folder, signal),
            Some(namespace) => self.owner.managed_command_in(namespace, program, folder, signal),
        };
        command.args(&self.arguments).args(more);
        self.running = Some(ManagedProcess::start(command));
    }

    /// Stops it in the way that was chosen at its start.
    pub fn stop(&mut self) {
        self.running = None;
    }

    /// Stops it in this way.
    pub fn stop_by(&mut self, end: End) {
        let signal = self.signal_of(end);
        if let Some(process) = self.running.take() {
            process.end_with(signal);
        }
    }

    fn signal_of(&self, end: End) -> &'static str {
        match (self.engine, end) {
            (Engine::Postgres, End::Orderly) => "INT",
            (Engine::Postgres, End::Crash) => "QUIT",
            (_, End::Orderly) => "TERM",
            (_, End::Crash) => "KILL",
        }
    }

    /// Lets it run in a network namespace, with this address.
    pub fn enter(&mut self, namespace: PathBuf, address: Ipv4Addr) {
        self.namespace = Some(namespace);
        self.url = self.url.replace("127.0.0.1", &address.to_string());
        self.arguments.push(format!("--bind-address={}", Ipv4Addr::UNSPECIFIED).into());
    }

    /// Pauses all of it: it accepts connections, but does not respond.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Sends a signal to the server, but to no process that it has started.
    fn signal(&self, name: &str) {
        let file = match self.engine {
            Engine::Postgres => "data/postmaster.pid",
            _ => "pid",
        };
        let text = fs::read_to_string(self.folder.path().join(file)).unwrap();
        let pid = text.lines().next().unwrap().trim();
        let status = Command::new("/bin/sh").arg("-c").arg(format!("kill -{name} {pid}")).status().unwrap();
        assert!(status.success());
    }

    /// Blocks until it accepts connections.
    pub fn await_ready(&self) {
        let url = self.url.clone();
        // On a separate thread, because the first case that needs the server may be inside a runtime.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(eventually("the server accepts connections", || async {
                sea_orm::Database::connect(url.as_str()).await.ok()
            }))
        })
        .join()
        .unwrap();
    }
}

fn postgres() -> Server {
    let owner = Owner::named("postgres");
    let folder = owner.folder();
    let data = folder.path().join("data");
    let secret = folder.path().join("password");
    owner.write(&secret, PASSWORD);
    let initdb = owner
        .command(&program("initdb").unwrap(), folder.path())
        .arg("-D")
        .arg(&data)
        .args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--pwfile"])
        .arg(&secret)
        .output()
        .unwrap();
    assert!(initdb.status.success(), "initdb: {}", String::from_utf8_lossy(&initdb.stderr));
    postgres_in(owner, folder, data)
}

/// A server on a free port, with a data folder that exists.
fn postgres_in(owner: Owner, folder: TempDir, data: PathBuf) -> Server {
    let port = free_port();
    let arguments = [
        "-D".into(),
        data.into_os_string(),
        "-p".into(),
        port.to_string().into(),
        "-clisten_addresses=127.0.0.1".into(),
        "-cfsync=off".into(),
        "-cmax_connections=400".into(),
        "-cshared_buffers=64MB".into(),
        format!("-cunix_socket_directories={}", folder.path().display()).into(),
    ];
    Server {
        engine: Engine::Postgres,
        url: format!("postgres://postgres:{PASSWORD}@127.0.0.1:{port}/postgres"),
        owner,
        program: program(POSTGRES).unwrap(),
        arguments: arguments.into(),
        running: None,
        folder,
        namespace: None,
    }
}

/// Creates a standby of a running PostgreSQL server, which streams from it once it is started.
pub(crate) fn postgres_standby(primary: &Server) -> Server {
    let owner = Owner::named("postgres");
    let folder = owner.folder();
    let data = folder.path().join("data");
    let copied = owner
        .command(&program("pg_basebackup").unwrap(), folder.path())
        .args(["--no-sync", "--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream", "-d"])
        .arg(&primary.url)
        .arg("-D")
        .arg(&data)
        .output()
        .unwrap();
    assert!(copied.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&copied.stderr));
    postgres_in(owner, folder, data)
}

fn mariadb() -> Server {
    let owner = Owner::named("mysql");
    let folder = owner.folder();
    let install = owner
        .command(&program("mariadb-install-db").unwrap(), folder.path())
        .arg("--no-defaults")
        .arg(format!("--datadir={}", folder.path().join("data").display()))
        .args(["--auth-root-authentication-method=normal", "--skip-test-db"])
        .output()
        .unwrap();
    assert!(install.status.success(), "mariadb-install-db: {}", String::from_utf8_lossy(&install.stderr));
    let more = [
        "--skip-log-bin",
        // The default from MariaDB 11.6 on: a row that was changed after the snapshot is a conflict (1020).
        "--loose-innodb-snapshot-isolation=ON",
    ];
    mysql_like(Engine::MariaDb, owner, folder, program(MARIADBD).unwrap(), &more)
}

fn mysql() -> Server {
    let owner = Owner::named("mysql");
    let folder = owner.folder();
    let program = mysqld().unwrap().to_owned();
    let initialize = owner
        .command(&program, folder.path())
        .args(["--no-defaults", "--initialize-insecure", "--secure-file-priv=NULL", "--innodb-redo-log-capacity=64M"])
        .arg(format!("--datadir={}", folder.path().join("data").display()))
        .output()
        .unwrap();
    assert!(initialize.status.success(), "mysqld --initialize: {}", String::from_utf8_lossy(&initialize.stderr));
    let more = [
        "--disable-log-bin",
        "--mysqlx=OFF",
        "--secure-file-priv=NULL",
        // Only the table of sessions is needed.
        "--performance-schema-instrument=%=OFF",
        "--innodb-redo-log-capacity=64M",
    ];
    mysql_like(Engine::MySql, owner, folder, program, &more)
}

/// The arguments that MariaDB and MySQL share, once the data folder is initialized.
fn mysql_like(engine: Engine, owner: Owner, folder: TempDir, program: PathBuf, more: &[&str]) -> Server {
    let start = folder.path().join("start.sql");
    owner.write(
        &start,
        &format!(
            "CREATE USER IF NOT EXISTS 'admin'@'%' IDENTIFIED BY '{PASSWORD}';\n\
             GRANT ALL ON *.* TO 'admin'@'%' WITH GRANT OPTION;\n"
        ),
    );
    let port = free_port();
    let mut arguments: Vec<OsString> = vec![
        "--no-defaults".into(),
        "--bind-address=127.0.0.1".into(),
        "--skip-name-resolve".into(),
        "--max-connections=400".into(),
        "--innodb-flush-log-at-trx-commit=0".into(),
        "--innodb-buffer-pool-size=64M".into(),
        format!("--port={port}").into(),
        format!("--datadir={}", folder.path().join("data").display()).into(),
        format!("--socket={}", folder.path().join("socket").display()).into(),
        format!("--pid-file={}", folder.path().join("pid").display()).into(),
        format!("--init-file={}", start.display()).into(),
    ];
    arguments.extend(more.iter().map(Into::into));
    Server {
        engine,
        url: format!("mysql://admin:{PASSWORD}@127.0.0.1:{port}/mysql"),
        owner,
        program,
        arguments,
        running: None,
        folder,
        namespace: None,
    }
}

/// Returns a port that no other call returns, as the system may choose one again that is not in use yet.
pub fn free_port() -> u16 {
    static CHOSEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut chosen = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut ports = iter::repeat_with(|| TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port());
    ports.find(|port| chosen.insert(*port)).unwrap()
}
