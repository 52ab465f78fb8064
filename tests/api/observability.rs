//! The files of `deploy/` for Prometheus and Grafana.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;
use test_support::{modules::rust_files, program};
use tokio::process::Command;

use crate::{
    cases,
    harness::{Context, Prometheus},
};

cases![
    alert_rules_pass_their_tests,
    rules_and_dashboards_use_metrics_that_exist,
    prometheus_evaluates_the_rules_of_a_running_service,
];

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

async fn alert_rules_pass_their_tests(_: Context) {
    let program = program("promtool").expect("no promtool found; install prometheus");
    for arguments in [
        &["check", "rules", "rules.yml"][..],
        &["check", "config", "--syntax-only", "prometheus.yml"],
        &["test", "rules", "rules_test.yml"],
    ] {
        let folder = Path::new(ROOT).join("deploy/prometheus");
        let output = Command::new(&program).args(arguments).current_dir(folder).output().await.unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}");
    }
    // Each alert and each recorded series has a test.
    let (rules, tests) = (read("deploy/prometheus/rules.yml"), read("deploy/prometheus/rules_test.yml"));
    let names = rules.lines().filter_map(|line| line.trim().trim_start_matches("- ").split_once(": "));
    let names: Vec<&str> = names.filter(|(key, _)| ["alert", "record"].contains(key)).map(|(_, name)| name).collect();
    assert!(names.len() > 40, "{names:?}");
    for name in names {
        assert!(tests.contains(name), "{name} has no test");
    }
}

/// Returns the names in a text that begin like a metric of the service.
fn metrics(text: &str) -> BTreeSet<&str> {
    const PREFIXES: [&str; 6] = ["db_client_", "http_server_", "feed_", "auth_", "log_lines_", "users_api_"];
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == ':'));
    let names = words.filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix)) && !word.contains(':'));
    names.map(|name| ["_bucket", "_count", "_sum"].iter().fold(name, |name, end| name.trim_end_matches(end))).collect()
}

async fn rules_and_dashboards_use_metrics_that_exist(_: Context) {
    let folders = ["src", "pool/src"].map(|folder| rust_files(&Path::new(ROOT).join(folder)));
    let source: String = folders.iter().flatten().map(|path| fs::read_to_string(path).unwrap()).collect();
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/dashboards/users-api.json")).unwrap();
    let rules = read("deploy/prometheus/rules.yml");
    let mut expressions = Vec::new();
    collect(&dashboard, &mut expressions);
    assert!(expressions.len() > 40, "{} expressions", expressions.len());
    expressions.extend(rules.lines().filter(|line| !line.trim_start().starts_with('#')));
    let names: BTreeSet<&str> = expressions.iter().flat_map(|text| metrics(text)).collect();
    assert!(names.len() > 25, "{names:?}");
    for name in names {
        assert!(source.contains(&format!("\"{name}\"")), "{name} is not a metric of the service");
    }
    // The series that the dashboard uses are recorded.
    for text in &expressions {
        for series in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')) {
            if series.starts_with("users_api:") {
                assert!(rules.contains(&format!("record: {series}\n")), "{series} is not recorded");
            }
        }
    }
}

/// Collects the expressions of a dashboard.
fn collect<'a>(value: &'a Value, expressions: &mut Vec<&'a str>) {
    match value {
        Value::Object(members) => {
            expressions.extend(members.get("expr").and_then(Value::as_str));
            members.values().for_each(|value| collect(value, expressions));
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, expressions)),
        _ => {}
    }
}

async fn prometheus_evaluates_the_rules_of_a_running_service(context: Context) {
    let app = context.app().await;
    app.create("Ann", "ann@example.com").await;
    let prometheus = Prometheus::before(app.address).await;
    assert_eq!(prometheus.target().await["health"], "up");
    for (series, expected) in [
        ("users_api:pool_down", "0"),
        ("users_api:pool_shortage", "0"),
        ("users_api:pool_utilisation:ratio", ""),
        ("users_api:pool_refusal_ratio:5m", "0"),
    ] {
        let found = prometheus.series(series).await;
        assert_eq!(found["metric"]["job"], "users-api");
        let value = found["value"][1].as_str().unwrap();
        assert!(expected.is_empty() || value == expected, "{series}: {value}");
    }
}
