//! The section `[pool]`: the settings of [`PoolOptions`](orm_pool::PoolOptions), which defines and checks their values.

use std::time::Duration;

use super::declaration::{Allowed, settings};

settings! {
    SETTINGS: "pool" {
        /// Maximum number of connections. Too low: requests queue while the database is idle. Too high: the database
        /// spends its time switching between connections, and all instances together exceed its connection limit.
        max = 10, Allowed::Integer { min: 1, max: 10_000 }, reloadable;
        /// Number of connections that are kept open when idle, 0 to `max`. Too low: the first requests after a quiet
        /// period wait for connections to be opened. Too high: the server holds unneeded connections.
        min = 2, Allowed::Described("a whole number from 0 to pool.max"), reloadable;
        /// Acquire timeout: the maximum time to wait for a connection, and for the database at start. Too low: short
        /// bursts are refused. Too high: clients give up before they get a response.
        acquire = "5s", Allowed::duration(Duration::from_millis(1), Duration::from_hours(1)), reloadable;
        /// Idle timeout: a connection that is not used for this long is closed, down to `min`; 0s = never. Too low:
        /// connections are opened and closed frequently. Too high: firewalls and the server drop them first; keep it
        /// below their idle timeouts.
        idle = "10m", Allowed::ANY_DURATION, reloadable;
        /// Maximum lifetime of a connection, after which it is replaced; 0s = unlimited. Too low: connections are
        /// replaced needlessly. Too high: failovers, load balancers and rotated passwords take effect late.
        lifetime = "30m", Allowed::ANY_DURATION, reloadable;
        /// Whether a request waits for a connection when all are in use. false refuses it immediately with a 503, so
        /// every burst above `max` fails, and disables `batch`.
        wait = true, Allowed::Boolean, reloadable;
        /// Maximum number of waiting requests; 0 = unlimited. Further requests get a 503 immediately. Too low: bursts
        /// are refused that could have been served. Too high: requests wait that cannot be served within `acquire`.
        queue_limit = 1000, Allowed::Described("a whole number, 0 = no limit"), reloadable;
        /// Whether concurrent operations of the same kind share a statement when they would otherwise wait for each
        /// other. false gives each one a separate statement, which costs a round trip per request.
        batch = true, Allowed::Boolean, reloadable;
        /// Maximum number of operations in a batch. Too low: few operations share a statement. Too high: the first
        /// operation of a batch waits for the last one.
        batch_max = 128, Allowed::Integer { min: 1, max: 1000 }, reloadable;
        /// Share of imports and exports in percent: of `max` (at least one connection, but never all unless `max` is
        /// 1), and of the time while other requests are served. Too low: imports and exports are slow. Too high: other
        /// requests wait for them.
        bulk_share = 10, Allowed::Integer { min: 1, max: 100 }, reloadable;
        /// At the beginning of an outage, requests wait this long for the database; later ones are refused immediately.
        /// Too low: clients get errors during a short failover. Too high: each outage fills the queue at its start.
        outage_wait = "250ms", Allowed::duration(Duration::ZERO, Duration::from_mins(1)), reloadable;
        /// A request that holds its connection for longer is logged once, with its operation; 0s = never. Too low: too
        /// many warnings. Too high: a leak is detected late.
        slow_hold = "5s", Allowed::ANY_DURATION, reloadable;
        /// A connection that has been idle for longer is pinged before use; 0s = always. Too low: an extra round trip
        /// for many requests. Too high: a request can get a connection that a firewall has dropped.
        validate_after = "30s", Allowed::ANY_DURATION, reloadable;
        /// Maximum run time of a statement on PostgreSQL, MySQL and MariaDB; 0s = the server's own limit. Too low:
        /// valid long statements are cancelled. Too high: a runaway statement keeps its connection.
        statement_timeout = "30s", Allowed::ANY_DURATION;
        /// Name of this client in the database server (`pg_stat_activity`, PostgreSQL).
        application_name = "users-api", Allowed::Described("a text");
        /// Number of threads of the pool's runtime; 0 = half the number of processors. Too low: statements wait for a
        /// thread. Too high: threads compete with the HTTP workers.
        threads = 0, Allowed::Integer { min: 0, max: 64 };
    }
}

#[cfg(test)]
mod tests {
    use humantime_serde::re::humantime::format_duration;
    use orm_pool::{InvalidOption, PoolOptions};
    use serde_json::{Value, json};

    use super::*;

    /// Validates the default options with one of another value.
    fn validate(option: &str, value: &Value) -> Result<(), InvalidOption> {
        // The default of `min` is above the lowest `max`.
        let mut options = json!({"min": 0});
        options[option] = value.clone();
        serde_json::from_value::<PoolOptions>(options).unwrap().validate()
    }

    /// The lowest and the highest value that a declaration allows, and the values next to them that it does not allow.
    fn limits(allowed: &Allowed) -> (Vec<Value>, Vec<Value>) {
        let duration = |value: Duration| Value::from(format_duration(value).to_string());
        let step = Duration::from_millis(1);
        match *allowed {
            Allowed::Integer { min, max } => {
                let below = min.checked_sub(1);
                (vec![min.into(), max.into()], below.into_iter().chain([max + 1]).map(Value::from).collect())
            }
            // Longer ones are allowed too, but cannot be written.
            Allowed::Duration { min, max: Duration::MAX } => {
                (vec![duration(min), duration(Duration::from_hours(24 * 365))], Vec::new())
            }
            Allowed::Duration { min, max } => {
                let outside = min.checked_sub(step).into_iter().chain([max + step]);
                (vec![duration(min), duration(max)], outside.map(duration).collect())
            }
            Allowed::Boolean => (vec![true.into(), false.into()], Vec::new()),
            Allowed::Size { .. } | Allowed::List(_) | Allowed::Described(_) => (Vec::new(), Vec::new()),
        }
    }

    #[test]
    fn limits_are_those_of_the_pool() {
        let mut limited = Vec::new();
        for setting in SETTINGS {
            let option = setting.key.strip_prefix("pool.").unwrap();
            let (inside, outside) = limits(&setting.allowed);
            for value in inside {
                assert_eq!(validate(option, &value), Ok(()), "{option} = {value}");
            }
            for value in outside {
                let invalid = validate(option, &value).expect_err(&format!("{option} = {value}"));
                assert_eq!(invalid.option, option, "{option} = {value}");
                let allowed = invalid.allowed.split(',').next().unwrap();
                assert!(setting.allowed.to_string().starts_with(allowed), "{option}: {allowed}");
                limited.push(option);
            }
        }
        let both = ["max", "max", "acquire", "acquire", "batch_max", "batch_max", "bulk_share", "bulk_share"];
        assert_eq!(limited, [&both[..], &["outage_wait", "threads"]].concat());
        // The limits that the declarations describe in words.
        for (option, value, is_valid) in [
            ("min", json!(0), true),
            ("min", json!(10), true),
            ("min", json!(11), false),
            ("queue_limit", json!(0), true),
            ("queue_limit", json!(u32::MAX), true),
            ("application_name", json!(""), true),
        ] {
            assert_eq!(validate(option, &value).is_ok(), is_valid, "{option} = {value}");
        }
    }
}
