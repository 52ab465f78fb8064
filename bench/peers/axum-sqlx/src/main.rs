//! axum and sqlx without an ORM, as in their documentation: one `PgPool` as state, `query_as` in the handlers.

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use chrono::{DateTime, Utc};
use shape::{Draft, ListQuery, User};
use sqlx::{FromRow, PgPool, postgres::PgPoolOptions};
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

#[derive(FromRow)]
struct Row {
    id: Uuid,
    name: String,
    email: String,
    version: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<Row> for User {
    fn from(row: Row) -> Self {
        let Row { id, name, email, version, created_at, updated_at } = row;
        Self { id, name, email, version, created_at, updated_at }
    }
}

struct Failure(sqlx::Error);

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self.0 {
            sqlx::Error::Database(error) if error.is_unique_violation() => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
        .into_response()
    }
}

async fn find(Path(id): Path<Uuid>, State(pool): State<PgPool>) -> Result<Response, Failure> {
    let row: Option<Row> =
        sqlx::query_as("SELECT id, name, email, version, created_at, updated_at FROM users WHERE id = $1")
            .bind(id)
            .fetch_optional(&pool)
            .await?;
    Ok(row.map_or_else(|| StatusCode::NOT_FOUND.into_response(), |row| Json(User::from(row)).into_response()))
}

async fn list(Query(query): Query<ListQuery>, State(pool): State<PgPool>) -> Result<Json<Vec<User>>, Failure> {
    let limit = i64::try_from(query.limit()).unwrap_or(20);
    let rows: Vec<Row> = match (&query.email, query.after) {
        (Some(email), _) => {
            sqlx::query_as("SELECT id, name, email, version, created_at, updated_at FROM users WHERE email_key = $1")
                .bind(shape::email_key(email))
                .fetch_all(&pool)
                .await?
        }
        (None, Some(after)) => {
            sqlx::query_as(
                "SELECT id, name, email, version, created_at, updated_at FROM users
                 WHERE id > $2 ORDER BY id LIMIT $1",
            )
            .bind(limit)
            .bind(after)
            .fetch_all(&pool)
            .await?
        }
        (None, None) => {
            sqlx::query_as("SELECT id, name, email, version, created_at, updated_at FROM users ORDER BY id LIMIT $1")
                .bind(limit)
                .fetch_all(&pool)
                .await?
        }
    };
    Ok(Json(rows.into_iter().map(User::from).collect()))
}

async fn create(State(pool): State<PgPool>, Json(draft): Json<Draft>) -> Result<Response, Failure> {
    let Some(user) = draft.into_user() else {
        return Ok(StatusCode::UNPROCESSABLE_ENTITY.into_response());
    };
    sqlx::query(
        "INSERT INTO users (id, name, email, email_key, version, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(user.id)
    .bind(&user.name)
    .bind(&user.email)
    .bind(shape::email_key(&user.email))
    .bind(user.version)
    .bind(user.created_at)
    .bind(user.updated_at)
    .execute(&pool)
    .await?;
    let location = [(header::LOCATION, format!("/users/{}", user.id))];
    Ok((StatusCode::CREATED, location, Json(user)).into_response())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = PgPoolOptions::new().max_connections(shape::pool_max()).connect(&shape::database_url()).await?;
    let app = Router::new()
        .route("/users", get(list).post(create))
        .route("/users/{id}", get(find))
        .route("/health/live", get(|| async { StatusCode::OK }))
        .with_state(pool);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", shape::port())).await?;
    let mut stop = signal(SignalKind::terminate())?;
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            let _ = stop.recv().await;
        })
        .await?;
    Ok(())
}
