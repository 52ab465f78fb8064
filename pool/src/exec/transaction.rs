//! Transactions and savepoints inside an operation.

use sea_orm::{DbErr, TransactionSession};

use super::{connection::Connection, progress::Level};

/// A transaction, or a savepoint inside one. If it is dropped without [`commit`](TransactionSession::commit), it is
/// rolled back before the connection is used again.
///
/// A conflict (a deadlock, a serialization failure), or another error with which the server rolls the transaction back,
/// poisons it: its further statements fail without being sent, on every engine, because MySQL would autocommit them.
/// Only a rollback is allowed; [`Pool::transaction`](crate::Pool::transaction) then retries the operation as a whole.
/// Statements also fail once the enclosing transaction has ended.
#[derive(Debug)]
pub struct Transaction {
    pub(super) connection: Connection,
    pub(super) level: Level,
    is_open: bool,
}

impl Transaction {
    pub(super) fn new(connection: Connection, level: Level) -> Self {
        Self { connection, level, is_open: true }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.is_open {
            self.connection.drop_level(self.level);
        }
    }
}

#[async_trait::async_trait]
impl TransactionSession for Transaction {
    async fn commit(mut self) -> Result<(), DbErr> {
        self.connection.commit_at(self.level).await?;
        self.is_open = false;
        Ok(())
    }

    async fn rollback(mut self) -> Result<(), DbErr> {
        self.connection.rollback_at(self.level).await?;
        self.is_open = false;
        Ok(())
    }
}
