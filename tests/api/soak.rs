//! An hour of failures under low load: `scripts/soak [DURATION]`. Memory, file descriptors and tasks must not grow.

use std::time::Duration;

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
    let direct = context.database().await;
    let (proxy, url) = Proxy::before(&direct).await;
    let set = |max: u32| {
        let settings = format!("DATABASE_URL='{url}'\nUSERS_API__POOL__MAX={max}\nRUST_LOG=error\n");
        std::fs::write(context.folder().join(".env"), settings).unwrap();
    };
    set(4);
    let service = Service::start_quietly(context.folder()).await;
    let app = App::at(service.address, &direct);
    let admin = connect(&context.engine().admin_url()).await;
    let began = Instant::now();
    let mut readings = Vec::new();
    let mut samples = std::collections::BTreeMap::new();
    for round in 0.. {
        if began.elapsed() >= duration {
            break;
        }
        let load = Load::start(&app, 8, Duration::from_millis(100));
        load.answered(200, 20).await;
        match round % 6 {
            0 => {
                proxy.cut();
                sleep(Duration::from_secs(2)).await;
            }
            1 => {
                proxy.stall();
                sleep(Duration::from_secs(9)).await;
            }
            2 => kill_all(&context, &admin, &direct).await,
            3 => {
                set(8);
                service.signal("HUP").await;
                load.answered(200, 20).await;
                set(4);
                service.signal("HUP").await;
            }
            4 => disconnect_early(&app).await,
            _ => proxy.slow(Duration::from_millis(50)),
        }
        sleep(Duration::from_secs(1)).await;
        proxy.restore();
        load.answered(200, 40).await;
        for (key, count) in by_status(&load.stop().await) {
            assert!([200, 201, 503].contains(&key.1), "{key:?}");
            *samples.entry(key).or_insert(0) += count;
        }
        eventually("the pool is idle", || async {
            let pool = app.pool().await;
            (pool["inUse"] == 0 && pool["waiting"] == 0 && pool["state"] == "up").then_some(())
        })
        .await;
        if round % 6 == 5 {
            let reading = Reading::of(&service, &app).await;
            println!("{:>6.0?} {}: {reading:?}", began.elapsed(), context.engine().name());
            readings.push(reading);
        }
    }
    println!("{}: {samples:?}; {}", context.engine().name(), app.pool().await["counters"]);
    admin.close().await.unwrap();
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
