//! The section `[telemetry]`.

use url::Url;

use super::{
    Invalid,
    declaration::{Allowed, section},
};

section! {
    /// `telemetry.*`: where traces are sent.
    TelemetrySettings, SETTINGS: "telemetry" {
        /// Base URL of an OTLP/HTTP receiver for traces, such as `http://localhost:4318`; empty = no traces. https is
        /// not supported.
        pub otlp_endpoint: String = "", Allowed::Described("empty, or the http:// URL of a nearby OTLP receiver");
        /// Name of this service in traces.
        pub service_name: String = "users-api", Allowed::Described("a text");
    }
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
        Err(Invalid::not_allowed("telemetry.otlp_endpoint"))
    }
}
