//! Opens connections to MySQL and MariaDB.

use std::{borrow::Cow, collections::HashMap, num::NonZeroU64, sync::Arc, time::Duration};

use sea_orm::{
    DatabaseConnection, SqlxMySqlConnector,
    sqlx::{
        self, AssertSqlSafe, ConnectOptions as _, Executor as _, Row as _,
        mysql::{MySqlConnectOptions, MySqlConnection, MySqlPoolOptions, MySqlSslMode},
    },
};

use super::{
    driver::{Driver, DriverConnection, DriverMut, ServerSession, SessionId},
    driver_options::{self, DriverOptions},
    session::{ConnectParams, ServerInfo, Session, StatementTimeout, digest, warn_not_durable, whole_millis},
    socket::SocketFinder,
    url::{Host, HostAddress, ServerAddress, TlsMode},
};
use crate::error_kind::{DbErrorKind, PoolError};

/// The complete SQL mode: values that do not fit are rejected.
const SQL_MODE: &str = "STRICT_ALL_TABLES,STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ZERO_DATE,NO_ZERO_IN_DATE,\
                        NO_ENGINE_SUBSTITUTION,PIPES_AS_CONCAT";
/// How long a migration waits for a table lock.
const SCHEMA_LOCK_SECONDS: u64 = 15;
/// How many bytes of a value MySQL sorts by: 512 characters.
const MAX_SORT_LENGTH: u32 = 2048;

/// Opens connections to a MySQL or MariaDB server.
#[derive(Clone)]
pub(super) struct MySqlConnector {
    options: MySqlConnectOptions,
    sockets: Arc<SocketFinder>,
}

impl MySqlConnector {
    pub(super) fn new(
        server: &ServerAddress,
        host: &HostAddress,
        driver_options: &DriverOptions,
        sockets: &Arc<SocketFinder>,
    ) -> Self {
        // `set_session` applies all settings in one round trip, so the driver applies none.
        let options = driver_options::apply(connect_options(server, host), driver_options.map_mysql.as_ref())
            .pipes_as_concat(false)
            .no_engine_substitution(false)
            .timezone(None)
            .set_names(false);
        Self { options, sockets: Arc::clone(sockets) }
    }

    /// Returns a copy whose connections cache this many prepared statements.
    pub(super) fn with_statement_cache(&self, capacity: usize) -> Self {
        let options = self.options.clone().statement_cache_capacity(capacity);
        Self { options, sockets: Arc::clone(&self.sockets) }
    }

    pub(super) async fn open(&self, params: ConnectParams<'_>) -> Result<DriverConnection, sqlx::Error> {
        let session = params.session;
        let options = self.options_with(params.password);
        let (opened, socket) = self.sockets.find(options.get_port(), options.connect()).await;
        let mut opened = opened?;
        set_session(session, &mut opened, &options).await?;
        let server_session = read_session(&mut opened).await?;
        if params.must_accept_writes {
            check_writable(&mut opened).await?;
        }
        Ok(DriverConnection::new(Driver::MySql(opened), socket).with_session(server_session))
    }

    fn options_with(&self, password: Option<&str>) -> Cow<'_, MySqlConnectOptions> {
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
        let pool = MySqlPoolOptions::new().max_connections(1).acquire_timeout(acquire).after_connect(move |raw, _| {
            let (session, options, driver_options) = (session.clone(), options.clone(), Arc::clone(&driver_options));
            Box::pin(async move {
                set_session(&session, raw, &options).await?;
                driver_options.run_after_connect(DriverMut::MySql(raw)).await
            })
        });
        SqlxMySqlConnector::from_sqlx_mysql_pool(pool.connect_lazy_with(to))
    }
}

/// Translates the address into driver options, one by one: the driver's URL parser is not used.
pub(super) fn connect_options(server: &ServerAddress, host: &HostAddress) -> MySqlConnectOptions {
    let mut options =
        MySqlConnectOptions::new().port(host.port).database(&server.database).ssl_mode(match server.tls.mode {
            TlsMode::Disable => MySqlSslMode::Disabled,
            TlsMode::Prefer => MySqlSslMode::Preferred,
            TlsMode::Require => MySqlSslMode::Required,
            TlsMode::VerifyFull => MySqlSslMode::VerifyIdentity,
        });
    options = match &host.host {
        Host::Name(name) => options.host(name),
        Host::Socket(socket) => options.socket(socket),
    };
    if let Some(authority) = &server.tls.authority {
        options = options.ssl_ca(&authority.path);
    }
    if let (Some(certificate), Some(key)) = (&server.tls.certificate, &server.tls.key) {
        options = options.ssl_client_cert(&certificate.path).ssl_client_key(&key.path);
    }
    if let Some(user) = &server.user {
        options = options.username(user);
    }
    if let Some(password) = &server.password {
        options = options.password(password);
    }
    if let Some(capacity) = server.statement_cache {
        options = options.statement_cache_capacity(capacity);
    }
    options
}

/// Applies the session settings in one round trip. The first connection also records the server's limits.
async fn set_session(
    session: &Session,
    connection: &mut MySqlConnection,
    options: &MySqlConnectOptions,
) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(session_settings(session, options))).execute(&mut *connection).await?;
    if !session.needs_probe() {
        return Ok(());
    }
    let sql = "SELECT CAST(0 /*M!100101 + @@max_statement_time * 1000 */ /*!50720 + @@max_execution_time */ AS SIGNED), \
               CAST(@@max_connections AS SIGNED), \
               CAST(@@innodb_flush_log_at_trx_commit AS SIGNED)";
    let row = sqlx::raw_sql(sql).fetch_one(connection).await?;
    let (limit, connections, flushes): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    session.record(ServerInfo {
        statement_timeout: Duration::from_millis(limit.unsigned_abs()),
        lock_timeout: Duration::ZERO,
        max_connections: u32::try_from(connections).ok(),
        pooler: None,
    });
    if flushes != 1 {
        warn_not_durable("innodb_flush_log_at_trx_commit", &flushes.to_string());
    }
    Ok(())
}

/// Checks that the server accepts writes: it is not `read_only`, and if it is a node of a Galera cluster, it is ready. A
/// node without a quorum accepts connections, but rejects all statements on tables.
async fn check_writable(connection: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    // A number; since MariaDB 12 a word: OFF, ON, NO_LOCK or NO_LOCK_NO_ADMIN.
    let read_only: String =
        sqlx::raw_sql("SELECT CAST(@@GLOBAL.read_only AS CHAR)").fetch_one(&mut *connection).await?.try_get(0)?;
    if read_only != "0" && read_only != "OFF" {
        return Err(PoolError::with_kind(DbErrorKind::ReadOnly, "read_only is on"));
    }
    // Every MariaDB has the status variables; the provider is empty if it is not a node.
    let sql = "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_provider_name', 'wsrep_ready')";
    let mut status = HashMap::<String, String>::new();
    for row in sqlx::raw_sql(sql).fetch_all(connection).await? {
        status.insert(row.try_get(0)?, row.try_get(1)?);
    }
    let is_node = status.get("wsrep_provider_name").is_some_and(|provider| !provider.is_empty());
    if is_node && status.get("wsrep_ready").is_some_and(|ready| ready != "ON") {
        return Err(PoolError::with_kind(DbErrorKind::NotAccepting, "the node is not ready (wsrep_ready is off)"));
    }
    Ok(())
}

/// MariaDB and MySQL name some settings differently, so each gets its own in an executable comment.
fn session_settings(session: &Session, options: &MySqlConnectOptions) -> String {
    let collation = options.get_collation().map(|name| format!(" COLLATE {name}")).unwrap_or_default();
    let limit = match session.requested_timeout() {
        StatementTimeout::ServerDefault => String::new(),
        // Later statements on a table queue behind a migration that waits for its lock.
        StatementTimeout::Unlimited => format!(
            ", {} /*M!100101 , max_statement_time = 0 */ /*!50720 , max_execution_time = 0 */",
            at_most("lock_wait_timeout", SCHEMA_LOCK_SECONDS)
        ),
        StatementTimeout::After(limit) => {
            // Lock timeouts are in whole seconds, and longer than the statement timeout, so that the latter fires
            // first.
            let seconds = limit.as_secs() + u64::from(limit.subsec_nanos() > 0) + 1;
            format!(
                ", {}, {} /*M!100101 , max_statement_time = {} */ /*!50720 , max_execution_time = {} */",
                at_most("innodb_lock_wait_timeout", seconds),
                at_most("lock_wait_timeout", seconds),
                limit.as_secs_f64(),
                whole_millis(limit),
            )
        }
    };
    format!(
        "SET NAMES {charset}{collation}, time_zone = '+00:00', autocommit = 1, completion_type = 'NO_CHAIN', \
         sql_mode = '{SQL_MODE}', \
         sql_select_limit = 18446744073709551615, sql_safe_updates = 0, sql_big_selects = 1, sql_auto_is_null = 0, \
         unique_checks = 1, foreign_key_checks = 1, \
         max_sort_length = CAST(GREATEST(@@SESSION.max_sort_length, {MAX_SORT_LENGTH}) AS UNSIGNED), \
         default_storage_engine = 'InnoDB' \
         /*M!100101 , tx_isolation = 'REPEATABLE-READ' */ /*!50720 , transaction_isolation = 'REPEATABLE-READ' */ {limit}",
        charset = options.get_charset(),
    )
}

/// Lowers a setting. The cast is needed because MySQL may return the smaller of two integers as a decimal.
fn at_most(setting: &str, most: u64) -> String {
    format!("{setting} = CAST(LEAST(@@SESSION.{setting}, {most}) AS UNSIGNED)")
}

/// Reads the session's id and limits. MariaDB enforces the statement timeout itself (`max_statement_time`).
async fn read_session(connection: &mut MySqlConnection) -> Result<ServerSession, sqlx::Error> {
    let sql = "SELECT CAST(CONNECTION_ID() AS UNSIGNED), \
               CONCAT(@@hostname, ':', @@port, ':', @@server_id /*!50720 , @@server_uuid */), \
               CAST(0 /*!50720 + 1 */ AS SIGNED), \
               CAST(@@max_allowed_packet AS UNSIGNED), CAST(@@innodb_lock_wait_timeout AS UNSIGNED)";
    let row = connection.fetch_one(sql).await?;
    let (number, server, is_mysql): (u64, String, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let (max_packet, lock_timeout): (u64, u64) = (row.try_get(3)?, row.try_get(4)?);
    Ok(ServerSession {
        id: NonZeroU64::new(number).map(|number| SessionId { server: digest(&server), number }),
        pool_enforces_timeout: is_mysql == 1,
        max_statement_size: Some(usize::try_from(max_packet).unwrap_or(usize::MAX)),
        lock_timeout: Duration::from_secs(lock_timeout),
    })
}
