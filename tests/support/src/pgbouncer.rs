use std::{path::PathBuf, process::Command};

use tempfile::TempDir;

use crate::{ManagedProcess, Owner, PASSWORD, eventually, free_port, program};

/// A PgBouncer process in front of a server.
pub struct PgBouncer {
    url: url::Url,
    _process: ManagedProcess,
    _folder: TempDir,
}

/// An installed PgBouncer and its version.
#[derive(Clone, Debug)]
pub struct Version {
    program: PathBuf,
    pub number: (u32, u32),
}

/// Every PgBouncer of this machine: the installed one, and the newer one that `scripts/get-pgbouncer` unpacks.
pub fn pgbouncers() -> Vec<Version> {
    let unpacked = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/pgbouncer/pgbouncer"));
    let programs = program("pgbouncer").into_iter().chain(Some(unpacked).filter(|path| path.is_file()));
    programs
        .map(|program| {
            let output = Command::new(&program).arg("--version").output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let number = text.split_whitespace().nth(1).unwrap_or_else(|| panic!("not a version: {text:?}"));
            let mut parts = number.split('.').map(|part| part.parse().unwrap());
            Version { number: (parts.next().unwrap(), parts.next().unwrap()), program }
        })
        .collect()
}

impl Version {
    /// Whether it tracks the prepared statements of each client (from 1.21 on).
    pub fn keeps_statements_apart(&self) -> bool {
        self.number >= (1, 21)
    }

    /// Starts it in this pool mode (`session`, `transaction`) in front of the server of a URL, with extra configuration
    /// lines.
    pub async fn before(&self, url: &str, mode: &str, more: &[&str]) -> PgBouncer {
        let owner = Owner::named("postgres");
        let folder = owner.folder();
        let mut url = url::Url::parse(url).unwrap();
        let (host, server, port) = (url.host_str().unwrap(), url.port().unwrap(), free_port());
        let at = folder.path().display();
        let users = folder.path().join("users.txt");
        owner.write(&users, &format!("\"{}\" \"{}\"\n", url.username(), url.password().unwrap_or(PASSWORD)));
        let configuration = folder.path().join("pgbouncer.ini");
        let statements = if self.keeps_statements_apart() { "max_prepared_statements = 200" } else { "" };
        let more = more.join("\n");
        owner.write(
            &configuration,
            &format!(
                "[databases]\n* = host={host} port={server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
                 unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\npool_mode = {mode}\nmax_client_conn = 300\n\
                 default_pool_size = 8\nlogfile = {at}/log\npidfile = {at}/pid\n{statements}\n{more}\n",
                users.display()
            ),
        );
        let mut command = owner.managed_command(&self.program, folder.path(), "INT");
        command.arg(&configuration);
        let process = ManagedProcess::start(command);
        url.set_port(Some(port)).unwrap();
        eventually("PgBouncer listens", || async { tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok() })
            .await;
        PgBouncer { url, _process: process, _folder: folder }
    }
}

impl PgBouncer {
    /// The URL of the database through PgBouncer.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }
}
