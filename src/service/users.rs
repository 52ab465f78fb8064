//! Users: create, find, list, replace, patch, delete.

use entity::users::{COLUMN, Entity, Model};
use orm_pool::Pool;
use sea_orm::{
    ActiveModelTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect,
    TransactionOptions,
};

use super::{Error, clock};
use crate::domain::{Email, Name, User, UserId, Version};

/// What a new or replaced user consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The name.
    pub name: Name,
    /// The email.
    pub email: Email,
}

/// What to change of a user; `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The new name.
    pub name: Option<Name>,
    /// The new email.
    pub email: Option<Email>,
}

/// Where in the list a page lies. Ids are positions: they stay where they are while rows come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// At the beginning.
    First,
    /// Right after this id.
    After(UserId),
    /// Right before this id.
    Before(UserId),
}

/// One page of the list, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The users.
    pub users: Vec<User>,
    /// Whether there may be more before these.
    pub has_previous: bool,
    /// Whether there are more after these.
    pub has_next: bool,
}

/// The use cases of users, on the one pool.
#[derive(Clone, Debug)]
pub struct UserService {
    pool: Pool,
}

impl UserService {
    /// A service on this pool.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Creates a user.
    ///
    /// # Errors
    ///
    /// [`Error::EmailTaken`]; found by the unique index at the insert itself, never by looking first.
    pub async fn create(&self, draft: Draft) -> Result<User, Error> {
        let now = clock::now();
        let (email, email_key) = draft.email.into_parts();
        let model = Model {
            id: UserId::generate().as_uuid(),
            name: draft.name.into_string(),
            email,
            email_key,
            version: 1,
            created_at: now,
            updated_at: now,
        };
        self.pool
            .write("users.create", move |db| {
                let model = model.clone();
                async move {
                    // Every value is ours, so there is nothing to read back, on engines without RETURNING least of all.
                    Entity::insert(model.clone().into_active_model()).exec_without_returning(&db).await?;
                    Ok(model.into())
                }
            })
            .await
    }

    /// Finds a user.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn find(&self, id: UserId) -> Result<User, Error> {
        let found =
            self.pool
                .read("users.find", move |db| async move {
                    Ok::<_, Error>(Entity::find_by_id(id.as_uuid()).one(&db).await?)
                })
                .await?;
        found.map(User::from).ok_or(Error::NotFound)
    }

    /// Gives at most `limit` users from a position on.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn list(&self, position: Position, limit: u64) -> Result<Slice, Error> {
        // One more than asked for tells whether there is a further page, without counting.
        let query = match position {
            Position::First => Entity::find().order_by_asc(COLUMN.id),
            Position::After(id) => Entity::find().filter(COLUMN.id.gt(id.as_uuid())).order_by_asc(COLUMN.id),
            Position::Before(id) => Entity::find().filter(COLUMN.id.lt(id.as_uuid())).order_by_desc(COLUMN.id),
        }
        .limit(limit + 1);
        let rows = move |db| {
            let query = query.clone();
            async move { Ok::<_, Error>(query.all(&db).await?) }
        };
        let mut rows = self.pool.read("users.list", rows).await?;
        let more = rows.len() as u64 > limit;
        if more {
            rows.pop();
        }
        let (has_previous, has_next) = match position {
            Position::First => (false, more),
            Position::After(_) => (true, more),
            Position::Before(_) => {
                rows.reverse();
                (more, true)
            }
        };
        Ok(Slice { users: rows.into_iter().map(User::from).collect(), has_previous, has_next })
    }

    /// Replaces a user's name and email.
    ///
    /// # Errors
    ///
    /// As [`patch`](Self::patch).
    pub async fn replace(&self, id: UserId, expected: Option<Version>, draft: Draft) -> Result<User, Error> {
        let change = Change { name: Some(draft.name), email: Some(draft.email) };
        self.update("users.replace", id, expected, change).await
    }

    /// Changes a part of a user. A change that changes nothing is not written, and the version stays.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::EmailTaken`]; [`Error::VersionConflict`] when the user is not at the `expected`
    /// version, or was changed by another writer between reading and writing.
    pub async fn patch(&self, id: UserId, expected: Option<Version>, change: Change) -> Result<User, Error> {
        self.update("users.patch", id, expected, change).await
    }

    /// Deletes a user.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::VersionConflict`] when the user is not at the `expected` version.
    pub async fn delete(&self, id: UserId, expected: Option<Version>) -> Result<(), Error> {
        self.pool
            .write("users.delete", move |db| async move {
                let mut delete = Entity::delete_many().filter(COLUMN.id.eq(id.as_uuid()));
                if let Some(version) = expected {
                    delete = delete.filter(COLUMN.version.eq(version));
                }
                if delete.exec(&db).await?.rows_affected == 1 {
                    return Ok(());
                }
                match expected {
                    Some(_) if Entity::find_by_id(id.as_uuid()).one(&db).await?.is_some() => {
                        Err(Error::VersionConflict)
                    }
                    _ => Err(Error::NotFound),
                }
            })
            .await
    }

    async fn update(
        &self,
        operation: &'static str,
        id: UserId,
        expected: Option<Version>,
        change: Change,
    ) -> Result<User, Error> {
        self.pool
            .transaction(operation, TransactionOptions::default(), move |transaction| {
                let change = change.clone();
                async move {
                    let current = locked(&transaction, id).await?.ok_or(Error::NotFound)?;
                    if expected.is_some_and(|version| version != current.version) {
                        return Err(Error::VersionConflict);
                    }
                    let Some(next) = changed(&current, change) else { return Ok(current.into()) };
                    write(&transaction, &next, current.version).await?;
                    Ok(next.into())
                }
            })
            .await
    }
}

/// The row, kept from other writers until the transaction ends. SQLite has no row locks and needs none: the
/// transaction is the only writer.
async fn locked(transaction: &impl ConnectionTrait, id: UserId) -> Result<Option<Model>, Error> {
    Ok(Entity::find_by_id(id.as_uuid()).lock_exclusive().one(transaction).await?)
}

/// Writes a row over its predecessor. The version is checked by the UPDATE itself: on a multi-master engine a lock held
/// here says nothing about another node.
async fn write(transaction: &impl ConnectionTrait, next: &Model, from: Version) -> Result<(), Error> {
    let mut row = next.clone().into_active_model().reset_all();
    row.not_set(entity::users::Column::Id);
    row.not_set(entity::users::Column::CreatedAt);
    let written = Entity::update_many()
        .set(row)
        .filter(COLUMN.id.eq(next.id))
        .filter(COLUMN.version.eq(from))
        .exec(transaction)
        .await?;
    if written.rows_affected == 1 { Ok(()) } else { Err(Error::VersionConflict) }
}

/// The row after the change, or `None` if it would be the same.
fn changed(current: &Model, change: Change) -> Option<Model> {
    let mut next = current.clone();
    if let Some(name) = change.name {
        next.name = name.into_string();
    }
    if let Some(email) = change.email {
        (next.email, next.email_key) = email.into_parts();
    }
    if next == *current {
        return None;
    }
    next.version += 1;
    next.updated_at = clock::now();
    Some(next)
}

impl From<Model> for User {
    fn from(row: Model) -> Self {
        Self {
            id: row.id.into(),
            name: row.name,
            email: row.email,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}
