//! A REST service for users on one shared, tuned connection pool.
//!
//! # The path of a request
//!
//! 1. `server` and `connections` accept the connection, and limit how many are open.
//! 2. [`http`] routes the request, parses and validates its input, and writes the response. The routes and the OpenAPI
//!    document come from one list. It does not use the ORM.
//! 3. [`auth`] decides who is calling and what they may do.
//! 4. [`domain`] defines a user: newtypes that are valid by construction. It imports no other module.
//! 5. [`service`] implements the use cases and their transactions with SeaORM. It maps each `DbErr` to a
//!    [`service::Error`].
//! 6. [`orm_pool`], a separate crate, is the connection pool: a bounded queue, and a dedicated runtime for operations.
//! 7. `entity` and `migration` define the tables and the history of the schema.
//!
//! # Supporting modules
//!
//! * [`feed`]: the live feed of changes; optional.
//! * [`demo`]: `users-api demo`, a lab that shows the pool at work; optional.
//! * [`exchange`]: shared by HTTP and the CLI: users as JSON, NDJSON and CSV; queries, cursors, imports, exports.
//! * [`settings`]: defaults, file, `.env`, environment and command line, validated before anything starts.
//! * [`telemetry`]: log, metrics and traces.
//! * `database`: opens the pool as the settings describe, with a password that may change.
//! * [`app`]: builds the service from its parts and runs it.
//! * [`lifecycle`]: signals, the schema check at startup, reload on SIGHUP, graceful shutdown in phases.
//! * `jobs`: background work: refresh of API keys and of the signing keys of tokens; deletion of expired idempotency keys,
//!   journal entries, events, messages, tickets and presence; the sequencer and the export of the feed; metrics upkeep.
//! * [`cli`]: parses the command line. `commands` has a file for each command.
//! * [`tls`]: the cryptography of TLS, and the certificate of the listeners.
//! * `error_chain`: an error and its causes as one line.

pub mod app;
pub mod auth;
pub mod cli;
mod commands;
mod connections;
mod database;
pub mod demo;
pub mod domain;
mod error_chain;
pub mod exchange;
pub mod feed;
pub mod http;
mod jobs;
pub mod lifecycle;
mod server;
pub mod service;
pub mod settings;
pub mod telemetry;
pub mod tls;
