use std::{path::PathBuf, process::Command};

use tempfile::TempDir;

use crate::{Kept, Owner, PASSWORD, eventually, free_port, program};

/// A PgBouncer of the case's own, before a server.
pub struct PgBouncer {
    url: url::Url,
    _kept: Kept,
    _folder: TempDir,
}

/// A PgBouncer that this machine has, and its version.
#[derive(Clone, Debug)]
pub struct Version {
    program: PathBuf,
    pub number: (u32, u32),
}

/// Every PgBouncer that is here: the installed one, and the newer one of `scripts/get-pgbouncer`.
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
    /// Whether it keeps the prepared statements of its clients apart.
    pub fn keeps_statements_apart(&self) -> bool {
        self.number >= (1, 21)
    }

    /// Starts it in this mode (`session`, `transaction`) before the server of a URL, with more lines of configuration.
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
        let mut command = owner.kept(&self.program, folder.path(), "INT");
        command.arg(&configuration);
        let kept = Kept::start(command);
        url.set_port(Some(port)).unwrap();
        eventually("PgBouncer listens", || async { tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok() })
            .await;
        PgBouncer { url, _kept: kept, _folder: folder }
    }
}

impl PgBouncer {
    /// The URL of the database behind it.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }
}
