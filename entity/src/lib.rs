//! SeaORM entities: the tables as the ORM sees them, nothing else.

pub mod idempotency_keys;
pub mod users;
