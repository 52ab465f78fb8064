//! Functions of the application that the pool awaits.

use std::{io, sync::Arc};

use futures_util::future::BoxFuture;

/// Awaited before each round trip.
pub(crate) type BeforeRoundTrip = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;
/// Returns the password for the next connection attempt.
pub(crate) type PasswordSource = Arc<dyn Fn() -> BoxFuture<'static, io::Result<String>> + Send + Sync>;
