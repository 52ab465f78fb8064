//! The section `[cors]`.

use url::Url;

use super::{
    Invalid,
    declaration::{Allowed, section},
};

section! {
    /// `cors.*`: web pages of other origins that may use the API.
    CorsSettings, SETTINGS: "cors" {
        /// Origins of web pages whose scripts may use the API, separated by commas, such as `https://app.example.com`.
        /// Each is compared exactly: scheme, host and port. Empty: none.
        origins: String = "", Allowed::Described("origins such as https://app.example.com, separated by commas");
    }
}

impl CorsSettings {
    pub(super) fn validate(&self) -> Result<(), Invalid> {
        let is_origin = |text: &str| {
            let url = text.parse::<Url>();
            // As browsers send it: lower case, without a path and without the usual port.
            url.is_ok_and(|url| ["http", "https"].contains(&url.scheme()) && url.origin().ascii_serialization() == text)
        };
        if self.origins().all(is_origin) { Ok(()) } else { Err(Invalid::not_allowed("cors.origins")) }
    }

    /// Returns the origins.
    pub fn origins(&self) -> impl Iterator<Item = &str> {
        self.origins.split(',').map(str::trim).filter(|origin| !origin.is_empty())
    }
}
