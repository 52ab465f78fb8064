//! The configuration of a kind of batch.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sea_orm::DbErr;

use super::request::{Group, PendingRequest};
use crate::{
    error::Error,
    exec::{connection::Connection, operation::Kind},
};

pub(super) type Body<K, V> = dyn Fn(Connection, Arc<[K]>) -> BoxFuture<'static, Result<Vec<V>, DbErr>> + Send + Sync;

type Grouping<K, V> = fn(Vec<PendingRequest<K, V>>) -> Vec<Group<K, V>>;

/// The rules by which operations of one kind share statements.
pub(super) struct BatchConfig<K, V> {
    pub(super) operation: &'static str,
    /// The kind of operation for a single request.
    pub(super) single: Kind,
    /// The kind of operation for several requests.
    pub(super) several: Kind,
    /// Maximum number of concurrent statements.
    pub(super) in_flight: u32,
    /// Groups requests that share a value.
    pub(super) group: Grouping<K, V>,
    /// Clones a value for other requests with the same key; returns `None` for writes, which are never grouped.
    pub(super) copy: fn(&V) -> Option<V>,
    pub(super) body: Box<Body<K, V>>,
    pub(super) sizes: metrics::Histogram,
}

impl<K, V> BatchConfig<K, V> {
    pub(super) async fn run_body(&self, db: Connection, keys: Arc<[K]>) -> Result<Vec<V>, Error> {
        let count = keys.len();
        let values = (self.body)(db, keys).await?;
        if values.len() == count { Ok(values) } else { Err(wrong_count(self.operation)) }
    }
}

/// Returns the error for a body that returns the wrong number of values.
pub(super) fn wrong_count(operation: &str) -> Error {
    Error::Database(DbErr::Custom(format!("the body of {operation} did not return one value per key")))
}
