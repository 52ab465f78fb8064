use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Context, End, Engine, Server, binary, eventually, new_database};

/// A migrated database whose engine can crash without losing a commit.
pub struct DurableDatabase {
    /// `None` for SQLite, which is part of the service's process.
    server: Option<Server>,
    pub url: String,
}

impl DurableDatabase {
    pub async fn start(context: &Context) -> Self {
        let durable: &[&str] =
            if context.engine().is_mysql_like() { &["--innodb-flush-log-at-trx-commit=1"] } else { &[] };
        let mut server = (context.engine() != Engine::Sqlite).then(|| Server::new(context.engine(), durable));
        let url = match &mut server {
            Some(server) => {
                server.start(End::Crash);
                server.await_ready();
                new_database(server.url()).await
            }
            None => context.database().await,
        };
        let output = binary(context.folder(), &[("DATABASE_URL", &url)]).arg("migrate").output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { server, url }
    }

    /// Crashes the engine, and starts it again.
    pub fn crash(&mut self) {
        if let Some(server) = &mut self.server {
            server.stop();
            server.start(End::Crash);
            server.await_ready();
        }
    }

    pub fn stop(self) {
        if let Some(mut server) = self.server {
            server.stop();
        }
    }
}

/// How many changes clients have seen acknowledged, and how many they should.
pub struct Progress {
    acknowledged: AtomicUsize,
    pub goal: usize,
}

impl Progress {
    pub fn new(goal: usize) -> Self {
        Self { acknowledged: AtomicUsize::new(0), goal }
    }

    pub fn add(&self, changes: usize) {
        self.acknowledged.fetch_add(changes, Ordering::Relaxed);
    }

    pub fn is_complete(&self) -> bool {
        self.count() >= self.goal
    }

    fn count(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until this many changes are acknowledged, for as long as there is progress.
    pub async fn reached(&self, count: usize) {
        while self.count() < count {
            let before = self.count();
            eventually("another change", || async { (self.count() > before).then_some(()) }).await;
        }
    }
}
