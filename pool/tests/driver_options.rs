//! Settings beyond the URL: driver options, pragmas, and statements on each new connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use orm_pool::{
    ConnectError, ConnectionState, DatabaseUrl, DbErrorKind, Error, NewConnection, Pool, PoolBuilder, PoolOptions,
    PoolState,
};
use sea_orm::{ConnectionTrait, DbErr, sqlx::sqlite::SqliteSynchronous};
use test_support::{
    Engine,
    bare::{end, read},
    cases, eventually, number,
};

use tokio::sync::watch;

use crate::Context;

cases![
    after_connect_runs_on_every_connection,
    an_error_of_after_connect_discards_the_connection,
    a_shortage_ends_when_after_connect_succeeds_again,
    driver_options_can_be_changed,
    pragmas_are_set_on_every_connection,
    round_trips_can_be_delayed_and_stopped,
];

async fn builder(context: &Context, max: u32) -> PoolBuilder {
    let url = DatabaseUrl::parse(&context.database().await).unwrap();
    Pool::builder(&url).options(PoolOptions::default().max(max).min(max))
}

/// Sets a session variable, which [`session_value`] reads.
async fn set_session_value(connection: &NewConnection<'_>) -> Result<(), DbErr> {
    let sql = match connection.get_database_backend() {
        sea_orm::DbBackend::Sqlite => "PRAGMA cache_size = -7168",
        sea_orm::DbBackend::Postgres => "SET work_mem = '7168kB'",
        _ => "SET @value = 7168",
    };
    connection.execute_unprepared(sql).await.map(drop)
}

fn session_value(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => "SELECT -cache_size FROM pragma_cache_size",
        Engine::Postgres => "SELECT setting::bigint FROM pg_settings WHERE name = 'work_mem'",
        Engine::MariaDb | Engine::MySql => "SELECT CAST(@value AS SIGNED)",
    }
}

async fn after_connect_runs_on_every_connection(context: Context) {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let pool = builder(&context, 3).await.after_connect(move |connection| {
        counted.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move { set_session_value(&connection).await })
    });
    let pool = pool.connect().await.unwrap();
    let sql = session_value(context.engine());
    let guards = join_all((0..3).map(|_| pool.acquire_reader("test.guard"))).await;
    for guard in guards {
        assert_eq!(number(&*guard.unwrap(), sql).await.unwrap(), 7168);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 3);
    let separate = pool.with_database_connection("test.separate", move |database| async move {
        Ok::<_, Error>(number(&database, sql).await?)
    });
    assert_eq!(separate.await.unwrap(), 7168);
    end(pool).await;
}

async fn an_error_of_after_connect_discards_the_connection(context: Context) {
    let refused = builder(&context, 1).await.after_connect(|connection| {
        Box::pin(async move { connection.execute_unprepared("SELECT no_such_column").await.map(drop) })
    });
    match refused.connect().await {
        Err(ConnectError::Unreachable { kind, cause, .. }) => {
            assert_eq!(kind, DbErrorKind::Other, "{cause}");
            assert!(cause.to_string().contains("no_such_column"), "{cause}");
        }
        other => panic!("{other:?}"),
    }
}

async fn a_shortage_ends_when_after_connect_succeeds_again(context: Context) {
    let fails = Arc::new(AtomicBool::new(false));
    let is_failing = Arc::clone(&fails);
    let options = PoolOptions::default().max(2).min(1).outage_wait(Duration::ZERO);
    let pool = builder(&context, 2).await.options(options).after_connect(move |_| {
        let fails = is_failing.load(Ordering::Relaxed);
        Box::pin(async move { if fails { Err(DbErr::Custom("not now".to_owned())) } else { Ok(()) } })
    });
    let pool = pool.connect().await.unwrap();
    fails.store(true, Ordering::Relaxed);
    let held = pool.acquire_reader("test.first").await.unwrap();
    let second = tokio::spawn({
        let pool = pool.clone();
        async move { pool.acquire_reader("test.second").await.map(drop) }
    });
    eventually("a shortage", || async { pool.snapshot().shortage.filter(|cause| cause.detail.contains("not now")) })
        .await;
    assert_eq!(pool.snapshot().state, PoolState::Up);
    fails.store(false, Ordering::Relaxed);
    second.await.unwrap().unwrap();
    assert!(pool.snapshot().shortage.is_none());
    drop(held);
    end(pool).await;
}

async fn driver_options_can_be_changed(context: Context) {
    let pool = builder(&context, 2)
        .await
        .map_sqlx_sqlite_opts(|options| options.synchronous(SqliteSynchronous::Normal))
        .map_sqlx_postgres_opts(|options| options.options([("work_mem", "7168kB")]))
        .map_sqlx_mysql_opts(|options| options.charset("latin1").collation("latin1_bin"));
    let pool = pool.connect().await.unwrap();
    let (sql, expected) = match context.engine() {
        Engine::Sqlite => ("SELECT synchronous FROM pragma_synchronous", 1),
        Engine::Postgres => ("SELECT setting::bigint FROM pg_settings WHERE name = 'work_mem'", 7168),
        Engine::MariaDb | Engine::MySql => ("SELECT CAST(@@collation_connection = 'latin1_bin' AS SIGNED)", 1),
    };
    assert_eq!(read(&pool, sql).await, expected);
    end(pool).await;
}

async fn pragmas_are_set_on_every_connection(context: Context) {
    if context.engine() != Engine::Sqlite {
        return;
    }
    let pool = builder(&context, 2).await.sqlite_pragma("cache_size", "-7168").sqlite_pragma("synchronous", "NORMAL");
    let pool = pool.connect().await.unwrap();
    let guards = join_all((0..2).map(|_| pool.acquire_reader("test.guard"))).await;
    for guard in guards {
        let guard = guard.unwrap();
        assert_eq!(number(&*guard, session_value(context.engine())).await.unwrap(), 7168);
        assert_eq!(number(&*guard, "SELECT synchronous FROM pragma_synchronous").await.unwrap(), 1);
        assert_eq!(number(&*guard, "SELECT foreign_keys FROM pragma_foreign_keys").await.unwrap(), 1);
    }
    end(pool).await;
    let refused = builder(&context, 1).await.sqlite_pragma("busy_timeout", "1").connect().await;
    assert!(
        matches!(refused, Err(ConnectError::Option(ref option)) if option.option == "sqlite_pragma"),
        "{refused:?}"
    );
}

async fn try_read(pool: &Pool) -> Result<i64, Error> {
    pool.read("test.read", |db| async move { Ok(number(&db, "SELECT 1").await?) }).await
}

async fn round_trips_can_be_delayed_and_stopped(context: Context) {
    let count = Arc::new(AtomicU32::new(0));
    let responds = watch::Sender::new(true);
    let hook = {
        let (count, responds) = (Arc::clone(&count), responds.subscribe());
        move || -> BoxFuture<'static, ()> {
            count.fetch_add(1, Ordering::Relaxed);
            let mut responds = responds.clone();
            Box::pin(async move { drop(responds.wait_for(|responds| *responds).await) })
        }
    };
    let pool = builder(&context, 2).await.before_round_trip(hook).connect().await.unwrap();
    eventually("two connections", || async { (pool.status().idle == 2).then_some(()) }).await;
    assert_eq!(count.load(Ordering::Relaxed), 6, "each connection takes three");
    assert_eq!(try_read(&pool).await.unwrap(), 1);
    assert_eq!(count.load(Ordering::Relaxed), 7);

    // A database that does not respond is detected, also an embedded one.
    responds.send_replace(false);
    let late = tokio::spawn({
        let pool = pool.clone();
        async move { try_read(&pool).await }
    });
    eventually("down", || async { (pool.snapshot().state == PoolState::Down).then_some(()) }).await;
    let snapshot = pool.detailed_snapshot();
    assert_eq!(snapshot.snapshot.cause.unwrap().kind, DbErrorKind::Silent);
    assert!(snapshot.connections.iter().any(|connection| connection.state == ConnectionState::Stranded));
    assert!(matches!(try_read(&pool).await, Err(Error::Refused { .. })));
    responds.send_replace(true);
    eventually("up", || async { (pool.snapshot().state == PoolState::Up).then_some(()) }).await;
    assert_eq!(late.await.unwrap().unwrap(), 1, "the statement was only late");
    assert_eq!(try_read(&pool).await.unwrap(), 1);
    end(pool).await;
}
