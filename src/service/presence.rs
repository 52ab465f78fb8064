//! The users with WebSockets, on any process. A process renews its lease every few seconds; without it its users count as
//! absent. Leases use the clock of the database, because those of processes differ.

use std::time::Duration;

use chrono::{DateTime, Utc};
use entity::{users_presence as presence, users_processes as processes};
use orm_pool::{Connection, Pool};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, Statement,
    sea_query::{Expr, OnConflict},
};
use uuid::Uuid;

use super::{
    Error, clock,
    error::database,
    statement::{is_one_of, now_ms, placeholder, power_of_two_chunks},
};
use crate::domain::UserId;

/// How long a lease is valid.
const LEASE: Duration = Duration::from_secs(15);
/// After how long a process without a lease is forgotten.
const FORGOTTEN: Duration = Duration::from_mins(1);

/// The stored presence of users.
#[derive(Clone, Debug)]
pub struct PresenceStore {
    pool: Pool,
}

impl PresenceStore {
    /// Creates the store on this pool.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Renews the lease of a process. Returns `false` if the process was unknown: then its users must be stored again.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn renew(&self, process: String) -> Result<bool, Error> {
        let now = now_ms(self.pool.engine());
        let placeholder = placeholder(self.pool.engine());
        let update = format!("UPDATE users_processes SET seen_ms = {now} WHERE process = {placeholder}");
        let insert = format!("INSERT INTO users_processes (process, seen_ms) VALUES ({placeholder}, {now})");
        let renew = move |db: Connection| {
            let backend = db.get_database_backend();
            let [update, insert] =
                [&update, &insert].map(|sql| Statement::from_sql_and_values(backend, sql, [process.clone().into()]));
            async move {
                let is_known = db.execute_raw(update).await.map_err(database)?.rows_affected() > 0;
                if !is_known {
                    db.execute_raw(insert).await.map_err(database)?;
                }
                Ok::<_, Error>(is_known)
            }
        };
        self.pool.transaction("presence.renew", renew).await
    }

    /// Stores that users have WebSockets on a process, or no longer have any.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn change(&self, process: String, present: Vec<UserId>, absent: Vec<UserId>) -> Result<(), Error> {
        let now = clock::now();
        let present: Vec<presence::ActiveModel> = present
            .into_iter()
            .map(|user| presence::ActiveModel {
                user_id: Set(user.as_uuid()),
                process: Set(process.clone()),
                since: Set(now),
            })
            .collect();
        let absent: Vec<Uuid> = absent.into_iter().map(UserId::as_uuid).collect();
        let change = move |db: Connection| {
            let (process, present, absent) = (process.clone(), present.clone(), absent.clone());
            async move {
                for chunk in power_of_two_chunks(&present) {
                    let key = [presence::Column::UserId, presence::Column::Process];
                    let ignore = OnConflict::columns(key).do_nothing_on(key).to_owned();
                    let insert = presence::Entity::insert_many(chunk.iter().cloned()).on_conflict(ignore);
                    insert.exec_without_returning(&db).await.map_err(database)?;
                }
                for chunk in power_of_two_chunks(&absent) {
                    let are_absent = is_one_of(db.get_database_backend(), presence::Column::UserId, chunk);
                    let delete = presence::Entity::delete_many().filter(are_absent);
                    delete.filter(presence::Column::Process.eq(&process)).exec(&db).await.map_err(database)?;
                }
                Ok::<_, Error>(())
            }
        };
        self.pool.transaction("presence.change", change).await
    }

    /// Returns since when a user has had WebSockets on a process that is alive; `None` without any.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn since(&self, user: UserId) -> Result<Option<DateTime<Utc>>, Error> {
        let placeholder = placeholder(self.pool.engine());
        let (now, lease) = (now_ms(self.pool.engine()), LEASE.as_millis());
        let sql = format!(
            "SELECT p.since FROM users_presence p JOIN users_processes q ON q.process = p.process \
             WHERE p.user_id = {placeholder} AND q.seen_ms > {now} - {lease} ORDER BY p.since LIMIT 1"
        );
        let since = move |db: Connection| {
            let statement = Statement::from_sql_and_values(db.get_database_backend(), &sql, [user.as_uuid().into()]);
            async move {
                let row = db.query_one_raw(statement).await.map_err(database)?;
                row.map(|row| row.try_get_by_index(0)).transpose().map_err(database)
            }
        };
        self.pool.read("presence.since", since).await
    }

    /// Forgets the users of processes that are no longer alive.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn forget_ended(&self) -> Result<(), Error> {
        let (now, age) = (now_ms(self.pool.engine()), FORGOTTEN.as_millis());
        let forget = move |db: Connection| async move {
            let is_ended = Expr::cust(format!("seen_ms < {now} - {age}"));
            let ended = processes::Entity::find().filter(is_ended).all(&db).await.map_err(database)?;
            for process in ended {
                let users = presence::Entity::delete_many().filter(presence::Column::Process.eq(&process.process));
                users.exec(&db).await.map_err(database)?;
                processes::Entity::delete_by_id(process.process).exec(&db).await.map_err(database)?;
            }
            Ok::<_, Error>(())
        };
        self.pool.transaction("presence.forget", forget).await
    }
}
