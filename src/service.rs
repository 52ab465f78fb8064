//! The use cases. Transactions and SeaORM live here, and only here a `DbErr` gets its meaning.

pub mod clock;
mod error;
mod idempotency;
mod schema;
mod users;

pub use self::{
    error::{Error, Unavailable},
    idempotency::{Answer, IdempotencyKeys, Once},
    schema::{Migration, SchemaFailure, SchemaService},
    users::{
        Change, Count, Draft, Edge, Filter, Mode, Outcome, Position, Selection, Slice, Sort, SortKey, Terms,
        UserService, Way, Written,
    },
};
