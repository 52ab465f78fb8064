//! An hour of failures under low load: `scripts/soak [DURATION]`. Memory, file descriptors and tasks must not grow.

use std::{collections::BTreeMap, time::Duration};

use sea_orm::DatabaseConnection;
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{
    cases,
    harness::{App, Context, Load, Proxy, Service, by_status, connect, eventually, kill_all},
};

cases![repeated_failures_leak_no_resources];

/// The duration from `USERS_API_SOAK` (seconds); `None` when it is not set.
pub fn duration() -> Option<Duration> {
    let text = std::env::var("USERS_API_SOAK").ok().filter(|text| !text.is_empty())?;
    Some(Duration::from_secs(text.parse().expect("USERS_API_SOAK is a number of seconds")))
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    resident_kib: u64,
    descriptors: u64,
    tasks: u64,
}

impl Reading {
    async fn of(service: &Service, app: &App) -> Self {
        let metrics = app.get("/metrics").await.text;
        let tasks =
            metrics.lines().find_map(|line| line.strip_prefix("db_client_runtime_tasks{pool_name=\"users-api\"} "));
        Self {
            resident_kib: service.resident_kib(),
            descriptors: std::fs::read_dir(format!("/proc/{}/fd", service.id())).unwrap().count() as u64,
            tasks: tasks.unwrap().parse().unwrap(),
        }
    }
}

async fn repeated_failures_leak_no_resources(context: Context) {
    let duration = duration().expect("scripts/soak sets USERS_API_SOAK");
    let target = Target::start(&context).await;
    let began = Instant::now();
    let (mut readings, mut samples) = (Vec::new(), BTreeMap::new());
    for round in 0.. {
        if began.elapsed() >= duration {
            break;
        }
        let load = Load::start(&target.app, 8, Duration::from_millis(100));
        load.answered(200, 20).await;
        target.inject(round % FAILURES, &load).await;
        sleep(Duration::from_secs(1)).await;
        target.proxy.restore();
        load.answered(200, 40).await;
        for (key, count) in by_status(&load.stop().await) {
            assert!([200, 201, 503].contains(&key.1), "{key:?}");
            *samples.entry(key).or_insert(0) += count;
        }
        eventually("the pool is idle", || async {
            let pool = target.app.pool().await;
            (pool["inUse"] == 0 && pool["waiting"] == 0 && pool["state"] == "up").then_some(())
        })
        .await;
        if round % FAILURES == FAILURES - 1 {
            let reading = Reading::of(&target.service, &target.app).await;
            println!("{:>6.0?} {}: {reading:?}", began.elapsed(), context.engine().name());
            readings.push(reading);
        }
    }
    println!("{}: {samples:?}; {}", context.engine().name(), target.app.pool().await["counters"]);
    target.admin.close().await.unwrap();
    assert_nothing_grows(&readings);
}

/// The number of failures that `Target::inject` knows.
const FAILURES: usize = 6;

/// A service that reaches its database through a proxy.
struct Target<'a> {
    context: &'a Context,
    /// The database, without and with the proxy.
    direct: String,
    proxied: String,
    proxy: Proxy,
    service: Service,
    app: App,
    admin: DatabaseConnection,
}

impl<'a> Target<'a> {
    async fn start(context: &'a Context) -> Self {
        let direct = context.database().await;
        let (proxy, proxied) = Proxy::before(&direct).await;
        write_settings(context, &proxied, 4);
        let service = Service::start_quietly(context.folder()).await;
        let app = App::at(service.address, &direct);
        let admin = connect(&context.engine().admin_url()).await;
        Self { context, direct, proxied, proxy, service, app, admin }
    }

    /// Injects a failure. Those of the proxy last until it is restored.
    async fn inject(&self, failure: usize, load: &Load) {
        match failure {
            0 => {
                self.proxy.cut();
                sleep(Duration::from_secs(2)).await;
            }
            1 => {
                self.proxy.stall();
                sleep(Duration::from_secs(9)).await;
            }
            2 => kill_all(self.context, &self.admin, &self.direct).await,
            3 => {
                self.reload(8).await;
                load.answered(200, 20).await;
                self.reload(4).await;
            }
            4 => disconnect_early(&self.app).await,
            _ => self.proxy.slow(Duration::from_millis(50)),
        }
    }

    async fn reload(&self, max: u32) {
        write_settings(self.context, &self.proxied, max);
        self.service.signal("HUP").await;
    }
}

fn write_settings(context: &Context, url: &str, max: u32) {
    let settings = format!("DATABASE_URL='{url}'\nUSERS_API__POOL__MAX={max}\nRUST_LOG=error\n");
    std::fs::write(context.folder().join(".env"), settings).unwrap();
}

fn assert_nothing_grows(readings: &[Reading]) {
    // The first rounds do not count: they fill statement caches, metrics and the allocator.
    let settled = &readings[readings.len() / 4..];
    let (earlier, later) = settled.split_at(settled.len() / 2);
    let most =
        |readings: &[Reading], of: fn(&Reading) -> u64| readings.iter().map(of).max().expect("at least four rounds");
    for (what, of, slack) in [
        ("resident memory", (|reading| reading.resident_kib) as fn(&Reading) -> u64, 1.10),
        ("file descriptors", |reading| reading.descriptors, 1.25),
        ("tasks", |reading| reading.tasks, 1.25),
    ] {
        let (before, after) = (most(earlier, of), most(later, of));
        #[expect(clippy::cast_precision_loss)]
        let grown = after as f64 / before as f64;
        assert!(grown <= slack, "{what} grew from {before} to {after}");
    }
}

/// Clients that request a write and disconnect before it is completed.
async fn disconnect_early(app: &App) {
    for number in 0..50 {
        let body =
            json!({"name": "Ann", "email": format!("gone{number}-{}@example.com", app.address.port())}).to_string();
        let request = format!(
            "POST /users HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut client = TcpStream::connect(app.address).await.unwrap();
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
    }
}
