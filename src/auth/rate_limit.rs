//! Limits of the rate of requests: per caller, and per address for invalid credentials.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::Duration,
};

use governor::{
    DefaultKeyedRateLimiter, NotUntil, Quota,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
};
use serde::Deserialize;

use crate::domain::Actor;

/// A number of requests per second, minute or hour, or no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Rate(Option<Duration>);

impl Rate {
    /// No limit.
    pub const NONE: Self = Self(None);
    /// The form of a rate, for error messages.
    pub const FORM: &str = "a number per second, minute or hour such as 200/s, 60/m or 1000/h, or 0 for no limit";

    /// Returns the quota of a bucket that is refilled at this rate.
    fn quota(self, burst: u32) -> Option<Quota> {
        Some(Quota::with_period(self.0?)?.allow_burst(NonZeroU32::new(burst)?))
    }
}

/// Parses the interval between two requests.
impl TryFrom<String> for Rate {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "0" {
            return Ok(Self::NONE);
        }
        let interval = text.split_once('/').and_then(|(count, unit)| {
            let period = match unit {
                "s" => Duration::from_secs(1),
                "m" => Duration::from_mins(1),
                "h" => Duration::from_hours(1),
                _ => return None,
            };
            period.checked_div(count.parse().ok()?).filter(|interval| !interval.is_zero())
        });
        interval.map(|interval| Self(Some(interval))).ok_or(Self::FORM)
    }
}

/// A caller has reached its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// When a request of the same weight is accepted again.
    pub retry_after: Duration,
}

/// The limits. Each caller has a bucket of requests (GCRA), which is refilled at the rate.
pub struct RateLimits {
    callers: Option<DefaultKeyedRateLimiter<Actor, StateInformationMiddleware>>,
    failures: Option<DefaultKeyedRateLimiter<IpAddr>>,
}

impl RateLimits {
    /// The weight of a request that reads or writes single users.
    pub const SINGLE: u32 = 1;
    /// Added to the base weight for counting all users of a filter.
    pub const EXACT_COUNT: u32 = 9;
    /// Added to the base weight of 1 for importing or exporting many users.
    pub const MANY: u32 = 49;
    /// The weight of the heaviest request, and so the lowest burst.
    pub const MAX_WEIGHT: u32 = Self::SINGLE + Self::MANY;
    /// The number of requests with invalid credentials that an address may send in one burst.
    pub const MAX_FAILURES: u32 = 60;

    /// `per_caller` is the rate of each caller, and `burst` is how much it may use in one burst. `failures_per_address`
    /// is the rate of requests with invalid credentials from each address, which may send
    /// [`MAX_FAILURES`](Self::MAX_FAILURES) of them in one burst.
    #[must_use]
    pub fn new(per_caller: Rate, burst: u32, failures_per_address: Rate) -> Self {
        let callers = per_caller
            .quota(burst)
            .map(|quota| DefaultKeyedRateLimiter::keyed(quota).with_middleware::<StateInformationMiddleware>());
        let failures = failures_per_address.quota(Self::MAX_FAILURES).map(DefaultKeyedRateLimiter::keyed);
        Self { callers, failures }
    }

    /// Charges a caller for a request, of which `before` was charged already. Returns what remains of the burst if it
    /// is less than half.
    ///
    /// # Errors
    ///
    /// [`Limited`]; then nothing more is charged.
    pub fn charge(&self, caller: &Actor, weight: u32, before: u32) -> Result<Option<u32>, Limited> {
        let (Some(callers), Some(weight)) = (&self.callers, NonZeroU32::new(weight)) else { return Ok(None) };
        match callers.check_key_n(caller, weight) {
            Ok(Ok(state)) => {
                let remaining = state.remaining_burst_capacity();
                Ok((remaining < state.quota().burst_size().get() / 2).then_some(remaining))
            }
            Ok(Err(until)) => {
                // A repetition is charged for all of it.
                let retry_after = limited(&until).retry_after + until.quota().replenish_interval() * before;
                Err(Limited { retry_after })
            }
            // The settings do not allow a burst below the heaviest request.
            Err(_) => Ok(Some(0)),
        }
    }

    /// Notes invalid credentials from an address.
    ///
    /// # Errors
    ///
    /// [`Limited`] after too many of them.
    pub fn credentials_invalid(&self, address: IpAddr) -> Result<(), Limited> {
        let Some(failures) = &self.failures else { return Ok(()) };
        failures.check_key(&network_of(address)).map_err(|until| limited(&until))
    }

    /// Forgets callers and addresses whose buckets are full.
    pub fn forget_idle(&self) {
        if let Some(callers) = &self.callers {
            callers.retain_recent();
        }
        if let Some(failures) = &self.failures {
            failures.retain_recent();
        }
    }
}

fn limited<P: governor::clock::Reference>(until: &NotUntil<P>) -> Limited
where
    DefaultClock: Clock<Instant = P>,
{
    Limited { retry_after: until.wait_time_from(DefaultClock::default().now()) }
}

/// Returns what one client controls: an IPv4 address, or an IPv6 network of 64 bits.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.to_owned().try_into().unwrap()
    }

    fn limits(text: &str, burst: u32) -> RateLimits {
        RateLimits::new(rate(text), burst, rate("1/h"))
    }

    fn key(id: &str) -> Actor {
        Actor::Key(id.parse().unwrap())
    }

    #[test]
    fn each_caller_has_its_own_bucket() {
        let limits = limits("1/h", 100);
        let (ann, bob) = (key("aaaaaaaaaaaa"), key("bbbbbbbbbbbb"));
        assert_eq!(limits.charge(&ann, 1, 0), Ok(None), "99 remain");
        assert_eq!(limits.charge(&ann, 50, 0), Ok(Some(49)));
        let refused = limits.charge(&ann, 50, 0).unwrap_err();
        assert!(refused.retry_after > Duration::from_mins(59) && refused.retry_after <= Duration::from_hours(1));
        assert_eq!(limits.charge(&ann, 1, 0), Ok(Some(48)), "a refused request is not charged");
        assert_eq!(limits.charge(&bob, 1, 0), Ok(None));
    }

    #[test]
    fn the_wait_covers_what_was_charged_before() {
        let limits = limits("1/h", 50);
        let ann = key("aaaaaaaaaaaa");
        assert_eq!(limits.charge(&ann, 2, 0), Ok(None), "48 remain");
        let hours = |limited: Limited| limited.retry_after.as_secs().div_ceil(3600);
        assert_eq!(limits.charge(&ann, 49, 0).map_err(hours), Err(1));
        assert_eq!(limits.charge(&ann, 49, 1).map_err(hours), Err(2), "50 are needed, and 48 are there");
    }

    #[test]
    fn without_a_rate_there_is_no_limit() {
        let limits = RateLimits::new(Rate::NONE, 1, Rate::NONE);
        for _ in 0..1000 {
            assert_eq!(limits.charge(&key("aaaaaaaaaaaa"), 50, 0), Ok(None));
            assert_eq!(limits.credentials_invalid([10, 0, 0, 1].into()), Ok(()));
        }
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        let limits = limits("1/h", 100);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for host in 1..=RateLimits::MAX_FAILURES {
            assert_eq!(limits.credentials_invalid(address(&format!("2001:db8::{host:x}"))), Ok(()));
            assert_eq!(limits.credentials_invalid(address("10.0.0.1")), Ok(()));
        }
        assert!(limits.credentials_invalid(address("2001:db8::ffff")).is_err());
        assert_eq!(limits.credentials_invalid(address("2001:db8:0:1::3")), Ok(()));
        assert!(limits.credentials_invalid(address("::ffff:10.0.0.1")).is_err());
        assert_eq!(limits.credentials_invalid(address("10.0.0.2")), Ok(()));
    }

    #[test]
    fn full_buckets_are_forgotten() {
        let limits = limits("1000000/s", 100);
        assert_eq!(limits.charge(&key("aaaaaaaaaaaa"), 60, 0), Ok(Some(40)));
        while !limits.callers.as_ref().unwrap().is_empty() {
            limits.forget_idle();
        }
    }

    #[test]
    fn rates_are_parsed() {
        assert_eq!(rate("0"), Rate::NONE);
        assert_eq!(rate("200/s"), Rate(Some(Duration::from_millis(5))));
        assert_eq!(rate("60/m"), rate("1/s"));
        assert_eq!(rate("1/h"), Rate(Some(Duration::from_hours(1))));
        for malformed in ["", "200", "0/s", "-1/s", "1/d", "1/", "/s", "1/s/s", "1.5/s", "1/ s", "2000000000/s"] {
            assert_eq!(Rate::try_from(malformed.to_owned()), Err(Rate::FORM), "{malformed}");
        }
    }
}
