mod hosts;
mod tls;

use super::*;

fn shown(text: &str) -> String {
    DatabaseUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).to_string()
}

/// Returns the error of a URL that is refused.
fn refusal(text: &str) -> String {
    match DatabaseUrl::parse(text) {
        Ok(url) => panic!("{text} is accepted as {url}"),
        Err(error) => error.to_string(),
    }
}

fn server(text: &str) -> ServerAddress {
    server_with(text, &[])
}

/// Returns the hosts with their ports.
fn hosts(address: &ServerAddress) -> String {
    address.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn server_with(text: &str, variables: &[(&str, &str)]) -> ServerAddress {
    match with(text, variables).unwrap_or_else(|error| panic!("{text}: {error}")).0 {
        Address::Server(address) => *address,
        Address::File(_) => panic!("{text} is a file"),
    }
}

fn with(text: &str, variables: &[(&str, &str)]) -> Result<DatabaseUrl, InvalidUrl> {
    DatabaseUrl::parse_with(text, |name| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    })
}

#[test]
fn the_scheme_selects_the_engine() {
    for (text, engine) in [
        ("sqlite://users.db?mode=rwc", Engine::Sqlite),
        ("sqlite::memory:", Engine::Sqlite),
        ("postgres://u@h/d", Engine::Postgres),
        ("postgresql://u@h/d", Engine::Postgres),
        ("POSTGRES://u@h/d", Engine::Postgres),
        ("mysql://u@h/d", Engine::MySql),
        ("mariadb://u@h/d", Engine::MySql),
    ] {
        assert_eq!(DatabaseUrl::parse(text).unwrap().engine(), engine, "{text}");
    }
    for (text, part) in [
        ("users.db", "not a URL"),
        ("postgres:u@h/d", "not a URL"),
        ("\"postgres://u@h/d\"", "quotation marks"),
        (" postgres://u@h/d", "whitespace"),
        ("mongodb://h/d", "unknown scheme"),
        ("jdbc:postgresql://h/d", "remove the jdbc: prefix"),
        ("postgresql+asyncpg://u@h/d", "remove the +"),
        ("file:./dev.db", "sqlite:"),
    ] {
        assert!(refusal(text).contains(part), "{text}: {}", refusal(text));
    }
}

#[test]
fn sqlite_paths_are_used_as_written() {
    for (text, path) in [
        ("sqlite:up.db", "up.db"),
        ("sqlite://up.db", "up.db"),
        ("sqlite://../../up.db", "../../up.db"),
        ("sqlite:../up.db?mode=rwc", "../up.db"),
        ("sqlite://./a/../up.db", "./a/../up.db"),
        ("sqlite:///abs/x.db", "/abs/x.db"),
        ("sqlite:/abs/x.db", "/abs/x.db"),
        ("sqlite://a b.db", "a b.db"),
        ("sqlite://a%20b%3F%23.db", "a b?#.db"),
        ("sqlite://C%25.db", "C%.db"),
        ("sqlite://ä@b.db", "ä@b.db"),
    ] {
        let url = DatabaseUrl::parse(text).unwrap();
        assert_eq!(url.sqlite_path(), Some(Path::new(path)), "{text}");
        let Address::File(file) = url.address() else { panic!("{text}") };
        let options = crate::connect::sqlite::connect_options(file);
        assert_eq!(options.get_filename(), Path::new(path), "{text}");
        assert_eq!(url.to_string(), text, "{text}");
    }
    for (text, part) in [
        ("sqlite://up.db#x", "%23"),
        ("sqlite://up%zz.db", "hexadecimal"),
        ("sqlite://up%00.db", "NUL"),
        ("sqlite://up%ff.db", "UTF-8"),
        ("sqlite:", "has no file name"),
        ("sqlite://", "has no file name"),
        ("sqlite:file:up.db", "file:"),
        ("sqlite://up.db?mode=hunter2", "parameter mode: must be ro, rw, rwc or memory"),
        ("sqlite://up.db?cache=hunter2", "must be shared or private"),
        ("sqlite://up.db?mod=ro", "unknown parameter mod; did you mean mode?"),
        ("sqlite://up.db?_fk=hunter2", "_fk: is fixed"),
        ("sqlite://up.db?mode=ro&mode=rw", "given twice"),
        ("sqlite://up.db?hunter 2", "NAME=VALUE"),
    ] {
        let refusal = refusal(text);
        assert!(refusal.contains(part) && !refusal.contains("hunter"), "{text}: {refusal}");
    }
}

#[test]
fn in_memory_databases_are_recognized() {
    for text in ["sqlite::memory:", "sqlite://:memory:", "sqlite://?mode=memory", "sqlite://x?mode=memory"] {
        let url = DatabaseUrl::parse(text).unwrap();
        assert!(url.is_in_memory() && url.sqlite_path().is_none(), "{text}");
    }
    assert!(!DatabaseUrl::parse("sqlite://users.db?mode=rwc").unwrap().is_in_memory());
}

#[test]
fn every_part_of_a_server_url_is_parsed() {
    let address =
        server("postgres://an%40n:p%3Ass%2Fw%23rd@db.example:6543/a%2Fpp?application_name=me&options=-c%20a=b");
    assert_eq!(address.user.as_deref(), Some("an@n"));
    assert_eq!(address.password.as_deref(), Some("p:ss/w#rd"));
    assert_eq!(hosts(&address), "db.example:6543");
    assert_eq!((address.database.as_str(), address.application_name.as_deref()), ("a/pp", Some("me")));
    assert_eq!(address.session, [("a".to_owned(), "b".to_owned())]);
    assert_eq!(server("mysql://ann:one:two@h/d").password.as_deref(), Some("one:two"));
    assert_eq!(hosts(&server("postgres://u@h/d")), "h:5432");
    assert_eq!(hosts(&server("mysql://u@h/d")), "h:3306");
    for text in
        ["postgres://u@[::1]/d", "mysql://u@[::1]/d", "postgres://u@/d?host=::1", "postgres://u@/d?hostaddr=::1"]
    {
        let address = server(text);
        assert!(hosts(&address).starts_with("[::1]:"), "{text}");
        assert_eq!((address.hosts[0].text(), address.hosts[0].name()), (Some("::1"), None), "{text}");
    }
    assert_eq!(hosts(&server("postgres://u@[::1]:7/d")), "[::1]:7");
    for text in
        ["postgres://u@localhost/d?host=/run/pg", "postgres:///d?host=/run/pg&user=u", "postgres://u@%2Frun%2Fpg/d"]
    {
        assert_eq!(hosts(&server(text)), "/run/pg", "{text}");
        assert!(server(text).tls.mode == super::tls::TlsMode::Disable, "{text}");
    }
    for name in ["socket", "unix_socket", "socketPath"] {
        let text = format!("mysql://u@localhost/d?{name}=/run/m.sock");
        assert_eq!(hosts(&server(&text)), "/run/m.sock", "{text}");
    }
    assert_eq!(server("postgres://u@h/d?schema=My%20own").session[0].1, "\"My own\"");
    assert_eq!(
        server("postgres://u@h/d?options=--a-b%3Dc%20-cd%3De%5C%20f&options[g]=h").session,
        [("a_b", "c"), ("d", "e f"), ("g", "h")].map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

#[test]
fn driver_options_match_the_url() {
    let text = "postgres://u:p@[::1]:7/d?sslmode=verify-full&application_name=me&statement_cache_size=0";
    let address = server(text);
    let options = crate::connect::postgres::connect_options(&address, &address.hosts[0]);
    assert_eq!((options.get_host(), options.get_port(), options.get_username()), ("::1", 7, "u"));
    assert_eq!((options.get_database(), options.get_application_name()), (Some("d"), Some("me")));
    assert!(matches!(options.get_ssl_mode(), sea_orm::sqlx::postgres::PgSslMode::VerifyFull));
    let text = "mysql://u:p@[::1]:7/d?ssl_mode=VERIFY_IDENTITY";
    let address = server(text);
    let options = crate::connect::mysql::connect_options(&address, &address.hosts[0]);
    assert_eq!((options.get_host(), options.get_port(), options.get_username()), ("::1", 7, "u"));
    assert_eq!((options.get_database(), options.get_charset()), (Some("d"), "utf8mb4"));
    assert!(matches!(options.get_ssl_mode(), sea_orm::sqlx::mysql::MySqlSslMode::VerifyIdentity));
}

#[test]
fn parameters_of_hosting_providers_are_supported_or_refused_by_name() {
    for text in [
        "postgresql://u:p@ep-x.eu-central-1.aws.neon.tech/neondb?sslmode=require&channel_binding=require",
        "postgres://u.ref:p@aws-0-eu.pooler.supabase.com:6543/postgres?pgbouncer=true",
        "postgres://u.ref:p@aws-0-eu.pooler.supabase.com:6543/postgres?sslmode=require&supa=base-pooler.x",
        "postgres://u:p@ec2-1.compute.amazonaws.com:5432/d",
        "postgresql://u:p@x.postgres.database.azure.com:5432/d?sslmode=require",
        "postgres://avnadmin:p@x.aivencloud.com:12691/defaultdb?sslmode=require",
        "mysql://avnadmin:p@x.aivencloud.com:12691/defaultdb?ssl-mode=REQUIRED",
        "mysql://u:p@aws.connect.psdb.cloud/d?sslaccept=strict",
        "mysql://u:p@aws.connect.psdb.cloud/d?ssl={\"rejectUnauthorized\":true}",
        "mysql://u.root:p@gateway01.tidbcloud.com:4000/d?sslaccept=strict",
        "postgresql://u:p@localhost:5432/d?schema=public",
        "postgres://u:p@localhost/d?host=/cloudsql/a:b:c",
        "postgresql://postgres:p@containers-us-west-1.railway.app:6543/railway",
        "postgres://app:p@app-db.flycast:5432/app?sslmode=disable",
        "postgres://app:p@[fdaa:0:1::3]:5432/app",
        "postgresql://u:p@dpg-x-a.oregon-postgres.render.com/d",
        "postgresql://doadmin:p@db.ondigitalocean.com:25060/defaultdb?sslmode=require",
        "postgres://u:p@ep-x-pooler.eu-central-1.aws.neon.tech/d?sslmode=verify-full&sslrootcert=/etc/ca.pem",
        "postgres://app@x.rds.amazonaws.com:5432/d?sslmode=verify-full&sslrootcert=/rds.pem",
        "mysql://app@x.rds.amazonaws.com:3306/d?ssl-mode=VERIFY_IDENTITY&ssl-ca=/rds.pem",
        "mysql://u:p@localhost/d?socket=/cloudsql/a:b:c",
        "postgresql://u:p@x.cockroachlabs.cloud:26257/d?sslmode=verify-full",
        "mysql://u:p@h/d?charset=utf8mb4&serverTimezone=UTC&useUnicode=true",
        "mysql://u:p@h/d?timezone=+00:00",
    ] {
        shown(text);
    }
    for (text, part) in [
        ("postgres://u@h/d?connection_limit=hunter2", "connection_limit: set pool.max instead"),
        ("postgres://u@h/d?pool_timeout=9", "pool_timeout: set pool.acquire instead"),
        ("postgres://u@h/d?connect_timeout=9", "set pool.acquire"),
        ("postgres://u@h/d?statement_timeout=9", "set pool.statement_timeout"),
        ("postgres://u@h/d?target_session_attrs=standby", "must be any, read-write, primary or master"),
        ("postgres://u@h/d?load_balance_hosts=hunter2", "must be disable, random, false or true"),
        ("postgres://u@h/d?options=endpoint%3Dep-x", "Neon"),
        ("postgres://u@h/d?prepareThreshold=0", "statement-cache-capacity"),
        ("postgres://u@h/d?keepalives=1", "pool.idle"),
        ("postgres://u@h/d?service=hunter2", "service files"),
        ("mysql://u@h/d?charset=latin1", "must be utf8mb4"),
        ("mysql://u@h/d?collation=utf8mb4_bin", "is fixed"),
        ("mysql://u@h/d?timezone=%2B02:00", "must be UTC"),
        ("mysql://u@h/d?parseTime=true", "another client library"),
        ("postgres://u@h/d?options=-c+search_path=x", "%2B"),
    ] {
        let refusal = refusal(text);
        assert!(refusal.contains(part) && !refusal.contains("hunter2"), "{text}: {refusal}");
    }
}

#[test]
fn an_unescaped_password_is_refused_and_not_revealed() {
    for password in [
        "hunter2@ss/w#rd",
        "p@hunter2",
        "hunter2/",
        "hunter2?x",
        "hunter2#",
        "p/hunter2@x",
        "1/hunter2",
        "1?hunter2",
        "hunter2 x",
        "hunter2%",
        "hunter2%zz",
        "%ff%fehunter2",
        "1?hunter2=x",
        "?hunter2&x=",
        "hunter2\n",
        "p@[hunter2",
    ] {
        for engine in ["postgres", "mysql"] {
            let refusal = refusal(&format!("{engine}://app:{password}@db/app"));
            assert!(!refusal.contains("hunter2") && !refusal.contains("rd@"), "{password}: {refusal}");
            assert!(
                refusal.contains('%') || refusal.contains("UTF-8") || refusal.contains("NAME"),
                "{password}: {refusal}"
            );
        }
    }
}

#[test]
fn missing_and_duplicate_parts_are_refused() {
    for (text, part) in [
        ("postgres://u@/d", "has no host"),
        ("postgres:///d", "has no host"),
        ("postgres://u@h", "has no database"),
        ("postgres://u@h/", "has no database"),
        ("mysql://h/d", "has no user"),
        ("mysql://u@h", "has no database"),
        ("postgres://u@h:0/d", "port must be a number from 1 to 65535"),
        ("postgres://u@h:65536/d", "port must be"),
        ("postgres://u@h:+1/d", "port must be"),
        ("postgres://u@h/d/e", "second /"),
        ("postgres://u@::1/d", "[::1]"),
        ("postgres://u@[::1/d", "without a ]"),
        ("postgres://u@[hunter2]/d", "something other than an IPv6 address"),
        ("postgres://u@höst/d", "ASCII"),
        ("postgres://u@h/d?user=v", "user is given twice"),
        ("postgres://u:hunter2@h/d?password=hunter2", "password is given twice"),
        ("postgres://u@h/d?dbname=e", "database is given twice"),
        ("postgres://u@h/d?host=i", "host is given twice"),
        ("postgres://u@h/d?sslmode=require&sslmode=disable", "sslmode: is given twice"),
        ("postgres://u@h/d?sslmode=require&ssl-mode=disable", "ssl-mode: means the same as parameter sslmode"),
        ("postgres://u@h/d?application_name=", "empty"),
        ("postgres://u@h/d?sslmode", "NAME=VALUE"),
    ] {
        let refusal = refusal(text);
        assert!(refusal.contains(part) && !refusal.contains("hunter2"), "{text}: {refusal}");
    }
}

#[test]
fn passwords_and_free_text_values_are_never_shown() {
    for (text, expected) in [
        ("postgres://ann:hunter2@db:5432/app", "postgres://ann:***@db:5432/app"),
        ("postgres://ann:s@db:1/app", "postgres://ann:***@db:1/app"),
        ("postgres://ann@db/app", "postgres://ann@db/app"),
        (
            "postgres://ann@db/app?password=hunter2&application_name=hunter2&sslmode=require",
            "postgres://ann:***@db/app?password=***&application_name=***&sslmode=require",
        ),
        (
            "mysql://ann:hunter2@db/app?ssl-key=hunter2&ssl-cert=hunter2",
            "mysql://ann:***@db/app?ssl-key=***&ssl-cert=***",
        ),
        ("sqlite://x.db?vfs=hunter2&mode=ro", "sqlite://x.db?vfs=***&mode=ro"),
    ] {
        assert_eq!(shown(text), expected);
        assert!(!format!("{:?}", DatabaseUrl::parse(text).unwrap()).contains("hunter2"));
    }
}

#[test]
fn a_password_can_be_set_separately() {
    let url = |text| DatabaseUrl::parse(text).unwrap();
    let ann = url("postgres://ann@db/app").with_password("p@ss/w#rd").unwrap();
    assert_eq!(ann.to_string(), "postgres://ann:***@db/app");
    assert!(ann.differs_in_credentials_only(&url("postgres://ann@db/app")));
    let Address::Server(address) = ann.0 else { panic!() };
    assert_eq!(address.password.as_deref(), Some("p@ss/w#rd"));
    let twice = url("postgres://ann:one@db/app").with_password("hunter2").unwrap_err().to_string();
    assert!(twice.contains("given twice") && !twice.contains("hunter2"), "{twice}");
    assert!(url("sqlite://x.db").with_password("hunter2").is_err());
    let ann = with("postgres://ann@db/app", &[("PGPASSWORD", "one")]).unwrap().with_password("two").unwrap();
    let Address::Server(address) = ann.0 else { panic!() };
    assert_eq!(address.password.as_deref(), Some("two"));
}

#[test]
fn environment_variables_fill_in_missing_parts() {
    use super::tls::TlsMode::{Prefer, Require, VerifyFull};
    let all = [
        ("PGHOST", "other"),
        ("PGPORT", "7"),
        ("PGUSER", "bob"),
        ("PGPASSWORD", "p ss"),
        ("PGDATABASE", "data"),
        ("PGSSLMODE", "verify-full"),
    ];
    let address = server_with("postgres:///", &all);
    assert_eq!((hosts(&address).as_str(), address.user.as_deref()), ("other:7", Some("bob")));
    assert_eq!((address.password.as_deref(), address.database.as_str()), (Some("p ss"), "data"));
    assert!(address.tls.mode == VerifyFull);
    let address = server_with("postgres://u:p@h/d?sslmode=require", &all);
    assert_eq!((hosts(&address).as_str(), address.user.as_deref()), ("h:5432", Some("u")));
    assert_eq!((address.password.as_deref(), address.database.as_str()), (Some("p"), "d"));
    assert!(address.tls.mode == Require);
    let ca = [("PGSSLROOTCERT", "/ca.pem")];
    assert!(server_with("postgres://u@h/d?sslmode=require", &ca).tls.mode == VerifyFull);
    assert!(server_with("postgres://u@h/d?sslmode=prefer", &ca).tls.mode == Prefer);
    assert!(server_with("mysql://u@h/d", &all).tls.mode == Prefer, "the variables are not for MySQL");
    for (variable, value, part) in [
        ("PGSSLMODE", "verify_ful", "PGSSLMODE: must be"),
        ("PGPORT", "hunter2", "PGPORT: must be a number"),
        ("PGCHANNELBINDING", "hunter2", "PGCHANNELBINDING: must be"),
        ("PGREQUIREAUTH", "hunter2", "PGREQUIREAUTH: this authentication method"),
        ("PGSERVICE", "hunter2", "PGSERVICE: libpq service files"),
        ("PGOPTIONS", "hunter2", "PGOPTIONS: must be"),
    ] {
        let error = with("postgres://u@/d?host=/run", &[(variable, value)]).unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains("hunter2"), "{error}");
        assert!(with("mysql://u@h/d", &[(variable, value)]).is_ok());
    }
}

#[test]
fn urls_that_differ_in_credentials_only_are_recognized() {
    let url = |text| DatabaseUrl::parse(text).unwrap();
    let ann = url("postgres://ann:one@db/app");
    assert!(ann.differs_in_credentials_only(&url("postgres://ann:two@db/app")));
    assert!(ann.differs_in_credentials_only(&url("postgres://bob@db/app")));
    assert!(ann.differs_in_credentials_only(&url("postgresql://bob@db:5432/app")));
    assert!(!ann.differs_in_credentials_only(&url("postgres://ann:one@other/app")));
    assert!(!ann.differs_in_credentials_only(&url("postgres://ann:one@db/other")));
    assert!(!ann.differs_in_credentials_only(&url("postgres://ann:one@db/app?sslmode=disable")));
    assert!(!ann.differs_in_credentials_only(&url("mysql://ann:one@db:5432/app")));
}
