//! No output contains a secret, regardless of the error: the cases put passwords in every position of every input and
//! search all output.

use std::{fs, process::Stdio};

use crate::{
    cases,
    harness::{Account, App, Context, Engine, Service, binary, client, eventually},
};

cases![
    errors_do_not_quote_a_url,
    errors_do_not_quote_dot_env,
    errors_do_not_quote_a_settings_file,
    errors_do_not_quote_a_misplaced_secret,
    errors_do_not_quote_a_secret_file,
    a_running_service_exposes_no_secret,
    a_password_file_is_rotated_without_a_restart,
    a_changed_password_is_read_for_new_connections,
    a_password_command_that_fails_is_reported,
];

const SECRET: &str = "hunter2";

/// The commands that read settings.
const COMMANDS: [&[&str]; 6] = [
    &["serve"],
    &["config"],
    &["migrate", "status"],
    &["import", "--format", "csv", "users.csv"],
    &["export", "--format", "csv"],
    &["healthcheck"],
];

/// The exit code and all output of each command. Connection attempts fail quickly.
async fn run(context: &Context, variables: &[(&str, &str)], commands: &[&[&str]]) -> Vec<(Option<i32>, String)> {
    fs::write(context.folder().join("users.csv"), "name,email\n").unwrap();
    let mut outcomes = Vec::new();
    for arguments in commands {
        let mut command = binary(context.folder(), variables);
        command.env("USERS_API__POOL__ACQUIRE", "1ms").env("USERS_API__SERVER__PORT", "9");
        command.env("RUST_LOG", "trace").args(*arguments).stdin(Stdio::null());
        let output = command.output().await.unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(!text.contains(SECRET), "{variables:?} {arguments:?}: {text}");
        outcomes.push((output.status.code(), text));
    }
    outcomes
}

/// Asserts that the commands refuse the settings with an error that contains `part`, and no secret.
async fn assert_refused(context: &Context, variables: &[(&str, &str)], part: &str) {
    // Two commands suffice for most, because all of them load the settings in the same way.
    for (code, text) in run(context, variables, &COMMANDS[..2]).await {
        assert_eq!(code, Some(2), "{variables:?}: {text}");
        assert!(text.contains(part), "{variables:?} {part}: {text}");
    }
}

fn scheme(context: &Context) -> &'static str {
    let engine = context.engine();
    if engine == Engine::Sqlite {
        "sqlite"
    } else if engine == Engine::Postgres {
        "postgres"
    } else {
        "mysql"
    }
}

async fn errors_do_not_quote_a_url(context: Context) {
    let scheme = scheme(&context);
    if context.engine() == Engine::Sqlite {
        for (rest, part) in [
            ("//users.db#hunter2", "unescaped #"),
            ("//users.db?mode=hunter2", "parameter mode"),
            ("//users.db?cache=hunter2", "parameter cache"),
            ("//users.db?immutable=hunter2", "parameter immutable"),
            ("//users.db?password=hunter2", "unknown parameter password"),
            ("//users%hunter2", "hexadecimal"),
        ] {
            assert_refused(&context, &[("DATABASE_URL", &format!("{scheme}:{rest}"))], part).await;
        }
        return;
    }
    for rest in ["u:hunter2 word@h/d", "u:p@ss/w#hunter2@h/d", "u:hunter2/x@h/d", "u:p@hunter2@h/d", "u:hunter2%@h/d"] {
        assert_refused(&context, &[("DATABASE_URL", &format!("{scheme}://{rest}"))], "percent-encode").await;
    }
    for name in
        ["sslmode", "sslcert", "sslkey", "sslrootcert", "ssl", "port", "charset", "options", "timezone", "bogus"]
    {
        assert_refused(&context, &[("DATABASE_URL", &format!("{scheme}://u:hunter2@h/d?{name}=hunter2"))], name).await;
    }
    // Valid URLs, which the commands show or connect to.
    for query in ["", "?password=hunter2", "?application_name=hunter2", "?socket=/hunter2"] {
        let password = if query.contains("password") { "" } else { ":hunter2" };
        let url = format!("{scheme}://u{password}@127.0.0.1:9/d{query}");
        run(&context, &[("DATABASE_URL", &url)], &COMMANDS[1..2]).await;
    }
    let url = format!("{scheme}://u:hunter2@127.0.0.1:9/d");
    for (code, text) in run(&context, &[("DATABASE_URL", &url)], &COMMANDS).await {
        assert!(code.is_some(), "{text}");
    }
    let variables = [
        ("DATABASE_URL", format!("{scheme}://u@127.0.0.1:9/d")),
        ("USERS_API__DATABASE__PASSWORD", SECRET.to_owned()),
        ("USERS_API__USERS__CURSOR_KEY", SECRET.to_owned()),
    ];
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    run(&context, &variables, &COMMANDS).await;
    if context.engine() == Engine::Postgres {
        let url = ("DATABASE_URL", "postgres://u@127.0.0.1:9/d");
        run(&context, &[url, ("PGPASSWORD", SECRET)], &COMMANDS).await;
        for name in ["PGSSLMODE", "PGCHANNELBINDING", "PGSSLCRL", "PGREQUIREAUTH", "PGOPTIONS", "PGSERVICE"] {
            assert_refused(&context, &[url, (name, SECRET)], name).await;
        }
    }
}

async fn errors_do_not_quote_dot_env(context: Context) {
    let scheme = scheme(&context);
    for (line, part) in [
        (format!("DATABASE_URL={scheme}://app:hunter2 word@db/app"), ".env, line 2 (DATABASE_URL): a value with white"),
        ("OTHER_PROGRAM=hunter2 word".to_owned(), ".env, line 2: a value with white space needs"),
        ("OTHER_PROGRAM='hunter2".to_owned(), ".env, line 2: a quotation mark is not closed"),
        ("OTHER_PROGRAM=\"hunter2\nmore".to_owned(), ".env, line 2: a quotation mark is not closed"),
        ("hunter2".to_owned(), ".env, line 2: expected ="),
        ("export hunter2".to_owned(), ".env, line 2: expected ="),
        ("DATABASE_URL: hunter2".to_owned(), ".env, line 2: expected ="),
        ("!hunter2".to_owned(), ".env, line 2: expected NAME=value"),
        (format!("DATABASE_URL={scheme}://app:pa$hunter2@db/app"), ".env, line 2 (DATABASE_URL): a $ refers"),
        (format!("DATABASE_URL={scheme}://app:pa\\hunter2@db/app"), ".env, line 2 (DATABASE_URL): after a backslash"),
        ("USERS_API__POOL__MAX=hunter2".to_owned(), "USERS_API__POOL__MAX: must be a whole number"),
    ] {
        fs::write(context.folder().join(".env"), format!("# comment\n{line}\n")).unwrap();
        assert_refused(&context, &[], part).await;
    }
    fs::write(context.folder().join(".env"), b"A=hunter2\xff\n").unwrap();
    assert_refused(&context, &[], "not UTF-8").await;
}

async fn errors_do_not_quote_a_settings_file(context: Context) {
    for (text, part) in [
        ("[database]\nurl = \"hunter2", "line 2"),
        ("[database]\nurl = hunter2", "line 2"),
        ("[database]\nurl = \"sqlite://x\" hunter2", "line 2"),
        ("[database]\npassword hunter2", "line 2"),
        ("[database]\nurl = \"\\hunter2\"", "line 2"),
        ("[database]\nurl = \"a\"\nurl = \"hunter2\"", "duplicate key"),
        ("[pool]\nmax = \"hunter2\"", "pool.max: must be a whole number"),
        ("[pool]\nmax = [\"hunter2\"]", "pool.max: must be"),
        ("[pool.max]\na = \"hunter2\"", "pool.max.a: unknown setting"),
        ("\"postgres://a:hunter2@b\" = 1", "a key: unknown setting"),
        ("[database]\nurl = \"postgres://a:p#hunter2@b/c\"", "database.url: has an unescaped #"),
    ] {
        fs::write(context.folder().join("own.toml"), text).unwrap();
        assert_refused(&context, &[("USERS_API_CONFIG", "own.toml")], part).await;
    }
}

async fn errors_do_not_quote_a_misplaced_secret(context: Context) {
    let secret_url = format!("{}://app:hunter2@db/app", scheme(&context));
    for variable in [
        "USERS_API__POOL__MAX",
        "USERS_API__POOL__WAIT",
        "USERS_API__SERVER__HOST",
        "USERS_API__DATABASE__MIGRATE",
        "USERS_API__LOG__FORMAT",
        "USERS_API__POOL__BATCH",
        "USERS_API__TELEMETRY__OTLP_ENDPOINT",
        "DATABASE_URL",
        "DATABASE_URL_FILE",
        "USERS_API__DATABASE__PASSWORD_FILE",
        "USERS_API__USERS__CURSOR_KEY_FILE",
    ] {
        assert_refused(&context, &[(variable, SECRET)], variable).await;
        if variable != "DATABASE_URL" {
            assert_refused(&context, &[(variable, &secret_url)], variable).await;
        }
    }
    let endpoint = [("USERS_API__TELEMETRY__OTLP_ENDPOINT", "http://ann:hunter2@localhost:4318")];
    run(&context, &endpoint, &COMMANDS[1..2]).await;
}

async fn errors_do_not_quote_a_secret_file(context: Context) {
    let folder = context.folder();
    let write = |name: &str, text: &[u8]| {
        fs::write(folder.join(name), text).unwrap();
        folder.join(name).display().to_string()
    };
    let several = write("several", b"hunter2\nmore\n");
    let binary = write("binary", b"hunter2\xff\n");
    let empty = write("empty", b"\n");
    let url = write("url", format!("{}://app:p#hunter2@db/app\n", scheme(&context)).as_bytes());
    for variable in [
        "DATABASE_URL_FILE",
        "USERS_API__DATABASE__URL_FILE",
        "USERS_API__DATABASE__PASSWORD_FILE",
        "USERS_API__USERS__CURSOR_KEY_FILE",
    ] {
        let missing = folder.join("missing").display().to_string();
        for (path, part) in [
            (&several, "has more than one line"),
            (&binary, "is not UTF-8"),
            (&empty, "is empty"),
            (&missing, "cannot be read: No such file"),
        ] {
            assert_refused(&context, &[(variable, path)], &format!("{variable}: the file {path} {part}")).await;
        }
        assert_refused(&context, &[(variable, "")], &format!("{variable}: names no file")).await;
        let plain = variable.trim_end_matches("_FILE");
        assert_refused(&context, &[(variable, &url), (plain, SECRET)], "are both set").await;
    }
    assert_refused(&context, &[("DATABASE_URL_FILE", &url)], "DATABASE_URL_FILE: has an unescaped #").await;
    // Later layers override earlier ones, from a file or not.
    fs::write(folder.join(".env"), format!("DATABASE_URL_FILE={url}\n")).unwrap();
    let (code, text) = run(&context, &[("DATABASE_URL", "sqlite://other.db")], &COMMANDS[1..2]).await.remove(0);
    assert!(code == Some(0) && text.contains("sqlite://other.db"), "{text}");
    fs::write(folder.join(".env"), "").unwrap();
    if context.engine() == Engine::Sqlite {
        assert_refused(&context, &[("USERS_API__DATABASE__PASSWORD", SECRET)], "SQLite has no passwords").await;
    } else {
        let both = format!("{}://app:hunter2@db/app", scheme(&context));
        let both = [("DATABASE_URL", both.as_str()), ("USERS_API__DATABASE__PASSWORD", SECRET)];
        assert_refused(&context, &both, "the password is given twice").await;
    }
}

async fn a_running_service_exposes_no_secret(context: Context) {
    let (url, account) = if context.engine() == Engine::Sqlite {
        (context.database().await, None)
    } else {
        let account = Account::new(&context).await;
        account.set_password(SECRET).await;
        (account.url.replace(":one@", "@"), Some(account))
    };
    let write = |lines: &[&str]| fs::write(context.folder().join(".env"), lines.join("\n")).unwrap();
    let valid = [format!("DATABASE_URL='{url}'"), "USERS_API__USERS__CURSOR_KEY=hunter2".to_owned()];
    let password = "USERS_API__DATABASE__PASSWORD=hunter2";
    let mut lines: Vec<&str> = valid.iter().map(String::as_str).collect();
    lines.extend(account.as_ref().map(|_| password));
    write(&lines);
    let mut service = Service::start(context.folder(), &[("RUST_LOG", "trace,hyper=off,h2=off")]).await;
    let app = App::at(service.address, &url);
    app.create("Ann", "ann@example.com").await;
    let mut output = String::new();
    for invalid in ["DATABASE_URL=postgres://a:hunter2 b@c/d", "USERS_API__POOL__MAX=hunter2", "hunter2", password] {
        write(&[lines.as_slice(), &[invalid, "USERS_API__POOL__MIN=hunter2"]].concat());
        let reloads = |service: &Service| {
            service
                .log()
                .iter()
                .filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with("reload: ")))
                .count()
        };
        let before = reloads(&service);
        service.signal("HUP").await;
        eventually("the reload is reported", || async { (reloads(&service) > before).then_some(()) }).await;
    }
    for path in ["/pool", "/health/ready", "/metrics", "/users?limit=1", "/openapi.json"] {
        output += &service.get(&client(), path).send().await.unwrap().text().await.unwrap();
    }
    service.signal("TERM").await;
    assert!(service.ended().await.success());
    output += &service.log().iter().map(ToString::to_string).collect::<String>();
    assert!(!output.contains(SECRET), "{:?}", output.lines().find(|line| line.contains(SECRET)));
    if let Some(account) = account {
        account.end(&context).await;
    }
}

async fn a_password_file_is_rotated_without_a_restart(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let account = Account::new(&context).await;
    let file = context.folder().join("password");
    // Characters that a URL would have to percent-encode.
    account.set_password("p@ss/w#rd %25").await;
    fs::write(&file, "p@ss/w#rd %25\n").unwrap();
    let url = account.url.replace(":one@", "@");
    let path = file.display().to_string();
    let variables = [("DATABASE_URL", url.as_str()), ("USERS_API__DATABASE__PASSWORD_FILE", path.as_str())];
    let mut service = Service::start(context.folder(), &variables).await;
    let app = App::at(service.address, &url);
    account.set_password("two").await;
    fs::write(&file, "two").unwrap();
    service.signal("HUP").await;
    let line = service.logged("reload: settings applied").await;
    assert_eq!(line["settings"], "database.password", "{line}");
    account.kill().await;
    app.pool_until("it is up with the new password", |pool| pool["state"] == "up" && pool["total"].as_u64() > Some(0))
        .await;
    assert_eq!(app.get("/users").await.status, 200);
    service.signal("TERM").await;
    assert!(service.ended().await.success());
    account.end(&context).await;
}

/// Without SIGHUP: from a file, and from the output of a command, such as one that creates a token.
async fn a_changed_password_is_read_for_new_connections(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let account = Account::new(&context).await;
    let file = context.folder().join("password");
    let url = account.url.replace(":one@", "@");
    let (path, command) = (file.display().to_string(), format!("cat {}", file.display()));
    for (name, value) in
        [("USERS_API__DATABASE__PASSWORD_FILE", &path), ("USERS_API__DATABASE__PASSWORD_COMMAND", &command)]
    {
        account.set_password("one").await;
        fs::write(&file, "one\n").unwrap();
        let variables = [("DATABASE_URL", url.as_str()), (name, value.as_str())];
        let mut service = Service::start(context.folder(), &variables).await;
        let app = App::at(service.address, &url);
        fs::write(&file, "two\n").unwrap();
        account.set_password("two").await;
        let opened = app.pool().await["counters"]["opened"].as_u64().unwrap();
        account.kill().await;
        eventually("it serves with the new password", || async {
            let is_served = app.get("/users").await.status == 200;
            let is_new = app.pool().await["counters"]["opened"].as_u64() > Some(opened);
            (is_served && is_new).then_some(())
        })
        .await;
        service.signal("TERM").await;
        assert!(service.ended().await.success());
        // Each command of the CLI has a pool too.
        let output = binary(context.folder(), &variables).args(["export", "--format", "csv"]).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    account.end(&context).await;
}

async fn a_password_command_that_fails_is_reported(context: Context) {
    const NAME: &str = "USERS_API__DATABASE__PASSWORD_COMMAND";
    let url = match context.engine() {
        Engine::Sqlite => {
            return assert_refused(&context, &[(NAME, "echo hunter2")], "SQLite has no passwords").await;
        }
        _ => format!("{}://app@127.0.0.1:9/d", scheme(&context)),
    };
    let with_password = url.replace("app@", "app:hunter2@");
    let refused = "the password is given twice";
    assert_refused(&context, &[("DATABASE_URL", &with_password), (NAME, "echo hunter2")], refused).await;
    let both = [("DATABASE_URL", url.as_str()), (NAME, "echo x"), ("USERS_API__DATABASE__PASSWORD", SECRET)];
    assert_refused(&context, &both, "database.password is set too").await;
    assert_refused(&context, &[("DATABASE_URL", &url), (NAME, "echo 'hunter2'")], "without quotation marks").await;
    for (command, part) in [("false hunter2", "failed: exit status: 1"), ("/hunter2", "cannot be run: No such file")] {
        let variables = [("DATABASE_URL", url.as_str()), (NAME, command), ("USERS_API__POOL__ACQUIRE", "1s")];
        let output = binary(context.folder(), &variables).output().await.unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("the password for the database cannot be read") && text.contains(part), "{text}");
        assert!(!text.contains(SECRET), "{text}");
    }
}
