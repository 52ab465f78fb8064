//! The use cases. Transactions and SeaORM live here, and only here a `DbErr` gets its meaning.

pub mod clock;
mod error;
mod schema;
mod users;

pub use self::{
    error::{Error, Unavailable},
    schema::{Migration, SchemaFailure, SchemaService},
    users::{Change, Draft, Position, Slice, UserService},
};
