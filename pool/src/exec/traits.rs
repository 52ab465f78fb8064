//! SeaORM's traits for everything that runs statements: [`Connection`], [`PooledConnection`] and [`Transaction`].

use std::pin::Pin;

use futures_util::Stream;
use sea_orm::{
    AccessMode, ConnectionTrait, DbBackend, DbErr, ExecResult, IsolationLevel, QueryResult, Statement, StreamTrait,
    TransactionError, TransactionOptions, TransactionSession, TransactionTrait,
};

use super::{connection::Connection, pooled::PooledConnection, progress::Level, transaction::Transaction};

type Callback<'c, T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'c>>;
type Rows<'a> = Pin<Box<dyn Stream<Item = Result<QueryResult, DbErr>> + Send + 'a>>;

/// Implements the traits for `$type`. `$target` is the connection of `$this` and its transaction, if any.
macro_rules! impl_traits {
    ($type:ty, $this:ident => $target:expr) => {
        #[async_trait::async_trait]
        impl ConnectionTrait for $type {
            fn get_database_backend(&self) -> DbBackend {
                let $this = self;
                let (connection, _): (&Connection, Option<Level>) = $target;
                connection.backend()
            }

            async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
                let $this = self;
                let (connection, level): (&Connection, Option<Level>) = $target;
                connection.execute_at(level, statement).await
            }

            async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
                let $this = self;
                let (connection, level): (&Connection, Option<Level>) = $target;
                connection.execute_unprepared_at(level, sql).await
            }

            async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
                let $this = self;
                let (connection, level): (&Connection, Option<Level>) = $target;
                connection.query_one_at(level, statement).await
            }

            async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
                let $this = self;
                let (connection, level): (&Connection, Option<Level>) = $target;
                connection.query_all_at(level, statement).await
            }
        }

        impl StreamTrait for $type {
            type Stream<'a> = Rows<'a>;

            fn get_database_backend(&self) -> DbBackend {
                ConnectionTrait::get_database_backend(self)
            }

            fn stream_raw<'a>(
                &'a self,
                statement: Statement,
            ) -> Pin<Box<dyn Future<Output = Result<Self::Stream<'a>, DbErr>> + 'a + Send>> {
                let $this = self;
                let (connection, level): (&Connection, Option<Level>) = $target;
                Box::pin(async move { Ok(Box::pin(connection.stream_at(level, statement).await?) as Rows<'a>) })
            }
        }

        #[async_trait::async_trait]
        impl TransactionTrait for $type {
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
                let $this = self;
                let (connection, within): (&Connection, Option<Level>) = $target;
                let level = connection.begin_at(within, options, None).await?;
                Ok(Transaction::new(connection.clone(), level))
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

impl_traits!(Connection, this => (this, None));
impl_traits!(PooledConnection, this => (this.connection(), None));
impl_traits!(Transaction, this => (&this.connection, Some(this.level)));
