//! URLs with several hosts: which one is used, and what happens when it fails.

use std::time::{Duration, Instant};

use orm_pool::{ConnectError, DatabaseUrl, DbErrorKind, Error, HostState, Pool, PoolOptions, PoolState};
use sea_orm::ConnectionTrait;
use test_support::{
    End, Engine, Proxy, Server,
    bare::{end, pool_on, read, write},
    cases, connect, eventually, new_database, number,
};
use tokio::task::JoinHandle;

use crate::Context;

cases![
    connections_go_to_the_first_host_that_works,
    a_silent_host_is_left_with_its_operations,
    a_read_only_server_is_skipped_and_left,
    any_server_is_used_if_the_url_asks_for_it,
    if_no_host_works_the_cause_of_each_is_reported,
    rejected_credentials_are_not_tried_on_other_hosts,
    connections_are_spread_over_the_hosts,
];

/// Returns a URL with the hosts of both.
fn of_both(one: &str, other: &str) -> String {
    let authority = |url: &str| {
        let url = url::Url::parse(url).unwrap();
        format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())
    };
    one.replace(&authority(one), &format!("{},{}", authority(one), authority(other)))
}

/// Two hosts with the same database, and the URL of both.
async fn two_hosts(context: &Context) -> (Proxy, Proxy, String) {
    let url = context.database().await;
    let ((first, first_url), (second, second_url)) = (Proxy::before(&url).await, Proxy::before(&url).await);
    (first, second, of_both(&first_url, &second_url))
}

/// State and number of connections of each host.
fn hosts(pool: &Pool) -> Vec<(HostState, u32)> {
    pool.snapshot().hosts.into_iter().map(|host| (host.state, host.connections)).collect()
}

fn spawn_read(pool: &Pool) -> JoinHandle<Result<i64, Error>> {
    let pool = pool.clone();
    tokio::spawn(async move {
        pool.read("test.read", |db| async move { Ok::<_, Error>(number(&db, "SELECT 1").await?) }).await
    })
}

async fn connections_go_to_the_first_host_that_works(context: Context) {
    let (first, second, url) = two_hosts(&context).await;
    // A connection is replaced soon after the first host is back.
    let pool = pool_on(&url, PoolOptions::default().max(2).min(2).lifetime(Duration::from_secs(1))).await;
    eventually("two are open", || async { (pool.status().total == 2).then_some(()) }).await;
    assert_eq!(hosts(&pool)[1], (HostState::Untried, 0));
    assert_eq!((hosts(&pool)[0].0, second.accepted()), (HostState::Up, 0));
    first.cut();
    eventually("reads succeed on the second", || async { spawn_read(&pool).await.unwrap().ok() }).await;
    let snapshot = pool.snapshot();
    assert_eq!((snapshot.hosts[0].state, snapshot.hosts[0].connections), (HostState::Down, 0));
    assert_eq!(snapshot.hosts[0].cause.as_ref().unwrap().kind, DbErrorKind::Refused);
    assert_eq!(hosts(&pool)[1].0, HostState::Up);
    first.restore();
    eventually("the first is used again", || async { (hosts(&pool)[0].1 > 0).then_some(()) }).await;
    assert_eq!(read(&pool, "SELECT 1").await, 1);
    end(pool).await;
}

async fn a_silent_host_is_left_with_its_operations(context: Context) {
    let (first, _second, url) = two_hosts(&context).await;
    let pool = pool_on(&url, PoolOptions::default().max(2).min(2)).await;
    first.stall();
    let began = Instant::now();
    let hung = [spawn_read(&pool), spawn_read(&pool)];
    eventually("the first host counts as down", || async {
        (pool.snapshot().hosts[0].cause.as_ref()?.kind == DbErrorKind::Silent).then_some(())
    })
    .await;
    eventually("reads succeed on the second", || async { spawn_read(&pool).await.unwrap().ok() }).await;
    for hung in hung {
        let outcome = hung.await.unwrap();
        // A read whose connection did not respond to a ping was repeated on the second host.
        assert!(matches!(outcome, Ok(1) | Err(Error::Aborted { .. } | Error::Refused { .. })), "{outcome:?}");
    }
    // `statement_timeout` is 30 s.
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    eventually("no connection is left to the first", || async { (hosts(&pool)[0].1 == 0).then_some(()) }).await;
    end(pool).await;
}

/// Makes a server read-only, or writable again.
async fn set_read_only(server: &Server, engine: Engine, is_read_only: bool) {
    let admin = connect(server.url()).await;
    let word = if is_read_only { "on" } else { "off" };
    let statements = match engine {
        Engine::Postgres => vec![
            "SET default_transaction_read_only = off".to_owned(),
            format!("ALTER SYSTEM SET default_transaction_read_only = {word}"),
            "SELECT pg_reload_conf()".to_owned(),
        ],
        _ => vec![format!("SET GLOBAL read_only = {word}")],
    };
    for statement in statements {
        admin.execute_unprepared(&statement).await.unwrap();
    }
    admin.close().await.unwrap();
}

/// Two servers with a database `app` and the table `t`. Returns the URL of both for a user who cannot write while the
/// server is read-only.
async fn two_servers(context: &Context) -> (Server, Server, String) {
    let server = || async {
        let mut server = Server::new(context.engine(), &[]);
        server.start(End::Crash);
        server.await_ready();
        let url = new_database(server.url()).await;
        let app = connect(&url).await;
        app.execute_unprepared("CREATE TABLE t (id INTEGER PRIMARY KEY)").await.unwrap();
        if context.engine().is_mysql_like() {
            // `read_only` does not apply to administrators.
            app.execute_unprepared("CREATE USER app IDENTIFIED BY 'secret'").await.unwrap();
            app.execute_unprepared("GRANT ALL ON app.* TO app").await.unwrap();
        }
        app.close().await.unwrap();
        (server, url.replace("admin:", "app:"))
    };
    let ((one, one_url), (other, other_url)) = (server().await, server().await);
    (one, other, of_both(&one_url, &other_url))
}

async fn a_read_only_server_is_skipped_and_left(context: Context) {
    let (one, other, url) = two_servers(&context).await;
    set_read_only(&one, context.engine(), true).await;
    let pool = pool_on(&url, PoolOptions::default().max(2).min(1)).await;
    write(&pool, "INSERT INTO t VALUES (1)".to_owned()).await.unwrap();
    assert_eq!((hosts(&pool)[0], hosts(&pool)[1].0), ((HostState::ReadOnly, 0), HostState::Up));
    // A failover: the other one becomes the primary.
    set_read_only(&one, context.engine(), false).await;
    set_read_only(&other, context.engine(), true).await;
    // PostgreSQL applies the setting to a session a moment later.
    let refused = eventually("a write is refused", || async {
        write(&pool, "DELETE FROM t WHERE id = 2".to_owned()).await.err()
    })
    .await;
    assert!(matches!(&refused, Error::Database(error) if DbErrorKind::of(error) == DbErrorKind::ReadOnly), "{refused}");
    eventually("writes reach the new primary", || async {
        write(&pool, "INSERT INTO t VALUES (3)".to_owned()).await.ok()
    })
    .await;
    assert_eq!(hosts(&pool)[1], (HostState::ReadOnly, 0));
    assert_eq!(read(&pool, "SELECT MAX(id) FROM t").await, 3);
    end(pool).await;
}

async fn any_server_is_used_if_the_url_asks_for_it(context: Context) {
    let (one, _other, url) = two_servers(&context).await;
    set_read_only(&one, context.engine(), true).await;
    let pool = pool_on(&format!("{url}?target_session_attrs=any"), PoolOptions::default().max(2).min(1)).await;
    assert!(write(&pool, "INSERT INTO t VALUES (1)".to_owned()).await.is_err());
    assert_eq!(read(&pool, "SELECT COUNT(*) FROM t").await, 0);
    assert_eq!(hosts(&pool)[1], (HostState::Untried, 0));
    end(pool).await;
}

async fn if_no_host_works_the_cause_of_each_is_reported(context: Context) {
    let (first, second, url) = two_hosts(&context).await;
    let pool = pool_on(&url, PoolOptions::default().max(2).min(1)).await;
    first.cut();
    second.cut();
    eventually("the pool is down", || async { (pool.snapshot().state == PoolState::Down).then_some(()) }).await;
    let snapshot = pool.snapshot();
    let detail = snapshot.cause.unwrap().detail;
    for host in &snapshot.hosts {
        assert_eq!(host.state, HostState::Down);
        assert!(detail.contains(&format!("{}: Connection refused", host.host)), "{detail}");
    }
    second.restore();
    eventually("the pool is up", || async { (pool.snapshot().state == PoolState::Up).then_some(()) }).await;
    end(pool).await;
}

async fn rejected_credentials_are_not_tried_on_other_hosts(context: Context) {
    let (_first, second, url) = two_hosts(&context).await;
    let url = DatabaseUrl::parse(&url.replace("secret", "wrong")).unwrap();
    match Pool::connect(&url, &PoolOptions::default()).await {
        Err(ConnectError::Unreachable { kind: DbErrorKind::Authentication, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(second.accepted(), 0);
}

async fn connections_are_spread_over_the_hosts(context: Context) {
    let (first, second, url) = two_hosts(&context).await;
    let url = format!("{url}?load_balance_hosts=random");
    let pool = pool_on(&url, PoolOptions::default().max(30).min(30)).await;
    eventually("all are open", || async { (pool.status().total == 30).then_some(()) }).await;
    let hosts = hosts(&pool);
    assert_eq!(hosts.iter().map(|(_, connections)| connections).sum::<u32>(), 30);
    // With 30 connections, the probability that one host has none is below 1 : 500,000,000.
    assert!(first.accepted() > 0 && second.accepted() > 0, "{hosts:?}");
    second.cut();
    eventually("reads succeed on the first", || async { spawn_read(&pool).await.unwrap().ok() }).await;
    end(pool).await;
}
