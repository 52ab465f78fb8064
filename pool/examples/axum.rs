//! A notes service with axum: `cargo run -p orm-pool --example axum [URL]`, then
//! `curl -d 'pooled' localhost:3000/notes; curl localhost:3000/notes/1; curl localhost:3000/pool`.
//!
//! The pool is part of the application state, like a `DatabaseConnection`. In addition, operations have names, requests
//! immediately get a 503 when the pool is full or the database is down, and the pool is closed after the last request.
#![expect(clippy::print_stdout, reason = "examples print their results")]

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::{StatusCode, header::RETRY_AFTER},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use orm_pool::{Batch, DatabaseUrl, DbErrorKind, Error, Pool, PoolOptions, RequestContext, Snapshot};
use sea_orm::{ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, Schema};
use tokio::runtime::Handle;

mod note {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "notes")]
    pub(crate) struct Model {
        #[sea_orm(primary_key)]
        pub(crate) id: i32,
        pub(crate) text: String,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

#[derive(Clone)]
struct App {
    pool: Pool,
    notes: Batch<i32, Option<note::Model>>,
}

impl App {
    fn new(pool: Pool) -> Self {
        // Concurrent requests for single notes share a statement.
        let notes = pool.batch_reads("notes.find", |db, ids: std::sync::Arc<[i32]>| async move {
            let found = note::Entity::find().filter(note::Column::Id.is_in(ids.iter().copied())).all(&db).await?;
            Ok(ids.iter().map(|id| found.iter().find(|note| note.id == *id).cloned()).collect())
        });
        Self { pool, notes }
    }
}

async fn find(State(app): State<App>, Path(id): Path<i32>) -> Result<Response, Failure> {
    Ok(match app.notes.load(id).await? {
        Some(note) => note.text.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    })
}

async fn add(State(app): State<App>, text: String) -> Result<(StatusCode, String), Failure> {
    // The body may run more than once, so it clones what it consumes.
    let body = move |db| {
        let note = note::ActiveModel { text: Set(text.clone()), ..Default::default() };
        async move { Ok::<_, Error>(note::Entity::insert(note).exec(&db).await?.last_insert_id) }
    };
    let id = app.pool.write("notes.add", body).await?;
    Ok((StatusCode::CREATED, format!("/notes/{id}\n")))
}

/// Returns the state of the pool.
async fn snapshot(State(app): State<App>) -> Json<Snapshot> {
    Json(app.pool.snapshot())
}

/// Sets a deadline: operations that cannot start before it are refused on arrival.
async fn limit(request: Request, next: Next) -> Response {
    let label = request.uri().path().to_owned();
    RequestContext::new(label).timeout(Duration::from_secs(10)).scope(next.run(request)).await
}

struct Failure(Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self.0 {
            Error::Refused { .. } | Error::Closed => {
                (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")]).into_response()
            }
            // Whether a write took effect is unknown, so a client should not repeat it blindly.
            Error::Aborted { .. } => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            Error::Database(error) if DbErrorKind::of(&error).is_transient() => {
                StatusCode::SERVICE_UNAVAILABLE.into_response()
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "sqlite::memory:".to_owned());
    let pool = Pool::builder(&DatabaseUrl::parse(&url)?)
        .options(PoolOptions::default().max(20))
        // All tasks of the service run on this runtime, so the pool needs no other one.
        .runtime(Handle::current())
        .connect()
        .await?;
    let create = |db: orm_pool::Connection| async move {
        let schema = Schema::new(db.get_database_backend());
        db.execute(schema.create_table_from_entity(note::Entity).if_not_exists()).await?;
        Ok::<_, Error>(())
    };
    pool.write("notes.create", create).await?;

    let app = Router::new()
        .route("/notes", post(add))
        .route("/notes/{id}", get(find))
        .route("/pool", get(snapshot))
        .layer(middleware::from_fn(limit))
        .with_state(App::new(pool.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).with_graceful_shutdown(shutdown_signal()).await?;
    Ok(pool.close(Duration::from_secs(5)).await?)
}

async fn shutdown_signal() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        println!("failed to listen for Ctrl-C: {error}");
        std::future::pending::<()>().await;
    }
}
