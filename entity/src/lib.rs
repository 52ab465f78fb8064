//! SeaORM entities: the tables as the ORM sees them, nothing else.

pub mod users;
