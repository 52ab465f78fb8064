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
        /// How much a caller may send in one burst, counted as for per_caller.
        burst: u32 = 400, Allowed::Integer { min: RateLimits::MAX_WEIGHT as u64, max: 1_000_000 };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_and_bursts_in_the_descriptions_are_those_that_apply() {
        let description = |key: &str| {
            let setting = SETTINGS.iter().find(|setting| setting.key == key).unwrap();
            setting.comment().collect::<Vec<_>>().join(" ").replace("# ", "")
        };
        let (single, exact) = (RateLimits::SINGLE, RateLimits::SINGLE + RateLimits::EXACT_COUNT);
        let weights = format!("counts as {single}, with count=exact as {exact}, and an import or export as {}.", {
            RateLimits::MAX_WEIGHT
        });
        let per_caller = description("limits.per_caller");
        assert!(per_caller.contains(&weights), "{per_caller}: {weights}");
        let burst = format!("of which {} may arrive in one burst", RateLimits::MAX_FAILURES);
        let failures = description("limits.failures_per_address");
        assert!(failures.contains(&burst), "{failures}: {burst}");
    }
}
