//! A REST service for users on one shared, tuned connection pool.
//!
//! The way of the data is one line, and this is the order to read it in:
//!
//! 1. [`http`]: bytes become newtypes at the edge, and results become JSON. The routes and the OpenAPI document are the
//!    same list. Knows no ORM.
//! 2. [`domain`]: what a user is; newtypes that cannot hold anything invalid. Imports nothing of ours.
//! 3. [`service`]: the use cases. Transactions and SeaORM live here, and a `DbErr` gets its meaning here, once.
//! 4. [`orm_pool`]: the one pool, a crate of its own: admission in front, a runtime of its own beneath.
//! 5. `entity` and `migration`: the tables, and how they came to be.
//!
//! Around that way stand:
//!
//! * [`exchange`]: users as text, one or many; what HTTP and the command line have in common.
//! * [`settings`]: defaults, file, `.env`, environment; checked before anything starts.
//! * [`telemetry`]: log, metrics, traces.
//! * [`app`]: where the service is wired together; a command that works without it wires its own few parts.
//! * `server` and `connections`: the listener, the HTTP server, and which of its connections are kept.
//! * [`reload`]: SIGHUP; what can be changed while requests go on.
//! * [`shutdown`]: signals, and the way out in phases.
//! * [`cli`]: the command line; `main` does nothing but call it. `commands` has a file for each command.

pub mod app;
pub mod cli;
mod commands;
mod connections;
pub mod domain;
pub mod exchange;
pub mod http;
pub mod reload;
mod server;
pub mod service;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
