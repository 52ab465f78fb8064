//! MySQL and MariaDB: from a URL to an open connection.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

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
    session::{Found, Limit, Session, digest, warn_of_loss, whole_millis},
    socket::SocketFinder,
    url::{Host, ServerAddress, TlsMode},
};

/// The rules that MySQL goes by, as a whole: what does not fit is refused.
const SQL_MODE: &str = "STRICT_ALL_TABLES,STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ZERO_DATE,NO_ZERO_IN_DATE,\
                        NO_ENGINE_SUBSTITUTION,PIPES_AS_CONCAT";
/// How long a migration waits for a table lock.
const SCHEMA_LOCK_SECONDS: u64 = 15;
/// Bytes of a value that MySQL sorts by: 512 characters.
const LONGEST_SORTED: u32 = 2048;

/// Opens connections to a MySQL or MariaDB server.
#[derive(Clone)]
pub(super) struct MySqlConnector {
    address: MySqlConnectOptions,
    sockets: Arc<SocketFinder>,
}

impl MySqlConnector {
    pub(super) fn new(server: &ServerAddress, own: &DriverOptions) -> Self {
        // The driver sets nothing: `set_session` sets all of it in one round trip.
        let address = driver_options::apply(connect_options(server), own.map_mysql.as_ref())
            .pipes_as_concat(false)
            .no_engine_substitution(false)
            .timezone(None)
            .set_names(false);
        let sockets = Arc::new(SocketFinder::new(address.get_port()));
        Self { address, sockets }
    }

    /// The same connections, each of which keeps so many prepared statements.
    pub(super) fn with_statement_cache(&self, capacity: usize) -> Self {
        let address = self.address.clone().statement_cache_capacity(capacity);
        Self { address, sockets: Arc::clone(&self.sockets) }
    }

    pub(super) async fn open(&self, session: &Session) -> Result<DriverConnection, sqlx::Error> {
        let (opened, socket) = self.sockets.find(self.address.connect()).await;
        let mut opened = opened?;
        set_session(session, &mut opened, &self.address).await?;
        let found = find_session(&mut opened).await?;
        Ok(DriverConnection::new(Driver::MySql(opened), socket).with_session(found))
    }

    /// A separate SeaORM connection.
    pub(super) fn database_connection(
        &self,
        session: Session,
        acquire: Duration,
        own: Arc<DriverOptions>,
    ) -> DatabaseConnection {
        let address = self.address.clone();
        let pool = MySqlPoolOptions::new().max_connections(1).acquire_timeout(acquire).after_connect(move |raw, _| {
            let (session, address, own) = (session.clone(), address.clone(), Arc::clone(&own));
            Box::pin(async move {
                set_session(&session, raw, &address).await?;
                own.run_after_connect(DriverMut::MySql(raw)).await
            })
        });
        SqlxMySqlConnector::from_sqlx_mysql_pool(pool.connect_lazy_with(self.address.clone()))
    }
}

/// The options of the driver that the URL asks for, set one by one: the driver's own URL parser is not used.
pub(super) fn connect_options(server: &ServerAddress) -> MySqlConnectOptions {
    let mut options =
        MySqlConnectOptions::new().port(server.port).database(&server.database).ssl_mode(match server.tls.mode {
            TlsMode::Disable => MySqlSslMode::Disabled,
            TlsMode::Prefer => MySqlSslMode::Preferred,
            TlsMode::Require => MySqlSslMode::Required,
            TlsMode::VerifyFull => MySqlSslMode::VerifyIdentity,
        });
    options = match &server.host {
        Host::Name(host) => options.host(host),
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

/// Sets a session, in one round trip.
async fn set_session(
    session: &Session,
    raw: &mut MySqlConnection,
    address: &MySqlConnectOptions,
) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(session_settings(session, address))).execute(&mut *raw).await?;
    if !session.is_unknown() {
        return Ok(());
    }
    let sql = "SELECT CAST(0 /*M!100101 + @@max_statement_time * 1000 */ /*!50720 + @@max_execution_time */ AS SIGNED), \
               CAST(@@max_connections AS SIGNED), \
               CAST(@@innodb_flush_log_at_trx_commit AS SIGNED)";
    let row = sqlx::raw_sql(sql).fetch_one(raw).await?;
    let (limit, connections, flushes): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    session.note(Found {
        statement_timeout: Duration::from_millis(limit.unsigned_abs()),
        lock_timeout: Duration::ZERO,
        max_connections: u32::try_from(connections).ok(),
        pooler: None,
    });
    if flushes != 1 {
        warn_of_loss("innodb_flush_log_at_trx_commit", &flushes.to_string());
    }
    Ok(())
}

/// MariaDB and MySQL have other names for some things; each reads its own executable comments only.
fn session_settings(session: &Session, address: &MySqlConnectOptions) -> String {
    let collation = address.get_collation().map(|name| format!(" COLLATE {name}")).unwrap_or_default();
    let limit = match session.limit() {
        Limit::Default => String::new(),
        // Later statements on a table queue behind a migration that waits for its lock.
        Limit::Never => format!(
            ", {} /*M!100101 , max_statement_time = 0 */ /*!50720 , max_execution_time = 0 */",
            at_most("lock_wait_timeout", SCHEMA_LOCK_SECONDS)
        ),
        Limit::After(limit) => {
            // The limit of a wait for a lock is whole seconds, and above the statement's own, so that this comes first.
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
         max_sort_length = CAST(GREATEST(@@SESSION.max_sort_length, {LONGEST_SORTED}) AS UNSIGNED), \
         default_storage_engine = 'InnoDB' \
         /*M!100101 , tx_isolation = 'REPEATABLE-READ' */ /*!50720 , transaction_isolation = 'REPEATABLE-READ' */ {limit}",
        charset = address.get_charset(),
    )
}

/// Lowers a setting. To MySQL the smaller of two whole numbers may be a decimal, hence the cast.
fn at_most(setting: &str, most: u64) -> String {
    format!("{setting} = CAST(LEAST(@@SESSION.{setting}, {most}) AS UNSIGNED)")
}

/// What the server says of a session. MariaDB limits every statement itself (`max_statement_time`).
async fn find_session(raw: &mut MySqlConnection) -> Result<ServerSession, sqlx::Error> {
    let sql = "SELECT CAST(CONNECTION_ID() AS UNSIGNED), \
               CONCAT(@@hostname, ':', @@port, ':', @@server_id /*!50720 , @@server_uuid */), \
               CAST(0 /*!50720 + 1 */ AS SIGNED), \
               CAST(@@max_allowed_packet AS UNSIGNED), CAST(@@innodb_lock_wait_timeout AS UNSIGNED)";
    let row = raw.fetch_one(sql).await?;
    let (number, server, is_mysql): (u64, String, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let (largest, lock_timeout): (u64, u64) = (row.try_get(3)?, row.try_get(4)?);
    Ok(ServerSession {
        id: NonZeroU64::new(number).map(|number| SessionId { server: digest(&server), number }),
        is_limited_by_pool: is_mysql == 1,
        largest: Some(usize::try_from(largest).unwrap_or(usize::MAX)),
        lock_timeout: Duration::from_secs(lock_timeout),
    })
}
