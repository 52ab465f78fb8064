//! A server that is slow, hung, or takes no new connections: what the pool makes of it.

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
    a_server_that_is_slow_to_connect_to_comes_back,
    a_hung_server_is_not_showered_with_handshakes,
    a_long_statement_outlives_a_listener_that_is_shut,
    a_long_statement_outlives_a_listener_that_is_deaf,
    pings_do_not_delay_the_end_of_stranded_operations,
    a_server_without_room_for_statements_costs_no_read,
    a_connection_that_is_never_opened_is_noticed,
    a_pool_that_drains_still_kills_statements,
    answers_that_were_lost_do_not_keep_connections,
    a_long_statement_is_not_taken_for_a_lost_answer,
    new_credentials_after_the_end_are_refused_at_once,
];

fn sleep(context: &Context, seconds: u32) -> String {
    match context.engine() {
        Engine::Postgres => format!("SELECT pg_sleep({seconds})"),
        _ => format!("SELECT SLEEP({seconds})"),
    }
}

async fn a_server_that_is_slow_to_connect_to_comes_back(context: Context) {
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let pool = pool_on(&url, PoolOptions::default().max(4).min(2)).await;
    proxy.cut();
    eventually("it is down", || async { (pool.snapshot().state == PoolState::Down).then_some(()) }).await;
    // Longer than a ping may take.
    proxy.slow_to_connect(Duration::from_secs(2));
    proxy.mend_listener();
    eventually("it is up", || async { (pool.snapshot().state == PoolState::Up).then_some(()) }).await;
    assert_eq!(read(&pool, "SELECT 1").await, 1);
    end(pool).await;
}

async fn a_hung_server_is_not_showered_with_handshakes(context: Context) {
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let pool = pool_on(&url, PoolOptions::default().max(4).min(2)).await;
    proxy.stall();
    eventually("it is down", || async { (pool.snapshot().state == PoolState::Down).then_some(()) }).await;
    let before = proxy.accepted();
    let until = Instant::now() + Duration::from_secs(15);
    while Instant::now() < until {
        // As a readiness probe does.
        assert!(pool.ping().await.is_err());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let attempts = proxy.accepted() - before;
    assert!(attempts <= 3, "MySQL shuts out a host that gives up many handshakes: {attempts} in 15 s");
    proxy.mend();
    eventually("it is up", || async { (pool.snapshot().state == PoolState::Up).then_some(()) }).await;
    end(pool).await;
}

async fn long_statement(context: Context, trouble: impl FnOnce(&Proxy)) {
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
    eventually("it runs", || async { (pool.status().in_use == 1).then_some(()) }).await;
    trouble(&proxy);
    // Newcomers are refused.
    eventually("it is down", || async { (pool.snapshot().state == PoolState::Down).then_some(()) }).await;
    assert!(pool.read("test.newcomer", |_| async { Ok::<_, Error>(()) }).await.is_err());
    long.await.unwrap().unwrap();
    assert_eq!(pool.snapshot().counters.stranded, 0);
    proxy.mend();
    eventually("its connection serves", || async {
        pool.read("test.read", |db| async move { Ok::<_, Error>(number(&db, "SELECT 1").await?) }).await.ok()
    })
    .await;
    end(pool).await;
}

async fn a_long_statement_outlives_a_listener_that_is_shut(context: Context) {
    long_statement(context, Proxy::shut).await;
}

async fn a_long_statement_outlives_a_listener_that_is_deaf(context: Context) {
    long_statement(context, Proxy::deafen).await;
}

/// As after a firewall has forgotten all connections: new ones work.
async fn answers_that_were_lost_do_not_keep_connections(context: Context) {
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let pool = pool_on(&url, PoolOptions::default().max(4).min(4)).await;
    proxy.forget();
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
        assert!(matches!(&outcome, Err(Error::Abandoned { operation: "test.lost" })), "{outcome:?}");
    }
    // `statement_timeout` is 30 s.
    assert!(began.elapsed() < Duration::from_secs(15), "it took {:?}", began.elapsed());
    assert_eq!(read(&pool, "SELECT 1").await, 1);
    assert_eq!(pool.snapshot().counters.stranded, 4);
    end(pool).await;
}

async fn a_long_statement_is_not_taken_for_a_lost_answer(context: Context) {
    for max in [1, 2] {
        // The server is asked over a separate connection, or over an idle one.
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

async fn pings_do_not_delay_the_end_of_stranded_operations(context: Context) {
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
    eventually("they run", || async { (pool.status().in_use == 2).then_some(()) }).await;
    proxy.stall();
    let silent = Instant::now();
    let pings: Vec<_> = (0..150)
        .map(|number| {
            let pool = pool.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(number * 7)).await;
                pool.ping().await
            })
        })
        .collect();
    for one in stranded {
        let outcome = one.await.unwrap();
        assert!(matches!(&outcome, Err(Error::Abandoned { operation: "test.stranded" })), "{outcome:?}");
    }
    let ended = silent.elapsed();
    assert!(ended < Duration::from_secs(15), "it took {ended:?} to end them");
    for ping in pings {
        // Those that came before it was found silent may have been lucky.
        let _ = ping.await.unwrap();
    }
    assert!(pool.ping().await.is_err());
    proxy.cut();
    end(pool).await;
}

/// MySQL and MariaDB bound the prepared statements of all clients together.
async fn a_server_without_room_for_statements_costs_no_read(context: Context) {
    if !context.engine().is_mysql_like() {
        return;
    }
    let mut server = Server::new(context.engine(), &["--max-prepared-stmt-count=60"]);
    server.start(End::Orderly);
    server.await_ready();
    let pool = pool_on(&new_database(server.url()).await, PoolOptions::default().max(4).min(4)).await;
    let ask = async |number: usize| {
        let one = move |db: orm_pool::Connection| async move {
            let sql = format!("SELECT {number} + ?");
            let statement = Statement::from_sql_and_values(db.get_database_backend(), sql, [1_i64.into()]);
            let row = db.query_one_raw(statement).await?.unwrap();
            Ok::<_, Error>(row.try_get_by_index::<i64>(0)?)
        };
        pool.read("test.statement", one).await
    };
    let mut opened = 0;
    for round in 0..5 {
        opened = pool.snapshot().counters.opened;
        let all = futures_util::future::join_all((0..80).map(&ask)).await;
        for (number, answer) in all.into_iter().enumerate() {
            let answer = answer.unwrap_or_else(|error| panic!("round {round}, statement {number}: {error:?}"));
            assert_eq!(answer, i64::try_from(number).unwrap() + 1);
        }
    }
    assert_eq!(pool.impairment(), Some(DbErrorKind::TooManyStatements), "an operator sees it");
    assert_eq!(pool.snapshot().counters.opened, opened, "in the end connections keep as few as there is room for");
    end(pool).await;
    server.stop();
}

async fn a_connection_that_is_never_opened_is_noticed(context: Context) {
    let (proxy, url) = Proxy::before(&context.database().await).await;
    let options = PoolOptions::default().min(0).idle(Duration::from_millis(50)).acquire(Duration::from_secs(60));
    let pool = pool_on(&url, options).await;
    eventually("none is open", || async { (pool.status().total == 0).then_some(()) }).await;
    proxy.stall();
    let asked = Instant::now();
    let refused = pool.read("test.read", |db| async move { Ok::<_, Error>(number(&db, "SELECT 1").await?) }).await;
    assert!(refused.is_err());
    let noticed = asked.elapsed();
    assert!(noticed < Duration::from_secs(8), "before the attempt itself has ended: {noticed:?}");
    assert_eq!(pool.snapshot().state, PoolState::Down);
    proxy.mend();
    eventually("it is up", || async { (pool.snapshot().state == PoolState::Up).then_some(()) }).await;
    end(pool).await;
}

async fn a_pool_that_drains_still_kills_statements(context: Context) {
    if context.engine() != Engine::MySql {
        // The others end statements themselves.
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
    eventually("it is blocked", || async { (pool.status().in_use == 1).then_some(()) }).await;
    pool.drain();
    let ended = tokio::time::timeout(Duration::from_secs(5), blocked).await.expect("it is killed, not left behind");
    assert!(matches!(ended.unwrap(), Err(Error::Database(_))), "by an answer of the server");
    lock.unlock().await;
    outside.close().await.unwrap();
    end(pool).await;
}

async fn new_credentials_after_the_end_are_refused_at_once(context: Context) {
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
