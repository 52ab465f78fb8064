//! A pool on a runtime of the application.

use std::time::Duration;

use orm_pool::{DatabaseUrl, Error, Pool, PoolBuilder, PoolOptions};
use sea_orm::ConnectionTrait;
use test_support::{
    Engine,
    bare::{create_table, end, nested_operation_error, read},
    cases, eventually, free_port,
};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
    time::timeout,
};

use crate::Context;

cases![
    operations_run_on_the_runtime_of_the_application,
    an_operation_completes_without_its_caller,
    a_nested_operation_is_refused,
    a_dropped_pool_ends_its_tasks,
    an_abandoned_connect_ends_its_tasks,
    close_aborts_what_still_runs,
];

async fn builder(context: &Context) -> PoolBuilder {
    Pool::builder(&DatabaseUrl::parse(&context.database().await).unwrap())
}

async fn pool(context: &Context) -> Pool {
    let pool = builder(context).await.runtime(Handle::current()).connect().await.unwrap();
    create_table(&pool).await;
    pool
}

/// A separate runtime, so that only the pool has tasks there.
fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

async fn has_no_tasks(runtime: &Runtime) {
    eventually("the tasks end", || async { (runtime.metrics().num_alive_tasks() == 0).then_some(()) }).await;
}

async fn operations_run_on_the_runtime_of_the_application(context: Context) {
    let pool = pool(&context).await;
    let ids = pool
        .transaction("test.runtime", |db| async move {
            db.execute_unprepared("UPDATE t SET n = 7 WHERE id = 1").await?;
            Ok::<_, Error>(Handle::current().id())
        })
        .await;
    assert_eq!(ids.unwrap(), Handle::current().id());
    assert_eq!(read(&pool, "SELECT n FROM t WHERE id = 1").await, 7);
    end(pool).await;
}

async fn an_operation_completes_without_its_caller(context: Context) {
    let pool = pool(&context).await;
    let (started, start) = oneshot::channel();
    let (go_on, may_go_on) = oneshot::channel();
    let parts = std::sync::Mutex::new(Some((started, may_go_on)));
    let caller = pool.clone();
    let operation = tokio::spawn(async move {
        let update = caller.write("test.abandoned", move |db| {
            let (started, may_go_on) = parts.lock().unwrap().take().unwrap();
            async move {
                started.send(()).unwrap();
                may_go_on.await.unwrap();
                Ok::<_, Error>(db.execute_unprepared("UPDATE t SET n = 8 WHERE id = 2").await.map(drop)?)
            }
        });
        update.await
    });
    start.await.unwrap();
    operation.abort();
    assert!(operation.await.unwrap_err().is_cancelled());
    go_on.send(()).unwrap();
    eventually("the row is updated", || async {
        (read(&pool, "SELECT n FROM t WHERE id = 2").await == 8).then_some(())
    })
    .await;
    end(pool).await;
}

async fn a_nested_operation_is_refused(context: Context) {
    let pool = pool(&context).await;
    let refused = nested_operation_error(&pool).await;
    assert!(matches!(refused, Error::Nested { operation: "test.inner", within: "test.outer" }), "{refused:?}");
    end(pool).await;
}

async fn a_dropped_pool_ends_its_tasks(context: Context) {
    let runtime = runtime();
    let pool = builder(&context).await.runtime(runtime.handle().clone()).connect().await.unwrap();
    create_table(&pool).await;
    assert!(runtime.metrics().num_alive_tasks() > 0);
    drop(pool);
    has_no_tasks(&runtime).await;
    runtime.shutdown_background();
}

async fn an_abandoned_connect_ends_its_tasks(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let runtime = runtime();
    let mut url = url::Url::parse(&context.database().await).unwrap();
    url.set_port(Some(free_port())).unwrap();
    let connect = Pool::builder(&DatabaseUrl::parse(url.as_str()).unwrap())
        .options(PoolOptions::default().acquire(Duration::from_mins(1)))
        .runtime(runtime.handle().clone())
        .connect();
    assert!(timeout(Duration::from_millis(200), connect).await.is_err());
    has_no_tasks(&runtime).await;
    runtime.shutdown_background();
}

async fn close_aborts_what_still_runs(context: Context) {
    let runtime = runtime();
    let pool = builder(&context).await.runtime(runtime.handle().clone()).connect().await.unwrap();
    let (started, start) = oneshot::channel();
    let started = std::sync::Mutex::new(Some(started));
    let caller = pool.clone();
    let operation = tokio::spawn(async move {
        let endless = caller.read("test.endless", move |_| {
            let started = started.lock().unwrap().take().unwrap();
            async move {
                started.send(()).unwrap();
                std::future::pending::<Result<(), Error>>().await
            }
        });
        endless.await
    });
    start.await.unwrap();
    let failure = pool.close(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(failure.operations, ["test.endless"]);
    assert!(matches!(operation.await.unwrap(), Err(Error::Closed)));
    has_no_tasks(&runtime).await;
    assert_eq!(pool.status().total, 0);
    runtime.shutdown_background();
}
