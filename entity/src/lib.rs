//! SeaORM entities: the tables as the ORM maps them.

pub mod idempotency_keys;
pub mod users;
pub mod users_api_keys;
pub mod users_exports;
pub mod users_feed;
pub mod users_feed_pending;
pub mod users_feed_positions;
pub mod users_journal;
pub mod users_messages;
pub mod users_presence;
pub mod users_processes;
pub mod users_tickets;
