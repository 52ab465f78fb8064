//! Opens connections to PostgreSQL.

use std::{borrow::Cow, num::NonZeroU64, sync::Arc, time::Duration};

use sea_orm::{
    DatabaseConnection, SqlxPostgresConnector,
    sqlx::{
        self, AssertSqlSafe, ConnectOptions as _, Row as _,
        postgres::{PgConnectOptions, PgConnection, PgPoolOptions, PgSslMode},
    },
};

use super::{
    driver::{Driver, DriverConnection, DriverMut, ServerSession, SessionId},
    driver_options::{self, DriverOptions},
    find_pooler,
    session::{ConnectParams, ServerInfo, Session, StatementTimeout, digest, warn_not_durable, whole_millis},
    socket::SocketFinder,
    url::{Host, HostAddress, ServerAddress, TlsMode},
};
use crate::{
    error_kind::{DbErrorKind, PoolError},
    options::PoolOptions,
};

/// Opens connections to a PostgreSQL server.
#[derive(Clone)]
pub(super) struct PostgresConnector {
    options: PgConnectOptions,
    sockets: Arc<SocketFinder>,
}

impl PostgresConnector {
    pub(super) fn new(
        server: &ServerAddress,
        host: &HostAddress,
        pool_options: &PoolOptions,
        driver_options: &DriverOptions,
        sockets: &Arc<SocketFinder>,
    ) -> Self {
        let mut options = connect_options(server, host);
        if options.get_application_name().is_none() {
            // The URL takes precedence.
            options = options.application_name(&pool_options.application_name);
        }
        // The pool does not need this setting, and poolers reject startup parameters that they do not know.
        let options = driver_options::apply(options.extra_float_digits(None), driver_options.map_postgres.as_ref());
        Self { options, sockets: Arc::clone(sockets) }
    }

    pub(super) async fn open(&self, params: ConnectParams<'_>) -> Result<DriverConnection, sqlx::Error> {
        let session = params.session;
        let options = self.options_with(params.password);
        let (opened, socket) = self.sockets.find(options.get_port(), options.connect()).await;
        let mut opened = opened?;
        let id = set_session(session, &mut opened, &options).await?;
        if params.must_accept_writes {
            check_writable(&mut opened).await?;
        }
        let settings = session.pooler().map(|_| session_settings(session, true).into());
        let server_session = ServerSession { id, lock_timeout: session.lock_timeout(), ..ServerSession::default() };
        Ok(DriverConnection::new(Driver::Postgres(opened, settings), socket).with_session(server_session))
    }

    fn options_with(&self, password: Option<&str>) -> Cow<'_, PgConnectOptions> {
        match password {
            Some(password) => Cow::Owned(self.options.clone().password(password)),
            None => Cow::Borrowed(&self.options),
        }
    }

    /// Returns a separate SeaORM connection.
    pub(super) fn database_connection(
        &self,
        session: Session,
        password: Option<&str>,
        acquire: Duration,
        driver_options: Arc<DriverOptions>,
    ) -> DatabaseConnection {
        let options = self.options_with(password).into_owned();
        let to = options.clone();
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(acquire).after_connect(move |raw, _| {
            let (session, options, driver_options) = (session.clone(), options.clone(), Arc::clone(&driver_options));
            Box::pin(async move {
                set_session(&session, raw, &options).await?;
                driver_options.run_after_connect(DriverMut::Postgres(raw)).await
            })
        });
        SqlxPostgresConnector::from_sqlx_postgres_pool(pool.connect_lazy_with(to))
    }
}

/// Translates the address into driver options, one by one: the driver's URL parser is not used.
pub(super) fn connect_options(server: &ServerAddress, host: &HostAddress) -> PgConnectOptions {
    // The driver initializes new options from libpq's variables, leniently. So each value is set here from the URL,
    // which falls back to the same variables, parsed strictly.
    let mut options = PgConnectOptions::new_without_pgpass()
        .port(host.port)
        .database(&server.database)
        .password(server.password.as_deref().unwrap_or_default())
        .ssl_mode(match server.tls.mode {
            TlsMode::Disable => PgSslMode::Disable,
            TlsMode::Prefer => PgSslMode::Prefer,
            TlsMode::Require => PgSslMode::Require,
            TlsMode::VerifyFull => PgSslMode::VerifyFull,
        });
    options = match &host.host {
        Host::Name(name) => options.host(name),
        // Servers refuse TLS on a socket.
        Host::Socket(directory) => options.host("localhost").socket(directory).ssl_mode(PgSslMode::Disable),
    };
    options = match &server.tls.authority {
        Some(authority) => options.ssl_root_cert(&authority.path),
        None => options.ssl_root_cert_from_pem(Vec::new()),
    };
    if let (Some(certificate), Some(key)) = (&server.tls.certificate, &server.tls.key) {
        options = options.ssl_client_cert(&certificate.path).ssl_client_key(&key.path);
    }
    if let Some(user) = &server.user {
        options = options.username(user);
    }
    if let Some(name) = &server.application_name {
        options = options.application_name(name);
    }
    if let Some(capacity) = server.statement_cache {
        options = options.statement_cache_capacity(capacity);
    }
    if !server.session.is_empty() {
        options = options.options(server.session.iter().map(|(name, value)| (name, value)));
    }
    options
}

/// Applies the session settings, unless a pooler keeps no session, and returns the session's id. The first connection
/// also records the server's limits.
async fn set_session(
    session: &Session,
    connection: &mut PgConnection,
    options: &PgConnectOptions,
) -> Result<Option<SessionId>, sqlx::Error> {
    let is_first = session.needs_probe();
    let pooler = if is_first { find_pooler::find(connection, options).await? } else { session.pooler() };
    let mut id = None;
    if pooler.is_none() {
        let sql = format!(
            "{}, pg_backend_pid()::bigint AS pid, extract(epoch FROM pg_postmaster_start_time())::text AS server",
            session_settings(session, false)
        );
        let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(&mut *connection).await?;
        let (pid, server): (i64, String) = (row.try_get("pid")?, row.try_get("server")?);
        id = NonZeroU64::new(pid.unsigned_abs()).map(|number| SessionId { server: digest(server), number });
    }
    if !is_first {
        return Ok(id);
    }
    let settings = if pooler.is_some() { session_settings(session, true) } else { "SELECT".to_owned() };
    sqlx::raw_sql(AssertSqlSafe(format!("BEGIN; {settings}"))).execute(&mut *connection).await?;
    let sql = "SELECT s.setting::bigint, l.setting::bigint, \
               current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint, \
               current_setting('fsync') || '/' || current_setting('full_page_writes') \
               FROM pg_settings s, pg_settings l WHERE s.name = 'statement_timeout' AND l.name = 'lock_timeout'";
    let row = sqlx::raw_sql(sql).fetch_one(&mut *connection).await?;
    sqlx::raw_sql("ROLLBACK").execute(connection).await?;
    let (limit, lock, connections, flushes): (i64, i64, i64, String) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
    session.record(ServerInfo {
        statement_timeout: Duration::from_millis(limit.unsigned_abs()),
        lock_timeout: Duration::from_millis(lock.unsigned_abs()),
        max_connections: u32::try_from(connections).ok(),
        pooler,
    });
    if flushes != "on/on" {
        warn_not_durable("fsync/full_page_writes", &flushes);
    }
    Ok(id)
}

/// Checks that the server accepts writes, as libpq does for `target_session_attrs=read-write`.
async fn check_writable(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let sql = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'";
    let row = sqlx::raw_sql(sql).fetch_one(connection).await?;
    if row.try_get(0)? {
        return Err(PoolError::with_kind(DbErrorKind::ReadOnly, "the server is a replica"));
    }
    if row.try_get(1)? {
        return Err(PoolError::with_kind(DbErrorKind::ReadOnly, "default_transaction_read_only is on"));
    }
    Ok(())
}

/// Returns the statement that applies the settings to the session or, if `is_local`, to the open transaction.
fn session_settings(session: &Session, is_local: bool) -> String {
    let limit = match session.requested_timeout() {
        StatementTimeout::ServerDefault => String::new(),
        StatementTimeout::Unlimited => format!(", set_config('statement_timeout', '0', {is_local})"),
        StatementTimeout::After(limit) => {
            format!(", set_config('statement_timeout', '{}', {is_local})", whole_millis(limit))
        }
    };
    format!(
        "SELECT set_config('default_transaction_isolation', 'read committed', {is_local}), \
         set_config('synchronous_commit', \
         coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), {is_local}), \
         set_config('transform_null_equals', 'off', {is_local}), \
         set_config('standard_conforming_strings', 'on', {is_local}), \
         set_config('exit_on_error', 'off', {is_local}){limit}"
    )
}
