//! Tests of operations, on an in-memory database and on servers that misbehave.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use sea_orm::ConnectionTrait;
use tokio::sync::oneshot;

use super::*;

async fn pool() -> Pool {
    let url = DatabaseUrl::parse("sqlite::memory:").unwrap();
    let pool = Pool::connect(&url, &PoolOptions { queue_limit: 1, ..PoolOptions::default() }).await.unwrap();
    let create = |db: Connection| async move {
        db.execute_unprepared("CREATE TABLE t (n INTEGER)").await?;
        Ok::<_, Error>(())
    };
    pool.write("create", create).await.unwrap();
    pool
}

async fn count(pool: &Pool) -> i64 {
    let count = |db: Connection| async move {
        let sql = sea_orm::Statement::from_string(db.get_database_backend(), "SELECT count(*) FROM t");
        let row = db.query_one_raw(sql).await?.unwrap();
        Ok::<_, Error>(row.try_get_by_index(0)?)
    };
    pool.read("count", count).await.unwrap()
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_panic_affects_only_its_operation() {
    let pool = pool().await;
    let panics = |_: Connection| async { if true { panic!("a bug") } else { Ok::<(), Error>(()) } };
    let failed = pool.read("buggy", panics).await.unwrap_err();
    assert!(matches!(failed, Error::Panicked { operation: "buggy" }), "{failed:?}");
    assert_eq!(pool.status().in_use, 0, "the connection was returned");
    assert_eq!(count(&pool).await, 0);
}

#[tokio::test]
async fn a_dropped_caller_does_not_cancel_its_operation() {
    let pool = pool().await;
    let (release, released) = oneshot::channel::<()>();
    let began = Arc::new(AtomicBool::new(false));
    let request = tokio::spawn({
        let (pool, began) = (pool.clone(), Arc::clone(&began));
        async move {
            let released = Mutex::new(Some(released));
            pool.transaction("insert", move |transaction| {
                let (began, released) = (Arc::clone(&began), released.lock().unwrap().take().unwrap());
                async move {
                    transaction.execute_unprepared("INSERT INTO t VALUES (1)").await?;
                    began.store(true, Ordering::Relaxed);
                    let _ = released.await;
                    transaction.execute_unprepared("INSERT INTO t VALUES (2)").await?;
                    Ok::<_, Error>(())
                }
            })
            .await
        }
    });
    until(|| began.load(Ordering::Relaxed)).await;
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    assert_eq!(pool.status().in_use, 1, "the operation holds its connection until it ends");
    release.send(()).unwrap();
    until(|| pool.status().in_use == 0).await;
    assert_eq!(count(&pool).await, 2, "the transaction was committed as a whole");
}

#[tokio::test]
async fn an_error_rolls_the_transaction_back() {
    let pool = pool().await;
    let failed = pool
        .transaction("insert", |transaction| async move {
            transaction.execute_unprepared("INSERT INTO t VALUES (1)").await?;
            transaction.execute_unprepared("INSERT INTO nowhere VALUES (1)").await?;
            Ok::<_, Error>(())
        })
        .await;
    assert!(matches!(failed, Err(Error::Database(_))), "{failed:?}");
    assert_eq!(count(&pool).await, 0);
}

#[tokio::test]
async fn an_in_memory_database_exists_as_long_as_its_pool() {
    let pool = pool().await;
    assert_eq!((pool.snapshot().limits.max, pool.status().total), (1, 1));
    for _ in 0..3 {
        assert_eq!(count(&pool).await, 0);
    }
}

/// Starts a server that closes the first connections and does not respond on the others. Returns its port.
async fn unresponsive_server(closed: usize) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut open = Vec::new();
        for index in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            if index >= closed {
                open.push(stream);
            }
        }
    });
    port
}

#[tokio::test]
async fn a_last_attempt_that_has_just_begun_does_not_hide_the_cause() {
    for (closed, expected) in [(1, DbErrorKind::Lost), (0, DbErrorKind::Silent)] {
        let port = unresponsive_server(closed).await;
        let url = DatabaseUrl::parse(&format!("postgres://app@127.0.0.1:{port}/app")).unwrap();
        let options = PoolOptions { acquire: Duration::from_secs(1), ..PoolOptions::default() };
        let error = Pool::connect(&url, &options).await.unwrap_err();
        assert!(matches!(&error, ConnectError::Unreachable { kind, .. } if *kind == expected), "{error:?}");
    }
}

#[tokio::test]
async fn a_closed_pool_refuses_operations() {
    let pool = pool().await;
    pool.close(Duration::from_secs(5)).await.unwrap();
    let closed = pool.ping().await.unwrap_err();
    assert!(matches!(closed, Error::Refused { reason: AcquireError::Closing, .. }), "{closed:?}");
    let refused = pool.read("late", |_| async { Ok::<_, Error>(()) }).await.unwrap_err();
    assert!(matches!(refused, Error::Refused { reason: AcquireError::Closing, .. }), "{refused:?}");
}

#[tokio::test]
async fn a_close_that_times_out_names_the_running_operations() {
    let pool = pool().await;
    let (_keep, released) = oneshot::channel::<()>();
    let running = tokio::spawn({
        let pool = pool.clone();
        async move {
            let released = Mutex::new(Some(released));
            pool.transaction("endless", move |transaction| {
                let released = released.lock().unwrap().take().unwrap();
                async move {
                    transaction.execute_unprepared("INSERT INTO t VALUES (1)").await?;
                    let _ = released.await;
                    Ok::<_, Error>(())
                }
            })
            .await
        }
    });
    until(|| pool.status().in_use == 1).await;
    let error = pool.close(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.operations, ["endless"]);
    assert!(running.await.unwrap().is_err());
}

#[tokio::test]
async fn a_failing_name_resolution_at_run_time_is_reported() {
    let pool = pool().await;
    let inner = Arc::clone(pool.inner());
    let url = DatabaseUrl::parse("postgres://app:secret@db.invalid/app").unwrap();
    let unresolvable = crate::connect::connector::Connector::new(&url, &inner.options(), &Arc::default()).unwrap();
    pool.runtime().spawn(async move { inner.set_connector(unresolvable) }).await.unwrap();
    until(|| pool.snapshot().state == PoolState::Down).await;
    let snapshot = pool.snapshot();
    assert_eq!(snapshot.state, PoolState::Down);
    let cause = snapshot.cause.unwrap();
    assert_eq!(cause.kind, DbErrorKind::NameResolution, "{cause:?}");
    assert!(!format!("{cause:?}").contains("secret"));
    let refused = pool.ping().await.unwrap_err();
    assert!(
        matches!(&refused, Error::Refused { reason: AcquireError::Down { kind: DbErrorKind::NameResolution, .. }, .. }),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_dropped_statement_awaits_no_response() {
    let pool = pool().await;
    let inner = Arc::clone(pool.inner());
    pool.read("impatient", move |db| {
        let inner = Arc::clone(&inner);
        async move {
            let slow = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500000) SELECT MAX(i) FROM n";
            assert!(db.execute_unprepared(slow).now_or_never().is_none());
            let holders = inner.admission.connections().holders();
            let pending: Vec<_> = holders.iter().map(|holder| holder.context.pending_for(inner.clock)).collect();
            assert_eq!(pending, [None]);
            Ok::<_, Error>(())
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn migrations_do_not_affect_the_mean_hold_time() {
    let pool = pool().await;
    let before = pool.inner().metrics.mean_hold();
    pool.with_database_connection("migrate", |_| async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok::<_, Error>(())
    })
    .await
    .unwrap();
    assert_eq!(pool.inner().metrics.mean_hold(), before);
}

/// Accepts one connection, sends `greeting`, and stops listening.
async fn greet_and_close(listener: tokio::net::TcpListener, greeting: &'static [u8]) {
    use tokio::io::AsyncWriteExt;

    let (mut stream, _) = listener.accept().await.unwrap();
    stream.write_all(greeting).await.unwrap();
    drop(stream);
}

#[tokio::test]
async fn a_malformed_greeting_fails_only_its_connection() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(greet_and_close(listener, &[1, 0, 0, 0, 10]));
    let url = DatabaseUrl::parse(&format!("mysql://app@127.0.0.1:{port}/app")).unwrap();
    let options = PoolOptions { acquire: Duration::from_secs(2), ..PoolOptions::default() };
    let error = Pool::connect(&url, &options).await.unwrap_err();
    // The second attempt was refused, because the server no longer listens.
    assert!(matches!(&error, ConnectError::Unreachable { kind: DbErrorKind::Refused, .. }), "{error:?}");
}

#[tokio::test]
async fn errors_that_break_other_connections_do_not_close_an_in_memory_database() {
    let pool = pool().await;
    let refused = pool.write("read_only", |db| async move {
        db.execute_unprepared("PRAGMA query_only = 1").await?;
        let inserted = db.execute_unprepared("INSERT INTO t VALUES (1)").await;
        db.execute_unprepared("PRAGMA query_only = 0").await?;
        Ok::<_, Error>(inserted.map(drop)?)
    });
    let refused = refused.await.unwrap_err();
    assert!(
        matches!(&refused, Error::Database(error) if DbErrorKind::of(error) == DbErrorKind::ReadOnly),
        "{refused:?}"
    );
    assert_eq!(count(&pool).await, 0);
}

#[tokio::test]
async fn a_new_busy_timeout_does_not_disable_the_file_check() {
    let folder = std::env::temp_dir().join(format!("orm-pool-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (file, moved) = (folder.join("kept.db"), folder.join("moved.db"));
    let url = DatabaseUrl::parse(&format!("sqlite://{}?mode=rwc", file.display())).unwrap();
    let pool = Pool::connect(&url, &PoolOptions::default()).await.unwrap();
    let create = |db: Connection| async move {
        Ok::<_, Error>(db.execute_unprepared("CREATE TABLE t (n INTEGER)").await.map(drop)?)
    };
    pool.write("create", create).await.unwrap();
    std::fs::rename(&file, &moved).unwrap();
    pool.reconfigure(&url, &PoolOptions { acquire: Duration::from_secs(1), ..PoolOptions::default() }).await.unwrap();
    let insert = |db: Connection| async move {
        Ok::<_, Error>(db.execute_unprepared("INSERT INTO t VALUES (1)").await.map(drop)?)
    };
    let refused = pool.write("insert", insert).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Refused { reason: AcquireError::Down { kind: DbErrorKind::NoSuchDatabase, .. }, .. }),
        "{refused:?}"
    );
    assert!(!file.exists(), "no new file was created");
    pool.close(Duration::from_secs(5)).await.unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
}
