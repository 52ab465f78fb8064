//! The smallest example, with SeaORM only: `cargo run -p orm-pool --example notes [URL]`.
#![expect(clippy::print_stdout, reason = "examples print their results")]

use std::time::Duration;

use orm_pool::{Connection, DatabaseUrl, Error, Pool, PoolOptions};
use sea_orm::{ActiveValue::Set, ConnectionTrait, EntityTrait, Schema};

mod note {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "notes")]
    pub(crate) struct Model {
        #[sea_orm(primary_key)]
        pub(crate) id: i32,
        pub(crate) text: String,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "sqlite::memory:".to_owned());
    let options = PoolOptions::default().max(4);
    let pool = Pool::connect(&DatabaseUrl::parse(&url)?, &options).await?;

    let add = |db: Connection| async move {
        let schema = Schema::new(db.get_database_backend());
        db.execute(schema.create_table_from_entity(note::Entity).if_not_exists()).await?;
        let note = note::ActiveModel { text: Set("written through the pool".to_owned()), ..Default::default() };
        Ok::<_, Error>(note::Entity::insert(note).exec(&db).await?)
    };
    pool.write("notes.add", add).await?;

    // Any SeaORM query accepts the connection. If it is lost, the read is retried on another one.
    let list = |db| async move { Ok::<_, Error>(note::Entity::find().all(&db).await?) };
    println!("{:?}", pool.read("notes.list", list).await?);
    println!("{}", pool.snapshot().advice.sentence);
    Ok(pool.close(Duration::from_secs(5)).await?)
}
