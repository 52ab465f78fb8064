//! From a URL to an open connection: the only part that speaks to the drivers.
//!
//! [`url`] reads database URLs. [`connector`] opens connections, [`session`] sets what their statements rely on, [`pooler`]
//! finds a connection pooler in between. [`driver`] runs SeaORM's statements on an open connection; [`socket`] sees that the
//! server has closed it, and [`file`](mod@file) that an SQLite database was moved or replaced.

pub(crate) mod connector;
pub(crate) mod driver;
mod file;
pub(crate) mod pooler;
pub(crate) mod session;
mod socket;
pub(crate) mod url;
