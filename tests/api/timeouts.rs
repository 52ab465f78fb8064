//! Statements that are cancelled on the server: by the statement timeout, or by an administrator.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use orm_pool::{Connection, DbErrorKind, Error, PoolOptions, RequestContext};
use sea_orm::ConnectionTrait;
use serde_json::json;

use crate::{
    cases,
    harness::{
        Account, App, Context, Engine, Locked, Service,
        bare::{db_error_kind, end, pool, read, run},
        connect, eventually, number,
    },
};

cases![
    a_write_over_the_timeout_is_cancelled_on_the_server,
    a_late_kill_hits_no_other_statement,
    a_statement_cancelled_by_an_administrator_is_not_retried,
    a_failed_kill_is_retried,
];

/// A statement that changes every row of `t` and sleeps before each.
fn slow_update(engine: Engine, seconds: f64) -> String {
    match engine {
        Engine::Postgres => format!("UPDATE t SET n = n + 1 WHERE pg_sleep({seconds}) IS NOT NULL"),
        _ => format!("UPDATE t SET n = n + 1 WHERE SLEEP({seconds}) = 0"),
    }
}

async fn a_write_over_the_timeout_is_cancelled_on_the_server(context: Context) {
    let limit = Duration::from_millis(300);
    let pool = pool(&context, PoolOptions::default().max(2).statement_timeout(limit)).await;
    let slow = slow_update(context.engine(), 60.0);
    let write = {
        let slow = slow.clone();
        pool.write("test.slow", move |db| {
            let slow = slow.clone();
            async move { Ok::<_, Error>(db.execute_unprepared(&slow).await.map(drop)?) }
        })
    };
    assert_eq!(db_error_kind(write.await), DbErrorKind::StatementTimeout);
    // Nothing is left on the server: the rows are unlocked and unchanged.
    run(&pool, "UPDATE t SET n = 7 WHERE id = 1").await;
    assert_eq!(read(&pool, "SELECT SUM(n) FROM t").await, 7);
    let in_transaction = move |tx: Connection| {
        let slow = slow.clone();
        async move {
            tx.execute_unprepared("UPDATE t SET n = 9 WHERE id = 1").await?;
            Ok::<_, Error>(tx.execute_unprepared(&slow).await.map(drop)?)
        }
    };
    let transaction = pool.transaction("test.slow", in_transaction);
    assert_eq!(db_error_kind(transaction.await), DbErrorKind::StatementTimeout);
    run(&pool, "UPDATE t SET n = n + 1 WHERE id = 1").await;
    assert_eq!(read(&pool, "SELECT SUM(n) FROM t").await, 8);
    end(pool).await;
}

async fn a_late_kill_hits_no_other_statement(context: Context) {
    let acquire = Duration::from_secs(60);
    let statement_timeout = Duration::from_secs(1);
    let options = PoolOptions::default().max(8).min(8).acquire(acquire).statement_timeout(statement_timeout);
    let pool = pool(&context, options).await;
    let holder = connect(&context.last_database()).await;
    if context.engine() == Engine::MariaDb {
        holder.execute_unprepared("DO GET_LOCK('held', 0)").await.unwrap();
    }
    // From just below the timeout to beyond the kill, in small steps: some statements end while they are being killed.
    let operations = (0..32).map(|number| {
        let (pool, engine) = (pool.clone(), context.engine());
        tokio::spawn(async move {
            let seconds = 0.9 + 0.02 * f64::from(number);
            let slow = match engine {
                Engine::Postgres => format!("SELECT pg_sleep({seconds})"),
                // Not SLEEP: MariaDB 10.11 stalls all sessions for seconds when several reach their time limit.
                Engine::MariaDb => format!("DO GET_LOCK('held', {seconds})"),
                // Not a SELECT, which MySQL limits itself.
                _ => format!("DO SLEEP({seconds})"),
            };
            let request = RequestContext::new("test").timeout(Duration::from_secs(60));
            let body = move |db: Connection| {
                let slow = slow.clone();
                async move {
                    // Either outcome is valid.
                    let _ = db.execute_unprepared(&slow).await;
                    Ok::<_, Error>(())
                }
            };
            request.clone().scope(pool.read("test.slow", body)).await.unwrap();
            let next = format!("INSERT INTO t VALUES ({}, 0)", 100 + number);
            let body = move |db: Connection| {
                let next = next.clone();
                async move { Ok::<_, Error>(db.execute_unprepared(&next).await.map(drop)?) }
            };
            request.scope(pool.write("test.next", body)).await
        })
    });
    let operations: Vec<_> = operations.collect();
    for operation in operations {
        operation.await.unwrap().unwrap();
    }
    assert_eq!(read(&pool, "SELECT COUNT(*) FROM t").await, 34);
    holder.close().await.unwrap();
    end(pool).await;
}

async fn a_statement_cancelled_by_an_administrator_is_not_retried(context: Context) {
    let (connection_id, slow) = match context.engine() {
        Engine::Postgres => ("SELECT pg_backend_pid()", "SELECT pg_sleep(60)"),
        _ => ("SELECT CONNECTION_ID()", "SELECT n FROM t WHERE SLEEP(60) = 0"),
    };
    let pool = pool(&context, PoolOptions::default().max(1).min(1)).await;
    let admin = connect(&context.last_database()).await;
    let attempts = Arc::new(AtomicU32::new(0));
    let (began, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let reading = {
        let (pool, attempts) = (pool.clone(), Arc::clone(&attempts));
        tokio::spawn(async move {
            let body = move |db: Connection| {
                attempts.fetch_add(1, Ordering::Relaxed);
                let began = began.clone();
                async move {
                    began.send(number(&db, connection_id).await?).unwrap();
                    Ok::<_, Error>(db.execute_unprepared(slow).await.map(drop)?)
                }
            };
            pool.read("test.slow", body).await
        })
    };
    let id = begins.recv().await.unwrap();
    let cancel = match context.engine() {
        Engine::Postgres => format!("SELECT pg_cancel_backend({id})"),
        _ => format!("KILL QUERY {id}"),
    };
    // It has no effect until the statement runs.
    let cancelled = eventually("the statement ends", || async {
        admin.execute_unprepared(&cancel).await.unwrap();
        reading.is_finished().then_some(())
    });
    cancelled.await;
    assert_eq!(db_error_kind(reading.await.unwrap()), DbErrorKind::StatementTimeout);
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
    // Its connection is still usable.
    let again = pool.read("test.id", move |db| async move { Ok::<_, Error>(number(&db, connection_id).await?) });
    assert_eq!(again.await.unwrap(), id);
    admin.close().await.unwrap();
    end(pool).await;
}

async fn a_failed_kill_is_retried(context: Context) {
    if context.engine() != Engine::MySql {
        // The other servers enforce the timeout themselves.
        return;
    }
    let account = Account::new(&context).await;
    // The server counts the connections of an account only once it has a limit.
    account.set_limit(9).await;
    let variables = [
        ("DATABASE_URL", account.url.as_str()),
        ("USERS_API__POOL__MAX", "1"),
        ("USERS_API__POOL__MIN", "1"),
        ("USERS_API__POOL__STATEMENT_TIMEOUT", "1s"),
    ];
    let service = Service::start(context.folder(), &variables).await;
    let app = App::at(service.address, &account.url);
    let lock = Locked::users(&context, &context.last_database()).await;
    // No connection is left for the KILL.
    account.set_limit(1).await;
    let posting = {
        let app = app.clone();
        tokio::spawn(async move { app.post("/users", &json!({"name": "Ann", "email": "ann@example.com"})).await })
    };
    service.logged("failed to kill statements that exceed statement_timeout; retrying").await;
    account.set_limit(2).await;
    let killed = service.logged("statement killed: no response within statement_timeout").await;
    assert_eq!(killed["operation"], "users.create", "{killed}");
    posting.await.unwrap().problem(503, "database-unavailable");
    lock.unlock().await;
    assert_eq!(app.get("/users").await.ids(), [""; 0], "a rejected write is not executed later");
    account.end(&context).await;
}
