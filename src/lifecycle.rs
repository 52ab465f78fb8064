//! Startup, reload and shutdown of the process.
//!
//! [`Signals`] turns SIGTERM, SIGINT and SIGHUP into [`Signal`]s. `schema` and `bootstrap_key` prepare the database at startup, [`Reload`]
//! applies changed settings, and `drain` shuts down in [`Phase`]s.

mod bootstrap_key;
mod drain;
mod handshakes;
mod phase;
mod reload;
mod schema;
mod signals;

pub(crate) use self::{
    bootstrap_key::store_bootstrap_key,
    drain::{GracefulShutdown, INTERRUPTED_CLOSE_TIMEOUT},
    schema::{check_privileges, prepare_schema},
};
pub use self::{
    drain::ShutdownError,
    phase::{CurrentPhase, Phase},
    reload::Reload,
    schema::SchemaError,
    signals::{Signal, Signals, StopRequest},
};
