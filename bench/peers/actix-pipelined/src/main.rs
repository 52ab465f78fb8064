//! actix-web and tokio-postgres, hand-tuned: one connection per worker, on the worker's thread, statements prepared
//! once. tokio-postgres pipelines concurrent queries. An upper bound for hand-written services.

use actix_web::{
    App, HttpResponse, HttpServer, get,
    http::header,
    post,
    rt::spawn,
    web::{Data, Json, Path, Query},
};
use shape::{Draft, ListQuery, User};
use tokio_postgres::{Client, Error, NoTls, Row, Statement, error::SqlState};
use uuid::Uuid;

const COLUMNS: &str = "id, name, email, version, created_at, updated_at";

struct Worker {
    client: Client,
    by_id: Statement,
    by_email: Statement,
    first: Statement,
    after: Statement,
    insert: Statement,
}

impl Worker {
    async fn connect(url: &str) -> Result<Self, Error> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        spawn(async move { drop(connection.await) });
        Ok(Self {
            by_id: client.prepare(&format!("SELECT {COLUMNS} FROM users WHERE id = $1")).await?,
            by_email: client.prepare(&format!("SELECT {COLUMNS} FROM users WHERE email_key = $1")).await?,
            first: client.prepare(&format!("SELECT {COLUMNS} FROM users ORDER BY id LIMIT $1")).await?,
            after: client.prepare(&format!("SELECT {COLUMNS} FROM users WHERE id > $2 ORDER BY id LIMIT $1")).await?,
            insert: client
                .prepare(
                    "INSERT INTO users (id, name, email, email_key, version, created_at, updated_at)
                     VALUES ($1, $2, $3, $4, $5, $6, $7)",
                )
                .await?,
            client,
        })
    }
}

fn user(row: &Row) -> User {
    User {
        id: row.get(0),
        name: row.get(1),
        email: row.get(2),
        version: row.get(3),
        created_at: row.get(4),
        updated_at: row.get(5),
    }
}

fn failure(error: &Error) -> HttpResponse {
    if error.code() == Some(&SqlState::UNIQUE_VIOLATION) {
        HttpResponse::Conflict().finish()
    } else {
        HttpResponse::InternalServerError().finish()
    }
}

#[get("/users/{id}")]
async fn find(id: Path<Uuid>, worker: Data<Worker>) -> HttpResponse {
    match worker.client.query_opt(&worker.by_id, &[&*id]).await {
        Ok(Some(row)) => HttpResponse::Ok().json(user(&row)),
        Ok(None) => HttpResponse::NotFound().finish(),
        Err(error) => failure(&error),
    }
}

#[get("/users")]
async fn list(query: Query<ListQuery>, worker: Data<Worker>) -> HttpResponse {
    let limit = i64::try_from(query.limit()).unwrap_or(20);
    let rows = match (&query.email, query.after) {
        (Some(email), _) => worker.client.query(&worker.by_email, &[&shape::email_key(email)]).await,
        (None, Some(after)) => worker.client.query(&worker.after, &[&limit, &after]).await,
        (None, None) => worker.client.query(&worker.first, &[&limit]).await,
    };
    match rows {
        Ok(rows) => HttpResponse::Ok().json(rows.iter().map(user).collect::<Vec<_>>()),
        Err(error) => failure(&error),
    }
}

#[post("/users")]
async fn create(draft: Json<Draft>, worker: Data<Worker>) -> HttpResponse {
    let Some(user) = draft.into_inner().into_user() else {
        return HttpResponse::UnprocessableEntity().finish();
    };
    let key = shape::email_key(&user.email);
    let inserted = worker
        .client
        .execute(
            &worker.insert,
            &[&user.id, &user.name, &user.email, &key, &user.version, &user.created_at, &user.updated_at],
        )
        .await;
    match inserted {
        Ok(_) => HttpResponse::Created().insert_header((header::LOCATION, format!("/users/{}", user.id))).json(user),
        Err(error) => failure(&error),
    }
}

#[get("/health/live")]
async fn live() -> HttpResponse {
    HttpResponse::Ok().finish()
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    HttpServer::new(|| {
        App::new()
            .data_factory(|| async { Worker::connect(&shape::database_url()).await })
            .service(find)
            .service(list)
            .service(create)
            .service(live)
    })
    .bind(("127.0.0.1", shape::port()))?
    .run()
    .await
}
