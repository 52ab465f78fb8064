//! SeaORM entities: the tables as the ORM maps them.

pub mod idempotency_keys;
pub mod users;
pub mod users_api_keys;
pub mod users_journal;
