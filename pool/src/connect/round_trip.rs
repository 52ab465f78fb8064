//! The hook of the application before each round trip to the database.

use std::sync::Arc;

use futures_util::future::BoxFuture;

/// A hook that is awaited before each round trip.
pub(crate) type BeforeRoundTrip = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;
