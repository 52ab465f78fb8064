//! Transactions and savepoints inside an operation.

use sea_orm::{DbErr, TransactionSession};

use super::{connection::Connection, progress::Level};

/// A transaction, or a savepoint inside one. Dropped without [`commit`](TransactionSession::commit), it is rolled back
/// before the connection is used again.
///
/// Once it has met a conflict (a deadlock, a serialization failure), or another error with which the server undoes all of it,
/// its statements fail without being sent, on every engine: MySQL would autocommit them. Only its rollback may follow;
/// a transaction of the pool is then run again as a whole. Statements also fail once the transaction around it has ended.
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
