//! SIGHUP: settings that change while requests go on.

use std::{path::Path, time::Duration};

use serde_json::Value;

use crate::{
    cases,
    harness::{Account, App, Context, Engine, Load, Service, by_status, eventually},
};

cases![
    limits_change_under_load,
    a_rotated_password_takes_effect_under_load,
    what_cannot_change_is_named,
    settings_that_are_not_valid_change_nothing,
];

/// Writes the file that the service reads its settings from.
fn write(folder: &Path, settings: &[(&str, &str)]) {
    let line =
        |(key, value): &(&str, &str)| format!("USERS_API__{}='{value}'\n", key.replace('.', "__").to_uppercase());
    std::fs::write(folder.join(".env"), settings.iter().map(line).collect::<String>()).unwrap();
}

/// Sends SIGHUP and waits for the next line that tells what came of it.
async fn hang_up(service: &Service) -> Value {
    let told = |service: &Service| {
        service
            .log()
            .into_iter()
            .filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with("reload: ")))
            .collect::<Vec<_>>()
    };
    let before = told(service).len();
    service.signal("HUP").await;
    eventually("the reload is told", || async { told(service).get(before).cloned() }).await
}

async fn limits_change_under_load(context: Context) {
    let url = context.database().await;
    let set = |max, min| write(context.folder(), &[("database.url", &url), ("pool.max", max), ("pool.min", min)]);
    set("2", "1");
    let service = Service::start(context.folder(), &[]).await;
    let app = App::at(service.address, &url);
    let load = Load::start(&app, 32, Duration::from_millis(2));
    load.answered(200, 100).await;
    for (max, min, total) in [("8", "8", 8), ("2", "1", 2)] {
        set(max, min);
        let told = hang_up(&service).await;
        assert_eq!(told["message"], "reload: changed", "{told}");
        assert_eq!(told["settings"], "pool.max, pool.min", "{told}");
        app.pool_until("the pool follows", |pool| {
            let open = pool["total"].as_u64().unwrap();
            pool["limits"]["max"].as_u64() == max.parse().ok() && if total == 8 { open == 8 } else { open <= 2 }
        })
        .await;
        for _ in 0..20 {
            load.answered(200, 5).await;
            let open = app.pool().await["total"].as_u64().unwrap();
            assert!(open <= total, "{open} are open, and there may be {total}");
        }
    }
    let samples = load.stop().await;
    let counts = by_status(&samples);
    assert!(counts.keys().all(|(_, status)| [200, 201].contains(status)), "nobody noticed: {counts:?}");
}

async fn a_rotated_password_takes_effect_under_load(context: Context) {
    if context.engine() == Engine::Sqlite {
        return;
    }
    let account = Account::new(&context).await;
    let url = |password: &str| {
        let mut url = url::Url::parse(&account.url).unwrap();
        url.set_password(Some(password)).unwrap();
        String::from(url)
    };
    let set = |password: &str| write(context.folder(), &[("database.url", &url(password)), ("pool.min", "3")]);
    set("one");
    let mut service = Service::start(context.folder(), &[]).await;
    let app = App::at(service.address, &account.url);
    let load = Load::start(&app, 32, Duration::from_millis(2));
    load.answered(200, 100).await;

    // A password that the server does not know: the old one stays.
    set("three");
    let told = hang_up(&service).await;
    assert_eq!(told["message"], "reload: not all was changed", "{told}");
    let error = told["error"].as_str().unwrap();
    assert!(error.contains("the old ones stay") && !error.contains("three"), "{error}");
    load.answered(200, 100).await;

    account.set_password("two").await;
    set("two");
    let before = app.pool().await["counters"]["opened"].as_u64().unwrap();
    let told = hang_up(&service).await;
    assert_eq!((&told["message"], &told["settings"]), (&"reload: changed".into(), &"database.url".into()), "{told}");
    app.pool_until("connections are replaced", |pool| {
        pool["counters"]["closedReplaced"].as_u64() >= Some(3)
            && pool["counters"]["opened"].as_u64() >= Some(before + 3)
    })
    .await;
    load.answered(201, 20).await;
    let samples = load.stop().await;
    let counts = by_status(&samples);
    assert!(counts.keys().all(|(_, status)| [200, 201].contains(status)), "nobody noticed: {counts:?}");
    let log = service.log().iter().map(Value::to_string).collect::<String>();
    assert!(!log.contains(":two@") && !log.contains(":three@"), "no password is logged");
    service.signal("TERM").await;
    assert!(service.ended().await.success());
    account.end(&context).await;
}

async fn what_cannot_change_is_named(context: Context) {
    let url = context.database().await;
    write(context.folder(), &[("database.url", &url)]);
    let service = Service::start(context.folder(), &[]).await;
    write(context.folder(), &[("database.url", &url), ("server.host", "127.0.0.2"), ("pool.threads", "2")]);
    let told = hang_up(&service).await;
    assert_eq!(told["message"], "reload: these take effect at the next start", "{told}");
    assert_eq!(told["settings"], "pool.threads, server.host", "{told}");
    let app = App::at(service.address, &url);
    assert_eq!(app.get("/users").await.status, 200);
    // What else is changed does not make it forgotten, and what was changed is not changed again.
    let more = [("database.url", &*url), ("server.host", "127.0.0.2"), ("pool.max", "7")];
    for told in [
        ["reload: these take effect at the next start", "reload: changed"],
        ["reload: these take effect at the next start", "reload: nothing to change"],
    ] {
        write(context.folder(), &more);
        let first = hang_up(&service).await;
        assert_eq!((&first["message"], &first["settings"]), (&told[0].into(), &"server.host".into()), "{first}");
        eventually("it is told", || async { (service.log().last()?["message"] == told[1]).then_some(()) }).await;
    }
    write(context.folder(), &more[..1]);
    let told = hang_up(&service).await;
    assert_eq!((&told["message"], &told["settings"]), (&"reload: changed".into(), &"pool.max".into()), "{told}");
}

async fn settings_that_are_not_valid_change_nothing(context: Context) {
    let url = context.database().await;
    write(context.folder(), &[("database.url", &url), ("pool.max", "4")]);
    let service = Service::start(context.folder(), &[]).await;
    write(context.folder(), &[("database.url", &url), ("pool.max", "0")]);
    let told = hang_up(&service).await;
    assert_eq!(told["message"], "reload: the settings are not valid; the old ones stay", "{told}");
    assert!(told["error"].as_str().unwrap().contains("USERS_API__POOL__MAX=0: must be"), "{told}");
    let app = App::at(service.address, &url);
    assert_eq!(app.pool().await["limits"]["max"], 4);
}
