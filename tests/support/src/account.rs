use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};

use crate::{Databases, Engine, connect};

/// A database user that owns, or has all rights on, a fresh database.
pub struct Account {
    admin: DatabaseConnection,
    engine: Engine,
    pub name: String,
    pub url: String,
}

impl Account {
    pub async fn new(databases: &Databases) -> Self {
        let database = databases.database().await;
        let mut url = url::Url::parse(&database).unwrap();
        let name = format!("app_{}", url.path().trim_start_matches("/users_test_"));
        let admin = connect(&databases.engine().admin_url()).await;
        let statements = match databases.engine() {
            Engine::Postgres => {
                let database = url.path().trim_start_matches('/');
                vec![
                    format!("CREATE ROLE {name} LOGIN PASSWORD 'one'"),
                    format!("ALTER DATABASE {database} OWNER TO {name}"),
                ]
            }
            _ => vec![
                format!("CREATE USER {name} IDENTIFIED BY 'one'"),
                format!("GRANT ALL ON {}.* TO {name}", url.path().trim_start_matches('/')),
            ],
        };
        for statement in statements {
            admin.execute_unprepared(&statement).await.unwrap();
        }
        url.set_username(&name).unwrap();
        url.set_password(Some("one")).unwrap();
        Self { admin, engine: databases.engine(), name, url: url.into() }
    }

    pub async fn set_password(&self, password: &str) {
        let name = &self.name;
        let sql = match self.engine {
            Engine::Postgres => format!("ALTER ROLE {name} PASSWORD '{password}'"),
            _ => format!("ALTER USER {name} IDENTIFIED BY '{password}'"),
        };
        self.admin.execute_unprepared(&sql).await.unwrap();
    }

    /// Limits the number of connections of the user.
    pub async fn set_limit(&self, limit: u32) {
        let name = &self.name;
        let sql = match self.engine {
            Engine::Postgres => format!("ALTER ROLE {name} CONNECTION LIMIT {limit}"),
            _ => format!("ALTER USER {name} WITH MAX_USER_CONNECTIONS {limit}"),
        };
        self.admin.execute_unprepared(&sql).await.unwrap();
    }

    /// Terminates the user's connections.
    pub async fn kill(&self) {
        let name = &self.name;
        let sql = match self.engine {
            Engine::Postgres => {
                format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}'")
            }
            Engine::MySql => {
                // Only MariaDB supports KILL USER.
                let sessions = self.engine.sessions();
                let sql = format!("SELECT CAST(id AS SIGNED) FROM {sessions} WHERE user = '{name}'");
                let rows = Statement::from_string(self.admin.get_database_backend(), sql);
                for row in self.admin.query_all_raw(rows).await.unwrap() {
                    let id: i64 = row.try_get_by_index(0).unwrap();
                    // It may have ended in the meantime.
                    let _ = self.admin.execute_unprepared(&format!("KILL {id}")).await;
                }
                return;
            }
            _ => format!("KILL USER {name}"),
        };
        self.admin.execute_unprepared(&sql).await.unwrap();
    }

    /// Terminates the user's connections and drops the user.
    pub async fn end(self, databases: &Databases) {
        self.kill().await;
        if self.engine == Engine::Postgres {
            let owner = url::Url::parse(&databases.engine().admin_url()).unwrap().username().to_owned();
            let database = url::Url::parse(&self.url).unwrap().path().trim_start_matches('/').to_owned();
            self.admin.execute_unprepared(&format!("ALTER DATABASE {database} OWNER TO {owner}")).await.unwrap();
            let mut url = url::Url::parse(&databases.engine().admin_url()).unwrap();
            url.set_path(&database);
            let inside = connect(url.as_str()).await;
            inside.execute_unprepared(&format!("REASSIGN OWNED BY {} TO {owner}", self.name)).await.unwrap();
            inside.execute_unprepared(&format!("DROP OWNED BY {}", self.name)).await.unwrap();
            inside.close().await.unwrap();
            self.admin.execute_unprepared(&format!("DROP ROLE {}", self.name)).await.unwrap();
        } else {
            self.admin.execute_unprepared(&format!("DROP USER {}", self.name)).await.unwrap();
        }
        self.admin.close().await.unwrap();
    }
}
