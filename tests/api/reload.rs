//! SIGHUP: settings change while requests are served.

use std::{path::Path, time::Duration};

use serde_json::Value;

use crate::{
    cases,
    harness::{Account, App, Context, Engine, Load, Service, by_status, eventually},
};

cases![
    pool_limits_change_under_load,
    a_rotated_password_takes_effect_under_load,
    settings_that_need_a_restart_are_reported,
    invalid_settings_change_nothing,
];

/// Writes the `.env` file that the service reads.
fn write(folder: &Path, settings: &[(&str, &str)]) {
    let line =
        |(key, value): &(&str, &str)| format!("USERS_API__{}='{value}'\n", key.replace('.', "__").to_uppercase());
    std::fs::write(folder.join(".env"), settings.iter().map(line).collect::<String>()).unwrap();
}

/// Sends SIGHUP and waits for the log line with the outcome.
async fn reload(service: &Service) -> Value {
    let outcomes = |service: &Service| {
        service
            .log()
            .into_iter()
            .filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with("reload: ")))
            .collect::<Vec<_>>()
    };
    let before = outcomes(service).len();
    service.signal("HUP").await;
    eventually("the outcome of the reload is logged", || async { outcomes(service).get(before).cloned() }).await
}

async fn pool_limits_change_under_load(context: Context) {
    let url = context.database().await;
    let set = |max, min| write(context.folder(), &[("database.url", &url), ("pool.max", max), ("pool.min", min)]);
    set("2", "1");
    let service = Service::start(context.folder(), &[]).await;
    let app = App::at(service.address, &url);
    let load = Load::start(&app, 32, Duration::from_millis(2));
    load.answered(200, 100).await;
    for (max, min, total) in [("8", "8", 8), ("2", "1", 2)] {
        set(max, min);
        let outcome = reload(&service).await;
        assert_eq!(outcome["message"], "reload: settings applied", "{outcome}");
        assert_eq!(outcome["settings"], "pool.max, pool.min", "{outcome}");
        app.pool_until("the pool adopts the limits", |pool| {
            let open = pool["total"].as_u64().unwrap();
            pool["limits"]["max"].as_u64() == max.parse().ok() && if total == 8 { open == 8 } else { open <= 2 }
        })
        .await;
        for _ in 0..20 {
            load.answered(200, 5).await;
            let open = app.pool().await["total"].as_u64().unwrap();
            assert!(open <= total, "{open} connections are open, the limit is {total}");
        }
    }
    let samples = load.stop().await;
    let counts = by_status(&samples);
    assert!(counts.keys().all(|(_, status)| [200, 201].contains(status)), "every request succeeds: {counts:?}");
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

    // A wrong password: the old one stays in use.
    set("three");
    let outcome = reload(&service).await;
    assert_eq!(outcome["message"], "reload: settings not fully applied", "{outcome}");
    let error = outcome["error"].as_str().unwrap();
    assert!(error.contains("the old ones remain in use") && !error.contains("three"), "{error}");
    load.answered(200, 100).await;

    account.set_password("two").await;
    set("two");
    let before = app.pool().await["counters"]["opened"].as_u64().unwrap();
    let outcome = reload(&service).await;
    assert_eq!(
        (&outcome["message"], &outcome["settings"]),
        (&"reload: settings applied".into(), &"database.url".into()),
        "{outcome}"
    );
    app.pool_until("connections are replaced", |pool| {
        pool["counters"]["closedReplaced"].as_u64() >= Some(3)
            && pool["counters"]["opened"].as_u64() >= Some(before + 3)
    })
    .await;
    load.answered(201, 20).await;
    let samples = load.stop().await;
    let counts = by_status(&samples);
    assert!(counts.keys().all(|(_, status)| [200, 201].contains(status)), "every request succeeds: {counts:?}");
    let log = service.log().iter().map(Value::to_string).collect::<String>();
    assert!(!log.contains(":two@") && !log.contains(":three@"), "no password is logged");
    service.signal("TERM").await;
    assert!(service.ended().await.success());
    account.end(&context).await;
}

async fn settings_that_need_a_restart_are_reported(context: Context) {
    let url = context.database().await;
    write(context.folder(), &[("database.url", &url)]);
    let service = Service::start(context.folder(), &[]).await;
    write(context.folder(), &[("database.url", &url), ("server.host", "127.0.0.2"), ("pool.threads", "2")]);
    let outcome = reload(&service).await;
    assert_eq!(outcome["message"], "reload: these settings require a restart", "{outcome}");
    assert_eq!(outcome["settings"], "pool.threads, server.host", "{outcome}");
    let app = App::at(service.address, &url);
    assert_eq!(app.get("/users").await.status, 200);
    // Settings that need a restart are reported at each reload; those that took effect only once.
    let more = [("database.url", &*url), ("server.host", "127.0.0.2"), ("pool.max", "7")];
    for messages in [
        ["reload: these settings require a restart", "reload: settings applied"],
        ["reload: these settings require a restart", "reload: no changes"],
    ] {
        write(context.folder(), &more);
        let first = reload(&service).await;
        assert_eq!((&first["message"], &first["settings"]), (&messages[0].into(), &"server.host".into()), "{first}");
        let is_logged = || async { (service.log().last()?["message"] == messages[1]).then_some(()) };
        eventually("the second outcome is logged", is_logged).await;
    }
    write(context.folder(), &more[..1]);
    let outcome = reload(&service).await;
    assert_eq!(
        (&outcome["message"], &outcome["settings"]),
        (&"reload: settings applied".into(), &"pool.max".into()),
        "{outcome}"
    );
}

async fn invalid_settings_change_nothing(context: Context) {
    let url = context.database().await;
    write(context.folder(), &[("database.url", &url), ("pool.max", "4")]);
    let service = Service::start(context.folder(), &[]).await;
    write(context.folder(), &[("database.url", &url), ("pool.max", "0")]);
    let outcome = reload(&service).await;
    assert_eq!(outcome["message"], "reload: invalid settings; the current ones remain in use", "{outcome}");
    assert!(outcome["error"].as_str().unwrap().contains("USERS_API__POOL__MAX=0: must be"), "{outcome}");
    let app = App::at(service.address, &url);
    assert_eq!(app.pool().await["limits"]["max"], 4);
}
