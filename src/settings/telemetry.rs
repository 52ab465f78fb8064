//! The section `[telemetry]`.

use serde::Deserialize;
use url::Url;

use super::Invalid;

/// `telemetry.*`: where traces go.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetrySettings {
    /// Base URL of an OTLP/HTTP receiver; empty = none.
    pub otlp_endpoint: String,
    /// Name of this service in traces.
    pub service_name: String,
}

impl TelemetrySettings {
    /// Where spans are posted to, if anywhere.
    #[must_use]
    pub fn traces_url(&self) -> Option<String> {
        let base = self.otlp_endpoint.trim_end_matches('/');
        (!base.is_empty()).then(|| format!("{base}/v1/traces"))
    }

    pub(super) fn validate(&self) -> Result<(), Invalid> {
        let plain_http = |text: &str| Url::parse(text).is_ok_and(|url| url.scheme() == "http" && url.has_host());
        if self.otlp_endpoint.is_empty() || plain_http(&self.otlp_endpoint) {
            return Ok(());
        }
        Err(Invalid::new("telemetry.otlp_endpoint", "empty, or the http:// URL of an OTLP receiver near by"))
    }
}
