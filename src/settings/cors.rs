//! The section `[cors]`.

use url::Url;

use super::{
    Invalid, List,
    declaration::{Allowed, section},
};

section! {
    /// `cors.*`: web pages of other origins that may use the API.
    CorsSettings, SETTINGS: "cors" {
        /// Origins of web pages whose scripts may use the API, such as `https://app.example.com`.
        /// Each is compared exactly: scheme, host and port. Empty: none.
        pub origins: List = "", Allowed::List("an array of origins such as https://app.example.com");
    }
}

impl CorsSettings {
    pub(super) fn validate(&self) -> Result<(), Invalid> {
        let is_origin = |text: &String| {
            let url = text.parse::<Url>();
            // As browsers send it: lower case, without a path and without the usual port.
            url.is_ok_and(|url| {
                ["http", "https"].contains(&url.scheme()) && url.origin().ascii_serialization() == *text
            })
        };
        if self.origins.iter().all(is_origin) { Ok(()) } else { Err(Invalid::not_allowed("cors.origins")) }
    }
}
