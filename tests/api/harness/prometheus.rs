use std::{
    net::SocketAddr,
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use test_support::{ManagedProcess, Owner, free_port, program};

/// Checks metrics in the text format with Prometheus' linter; `Err` is its findings.
pub async fn lint(metrics: &str) -> Result<(), String> {
    let program = program("promtool").expect("no promtool found; install prometheus");
    let mut command = tokio::process::Command::new(program);
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut linter = command.spawn().unwrap();
    let mut input = linter.stdin.take().unwrap();
    input.write_all(metrics.as_bytes()).await.unwrap();
    drop(input);
    let output = linter.wait_with_output().await.unwrap();
    let findings = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() && findings.is_empty() { Ok(()) } else { Err(findings) }
}

/// A Prometheus process that scrapes a service, with the rules of `deploy/`.
pub struct Prometheus {
    address: SocketAddr,
    _process: ManagedProcess,
    _folder: TempDir,
}

impl Prometheus {
    pub async fn before(service: SocketAddr) -> Self {
        let program = program("prometheus").expect("no prometheus found; install it");
        let owner = Owner::named("prometheus");
        let folder = owner.folder();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let configuration = folder.path().join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yml]\n\
             scrape_configs: [{{job_name: users-api, static_configs: [{{targets: ['{service}']}}]}}]\n"
        );
        owner.write(&configuration, &text);
        let rules = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus/rules.yml"));
        owner.write(&folder.path().join("rules.yml"), rules);
        let mut command: Command = owner.managed_command(&program, folder.path(), "TERM");
        command
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--web.listen-address={address}"))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        Self { address, _process: ManagedProcess::start(command), _folder: folder }
    }

    /// The only target, once it was scraped.
    pub async fn target(&self) -> Value {
        super::eventually("Prometheus has scraped the target", || async {
            let targets = self.get("/api/v1/targets").await?;
            let target = targets["data"]["activeTargets"][0].clone();
            (target["health"] != "unknown" && !target.is_null()).then_some(target)
        })
        .await
    }

    /// The first series that a query returns.
    pub async fn series(&self, query: &str) -> Value {
        let path = format!("/api/v1/query?query={query}");
        let found = || async {
            let response = self.get(&path).await?;
            response["data"]["result"].as_array().filter(|series| !series.is_empty()).map(|series| series[0].clone())
        };
        super::eventually("Prometheus has stored the series", found).await
    }

    async fn get(&self, path: &str) -> Option<Value> {
        super::client().get(format!("http://{}{path}", self.address)).send().await.ok()?.json().await.ok()
    }
}
