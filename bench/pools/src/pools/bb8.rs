//! bb8 with bb8-postgres.

use anyhow::Result;
use bb8_postgres::{
    PostgresConnectionManager,
    bb8::{self, ManageConnection},
};
use tokio_postgres::{Client, Config, Error, NoTls, Statement};
use uuid::Uuid;

use super::{ACQUIRE_TIMEOUT, FIND, Pool, SLEEP, User};

pub struct Bb8(bb8::Pool<Manager>);

impl Pool for Bb8 {
    /// `connection_timeout` is 30 s by default. `min_idle`, which is unset by default, opens all connections at the
    /// start. `test_on_check_out` is on by default: a connection is pinged on each checkout.
    async fn connect(url: &str, connections: u32) -> Result<Self> {
        let config: Config = url.parse()?;
        let manager = Manager(PostgresConnectionManager::new(config, NoTls));
        let options =
            bb8::Pool::builder().max_size(connections).min_idle(connections).connection_timeout(ACQUIRE_TIMEOUT);
        Ok(Self(options.build(manager).await?))
    }

    async fn find(&self, id: Uuid) -> Result<Option<User>> {
        let connection = self.0.get().await?;
        let row = connection.client.query_opt(&connection.find, &[&id]).await?;
        Ok(row.as_ref().map(User::from_row).transpose()?)
    }

    async fn sleep(&self) -> Result<()> {
        let connection = self.0.get().await?;
        Ok(connection.client.batch_execute(SLEEP).await?)
    }
}

/// bb8-postgres caches no prepared statements, so this stores one with each connection.
struct Manager(PostgresConnectionManager<NoTls>);

struct Prepared {
    client: Client,
    find: Statement,
}

impl ManageConnection for Manager {
    type Connection = Prepared;
    type Error = Error;

    async fn connect(&self) -> Result<Prepared, Error> {
        let client = self.0.connect().await?;
        let find = client.prepare(FIND).await?;
        Ok(Prepared { client, find })
    }

    async fn is_valid(&self, connection: &mut Prepared) -> Result<(), Error> {
        self.0.is_valid(&mut connection.client).await
    }

    fn has_broken(&self, connection: &mut Prepared) -> bool {
        self.0.has_broken(&mut connection.client)
    }
}
