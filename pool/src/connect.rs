//! Opens connections: the only module that uses the drivers.
//!
//! [`url`] parses database URLs. [`connector`] opens connections: to the first of several hosts that works, which
//! [`hosts`] remembers. What differs between the engines is in `sqlite`, `postgres` and `mysql`, each of which can be
//! left out of the build; `engine_connector` selects one. [`session`] sets what statements rely on, and
//! [`driver_options`] what the application configures, with the functions in `hooks`. [`driver`] runs SeaORM statements
//! on an open connection. [`socket`] detects that the server has closed it, and [`file`](mod@file) that an SQLite database file was moved or
//! replaced.

pub(crate) mod connector;
pub(crate) mod driver;
pub(crate) mod driver_options;
mod engine_connector;
#[cfg(feature = "sqlite")]
mod file;
#[cfg(feature = "postgres")]
mod find_pooler;
mod hooks;
pub(crate) mod hosts;
#[cfg(feature = "mysql")]
mod mysql;
pub(crate) mod pooler;
#[cfg(feature = "postgres")]
mod postgres;
pub(crate) mod session;
mod socket;
#[cfg(feature = "sqlite")]
mod sqlite;
pub(crate) mod url;
