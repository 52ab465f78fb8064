//! What values look like, for those that are not of their kind.

pub(super) const KINDS: [(&str, &str); 34] = [
    ("server.host", "an IP address such as 127.0.0.1 or ::"),
    ("server.port", "a whole number from 0 to 65535"),
    ("server.workers", "a whole number from 0 to 512"),
    ("server.max_connections", "a whole number from 0 to 1000000"),
    ("server.allowed_hosts", "names separated by commas, or *"),
    ("server.public_url", "a URL such as https://api.example.com/users-api"),
    ("server.trusted_proxies", "addresses or networks such as 10.0.0.0/8, separated by commas"),
    ("server.request_timeout", DURATION),
    ("server.write_timeout", DURATION),
    ("server.drain_delay", DURATION),
    ("server.shutdown_timeout", DURATION),
    ("database.migrate", "auto, check or off"),
    ("pool.max", "a whole number from 1 to 10000"),
    ("pool.min", "a whole number from 0 to pool.max"),
    ("pool.acquire", DURATION),
    ("pool.idle", DURATION),
    ("pool.lifetime", DURATION),
    ("pool.wait", "true or false"),
    ("pool.queue_limit", "a whole number, 0 = no limit"),
    ("pool.batch", "true or false"),
    ("pool.batch_max", "a whole number from 1 to 1000"),
    ("pool.bulk_share", "a whole number from 1 to 100"),
    ("pool.outage_wait", DURATION),
    ("pool.slow_hold", DURATION),
    ("pool.validate_after", DURATION),
    ("pool.statement_timeout", DURATION),
    ("pool.threads", "a whole number from 0 to 64"),
    ("users.require_if_match", "true or false"),
    ("idempotency.keep", DURATION),
    ("log.format", "auto, human or json"),
    ("log.filter", "a text"),
    ("telemetry.otlp_endpoint", "a text"),
    ("telemetry.service_name", "a text"),
    ("pool.application_name", "a text"),
];
const DURATION: &str = "a duration such as 250ms, 5s or 10m";

/// What a value of this setting looks like.
pub(super) fn kind_of(key: &str) -> &'static str {
    KINDS.iter().find(|(known, _)| *known == key).map_or("a plain value", |(_, kind)| kind)
}
