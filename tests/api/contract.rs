//! The service against its own document, by cases that schemathesis makes up: `scripts/contract [EXAMPLES]`.

use std::{path::PathBuf, process::Stdio, time::Duration};

use tokio::process::Command;

use crate::{
    cases,
    harness::{Context, Service},
};

cases![the_service_keeps_its_document];

/// How long the cases may take on one engine.
pub const LIMIT: Duration = Duration::from_hours(1);

/// schemathesis; `None` when nobody has asked for it.
pub fn command() -> Option<PathBuf> {
    std::env::var_os("USERS_API_SCHEMATHESIS").map(PathBuf::from)
}

async fn the_service_keeps_its_document(context: Context) {
    let url = context.database().await;
    let mut service = Service::start(context.folder(), &[("DATABASE_URL", &url)]).await;
    let examples = std::env::var("USERS_API_CONTRACT_EXAMPLES").unwrap_or_else(|_| "50".to_owned());
    let output = Command::new(command().expect("scripts/contract sets it"))
        .arg("--config-file")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/contract/schemathesis.toml"))
        .arg("run")
        .arg(format!("http://{}/openapi.json", service.address))
        .args(["--max-examples", &examples, "--seed", "1", "--no-color"])
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/contract"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(context.folder())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    let cases = told.lines().map(str::trim).find(|line| line.contains(" generated, ")).unwrap_or_default();
    println!("{}: {cases}", context.engine().name());
    let failed: Vec<_> = service.log().into_iter().filter(|line| line["status"].as_u64() >= Some(500)).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    service.signal("TERM").await;
    assert!(service.ended().await.success());
}
