//! TLS: verified servers connect, and failures are reported with the host, the file and the reason.

use std::{fs, path::Path};

use orm_pool::PoolOptions;
use sea_orm::ConnectionTrait;

use crate::{
    cases,
    harness::{
        App, Authority, Context, End, Engine, Server,
        bare::{end, pool_on, read},
        binary, connect, kill_all, new_database,
    },
};

cases![
    verified_connections_are_encrypted,
    untrusted_certificates_are_reported,
    unusable_certificate_files_are_refused_at_start,
    tls_failures_at_runtime_are_reported_and_recover,
];

/// The host names in the server's certificate.
const HOSTS: &[&str] = &["127.0.0.1"];

/// The URL and the certificate files of the clients of a server.
struct Clients<'a> {
    context: &'a Context,
    url: url::Url,
}

impl<'a> Clients<'a> {
    fn of(context: &'a Context, url: &str) -> Self {
        Self { context, url: url::Url::parse(url).unwrap() }
    }

    /// Writes a file.
    fn write(&self, name: &str, text: &str) {
        fs::write(self.context.folder().join(name), text).unwrap();
    }

    /// Writes a certificate and its key.
    fn write_identity(&self, name: &str, authority: &Authority) {
        let identity = authority.sign(&["client.example"]);
        self.write(&format!("{name}.pem"), &identity.certificate);
        self.write(&format!("{name}.key"), &identity.key);
    }

    /// A URL that verifies certificate and host name by the file of an authority.
    fn verifying(&self, authority: &str) -> String {
        let (mode, word, file) = match self.context.engine() {
            Engine::Postgres => ("sslmode", "verify-full", "sslrootcert"),
            _ => ("ssl-mode", "VERIFY_IDENTITY", "ssl-ca"),
        };
        let mut url = self.url.clone();
        let path = self.context.folder().join(authority);
        url.query_pairs_mut().append_pair(mode, word).append_pair(file, path.to_str().unwrap());
        url.into()
    }

    /// The same, with a client certificate.
    fn identified(&self, authority: &str, client: &str) -> String {
        let (certificate, key) = match self.context.engine() {
            Engine::Postgres => ("sslcert", "sslkey"),
            _ => ("ssl-cert", "ssl-key"),
        };
        let mut url = url::Url::parse(&self.verifying(authority)).unwrap();
        let path = |end| self.context.folder().join(format!("{client}.{end}")).to_str().unwrap().to_owned();
        url.query_pairs_mut().append_pair(certificate, &path("pem")).append_pair(key, &path("key"));
        url.into()
    }

    /// Creates an account that needs a client certificate, and returns its name and password.
    async fn account(&self) -> (&'static str, &'static str) {
        let statements: &[&str] = match self.context.engine() {
            Engine::Postgres => &["CREATE ROLE app SUPERUSER LOGIN PASSWORD 'one'"],
            _ => &["CREATE USER app IDENTIFIED BY 'one' REQUIRE X509", "GRANT ALL ON app.* TO app"],
        };
        let admin = connect(self.url.as_str()).await;
        for statement in statements {
            admin.execute_unprepared(statement).await.unwrap();
        }
        admin.close().await.unwrap();
        ("app", "one")
    }
}

/// Starts a server with a certificate of this authority, and writes the files of its clients.
async fn start<'a>(context: &'a Context, authority: &Authority) -> (Server, Clients<'a>) {
    let mut server = Server::with_tls(context.engine(), authority, HOSTS);
    server.start(End::Crash);
    server.await_ready();
    let clients = Clients::of(context, &new_database(server.url()).await);
    clients.write("ca.pem", &authority.pem());
    clients.write_identity("client", authority);
    (server, clients)
}

/// This URL for another account.
fn as_account(url: &str, (name, password): (&str, &str)) -> String {
    let mut url = url::Url::parse(url).unwrap();
    url.set_username(name).unwrap();
    url.set_password(Some(password)).unwrap();
    url.into()
}

/// The error of a start that fails with this exit code.
async fn start_error(folder: &Path, url: &str, status: i32) -> String {
    let output = binary(folder, &[("DATABASE_URL", url), ("USERS_API__POOL__ACQUIRE", "3s")]).output().await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    stderr
}

async fn verified_connections_are_encrypted(context: Context) {
    let authority = Authority::named("ours");
    let (mut server, clients) = start(&context, &authority).await;
    let account = clients.account().await;
    let is_encrypted = match context.engine() {
        Engine::Postgres => "SELECT ssl::int FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
        Engine::MySql => {
            "SELECT variable_value <> '' FROM performance_schema.session_status WHERE variable_name = 'Ssl_cipher'"
        }
        _ => "SELECT variable_value <> '' FROM information_schema.session_status WHERE variable_name = 'Ssl_cipher'",
    };
    for url in [clients.verifying("ca.pem"), as_account(&clients.identified("ca.pem", "client"), account)] {
        let app = context.app_on(&url, &[]).await;
        assert_eq!(app.get("/users").await.status, 200);
        app.stop().await.unwrap().unwrap();
        let pool = pool_on(&url, PoolOptions::default()).await;
        assert_eq!(read(&pool, is_encrypted).await, 1);
        end(pool).await;
    }
    server.stop();
}

async fn untrusted_certificates_are_reported(context: Context) {
    let (mut server, clients) = start(&context, &Authority::named("ours")).await;
    let folder = context.folder();
    clients.write("other.pem", &Authority::named("other").pem());
    let url = clients.verifying("other.pem");
    assert_reported(&start_error(folder, &url, 1).await, &["UnknownIssuer", "host 127.0.0.1", "other.pem"]);
    // Without an authority file, the public authorities are trusted.
    let public = url.split('&').next().unwrap();
    assert_reported(&start_error(folder, public, 1).await, &["UnknownIssuer", "host 127.0.0.1"]);
    // Public authorities are trusted in addition to the given one, so weaker modes verify the name as well.
    for mode in ["require", "verify-ca"].iter().filter(|_| context.engine() == Engine::Postgres) {
        let weaker = url.replace("verify-full", mode);
        assert_reported(&start_error(folder, &weaker, 1).await, &["UnknownIssuer", "other.pem"]);
    }
    let by_name = clients.verifying("ca.pem").replace("127.0.0.1", "localhost");
    assert_reported(&start_error(folder, &by_name, 1).await, &["not valid for name", "127.0.0.1", "host localhost"]);
    clients.write_identity("stranger", &Authority::named("stranger"));
    assert_reported(
        &start_error(folder, &clients.identified("ca.pem", "stranger"), 1).await,
        &["host 127.0.0.1", "stranger.pem"],
    );
    // No client certificate: servers have no separate error code for this, and MySQL does not even name the reason.
    let url = as_account(&clients.verifying("ca.pem"), clients.account().await);
    let error = start_error(folder, &url, 1).await;
    assert!(error.contains("the database rejected the user or the password"), "{error}");
    assert!(context.engine() != Engine::Postgres || error.contains("requires a valid client certificate"), "{error}");
    server.stop();
}

async fn unusable_certificate_files_are_refused_at_start(context: Context) {
    // No server listens there, and none is contacted.
    let url = match context.engine() {
        Engine::Postgres => "postgres://app:one@127.0.0.1:1/app",
        _ => "mysql://app:one@127.0.0.1:1/app",
    };
    let clients = Clients::of(&context, url);
    clients.write("empty.pem", "");
    clients.write("text.pem", "no certificate");
    for (file, reason) in
        [("missing.pem", "cannot be read"), ("empty.pem", "is empty"), ("text.pem", "contains no certificate")]
    {
        let error = start_error(context.folder(), &clients.verifying(file), 2).await;
        assert!(error.contains(file) && error.contains(reason), "{error}");
    }
    let authority = Authority::named("ours");
    clients.write("ca.pem", &authority.pem());
    clients.write_identity("half", &authority);
    fs::remove_file(context.folder().join("half.key")).unwrap();
    let error = start_error(context.folder(), &clients.identified("ca.pem", "half"), 2).await;
    assert!(error.contains("half.key") && error.contains("cannot be read"), "{error}");
}

async fn tls_failures_at_runtime_are_reported_and_recover(context: Context) {
    let authority = Authority::named("ours");
    let (mut server, clients) = start(&context, &authority).await;
    let app = context.app_on(&clients.verifying("ca.pem"), &[("pool.min", "1")]).await;
    // The file of the authority is deleted.
    fs::remove_file(context.folder().join("ca.pem")).unwrap();
    let admin = connect(server.url()).await;
    kill_all(&context, &admin, &app.url).await;
    drop(admin);
    await_reported(&app, &["ca.pem", "cannot be read"]).await;
    clients.write("ca.pem", &authority.pem());
    app.pool_until("up again", |pool| pool["state"] == "up").await;
    // The server restarts with a certificate of another authority.
    server.stop();
    server.certify(&Authority::named("other"), HOSTS);
    server.start(End::Crash);
    await_reported(&app, &["UnknownIssuer", "host 127.0.0.1", "ca.pem"]).await;
    let ready = app.get("/health/ready").await.problem(503, "database-unavailable");
    assert_eq!(ready["detail"], "Not ready: TLS negotiation with the database failed.");
    server.stop();
    server.certify(&authority, HOSTS);
    server.start(End::Crash);
    app.pool_until("up again", |pool| pool["state"] == "up").await;
    assert_eq!(app.get("/users").await.status, 200);
    app.stop().await.unwrap().unwrap();
    server.stop();
}

fn assert_reported(error: &str, parts: &[&str]) {
    assert!(error.contains("TLS negotiation with the database failed"), "{error}");
    for part in parts {
        assert!(error.contains(part), "{part}: {error}");
    }
}

/// Waits until a running service is down because of TLS, with a cause that contains these parts.
async fn await_reported(app: &App, parts: &[&str]) {
    let is_reported = |pool: &serde_json::Value| {
        let detail = pool["cause"]["detail"].as_str().unwrap_or_default();
        pool["cause"]["kind"] == "tls" && parts.iter().all(|part| detail.contains(part))
    };
    app.pool_until(&format!("down for TLS: {parts:?}"), is_reported).await;
}
