use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::server;

/// The database engines that the service supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    Postgres,
    MariaDb,
    MySql,
}

impl Engine {
    pub const ALL: [Self; 4] = [Self::Sqlite, Self::Postgres, Self::MariaDb, Self::MySql];

    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::MariaDb => "mariadb",
            Self::MySql => "mysql",
        }
    }

    /// What is missing to test this engine, and how to install it; `None` if nothing is missing.
    pub fn missing(self) -> Option<&'static str> {
        match self {
            Self::Postgres if self.given_url().is_none() && program(server::POSTGRES).is_none() => {
                Some("no server found; install postgresql, or set TEST_POSTGRES_URL to a superuser's URL")
            }
            Self::MariaDb if self.given_url().is_none() && program(server::MARIADBD).is_none() => {
                Some("no server found; install mariadb-server, or set TEST_MARIADB_URL to an administrator's URL")
            }
            Self::MySql if self.given_url().is_none() && mysqld().is_none() => {
                Some("no server found; run scripts/get-mysql, or set TEST_MYSQL_URL to an administrator's URL")
            }
            _ => None,
        }
    }

    /// The URL of a server to use instead of starting one.
    pub fn given_url(self) -> Option<String> {
        let name = match self {
            Self::Sqlite => return None,
            Self::Postgres => "TEST_POSTGRES_URL",
            Self::MariaDb => "TEST_MARIADB_URL",
            Self::MySql => "TEST_MYSQL_URL",
        };
        env::var(name).ok().filter(|url| !url.is_empty())
    }

    /// Whether it is MariaDB or MySQL, which support mostly the same SQL.
    pub fn is_mysql_like(self) -> bool {
        matches!(self, Self::MariaDb | Self::MySql)
    }

    /// The server's sessions as a table with `id`, `user`, `db` and `info`.
    pub fn sessions(self) -> &'static str {
        match self {
            Self::Sqlite | Self::Postgres => panic!("{} has no process list", self.name()),
            Self::MariaDb => "information_schema.processlist AS sessions",
            // MySQL's information_schema.processlist fails while a statement with binary values runs (3854).
            Self::MySql => {
                "(SELECT processlist_id AS id, processlist_user AS user, processlist_db AS db, processlist_info AS info \
                 FROM performance_schema.threads WHERE type = 'FOREGROUND') AS sessions"
            }
        }
    }

    /// The URL of the server's administrative database, for an administrator.
    pub fn admin_url(self) -> String {
        self.given_url().unwrap_or_else(|| server::url(self))
    }
}

/// Finds a program in the PATH or in Debian's folders for servers.
pub fn program(name: &str) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    folders.push("/usr/sbin".into());
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The MySQL server: an installed one, otherwise the one that `scripts/get-mysql` unpacks. MariaDB's packages install a
/// `mysqld` that is MariaDB, so the version is checked.
pub fn mysqld() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/mysql/mysqld");
        [program("mysqld"), Some(unpacked)].into_iter().flatten().find(|path| {
            let version = Command::new(path).arg("--version").output();
            version.is_ok_and(|output| {
                output.status.success() && !String::from_utf8_lossy(&output.stdout).contains("MariaDB")
            })
        })
    };
    FOUND.get_or_init(find).as_deref()
}
