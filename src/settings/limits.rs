//! The section `[limits]`.

use super::declaration::{Allowed, section};
use crate::auth::{Rate, RateLimits};

section! {
    /// `limits.*`: how many requests a caller may make. They apply to callers who authenticate here.
    LimitsSettings, SETTINGS: "limits" {
        /// Request rate of each caller (an API key, or a subject of access tokens) per process: a number per second,
        /// minute or hour, such as 200/s; 0 = no limit. A request that reads or writes single users counts as 1, with
        /// count=exact as 10, and an import or export as 50. Further requests get a 429. Too low: valid clients are
        /// refused. Too high: one client can use the whole capacity of the service.
        per_caller: Rate = "200/s", Allowed::Described(Rate::FORM);
        /// How much a caller may send in one burst, counted as for per_caller, 50 to 1000000.
        burst: u32 = 400, Allowed::Integer { min: 50, max: 1_000_000 };
        /// Rate of requests with invalid credentials from each client address per process, of which 60 may arrive in
        /// one burst; 0 = no limit. Further ones get a 429 instead of a 401. A valid key works from every address.
        failures_per_address: Rate = "60/m", Allowed::Described(Rate::FORM);
    }
}

impl LimitsSettings {
    /// Returns the limits.
    #[must_use]
    pub fn rate_limits(&self) -> RateLimits {
        RateLimits::new(self.per_caller, self.burst, self.failures_per_address)
    }
}
