//! Startup, reload and shutdown of the process.
//!
//! [`Signals`] turns SIGTERM, SIGINT and SIGHUP into [`Signal`]s. `schema` prepares the database at startup, [`Reload`]
//! applies changed settings, and `drain` shuts down in [`Phase`]s.

mod drain;
mod phase;
mod reload;
mod schema;
mod signals;

pub use self::{
    drain::ShutdownError,
    phase::{CurrentPhase, Phase},
    reload::Reload,
    schema::SchemaError,
    signals::{Signal, Signals, StopRequest},
};
pub(crate) use self::{
    drain::{GracefulShutdown, INTERRUPTED_CLOSE_TIMEOUT},
    schema::{check_privileges, prepare_schema},
};
