//! The use cases: transactions and SeaORM are used here, and database errors become service errors.
//!
//! Start with [`UserService`]: each of its methods is a named operation on the pool, and the modules below it build the
//! statements, many of which serve several requests at the same time. A request with an idempotency key is a
//! [`KeyedRequest`] and gets a [`KeyedResponse`]; [`IdempotencyStore`] deletes expired keys. [`SchemaService`] migrates
//! and checks the schema. [`KeyService`] manages API keys.
//!
//! Every change is recorded in the [`Journal`], and [`FeedStore`] has them in the order of their commits, with the messages
//! of [`MessageService`] between them. [`TicketStore`] has tickets for WebSockets, and [`PresenceStore`] the users who have
//! one. [`ExportStore`] has how far the feed was copied to another system. [`Error`] is the error of all use cases.

mod change_signal;
pub mod clock;
mod error;
mod exports;
mod feed;
mod idempotency;
mod journal;
mod keys;
mod messages;
mod presence;
mod schema;
mod statement;
mod temporary_database;
mod tickets;
mod users;

pub(crate) use self::error::shutting_down;
pub use self::{
    change_signal::ChangeSignal,
    error::{Cause, Error, Unavailable},
    exports::ExportStore,
    feed::{FeedEntry, FeedState, FeedStore},
    idempotency::{IdempotencyStore, KeyedRequest, KeyedResponse},
    journal::{Action, Journal, JournalEntry},
    keys::{KeyRecord, KeyService, NewKey},
    messages::{MessageService, MessageStore, SentMessage},
    presence::PresenceStore,
    schema::{Migration, Progress, SchemaFailure, SchemaService},
    temporary_database::{TemporaryDatabase, TemporaryDatabaseError},
    tickets::{TicketGrant, TicketStore},
    users::{
        BulkOutcome, Change, CountMode, Draft, Edge, Filter, Page, Position, RowOutcome, Selection, Sort, SortKey,
        SortPlan, UserService, WriteMode, WriteOptions,
    },
};
