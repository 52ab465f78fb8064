//! Encrypted connections: what is verified connects, and what is not is told with the host, the file and the reason.

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
    what_is_verified_connects,
    what_is_not_trusted_is_told,
    files_that_cannot_be_used_are_refused_at_start,
    what_changes_later_is_told,
];

/// Where the server can be reached by its certificate.
const HOSTS: &[&str] = &["127.0.0.1"];

/// What clients of a server have: its URL, and files.
struct Clients<'a> {
    context: &'a Context,
    url: url::Url,
}

impl<'a> Clients<'a> {
    fn of(context: &'a Context, url: &str) -> Self {
        Self { context, url: url::Url::parse(url).unwrap() }
    }

    /// Writes a file.
    fn keep(&self, name: &str, text: &str) {
        fs::write(self.context.folder().join(name), text).unwrap();
    }

    /// Writes a certificate and its key.
    fn identify(&self, name: &str, authority: &Authority) {
        let identity = authority.sign(&["client.example"]);
        self.keep(&format!("{name}.pem"), &identity.certificate);
        self.keep(&format!("{name}.key"), &identity.key);
    }

    /// The URL of one that verifies certificate and name by the file of an authority.
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

    /// The same, with a certificate of its own.
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

    /// An account that needs a client certificate, and its part of a URL.
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

/// Starts a server with a certificate of this authority, and gives its clients what they need.
async fn start<'a>(context: &'a Context, authority: &Authority) -> (Server, Clients<'a>) {
    let mut server = Server::with_tls(context.engine(), authority, HOSTS);
    server.start(End::Crash);
    server.await_ready();
    let clients = Clients::of(context, &new_database(server.url()).await);
    clients.keep("ca.pem", &authority.pem());
    clients.identify("client", authority);
    (server, clients)
}

/// This URL for another account.
fn as_account(url: &str, (name, password): (&str, &str)) -> String {
    let mut url = url::Url::parse(url).unwrap();
    url.set_username(name).unwrap();
    url.set_password(Some(password)).unwrap();
    url.into()
}

/// What a start that fails says.
async fn refusal(folder: &Path, url: &str, status: i32) -> String {
    let output = binary(folder, &[("DATABASE_URL", url), ("USERS_API__POOL__ACQUIRE", "3s")]).output().await.unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{told}");
    told
}

async fn what_is_verified_connects(context: Context) {
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

async fn what_is_not_trusted_is_told(context: Context) {
    let (mut server, clients) = start(&context, &Authority::named("ours")).await;
    let folder = context.folder();
    clients.keep("other.pem", &Authority::named("other").pem());
    let url = clients.verifying("other.pem");
    assert_told(&refusal(folder, &url, 1).await, &["UnknownIssuer", "host 127.0.0.1", "other.pem"]);
    // Without a file of its own, the public authorities count.
    let public = url.split('&').next().unwrap();
    assert_told(&refusal(folder, public, 1).await, &["UnknownIssuer", "host 127.0.0.1"]);
    // Public authorities are trusted beside the named one, so the name counts in weaker modes as well.
    for mode in ["require", "verify-ca"].iter().filter(|_| context.engine() == Engine::Postgres) {
        let weaker = url.replace("verify-full", mode);
        assert_told(&refusal(folder, &weaker, 1).await, &["UnknownIssuer", "other.pem"]);
    }
    let by_name = clients.verifying("ca.pem").replace("127.0.0.1", "localhost");
    assert_told(&refusal(folder, &by_name, 1).await, &["not valid for name", "127.0.0.1", "host localhost"]);
    clients.identify("stranger", &Authority::named("stranger"));
    assert_told(
        &refusal(folder, &clients.identified("ca.pem", "stranger"), 1).await,
        &["host 127.0.0.1", "stranger.pem"],
    );
    // A certificate that is missing: the server has no code of its own for it, and MySQL does not even say what it missed.
    let url = as_account(&clients.verifying("ca.pem"), clients.account().await);
    let told = refusal(folder, &url, 1).await;
    assert!(told.contains("does not accept the user or the password"), "{told}");
    assert!(context.engine() != Engine::Postgres || told.contains("requires a valid client certificate"), "{told}");
    server.stop();
}

async fn files_that_cannot_be_used_are_refused_at_start(context: Context) {
    // Nobody listens there, and nobody is asked.
    let url = match context.engine() {
        Engine::Postgres => "postgres://app:one@127.0.0.1:1/app",
        _ => "mysql://app:one@127.0.0.1:1/app",
    };
    let clients = Clients::of(&context, url);
    clients.keep("empty.pem", "");
    clients.keep("text.pem", "no certificate");
    for (file, reason) in
        [("missing.pem", "cannot be read"), ("empty.pem", "is empty"), ("text.pem", "holds no certificate")]
    {
        let told = refusal(context.folder(), &clients.verifying(file), 2).await;
        assert!(told.contains(file) && told.contains(reason), "{told}");
    }
    let authority = Authority::named("ours");
    clients.keep("ca.pem", &authority.pem());
    clients.identify("half", &authority);
    fs::remove_file(context.folder().join("half.key")).unwrap();
    let told = refusal(context.folder(), &clients.identified("ca.pem", "half"), 2).await;
    assert!(told.contains("half.key") && told.contains("cannot be read"), "{told}");
}

async fn what_changes_later_is_told(context: Context) {
    let authority = Authority::named("ours");
    let (mut server, clients) = start(&context, &authority).await;
    let app = context.app_on(&clients.verifying("ca.pem"), &[("pool.min", "1")]).await;
    // The file of the authority goes.
    fs::remove_file(context.folder().join("ca.pem")).unwrap();
    let admin = connect(server.url()).await;
    kill_all(&context, &admin, &app.url).await;
    drop(admin);
    told_by(&app, &["ca.pem", "cannot be read"]).await;
    clients.keep("ca.pem", &authority.pem());
    app.pool_until("up again", |pool| pool["state"] == "up").await;
    // The server comes back with a certificate of another authority.
    server.stop();
    server.certify(&Authority::named("other"), HOSTS);
    server.start(End::Crash);
    told_by(&app, &["UnknownIssuer", "host 127.0.0.1", "ca.pem"]).await;
    let ready = app.get("/health/ready").await.problem(503, "database-unavailable");
    assert_eq!(ready["detail"], "Not ready: no secure connection to the database.");
    server.stop();
    server.certify(&authority, HOSTS);
    server.start(End::Crash);
    app.pool_until("up again", |pool| pool["state"] == "up").await;
    assert_eq!(app.get("/users").await.status, 200);
    app.stop().await.unwrap().unwrap();
    server.stop();
}

fn assert_told(told: &str, parts: &[&str]) {
    assert!(told.contains("no secure connection to the database"), "{told}");
    for part in parts {
        assert!(told.contains(part), "{part}: {told}");
    }
}

/// Waits until a running service tells of TLS, in these words.
async fn told_by(app: &App, parts: &[&str]) {
    let is_told = |pool: &serde_json::Value| {
        let detail = pool["cause"]["detail"].as_str().unwrap_or_default();
        pool["cause"]["kind"] == "tls" && parts.iter().all(|part| detail.contains(part))
    };
    app.pool_until(&format!("down for TLS: {parts:?}"), is_told).await;
}
