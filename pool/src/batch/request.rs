//! The requests of a batch, and their replies.

use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::Span;

use crate::{context::OperationContext, error::Error};

/// A request that waits for a statement.
pub(super) struct PendingRequest<K, V> {
    pub(super) key: K,
    pub(super) reply: oneshot::Sender<Reply<V>>,
    pub(super) context: Arc<OperationContext>,
    pub(super) span: Span,
}

/// Requests with the same key.
pub(super) struct Group<K, V> {
    pub(super) first: PendingRequest<K, V>,
    pub(super) others: Vec<PendingRequest<K, V>>,
}

impl<K, V> Group<K, V> {
    pub(super) fn of_one(first: PendingRequest<K, V>) -> Self {
        Self { first, others: Vec::new() }
    }
}

pub(super) enum Reply<V> {
    Value(V),
    Failed(Error),
    /// The shared statement failed without any effect.
    RetryIndividually,
}

/// The bounds of keys and values.
pub(super) trait Key: Clone + Send + Sync + 'static {}
impl<K: Clone + Send + Sync + 'static> Key for K {}
pub(super) trait Value: Send + 'static {}
impl<V: Send + 'static> Value for V {}
