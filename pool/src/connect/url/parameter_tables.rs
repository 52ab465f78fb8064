//! Tables of known parameters, one per engine: what each means, or why it is refused.
//!
//! They contain the spellings of libpq and the MySQL client, of Prisma, JDBC, node-postgres, mysql2, PyMySQL and Go's
//! driver, and what hosting providers put into their URLs. Names are compared without case, `-` and `_`.

/// The meaning of a parameter, or the reason why it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Host,
    HostAddress,
    Port,
    User,
    Password,
    Database,
    Socket,
    /// Which of several hosts to connect to.
    TargetServer,
    /// In which order to try several hosts.
    LoadBalance,
    /// `sslmode`, with the values of both engines.
    SslMode,
    /// `ssl=true`, `ssl=no-verify`, `ssl={"rejectUnauthorized":true}`.
    Ssl,
    /// Prisma's `strict` or `accept_invalid_certs`.
    SslAccept,
    /// A flag that enables TLS.
    UseTls,
    /// A flag that requires TLS.
    RequireTls,
    /// A flag that requires verification of the certificate.
    VerifyCertificate,
    /// A flag that requires verification of the certificate and its host name.
    VerifyIdentity,
    CertificateAuthority,
    Certificate,
    Key,
    ChannelBinding,
    ApplicationName,
    /// `-c name=value ...`
    SessionOptions,
    /// `options[name]=value`
    SessionOption,
    /// A list of schemas in PostgreSQL's syntax.
    SearchPath,
    /// One schema.
    Schema,
    StatementCache,
    OpenMode,
    Cache,
    Immutable,
    Vfs,
    /// Has no effect on a client.
    Label,
    /// Accepted with one of these values, which describe what is done anyway; other values are not supported.
    Only(&'static [&'static str]),
    /// Not supported; the text says what to do instead.
    Refused(&'static str),
}

pub(super) type Table = &'static [(&'static str, Meaning)];

const ACQUIRE: Meaning = Meaning::Refused("set pool.acquire instead");
const MAX: Meaning = Meaning::Refused("set pool.max instead");
const IDLE: Meaning = Meaning::Refused("set pool.idle instead");
const LIFETIME: Meaning = Meaning::Refused("set pool.lifetime instead");
const STATEMENT_TIMEOUT: Meaning = Meaning::Refused("set pool.statement_timeout instead");
const KEEPALIVE: Meaning =
    Meaning::Refused("the pool checks its connections itself (pool.idle, pool.validate_after); remove it");
const STATEMENTS: Meaning = Meaning::Refused("set statement-cache-capacity instead");
const PKCS12: Meaning = Meaning::Refused("only PEM files are supported; set sslcert and sslkey, or sslrootcert");
const KEY_PASSWORD: Meaning =
    Meaning::Refused("encrypted keys are not supported; store the key unencrypted, mode 0600");
const REVOCATION: Meaning = Meaning::Refused("revocation lists are not supported; remove it if that is acceptable");
const OTHER_CLIENT: Meaning = Meaning::Refused("belongs to another client library and has no effect here; remove it");
const NO_AUTHENTICATION: Meaning =
    Meaning::Refused("this authentication method is not supported; remove it if a password is enough");
const FIXED: Meaning = Meaning::Refused("is fixed, because stored data depends on it; remove it");
const UTF8: Meaning = Meaning::Only(&["utf8mb4", "utf8", "utf-8", "unicode", "auto"]);
const UTC: Meaning = Meaning::Only(&["UTC", "Z", "+00:00", "GMT", "Etc/UTC"]);
const FLAG: Meaning = Meaning::Only(&["true", "false"]);
const TRUE: Meaning = Meaning::Only(&["true", "1"]);

/// PostgreSQL.
pub(super) const POSTGRES: Table = &[
    ("sslmode", Meaning::SslMode),
    ("ssl", Meaning::Ssl),
    ("sslaccept", Meaning::SslAccept),
    ("requiressl", Meaning::RequireTls),
    ("sslrootcert", Meaning::CertificateAuthority),
    ("ssl-ca", Meaning::CertificateAuthority),
    ("sslcert", Meaning::Certificate),
    ("sslkey", Meaning::Key),
    ("channel_binding", Meaning::ChannelBinding),
    ("host", Meaning::Host),
    ("hostaddr", Meaning::HostAddress),
    ("port", Meaning::Port),
    ("user", Meaning::User),
    ("password", Meaning::Password),
    ("dbname", Meaning::Database),
    ("application_name", Meaning::ApplicationName),
    ("options", Meaning::SessionOptions),
    ("search_path", Meaning::SearchPath),
    ("currentSchema", Meaning::SearchPath),
    ("schema", Meaning::Schema),
    ("statement-cache-capacity", Meaning::StatementCache),
    ("statement_cache_size", Meaning::StatementCache),
    ("pgbouncer", FLAG),
    ("uselibpqcompat", FLAG),
    ("supa", Meaning::Label),
    ("sslnegotiation", Meaning::Only(&["postgres"])),
    ("sslcompression", Meaning::Only(&["0", "false"])),
    ("sslsni", Meaning::Only(&["1", "true"])),
    ("sslcertmode", Meaning::Only(&["allow"])),
    ("ssl_min_protocol_version", Meaning::Only(&["TLSv1", "TLSv1.1", "TLSv1.2"])),
    ("ssl_max_protocol_version", Meaning::Only(&["TLSv1.3"])),
    ("gssencmode", Meaning::Only(&["disable", "prefer"])),
    ("target_session_attrs", Meaning::TargetServer),
    ("targetServerType", Meaning::TargetServer),
    ("load_balance_hosts", Meaning::LoadBalance),
    ("client_encoding", UTF8),
    ("timezone", UTC),
    ("replication", Meaning::Only(&["false", "off", "no", "0"])),
    ("sslpassword", KEY_PASSWORD),
    ("sslidentity", PKCS12),
    ("sslcrl", REVOCATION),
    ("sslcrldir", REVOCATION),
    ("sslfactory", OTHER_CLIENT),
    ("requirepeer", NO_AUTHENTICATION),
    ("require_auth", NO_AUTHENTICATION),
    ("krbsrvname", NO_AUTHENTICATION),
    ("gsslib", NO_AUTHENTICATION),
    ("gssdelegation", NO_AUTHENTICATION),
    ("passfile", Meaning::Refused("libpq password files are not read; set database.password or its _FILE variable")),
    ("service", Meaning::Refused("libpq service files are not supported; put the connection into the URL")),
    ("servicefile", Meaning::Refused("libpq service files are not supported; put the connection into the URL")),
    ("fallback_application_name", Meaning::Refused("set application_name instead")),
    ("connect_timeout", ACQUIRE),
    ("loginTimeout", ACQUIRE),
    ("pool_timeout", ACQUIRE),
    ("connection_limit", MAX),
    ("pool_size", MAX),
    ("pool_max_conns", MAX),
    ("max_connections", MAX),
    ("idle_timeout", IDLE),
    ("pool_max_conn_idle_time", IDLE),
    ("pool_max_conn_lifetime", LIFETIME),
    ("statement_timeout", STATEMENT_TIMEOUT),
    ("query_timeout", STATEMENT_TIMEOUT),
    ("socket_timeout", STATEMENT_TIMEOUT),
    ("lock_timeout", Meaning::Refused("set options=-c%20lock_timeout=... instead")),
    ("keepalives", KEEPALIVE),
    ("keepalives_idle", KEEPALIVE),
    ("keepalives_interval", KEEPALIVE),
    ("keepalives_count", KEEPALIVE),
    ("tcp_user_timeout", KEEPALIVE),
    ("tcpKeepAlive", KEEPALIVE),
    ("prepareThreshold", STATEMENTS),
    ("preparedStatementCacheQueries", STATEMENTS),
    ("prepared_statements", STATEMENTS),
    ("default_query_exec_mode", STATEMENTS),
    ("statement_cache_mode", STATEMENTS),
    ("reWriteBatchedInserts", OTHER_CLIENT),
    ("stringtype", OTHER_CLIENT),
];

/// libpq's environment variables that determine where a connection goes or how it is protected, with the parameters
/// that they correspond to. Others (`PGTZ`, `PGCONNECT_TIMEOUT`) are not used.
pub(super) const POSTGRES_VARIABLES: &[(&str, &str)] = &[
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGDATABASE", "dbname"),
    ("PGAPPNAME", "application_name"),
    ("PGOPTIONS", "options"),
    ("PGSSLMODE", "sslmode"),
    ("PGREQUIRESSL", "requiressl"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLCRLDIR", "sslcrldir"),
    ("PGSSLCERTMODE", "sslcertmode"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGSSLMINPROTOCOLVERSION", "ssl_min_protocol_version"),
    ("PGSSLMAXPROTOCOLVERSION", "ssl_max_protocol_version"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGREQUIREPEER", "requirepeer"),
    ("PGREQUIREAUTH", "require_auth"),
    ("PGGSSENCMODE", "gssencmode"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGLOADBALANCEHOSTS", "load_balance_hosts"),
    ("PGSERVICE", "service"),
];

/// MySQL and MariaDB.
pub(super) const MYSQL: Table = &[
    ("ssl-mode", Meaning::SslMode),
    ("tls", Meaning::SslMode),
    ("ssl", Meaning::Ssl),
    ("sslaccept", Meaning::SslAccept),
    ("useSSL", Meaning::UseTls),
    ("requireSSL", Meaning::RequireTls),
    ("verifyServerCertificate", Meaning::VerifyCertificate),
    ("ssl_verify_cert", Meaning::VerifyCertificate),
    ("ssl_verify_identity", Meaning::VerifyIdentity),
    ("ssl-verify-server-cert", Meaning::VerifyIdentity),
    ("ssl-ca", Meaning::CertificateAuthority),
    ("sslrootcert", Meaning::CertificateAuthority),
    ("serverSslCert", Meaning::CertificateAuthority),
    ("ssl-cert", Meaning::Certificate),
    ("ssl-key", Meaning::Key),
    ("host", Meaning::Host),
    ("port", Meaning::Port),
    ("user", Meaning::User),
    ("password", Meaning::Password),
    ("database", Meaning::Database),
    ("dbname", Meaning::Database),
    ("socket", Meaning::Socket),
    ("unix_socket", Meaning::Socket),
    ("socketPath", Meaning::Socket),
    ("target_session_attrs", Meaning::TargetServer),
    ("load_balance_hosts", Meaning::LoadBalance),
    ("statement-cache-capacity", Meaning::StatementCache),
    ("statement_cache_size", Meaning::StatementCache),
    ("charset", UTF8),
    ("characterEncoding", UTF8),
    ("useUnicode", TRUE),
    ("timezone", UTC),
    ("serverTimezone", UTC),
    ("connectionTimeZone", UTC),
    ("loc", UTC),
    ("allowPublicKeyRetrieval", TRUE),
    ("collation", FIXED),
    ("connectionCollation", FIXED),
    ("sql_mode", FIXED),
    ("sessionVariables", FIXED),
    ("init_command", FIXED),
    ("sslidentity", PKCS12),
    ("sslpassword", KEY_PASSWORD),
    ("ssl-capath", Meaning::Refused("certificate directories are not supported; set ssl-ca to one file")),
    ("ssl-crl", REVOCATION),
    ("ssl-crlpath", REVOCATION),
    ("trustCertificateKeyStoreUrl", PKCS12),
    ("clientCertificateKeyStoreUrl", PKCS12),
    ("trustStore", PKCS12),
    ("keyStore", PKCS12),
    ("enabledTLSProtocols", OTHER_CLIENT),
    ("tlsVersions", OTHER_CLIENT),
    ("tls-version", OTHER_CLIENT),
    ("connectTimeout", ACQUIRE),
    ("connection_timeout", ACQUIRE),
    ("timeout", ACQUIRE),
    ("pool_timeout", ACQUIRE),
    ("acquireTimeout", ACQUIRE),
    ("connectionLimit", MAX),
    ("pool_size", MAX),
    ("max_connections", MAX),
    ("maxIdleTime", IDLE),
    ("idleTimeout", IDLE),
    ("pool_recycle", LIFETIME),
    ("max_connection_lifetime", LIFETIME),
    ("socketTimeout", STATEMENT_TIMEOUT),
    ("readTimeout", STATEMENT_TIMEOUT),
    ("writeTimeout", STATEMENT_TIMEOUT),
    ("maxQuerySizeToLog", OTHER_CLIENT),
    ("autoReconnect", KEEPALIVE),
    ("reconnect", KEEPALIVE),
    ("tcpKeepAlive", KEEPALIVE),
    ("useServerPrepStmts", STATEMENTS),
    ("cachePrepStmts", STATEMENTS),
    ("interpolateParams", STATEMENTS),
    ("parseTime", OTHER_CLIENT),
    ("multiStatements", OTHER_CLIENT),
    ("allowMultiQueries", OTHER_CLIENT),
    ("zeroDateTimeBehavior", OTHER_CLIENT),
    ("rewriteBatchedStatements", OTHER_CLIENT),
    ("useLegacyDatetimeCode", OTHER_CLIENT),
    ("dateStrings", OTHER_CLIENT),
];

/// SQLite.
pub(super) const SQLITE: Table = &[
    ("mode", Meaning::OpenMode),
    ("cache", Meaning::Cache),
    ("immutable", Meaning::Immutable),
    ("vfs", Meaning::Vfs),
    ("connection_limit", MAX),
    ("socket_timeout", ACQUIRE),
    ("_busy_timeout", ACQUIRE),
    ("_timeout", ACQUIRE),
    ("_journal_mode", FIXED),
    ("_journal", FIXED),
    ("_synchronous", FIXED),
    ("_sync", FIXED),
    ("_foreign_keys", FIXED),
    ("_fk", FIXED),
    ("_txlock", FIXED),
    ("_pragma", FIXED),
];
