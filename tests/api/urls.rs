//! Database URLs, tested with the running service.

use std::fs;

use crate::{
    cases,
    harness::{App, Context, End, Engine, Server, Service, binary, new_database},
};

cases![
    a_relative_path_is_resolved_against_the_working_directory,
    an_ipv6_address_connects,
    a_unix_socket_connects,
    libpq_variables_supply_missing_parts,
    an_unverified_server_is_logged_once,
];

async fn assert_serves(context: &Context, variables: &[(&str, &str)]) {
    let mut service = Service::start(context.folder(), variables).await;
    let app = App::at(service.address, "");
    app.create("Ann", "ann@example.com").await;
    service.signal("TERM").await;
    assert!(service.ended().await.success());
}

async fn a_relative_path_is_resolved_against_the_working_directory(context: Context) {
    if context.engine() != Engine::Sqlite {
        return;
    }
    let child = context.folder().join("a/b");
    fs::create_dir_all(&child).unwrap();
    for (url, file) in [
        ("sqlite://../../up.db?mode=rwc", "up.db"),
        ("sqlite:../beside.db?mode=rwc", "a/beside.db"),
        ("sqlite://./with%20space%3F.db?mode=rwc", "a/b/with space?.db"),
    ] {
        let output = binary(&child, &[("DATABASE_URL", url)]).args(["migrate", "up"]).output().await.unwrap();
        assert!(output.status.success(), "{url}: {output:?}");
        assert!(context.folder().join(file).is_file(), "{url}");
    }
    assert!(!child.join("up.db").exists());
}

async fn an_ipv6_address_connects(context: Context) {
    if context.engine() == Engine::Sqlite || std::net::TcpListener::bind(("::1", 0)).is_err() {
        return;
    }
    let both = if context.engine() == Engine::Postgres {
        "-clisten_addresses=127.0.0.1,::1"
    } else {
        "--bind-address=127.0.0.1,::1"
    };
    let mut server = Server::new(context.engine(), &[both]);
    server.start(End::Orderly);
    server.await_ready();
    let url = new_database(server.url()).await.replace("127.0.0.1", "[::1]");
    assert_serves(&context, &[("DATABASE_URL", &url)]).await;
    server.stop();
}

async fn a_unix_socket_connects(context: Context) {
    let mut server = match context.engine() {
        Engine::Sqlite => return,
        engine => Server::new(engine, &[]),
    };
    server.start(End::Orderly);
    server.await_ready();
    let url = url::Url::parse(&new_database(server.url()).await).unwrap();
    let (user, password, port) = (url.username(), url.password().unwrap(), url.port().unwrap());
    let folder = server.folder().display();
    let url = match context.engine() {
        Engine::Postgres => format!("postgres://{user}:{password}@/app?host={folder}&port={port}&sslmode=verify-full"),
        _ => format!("mysql://{user}:{password}@localhost/app?socket={folder}/socket"),
    };
    assert_serves(&context, &[("DATABASE_URL", &url)]).await;
    server.stop();
}

async fn libpq_variables_supply_missing_parts(context: Context) {
    if context.engine() != Engine::Postgres {
        return;
    }
    let url = url::Url::parse(&context.database().await).unwrap();
    let port = url.port().unwrap().to_string();
    let partial = format!("postgres://{}", url.path());
    let variables = [
        ("DATABASE_URL", partial.as_str()),
        ("PGHOST", url.host_str().unwrap()),
        ("PGPORT", &port),
        ("PGUSER", url.username()),
        ("PGPASSWORD", url.password().unwrap()),
        ("PGSSLMODE", "disable"),
    ];
    assert_serves(&context, &variables).await;
    let output = binary(context.folder(), &[("DATABASE_URL", url.as_str()), ("PGSSLMODE", "verify_ful")]).output();
    let output = output.await.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && text.contains("PGSSLMODE: must be disable, prefer"), "{text}");
}

async fn an_unverified_server_is_logged_once(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let url = context.database().await;
    if !url.contains("@127.0.0.1:") {
        return;
    }
    // Linux connects this address to the local host, but it is not a loopback address.
    for (url, warnings) in [(url.replace("@127.0.0.1:", "@0.0.0.0:"), 1), (url, 0)] {
        let mut service = Service::start(context.folder(), &[("DATABASE_URL", &url)]).await;
        service.signal("HUP").await;
        service.logged("reload: no changes").await;
        service.signal("TERM").await;
        assert!(service.ended().await.success());
        let log = service.log();
        let found = log.iter().filter(|line| line["message"] == "TLS certificate of the database is not verified");
        let hosts: Vec<&str> = found.map(|line| line["host"].as_str().unwrap()).collect();
        assert_eq!(hosts, vec!["0.0.0.0"; warnings], "{log:?}");
    }
}
