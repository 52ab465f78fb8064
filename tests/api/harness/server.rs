//! Private servers of the run: in a temporary folder, on a free port, gone at the end.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use tempfile::TempDir;

use super::{Engine, engine::program};

pub const POSTGRES: &str = "postgres";
pub const MARIADBD: &str = "mariadbd";
const PASSWORD: &str = "secret";

struct Server {
    engine: Engine,
    url: String,
    keeper: Child,
    // The keeper ends the server when this pipe closes, however this process ends.
    leash: Option<ChildStdin>,
    _folder: TempDir,
}

static SERVERS: Mutex<Vec<Server>> = Mutex::new(Vec::new());

/// The administrator's URL of the engine's server, which is started if it does not run yet.
pub fn url(engine: Engine) -> String {
    let mut servers = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = servers.iter().find(|server| server.engine == engine) {
        return server.url.clone();
    }
    let server = match engine {
        Engine::Sqlite => panic!("SQLite has no server"),
        Engine::Postgres => postgres(),
        Engine::MariaDb => mariadb(),
    };
    let url = server.url.clone();
    servers.push(server);
    url
}

/// Ends every server that was started.
pub fn end_all() {
    let mut servers = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
    for server in &mut *servers {
        server.leash = None;
    }
    for mut server in servers.drain(..) {
        server.keeper.wait().unwrap();
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
    let port = free_port();
    let server = owner
        .kept(&program(POSTGRES).unwrap(), folder.path(), "INT")
        .arg("-D")
        .arg(&data)
        .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
        .args(["-c", "max_connections=400", "-c", "shared_buffers=64MB"])
        .arg("-c")
        .arg(format!("unix_socket_directories={}", folder.path().display()))
        .spawn()
        .unwrap();
    let url = format!("postgres://postgres:{PASSWORD}@127.0.0.1:{port}/postgres");
    Server::ready(Engine::Postgres, url, server, folder)
}

fn mariadb() -> Server {
    let owner = Owner::named("mysql");
    let folder = owner.folder();
    let data = folder.path().join("data");
    let install = owner
        .command(&program("mariadb-install-db").unwrap(), folder.path())
        .arg("--no-defaults")
        .arg(format!("--datadir={}", data.display()))
        .args(["--auth-root-authentication-method=normal", "--skip-test-db"])
        .output()
        .unwrap();
    assert!(install.status.success(), "mariadb-install-db: {}", String::from_utf8_lossy(&install.stderr));
    let start = folder.path().join("start.sql");
    owner.write(
        &start,
        &format!(
            "CREATE USER 'admin'@'%' IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON *.* TO 'admin'@'%' WITH GRANT OPTION;\n"
        ),
    );
    let port = free_port();
    let server = owner
        .kept(&program(MARIADBD).unwrap(), folder.path(), "TERM")
        .args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve", "--skip-log-bin"])
        .args(["--max-connections=400", "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=64M"])
        .arg(format!("--port={port}"))
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--socket={}", folder.path().join("socket").display()))
        .arg(format!("--pid-file={}", folder.path().join("pid").display()))
        .arg(format!("--init-file={}", start.display()))
        .spawn()
        .unwrap();
    let url = format!("mysql://admin:{PASSWORD}@127.0.0.1:{port}/mysql");
    Server::ready(Engine::MariaDb, url, server, folder)
}

impl Server {
    fn ready(engine: Engine, url: String, mut keeper: Child, folder: TempDir) -> Self {
        let leash = keeper.stdin.take();
        let server = Self { engine, url, keeper, leash, _folder: folder };
        let url = server.url.clone();
        // On a thread of its own: whoever needs the server first may be inside a runtime.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(super::eventually("the server accepts connections", || async {
                sea_orm::Database::connect(url.as_str()).await.ok()
            }))
        })
        .join()
        .unwrap();
        server
    }
}

/// Who runs a server: servers refuse to run as root, so root hands theirs to the user that its package made.
struct Owner(Option<(u32, u32)>);

impl Owner {
    fn named(name: &str) -> Self {
        let root = fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
        if !root {
            return Self(None);
        }
        let accounts = fs::read_to_string("/etc/passwd").unwrap();
        let account = accounts.lines().find(|line| line.split(':').next() == Some(name));
        let mut fields = account.unwrap_or_else(|| panic!("there is no user {name}")).split(':').skip(2);
        let mut id = || fields.next().unwrap().parse().unwrap();
        Self(Some((id(), id())))
    }

    fn folder(&self) -> TempDir {
        let folder = tempfile::Builder::new().prefix("users-api-test-").tempdir().unwrap();
        self.own(folder.path());
        folder
    }

    fn write(&self, path: &Path, text: &str) {
        fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
        self.own(path);
    }

    fn own(&self, path: &Path) {
        if let Some((user, group)) = self.0 {
            chown(path, Some(user), Some(group)).unwrap();
        }
    }

    /// Like [`command`](Self::command), under a shell that ends the program by `signal` once our end of a pipe is
    /// closed. Thus no server outlives this process, even if that is killed.
    fn kept(&self, program: &Path, folder: &Path, signal: &str) -> Command {
        let script = format!("\"$@\" </dev/null & server=$!; cat >/dev/null; kill -{signal} $server; wait $server");
        let mut keeper = self.command(Path::new("/bin/sh"), folder);
        keeper.arg("-c").arg(script).arg("keeper").arg(program);
        keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        keeper
    }

    fn command(&self, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(folder).env("TMPDIR", folder).env("HOME", folder).env("LC_ALL", "C.UTF-8");
        if let Some((user, group)) = self.0 {
            command.uid(user).gid(group);
        }
        command
    }
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
