//! Transactions and savepoints inside an operation: SeaORM's traits for them.

use std::pin::Pin;

use sea_orm::{
    AccessMode, ConnectionTrait, DbBackend, DbErr, ExecResult, IsolationLevel, QueryResult, Statement,
    TransactionError, TransactionOptions, TransactionSession, TransactionTrait,
};

use super::{connection::Connection, progress::Level};

/// A transaction, or a savepoint inside one. Dropped without [`commit`](TransactionSession::commit), it is rolled back
/// before the connection is used again.
///
/// Once it has met a conflict (a deadlock, a serialization failure), or another error with which the server undoes all of it,
/// its statements fail without being sent, on every engine: MySQL would run them on their own. Only its rollback may follow;
/// a transaction of the pool is then run again as a whole. Statements also fail once the transaction around it has ended.
#[derive(Debug)]
pub struct Transaction {
    connection: Connection,
    level: Level,
    is_open: bool,
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.is_open {
            self.connection.drop_level(self.level);
        }
    }
}

#[async_trait::async_trait]
impl ConnectionTrait for Transaction {
    fn get_database_backend(&self) -> DbBackend {
        self.connection.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.connection.execute_at(Some(self.level), statement).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.connection.execute_unprepared_at(Some(self.level), sql).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.connection.query_one_at(Some(self.level), statement).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.connection.query_all_at(Some(self.level), statement).await
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

type Callback<'c, T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'c>>;

/// Both kinds of connection begin a transaction the same way.
macro_rules! begins_transactions {
    ($kind:ty, $own:ident => $inside:expr) => {
        #[async_trait::async_trait]
        impl TransactionTrait for $kind {
            type Transaction = Transaction;

            async fn begin(&self) -> Result<Transaction, DbErr> {
                self.begin_with_options(TransactionOptions::default()).await
            }

            async fn begin_with_config(
                &self,
                isolation_level: Option<IsolationLevel>,
                access_mode: Option<AccessMode>,
            ) -> Result<Transaction, DbErr> {
                let options = TransactionOptions { isolation_level, access_mode, sqlite_transaction_mode: None };
                self.begin_with_options(options).await
            }

            async fn begin_with_options(&self, options: TransactionOptions) -> Result<Transaction, DbErr> {
                let $own = self;
                let (connection, within): (&Connection, Option<Level>) = $inside;
                let level = connection.begin_at(within, options, None).await?;
                Ok(Transaction { connection: connection.clone(), level, is_open: true })
            }

            async fn transaction<F, T, E>(&self, callback: F) -> Result<T, TransactionError<E>>
            where
                F: for<'c> FnOnce(&'c Transaction) -> Callback<'c, T, E> + Send,
                T: Send,
                E: std::fmt::Display + std::fmt::Debug + Send,
            {
                self.transaction_with_config(callback, None, None).await
            }

            async fn transaction_with_config<F, T, E>(
                &self,
                callback: F,
                isolation_level: Option<IsolationLevel>,
                access_mode: Option<AccessMode>,
            ) -> Result<T, TransactionError<E>>
            where
                F: for<'c> FnOnce(&'c Transaction) -> Callback<'c, T, E> + Send,
                T: Send,
                E: std::fmt::Display + std::fmt::Debug + Send,
            {
                let transaction =
                    self.begin_with_config(isolation_level, access_mode).await.map_err(TransactionError::Connection)?;
                match callback(&transaction).await {
                    Ok(value) => {
                        transaction.commit().await.map_err(TransactionError::Connection)?;
                        Ok(value)
                    }
                    Err(error) => {
                        transaction.rollback().await.map_err(TransactionError::Connection)?;
                        Err(TransactionError::Transaction(error))
                    }
                }
            }
        }
    };
}

begins_transactions!(Connection, own => (own, None));
begins_transactions!(Transaction, own => (&own.connection, Some(own.level)));
