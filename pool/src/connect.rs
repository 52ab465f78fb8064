//! From a URL to an open connection: the only part that speaks to the drivers.
//!
//! [`url`] reads database URLs. [`connector`] opens connections; what differs between the engines is in `sqlite`, `postgres`
//! and `mysql`, each of which can be left out of the build. [`session`] keeps what their statements rely on, and
//! [`driver_options`] what the application sets. [`driver`] runs SeaORM's statements on an open connection; [`socket`] sees
//! that the server has closed it, and [`file`](mod@file) that an SQLite database was moved or replaced.

pub(crate) mod connector;
pub(crate) mod driver;
pub(crate) mod driver_options;
#[cfg(feature = "sqlite")]
mod file;
#[cfg(feature = "postgres")]
mod find_pooler;
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
