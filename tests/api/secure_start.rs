//! A service that others can reach starts locked, and its keys stay secret.

use std::{fmt::Write as _, fs};

use crate::{
    auth::id_of,
    cases,
    harness::{Context, Service, binary, client},
};

cases![a_reachable_listener_requires_authentication, the_bootstrap_key_is_stored_once, no_output_contains_a_key,];

async fn a_reachable_listener_requires_authentication(context: Context) {
    let host = ("USERS_API__SERVER__HOST", "0.0.0.0");
    let output = binary(context.folder(), &[host]).output().await.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    for part in ["auth.mode", "server.host", "required", "gateway", "loopback"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for mode in ["required", "gateway"] {
        let mut service = Service::start(context.folder(), &[host, ("USERS_API__AUTH__MODE", mode)]).await;
        let url = format!("http://127.0.0.1:{}/users", service.address.port());
        let status = client().get(url).send().await.unwrap().status();
        assert_eq!(status.as_u16(), if mode == "required" { 401 } else { 200 });
        service.signal("TERM").await;
        assert!(service.ended().await.success());
    }
}

async fn the_bootstrap_key_is_stored_once(context: Context) {
    let generated = binary(context.folder(), &[]).args(["keys", "generate"]).output().await.unwrap();
    let key = String::from_utf8(generated.stdout).unwrap();
    let file = context.folder().join("bootstrap");
    fs::write(&file, &key).unwrap();
    let key = key.trim();
    let variables = [
        ("USERS_API__AUTH__MODE", "required"),
        ("USERS_API__AUTH__BOOTSTRAP_KEY_FILE", file.to_str().unwrap()),
        ("USERS_API__AUTH__REFRESH", "100ms"),
    ];
    let client = client();
    let status = async |service: &Service| {
        service.get(&client, "/keys").bearer_auth(key).send().await.unwrap().status().as_u16()
    };
    for _ in 0..2 {
        let mut service = Service::start(context.folder(), &variables).await;
        assert_eq!(status(&service).await, 200);
        service.signal("TERM").await;
        assert!(service.ended().await.success());
    }
    let keys = |arguments: &'static [&'static str]| {
        let mut command = binary(context.folder(), &[]);
        command.arg("keys").args(arguments);
        command
    };
    let listed = keys(&["list"]).output().await.unwrap();
    assert_eq!(String::from_utf8(listed.stdout).unwrap().lines().count(), 2, "the header and one key");
    // Revoked, it stays revoked.
    let revoked = keys(&["revoke"]).arg(id_of(key)).output().await.unwrap();
    assert!(revoked.status.success());
    let mut service = Service::start(context.folder(), &variables).await;
    assert_eq!(status(&service).await, 401);
    service.signal("TERM").await;
    assert!(service.ended().await.success());
    fs::write(&file, "uak_hunter2").unwrap();
    let output = binary(context.folder(), &variables).output().await.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("BOOTSTRAP_KEY") && !text.contains("hunter2"), "{text}");
}

async fn no_output_contains_a_key(context: Context) {
    let generated = binary(context.folder(), &[]).args(["keys", "generate"]).output().await.unwrap();
    let key = String::from_utf8(generated.stdout).unwrap().trim().to_owned();
    let variables = [
        ("USERS_API__AUTH__MODE", "required"),
        ("USERS_API__AUTH__BOOTSTRAP_KEY", key.as_str()),
        ("USERS_API__AUTH__JWT__ISSUER", "i"),
        ("USERS_API__AUTH__JWT__AUDIENCE", "a"),
        ("USERS_API__AUTH__JWT__JWKS", "http://u:hunter2@127.0.0.1:9/jwks.json?secret=hunter2"),
        ("RUST_LOG", "trace"),
    ];
    let mut service = Service::start(context.folder(), &variables).await;
    let client = client();
    service.logged("cannot read the JWKS; known keys remain valid").await;
    let mut output = String::new();
    for path in ["/users", "/pool", "/metrics", "/keys", "/users?access_token=", "/users/x", "/nothing"] {
        for token in [key.clone(), format!("{key}hunter2"), "hunter2".to_owned()] {
            for request in
                [service.get(&client, path).bearer_auth(&token), service.get(&client, path).header("x-api-key", &token)]
            {
                output += &request.send().await.unwrap().text().await.unwrap();
            }
        }
    }
    service.signal("TERM").await;
    assert!(service.ended().await.success());
    let config = binary(context.folder(), &variables).arg("config").output().await.unwrap();
    output += &String::from_utf8(config.stdout).unwrap();
    write!(output, "{:?}", service.log()).unwrap();
    // The id is not secret; what follows it is.
    for secret in ["hunter2", &key[17..]] {
        assert!(!output.contains(secret), "{secret} in {output}");
    }
    assert!(output.contains(id_of(&key)), "the log names the caller");
}
