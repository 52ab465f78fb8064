//! The command line as an operator uses it.

use std::{fs, os::unix::ffi::OsStringExt, process::Output, time::Instant};

use serde_json::{Value, json};

use crate::{
    cases,
    harness::{Context, Engine, Service, binary},
};

cases![
    serve_uses_a_sqlite_file_by_default,
    help_lists_commands_variables_and_exit_codes,
    completions_and_man_pages_are_generated,
    config_shows_origins_and_masks_secrets,
    config_prints_json,
    serve_options_override_the_environment,
    an_invalid_setting_exits_with_2,
    an_unreachable_database_is_reported,
    a_rejected_password_is_reported_immediately,
    an_address_in_use_is_reported,
    healthcheck_reports_readiness_and_liveness,
    the_env_example_lists_every_variable,
    only_the_dot_env_of_the_working_directory_is_read,
];

async fn run(context: &Context, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    binary(context.folder(), variables).args(arguments).output().await.unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

async fn serve_uses_a_sqlite_file_by_default(context: Context) {
    let mut service = Service::start(context.folder(), &[]).await;
    assert!(context.folder().join("users.db").is_file());
    service.signal("TERM").await;
    assert!(service.ended().await.success());
}

async fn help_lists_commands_variables_and_exit_codes(context: Context) {
    let help = stdout(&run(&context, &[], &["--help"]).await);
    for word in [
        "serve",
        "migrate",
        "openapi",
        "config",
        "healthcheck",
        "import",
        "export",
        "USERS_API__POOL__MAX",
        "DATABASE_URL",
        "--config",
        "Exit codes",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
    for command in ["serve", "migrate", "import", "export", "openapi", "config", "healthcheck"] {
        let output = run(&context, &[], &[command, "--help"]).await;
        assert!(output.status.success() && stdout(&output).lines().count() > 5, "{command}");
    }
    assert_eq!(run(&context, &[], &["dance"]).await.status.code(), Some(2));
}

async fn completions_and_man_pages_are_generated(context: Context) {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&run(&context, &[], &["completions", shell]).await);
        for word in ["users-api", "migrate", "dry-run"] {
            assert!(script.contains(word), "{shell}: {word} is missing from:\n{script}");
        }
    }
    assert_eq!(run(&context, &[], &["completions", "csh"]).await.status.code(), Some(2));
    let page = stdout(&run(&context, &[], &["man"]).await);
    assert!(page.contains(".TH users-api 1") && page.contains("Exit codes"), "{page}");
    let folder = context.folder().join("man/man1");
    let output = run(&context, &[], &["man", "--output", folder.to_str().unwrap()]).await;
    assert!(output.status.success(), "{output:?}");
    for page in ["users-api.1", "users-api-import.1", "users-api-migrate-up.1"] {
        assert!(fs::read_to_string(folder.join(page)).unwrap().contains(".TH "), "{page}");
    }
    let output = run(&context, &[], &["man", "--output", "/dev/null/man"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/dev/null/man"), "{output:?}");
}

async fn config_shows_origins_and_masks_secrets(context: Context) {
    fs::write(context.folder().join("own.toml"), "[pool]\nmax = 7\nmin = 1\n").unwrap();
    fs::write(context.folder().join(".env"), "USERS_API__POOL__MIN=3\nDATABASE_URL=postgres://ann:hunter2@db/app\n")
        .unwrap();
    let variables = [("USERS_API__POOL__ACQUIRE", "9s"), ("USERS_API__USERS__CURSOR_KEY", "hunter2")];
    let output = run(&context, &variables, &["config", "--config", "own.toml"]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    let line = |key: &str| {
        let found = text.lines().find(|line| line.split_whitespace().next() == Some(key));
        found.unwrap_or_else(|| panic!("{key}: {text}")).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("pool.max"), "pool.max = 7 # file");
    assert_eq!(line("pool.min"), "pool.min = 3 # .env");
    assert_eq!(line("pool.acquire"), "pool.acquire = 9s # environment");
    assert_eq!(line("pool.wait"), "pool.wait = true # default");
    assert_eq!(line("database.url"), "database.url = postgres://ann:***@db/app # .env");
    assert_eq!(line("users.cursor_key"), "users.cursor_key = *** # environment");
    assert!(!text.contains("hunter2"));
}

async fn config_prints_json(context: Context) {
    let variables = [("PORT", "8081"), ("USERS_API__USERS__CURSOR_KEY", "hunter2")];
    let output = run(&context, &variables, &["config", "--json"]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let settings: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(settings["server.port"], json!({"value": "8081", "origin": "environment"}));
    assert_eq!(settings["users.cursor_key"], json!({"value": "***", "origin": "environment"}));
    assert_eq!(settings["pool.wait"], json!({"value": "true", "origin": "default"}));
}

async fn serve_options_override_the_environment(context: Context) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let variables = [("PORT", "1"), ("USERS_API__SERVER__HOST", "127.0.0.9")];
    let mut service =
        Service::launch_with(context.folder(), &variables, &["serve", "--host", "127.0.0.1", "--port", &port]);
    let line = service.logged("listening").await;
    assert_eq!(line["address"], format!("127.0.0.1:{port}"));
    service.signal("HUP").await;
    service.logged("reload: no changes").await;
    service.signal("TERM").await;
    assert!(service.ended().await.success());
    for arguments in [["serve", "--port", "70000"], ["serve", "--host", "localhost"]] {
        assert_eq!(run(&context, &[], &arguments).await.status.code(), Some(2), "{arguments:?}");
    }
}

async fn an_invalid_setting_exits_with_2(context: Context) {
    for (variables, message) in [
        (
            &[("USERS_API__POOL__MAX", "many")][..],
            "users-api: USERS_API__POOL__MAX: must be a whole number from 1 to 10000 (from environment)\n",
        ),
        (
            &[("USERS_API__POOL__MXA", "1")],
            "users-api: USERS_API__POOL__MXA: unknown setting; did you mean USERS_API__POOL__MAX?\n",
        ),
        (
            &[("DATABASE_URL", "oracle://a:hunter2@b/c")],
            "users-api: DATABASE_URL: unknown scheme; expected sqlite, postgres, postgresql, mysql or mariadb (from environment)\n",
        ),
        (
            &[("DATABASE_URL", "postgres://a:hunter2@b/c?sslmode=off")],
            "users-api: DATABASE_URL: parameter sslmode: must be disable, prefer, require, verify-ca or verify-full (MySQL: DISABLED, PREFERRED, REQUIRED, VERIFY_CA or VERIFY_IDENTITY) (from environment)\n",
        ),
    ] {
        let output = run(&context, variables, &["serve"]).await;
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(2), message));
    }
    let output = run(&context, &[("USERS_API_CONFIG", "nowhere.toml")], &[]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("nowhere.toml"), "{}", stderr(&output));
    fs::write(context.folder().join("own.toml"), "[pool]\nmax = 1\nmax = 2\n").unwrap();
    let text = stderr(&run(&context, &[], &["--config", "own.toml"]).await);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("line 3") && text.contains("duplicate key"), "{text}");
    let mut command = binary(context.folder(), &[]);
    command.env("USERS_API__POOL__MAX", std::ffi::OsString::from_vec(vec![b'7', 0xff])).arg("config");
    let output = command.output().await.unwrap();
    assert_eq!(stderr(&output), "users-api: USERS_API__POOL__MAX: the value is not UTF-8\n");
    assert_eq!(output.status.code(), Some(2));
    fs::write(context.folder().join("own.toml"), "[pool]\nmax = 0\n").unwrap();
    let output = run(&context, &[], &["--config", "own.toml"]).await;
    assert_eq!(stderr(&output), "users-api: pool.max=0: must be a whole number from 1 to 10000 (from file)\n");
    let output = run(&context, &[("USERS_API__POOL__MIN", "99")], &["config"]).await;
    assert_eq!(output.status.code(), Some(2), "config validates the settings");
}

async fn an_unreachable_database_is_reported(context: Context) {
    for scheme in ["postgres", "mysql"] {
        // No one listens on this port: its listener is closed again.
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let url = format!("{scheme}://ann:hunter2@127.0.0.1:{port}/app");
        let began = Instant::now();
        let output =
            run(&context, &[("DATABASE_URL", &url), ("USERS_API__POOL__ACQUIRE", "1500ms"), ("RUST_LOG", "off")], &[])
                .await;
        let waited = began.elapsed().as_secs_f64();
        assert_eq!(output.status.code(), Some(1));
        assert!((1.5..20.0).contains(&waited), "after pool.acquire, neither earlier nor much later: {waited}");
        let text = stderr(&output);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(&format!("cannot reach the database {scheme}://ann:***@127.0.0.1:{port}/app")), "{text}");
        assert!(text.contains("refused") && !text.contains("hunter2"), "{text}");
    }
    let output = run(&context, &[("DATABASE_URL", "sqlite:///nowhere/to/be/found.db"), ("RUST_LOG", "off")], &[]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("sqlite:///nowhere/to/be/found.db"), "{}", stderr(&output));
}

async fn a_rejected_password_is_reported_immediately(context: Context) {
    for engine in
        [Engine::Postgres, Engine::MariaDb, Engine::MySql].into_iter().filter(|engine| engine.missing().is_none())
    {
        let mut url = url::Url::parse(&engine.admin_url()).unwrap();
        url.set_password(Some("hunter2")).unwrap();
        let variables = [("DATABASE_URL", url.as_str()), ("USERS_API__POOL__ACQUIRE", "1h"), ("RUST_LOG", "off")];
        let output = run(&context, &variables, &[]).await;
        let text = stderr(&output);
        assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{text}");
        assert!(!text.contains("hunter2") && (text.contains("password") || text.contains("denied")), "{text}");
    }
}

async fn an_address_in_use_is_reported(context: Context) {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = run(&context, &[("USERS_API__SERVER__PORT", &port), ("RUST_LOG", "off")], &[]).await;
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains(&format!("cannot listen on 127.0.0.1:{port}")) && text.contains("in use"), "{text}");
}

async fn healthcheck_reports_readiness_and_liveness(context: Context) {
    let mut service = Service::start(context.folder(), &[("USERS_API__SERVER__DRAIN_DELAY", "5s")]).await;
    let port = service.address.port().to_string();
    let output = run(&context, &[("USERS_API__SERVER__PORT", &port)], &["healthcheck"]).await;
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "ready\n"));
    let all_interfaces = [
        ("USERS_API__SERVER__PORT", port.as_str()),
        ("USERS_API__SERVER__HOST", "0.0.0.0"),
        ("USERS_API__AUTH__MODE", "gateway"),
    ];
    assert!(run(&context, &all_interfaces, &["healthcheck"]).await.status.success());
    service.signal("TERM").await;
    service.logged("shutdown: readiness is now false").await;
    let output = run(&context, &all_interfaces, &["healthcheck"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is not ready"), "{}", stderr(&output));
    let output = run(&context, &all_interfaces, &["healthcheck", "--live"]).await;
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "live\n"));
    service.ended().await;
    let output = run(&context, &[("USERS_API__SERVER__PORT", &port)], &["healthcheck"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no response from"), "{}", stderr(&output));
}

async fn the_env_example_lists_every_variable(context: Context) {
    let example = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/.env.example")).unwrap();
    let shown = stdout(&run(&context, &[], &["config"]).await);
    for line in shown.lines() {
        let (key, rest) = line.split_once('=').unwrap();
        let value = rest.rsplit_once('#').unwrap().0.trim();
        let variable = format!("USERS_API__{}", key.trim().replace('.', "__").to_uppercase());
        assert!(
            example.lines().any(|line| line == format!("#{variable}={value}")),
            "#{variable}={value} is not in .env.example"
        );
    }
    // With every line uncommented, the example is a valid configuration.
    let all: String = example
        .lines()
        .filter_map(|line| line.strip_prefix("#USERS_API"))
        .map(|rest| format!("USERS_API{rest}\n"))
        .collect();
    fs::write(context.folder().join(".env"), all).unwrap();
    let output = run(&context, &[], &["config"]).await;
    assert!(output.status.success(), "{}", stderr(&output));
}

async fn only_the_dot_env_of_the_working_directory_is_read(context: Context) {
    let child = context.folder().join("a/b");
    fs::create_dir_all(&child).unwrap();
    let settings = "DATABASE_URL='sqlite://another.db?mode=rwc'\nUSERS_API__POOL__MAX=3\n";
    for parent in [context.folder().to_owned(), context.folder().join("a")] {
        fs::write(parent.join(".env"), settings).unwrap();
    }
    let output = binary(&child, &[]).arg("config").output().await.unwrap();
    assert!(output.status.success() && !stdout(&output).contains(".env"), "{}", stdout(&output));
    let mut service = Service::start(&child, &[]).await;
    assert!(child.join("users.db").is_file());
    service.signal("HUP").await;
    service.logged("reload: no changes").await;
    service.signal("TERM").await;
    assert!(service.ended().await.success());
    let files = [child.join("another.db"), context.folder().join("another.db"), context.folder().join("a/another.db")];
    assert!(files.iter().all(|file| !file.exists()), "{files:?}");
    // A `.env` file in the working directory is read; a directory of this name is ignored.
    fs::write(child.join(".env"), "USERS_API__POOL__MAX=4\n").unwrap();
    let output = binary(&child, &[]).arg("config").output().await.unwrap();
    assert!(stdout(&output).contains("# .env"), "{}", stdout(&output));
    fs::remove_file(child.join(".env")).unwrap();
    fs::create_dir(child.join(".env")).unwrap();
    assert!(binary(&child, &[]).arg("config").output().await.unwrap().status.success());
}
