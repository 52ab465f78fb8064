//! From a URL to the options of its driver, set one by one: the drivers' own URL parsers have no say.

use std::sync::atomic::{AtomicUsize, Ordering};

use sea_orm::sqlx::{
    mysql::{MySqlConnectOptions, MySqlSslMode},
    postgres::{PgConnectOptions, PgSslMode},
    sqlite::SqliteConnectOptions,
};

use super::{
    Address, DatabaseUrl,
    engine::Engine,
    server::{Host, ServerAddress},
    sqlite::{FileAddress, OpenMode},
    tls::TlsMode,
};

/// The options of the driver that the URL asks for.
pub(crate) enum DriverOptions {
    Sqlite(SqliteConnectOptions),
    Postgres(PgConnectOptions),
    MySql(MySqlConnectOptions),
}

impl DatabaseUrl {
    pub(crate) fn driver_options(&self) -> DriverOptions {
        match &self.0 {
            Address::File(file) => DriverOptions::Sqlite(sqlite(file)),
            Address::Server(address) if address.engine == Engine::Postgres => {
                DriverOptions::Postgres(postgres(address))
            }
            Address::Server(address) => DriverOptions::MySql(mysql(address)),
        }
    }
}

fn sqlite(file: &FileAddress) -> SqliteConnectOptions {
    static IN_MEMORY: AtomicUsize = AtomicUsize::new(0);
    let options = if let Some(path) = &file.file {
        SqliteConnectOptions::new().filename(path)
    } else {
        // Each anonymous database has a separate name, by which the connections of one pool share it.
        let number = IN_MEMORY.fetch_add(1, Ordering::Relaxed);
        SqliteConnectOptions::new().filename(format!("file:orm-pool-in-memory-{number}"))
    };
    let options = options
        .read_only(file.mode == OpenMode::ReadOnly)
        .create_if_missing(file.mode == OpenMode::Create)
        .in_memory(file.mode == OpenMode::Memory)
        .shared_cache(file.shared_cache.unwrap_or(file.mode == OpenMode::Memory))
        .immutable(file.immutable);
    match &file.vfs {
        Some(vfs) => options.vfs(vfs.clone()),
        None => options,
    }
}

fn postgres(address: &ServerAddress) -> PgConnectOptions {
    // The driver reads libpq's variables into new options, leniently. Each value is set here to what the URL says, with
    // the variables under it, read strictly.
    let mut options = PgConnectOptions::new_without_pgpass()
        .port(address.port)
        .database(&address.database)
        .password(address.password.as_deref().unwrap_or_default())
        .ssl_mode(match address.tls.mode {
            TlsMode::Disable => PgSslMode::Disable,
            TlsMode::Prefer => PgSslMode::Prefer,
            TlsMode::Require => PgSslMode::Require,
            TlsMode::VerifyFull => PgSslMode::VerifyFull,
        });
    options = match &address.host {
        Host::Name(host) => options.host(host),
        Host::Socket(folder) => options.host("localhost").socket(folder),
    };
    options = match &address.tls.authority {
        Some(authority) => options.ssl_root_cert(&authority.path),
        None => options.ssl_root_cert_from_pem(Vec::new()),
    };
    if let (Some(certificate), Some(key)) = (&address.tls.certificate, &address.tls.key) {
        options = options.ssl_client_cert(&certificate.path).ssl_client_key(&key.path);
    }
    if let Some(user) = &address.user {
        options = options.username(user);
    }
    if let Some(name) = &address.application_name {
        options = options.application_name(name);
    }
    if let Some(capacity) = address.statement_cache {
        options = options.statement_cache_capacity(capacity);
    }
    if !address.session.is_empty() {
        options = options.options(address.session.iter().map(|(name, value)| (name, value)));
    }
    options
}

fn mysql(address: &ServerAddress) -> MySqlConnectOptions {
    let mut options =
        MySqlConnectOptions::new().port(address.port).database(&address.database).ssl_mode(match address.tls.mode {
            TlsMode::Disable => MySqlSslMode::Disabled,
            TlsMode::Prefer => MySqlSslMode::Preferred,
            TlsMode::Require => MySqlSslMode::Required,
            TlsMode::VerifyFull => MySqlSslMode::VerifyIdentity,
        });
    options = match &address.host {
        Host::Name(host) => options.host(host),
        Host::Socket(socket) => options.socket(socket),
    };
    if let Some(authority) = &address.tls.authority {
        options = options.ssl_ca(&authority.path);
    }
    if let (Some(certificate), Some(key)) = (&address.tls.certificate, &address.tls.key) {
        options = options.ssl_client_cert(&certificate.path).ssl_client_key(&key.path);
    }
    if let Some(user) = &address.user {
        options = options.username(user);
    }
    if let Some(password) = &address.password {
        options = options.password(password);
    }
    if let Some(capacity) = address.statement_cache {
        options = options.statement_cache_capacity(capacity);
    }
    options
}
