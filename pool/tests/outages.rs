//! Outages: servers that are slow, hang or refuse new connections.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use orm_pool::{DatabaseUrl, DbErrorKind, Error, PoolOptions, PoolState, ReconfigureError};
use sea_orm::{ConnectionTrait, Statement};
use test_support::{
    End, Engine, Locked, Proxy, Server,
    bare::{end, pool, pool_on, read},
    cases, connect, eventually, new_database, number,
};

use crate::Context;

cases![
    the_pool_recovers_if_connecting_is_slow,
    a_hung_server_gets_few_connection_attempts,
    a_long_statement_survives_refused_connections,
    a_long_statement_survives_ignored_connections,
    pings_do_not_delay_the_abort_of_stranded_operations,
    reads_succeed_at_the_limit_of_prepared_statements,
    a_hung_connection_attempt_is_detected,
    a_draining_pool_still_kills_statements,
    lost_responses_do_not_hold_connections,
    a_long_statement_is_not_mistaken_for_a_lost_response,
    reconfigure_fails_immediately_after_close,
];

fn sleep(context: &Context, seconds: u32) -> String {
    match context.engine() {
        Engine::Postgres => format!("SELECT pg_sleep({seconds})"),
        _ => format!("SELECT SLEEP({seconds})"),
    }
}

async fn the_pool_recovers_if_connecting_is_slow(context: Context) {
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let pool = pool_on(&url, PoolOptions::default().max(4).min(2)).await;
    proxy.cut();
    eventually("the pool is down", || async { (pool.snapshot().state == PoolState::Down).then_some(()) }).await;
    // Longer than the time limit of a ping.
    proxy.slow_to_connect(Duration::from_secs(2));
    proxy.reopen_listener();
    eventually("the pool is up", || async { (pool.snapshot().state == PoolState::Up).then_some(()) }).await;
    assert_eq!(read(&pool, "SELECT 1").await, 1);
    end(pool).await;
}

async fn a_hung_server_gets_few_connection_attempts(context: Context) {
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let pool = pool_on(&url, PoolOptions::default().max(4).min(2)).await;
    proxy.stall();
    eventually("the pool is down", || async { (pool.snapshot().state == PoolState::Down).then_some(()) }).await;
    let before = proxy.accepted();
    let until = Instant::now() + Duration::from_secs(15);
    while Instant::now() < until {
        // Like readiness probes.
        assert!(pool.ping().await.is_err());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let attempts = proxy.accepted() - before;
    assert!(attempts <= 3, "MySQL blocks a host after many aborted handshakes: {attempts} in 15 s");
    proxy.restore();
    eventually("the pool is up", || async { (pool.snapshot().state == PoolState::Up).then_some(()) }).await;
    end(pool).await;
}

async fn long_statement(context: Context, fail: impl FnOnce(&Proxy)) {
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let pool = pool_on(&url, PoolOptions::default().max(1).min(1)).await;
    let slow = Arc::new(sleep(&context, 8));
    let long = {
        let pool = pool.clone();
        tokio::spawn(async move {
            pool.transaction("test.long", move |tx| {
                let slow = Arc::clone(&slow);
                async move { Ok::<_, Error>(tx.execute_unprepared(&slow).await.map(drop)?) }
            })
            .await
        })
    };
    eventually("the statement runs", || async { (pool.status().in_use == 1).then_some(()) }).await;
    fail(&proxy);
    // New operations are refused.
    eventually("the pool is down", || async { (pool.snapshot().state == PoolState::Down).then_some(()) }).await;
    assert!(pool.read("test.refused", |_| async { Ok::<_, Error>(()) }).await.is_err());
    long.await.unwrap().unwrap();
    assert_eq!(pool.snapshot().counters.stranded, 0);
    proxy.restore();
    eventually("its connection serves again", || async {
        pool.read("test.read", |db| async move { Ok::<_, Error>(number(&db, "SELECT 1").await?) }).await.ok()
    })
    .await;
    end(pool).await;
}

async fn a_long_statement_survives_refused_connections(context: Context) {
    long_statement(context, Proxy::close_listener).await;
}

async fn a_long_statement_survives_ignored_connections(context: Context) {
    long_statement(context, Proxy::ignore_connections).await;
}

/// As after a firewall has lost its connection table: new connections work.
async fn lost_responses_do_not_hold_connections(context: Context) {
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let pool = pool_on(&url, PoolOptions::default().max(4).min(4)).await;
    proxy.blackhole();
    let began = Instant::now();
    let reads: Vec<_> = (0..4)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                pool.read("test.lost", |db| async move { Ok::<_, Error>(number(&db, "SELECT 1").await?) }).await
            })
        })
        .collect();
    for lost in reads {
        let outcome = lost.await.unwrap();
        assert!(matches!(&outcome, Err(Error::Aborted { operation: "test.lost" })), "{outcome:?}");
    }
    // `statement_timeout` is 30 s.
    assert!(began.elapsed() < Duration::from_secs(15), "it took {:?}", began.elapsed());
    assert_eq!(read(&pool, "SELECT 1").await, 1);
    assert_eq!(pool.snapshot().counters.stranded, 4);
    end(pool).await;
}

async fn a_long_statement_is_not_mistaken_for_a_lost_response(context: Context) {
    for max in [1, 2] {
        // The pool queries the state of the statement over a new connection, or over an idle one.
        let pool = pool_on(&context.database().await, PoolOptions::default().max(max).min(max)).await;
        let slow = Arc::new(sleep(&context, 5));
        let long = pool.read("test.long", move |db| {
            let slow = Arc::clone(&slow);
            async move { Ok::<_, Error>(db.execute_unprepared(&slow).await.map(drop)?) }
        });
        long.await.unwrap();
        assert_eq!(pool.snapshot().counters.stranded, 0);
        end(pool).await;
    }
}

async fn pings_do_not_delay_the_abort_of_stranded_operations(context: Context) {
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let pool = pool_on(&url, PoolOptions::default().max(8).min(8)).await;
    let slow = Arc::new(sleep(&context, 60));
    let stranded: Vec<_> = (0..2)
        .map(|_| {
            let (pool, slow) = (pool.clone(), Arc::clone(&slow));
            tokio::spawn(async move {
                pool.read("test.stranded", move |db| {
                    let slow = Arc::clone(&slow);
                    async move { Ok::<_, Error>(db.execute_unprepared(&slow).await.map(drop)?) }
                })
                .await
            })
        })
        .collect();
    eventually("both run", || async { (pool.status().in_use == 2).then_some(()) }).await;
    proxy.stall();
    let stalled_at = Instant::now();
    let pings: Vec<_> = (0..150)
        .map(|number| {
            let pool = pool.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(number * 7)).await;
                pool.ping().await
            })
        })
        .collect();
    for operation in stranded {
        let outcome = operation.await.unwrap();
        assert!(matches!(&outcome, Err(Error::Aborted { operation: "test.stranded" })), "{outcome:?}");
    }
    let aborted = stalled_at.elapsed();
    assert!(aborted < Duration::from_secs(15), "it took {aborted:?} to abort them");
    for ping in pings {
        // Pings before the stall may have succeeded.
        let _ = ping.await.unwrap();
    }
    assert!(pool.ping().await.is_err());
    proxy.cut();
    end(pool).await;
}

/// MySQL and MariaDB limit the total number of prepared statements of all clients.
async fn reads_succeed_at_the_limit_of_prepared_statements(context: Context) {
    if !context.engine().is_mysql_like() {
        return;
    }
    let mut server = Server::new(context.engine(), &["--max-prepared-stmt-count=60"]);
    server.start(End::Orderly);
    server.await_ready();
    let pool = pool_on(&new_database(server.url()).await, PoolOptions::default().max(4).min(4)).await;
    let query = async |number: usize| {
        let read = move |db: orm_pool::Connection| async move {
            let sql = format!("SELECT {number} + ?");
            let statement = Statement::from_sql_and_values(db.get_database_backend(), sql, [1_i64.into()]);
            let row = db.query_one_raw(statement).await?.unwrap();
            Ok::<_, Error>(row.try_get_by_index::<i64>(0)?)
        };
        pool.read("test.statement", read).await
    };
    let mut opened = 0;
    for round in 0..5 {
        opened = pool.snapshot().counters.opened;
        let all = futures_util::future::join_all((0..80).map(&query)).await;
        for (number, outcome) in all.into_iter().enumerate() {
            let value = outcome.unwrap_or_else(|error| panic!("round {round}, statement {number}: {error:?}"));
            assert_eq!(value, i64::try_from(number).unwrap() + 1);
        }
    }
    assert_eq!(pool.impairment(), Some(DbErrorKind::TooManyStatements), "the impairment is reported");
    assert_eq!(pool.snapshot().counters.opened, opened, "connections end up with caches that fit the limit");
    end(pool).await;
    server.stop();
}

async fn a_hung_connection_attempt_is_detected(context: Context) {
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let options = PoolOptions::default().min(0).idle(Duration::from_millis(50)).acquire(Duration::from_secs(60));
    let pool = pool_on(&url, options).await;
    eventually("no connection is open", || async { (pool.status().total == 0).then_some(()) }).await;
    proxy.stall();
    let began = Instant::now();
    let refused = pool.read("test.read", |db| async move { Ok::<_, Error>(number(&db, "SELECT 1").await?) }).await;
    assert!(refused.is_err());
    let detected = began.elapsed();
    assert!(detected < Duration::from_secs(8), "before the connection attempt times out: {detected:?}");
    assert_eq!(pool.snapshot().state, PoolState::Down);
    proxy.restore();
    eventually("the pool is up", || async { (pool.snapshot().state == PoolState::Up).then_some(()) }).await;
    end(pool).await;
}

async fn a_draining_pool_still_kills_statements(context: Context) {
    if context.engine() != Engine::MySql {
        // The other engines enforce statement timeouts themselves.
        return;
    }
    let pool = pool(&context, PoolOptions::default().statement_timeout(Duration::from_secs(1))).await;
    let url = context.last_database();
    let outside = connect(&url).await;
    outside.execute_unprepared("CREATE TABLE users (version INTEGER)").await.unwrap();
    let lock = Locked::users(&context, &url).await;
    let blocked = {
        let pool = pool.clone();
        tokio::spawn(async move {
            let sql = "UPDATE users SET version = version";
            pool.write(
                "test.blocked",
                move |db| async move { Ok::<_, Error>(db.execute_unprepared(sql).await.map(drop)?) },
            )
            .await
        })
    };
    eventually("the write is blocked", || async { (pool.status().in_use == 1).then_some(()) }).await;
    pool.drain();
    let ended = tokio::time::timeout(Duration::from_secs(5), blocked).await.expect("it was not killed");
    assert!(matches!(ended.unwrap(), Err(Error::Database(_))), "an error of the server");
    lock.unlock().await;
    outside.close().await.unwrap();
    end(pool).await;
}

async fn reconfigure_fails_immediately_after_close(context: Context) {
    let pool = pool(&context, PoolOptions::default()).await;
    let mut other = url::Url::parse(&context.last_database()).unwrap();
    other.set_password(Some("another")).unwrap();
    let other = DatabaseUrl::parse(other.as_str()).unwrap();
    pool.close(Duration::from_secs(10)).await.unwrap();
    let options = PoolOptions::default();
    let changed = pool.reconfigure(&other, &options);
    let refused = tokio::time::timeout(Duration::from_secs(10), changed).await.expect("it hangs").unwrap_err();
    assert!(matches!(refused, ReconfigureError::Closed), "{refused:?}");
}
