//! actix-web and SeaORM as in their documentation: one pool in `web::Data`, queries in the handlers. `NO_POOL=1` opens
//! a connection per request instead.

use std::borrow::Cow;

use actix_web::{
    App, HttpResponse, HttpServer, ResponseError, get,
    http::{StatusCode, header},
    post, web,
};
use entity::users::{COLUMN, Column, Entity, Model};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectOptions, Database, DatabaseConnection, DbErr, EntityTrait, IntoActiveModel,
    QueryFilter, QueryOrder, QuerySelect, SqlErr,
    sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous},
};
use shape::{Draft, ListQuery, User};
use uuid::Uuid;

#[derive(Debug)]
struct Failure(DbErr);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        match self.0.sql_err() {
            Some(SqlErr::UniqueConstraintViolation(_)) => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<DbErr> for Failure {
    fn from(error: DbErr) -> Self {
        Self(error)
    }
}

/// Where connections come from: a pool, or a new connection per request.
enum Source {
    Pool(DatabaseConnection),
    PerRequest(Box<ConnectOptions>),
}

impl Source {
    async fn get(&self) -> Result<Cow<'_, DatabaseConnection>, DbErr> {
        match self {
            Self::Pool(pool) => Ok(Cow::Borrowed(pool)),
            Self::PerRequest(options) => Database::connect(ConnectOptions::clone(options)).await.map(Cow::Owned),
        }
    }
}

fn body(row: Model) -> User {
    User {
        id: row.id,
        name: row.name,
        email: row.email,
        version: row.version,
        created_at: row.created_at,
        updated_at: row.updated_at,
    }
}

#[get("/users/{id}")]
async fn find(id: web::Path<Uuid>, source: web::Data<Source>) -> Result<HttpResponse, Failure> {
    let found = Entity::find_by_id(*id).one(&*source.get().await?).await?;
    Ok(found.map_or_else(|| HttpResponse::NotFound().finish(), |row| HttpResponse::Ok().json(body(row))))
}

#[get("/users")]
async fn list(query: web::Query<ListQuery>, source: web::Data<Source>) -> Result<HttpResponse, Failure> {
    let mut select = Entity::find();
    if let Some(email) = &query.email {
        select = select.filter(Column::EmailKey.eq(shape::email_key(email)));
    }
    if let Some(after) = query.after {
        select = select.filter(Column::Id.gt(after));
    }
    let rows = select.order_by_asc(COLUMN.id).limit(query.limit()).all(&*source.get().await?).await?;
    Ok(HttpResponse::Ok().json(rows.into_iter().map(body).collect::<Vec<_>>()))
}

#[post("/users")]
async fn create(draft: web::Json<Draft>, source: web::Data<Source>) -> Result<HttpResponse, Failure> {
    let Some(user) = draft.into_inner().into_user() else {
        return Ok(HttpResponse::UnprocessableEntity().finish());
    };
    let model = Model {
        id: user.id,
        name_key: user.name.to_lowercase(),
        last_word_key: user.name.to_lowercase(),
        name: user.name,
        email_key: shape::email_key(&user.email),
        email: user.email,
        version: user.version,
        created_at: user.created_at,
        updated_at: user.updated_at,
    };
    let model = model.into_active_model().insert(&*source.get().await?).await?;
    let location = (header::LOCATION, format!("/users/{}", model.id));
    Ok(HttpResponse::Created().insert_header(location).json(body(model)))
}

#[get("/health/live")]
async fn live() -> HttpResponse {
    HttpResponse::Ok().finish()
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let mut options = ConnectOptions::new(shape::database_url());
    options.max_connections(shape::pool_max()).sqlx_logging(false).map_sqlx_sqlite_opts(|options| {
        options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full)
    });
    let source = if shape::variable("NO_POOL").is_some() {
        options.max_connections(1).min_connections(0);
        Source::PerRequest(Box::new(options))
    } else {
        Source::Pool(Database::connect(options).await.map_err(std::io::Error::other)?)
    };
    let source = web::Data::new(source);
    HttpServer::new(move || {
        App::new().app_data(source.clone()).service(find).service(list).service(create).service(live)
    })
    .bind(("127.0.0.1", shape::port()))?
    .run()
    .await
}
