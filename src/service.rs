//! The use cases. Transactions and SeaORM live here, and only here a `DbErr` gets its meaning.
//!
//! [`UserService`] is the one to begin with: each of its functions is an operation on the pool, and what one statement for
//! many looks like lies in the modules below it. [`KeyedRequest`] and [`KeyedResponse`] are what is done once; [`IdempotencyStore`] forgets
//! them. [`SchemaService`] brings the schema up and down. [`Error`] is what all of them fail by.

pub mod clock;
mod error;
mod idempotency;
mod schema;
mod users;

pub use self::{
    error::{Error, Unavailable},
    idempotency::{IdempotencyStore, KeyedRequest, KeyedResponse},
    schema::{Migration, Progress, SchemaFailure, SchemaService},
    users::{
        Change, Count, Draft, Edge, Filter, Mode, Outcome, Page, Position, Selection, Sort, SortKey, SortPlan,
        UserService, WriteOptions, Written,
    },
};
