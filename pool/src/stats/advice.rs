//! Advice on the size of the pool.

use std::time::Duration;

use serde::Serialize;

use super::quantiles::Quantiles;

/// Suggested size of the pool, by Little's law: busy connections = rate × hold time.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolAdvice))]
#[non_exhaustive]
pub struct Advice {
    /// Recent operations per second.
    #[cfg_attr(feature = "utoipa", schema(example = 850.0))]
    pub operations_per_second: f64,
    /// Mean number of busy connections: rate × mean hold time.
    #[cfg_attr(feature = "utoipa", schema(example = 0.3))]
    pub busy: f64,
    /// Suggested `max`, with headroom for bursts.
    #[cfg_attr(feature = "utoipa", schema(example = 3))]
    pub suggested_max: u32,
    /// Connection limit of the server for all clients together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "utoipa", schema(example = 97))]
    pub server_max_connections: Option<u32>,
    /// How many instances with this `max`, each with one more connection, fit into that limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "utoipa", schema(example = 9))]
    pub instances_that_fit: Option<u32>,
    /// The advice as text.
    pub sentence: String,
}

impl Advice {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded")]
    pub(crate) fn new(hold: &Quantiles, span: Duration, max: u32, waiting: u32, server: Option<u32>) -> Self {
        let rate = hold.count as f64 / span.as_secs_f64().max(1.0);
        let busy = rate * hold.mean / 1e3;
        // Arrivals are bursty; three standard deviations of a Poisson process above the mean leave hardly any waiting.
        let suggested = (busy + 3.0 * busy.sqrt()).ceil().clamp(1.0, 10_000.0) as u32;
        // Each instance may open one more connection: for a probe while all are in use, or for migrations.
        let fit = server.map(|server| server / max.saturating_add(1));
        let sentence = describe(hold, rate, busy, suggested, max, waiting, server.zip(fit));
        Self {
            operations_per_second: (rate * 10.0).round() / 10.0,
            busy: (busy * 100.0).round() / 100.0,
            suggested_max: suggested,
            server_max_connections: server,
            instances_that_fit: fit,
            sentence,
        }
    }
}

/// Returns the advice as text.
fn describe(
    hold: &Quantiles,
    rate: f64,
    busy: f64,
    suggested: u32,
    max: u32,
    waiting: u32,
    server: Option<(u32, u32)>,
) -> String {
    let mut text = if hold.count == 0 {
        "No recent operations, so no size can be suggested.".to_owned()
    } else {
        let verdict = if waiting > 0 && hold.count < u64::from(waiting) {
            format!("too few operations to judge max = {max}, and {waiting} are waiting")
        } else if suggested > max {
            format!("max = {max} is too small for bursts; {suggested} is suggested")
        } else if waiting > 0 {
            format!("max = {max} fits the mean, but {waiting} are waiting; check the longest holders first")
        } else if suggested * 2 < max {
            format!("max = {max} is more than needed; {suggested} is enough")
        } else {
            format!("max = {max} is adequate")
        };
        format!(
            "{rate:.1} operations per second hold a connection for {:.1} ms on average: {busy:.2} busy connections; \
             {verdict}.",
            hold.mean
        )
    };
    if let Some((server, fit)) = server {
        use std::fmt::Write as _;
        // Writing to a string cannot fail.
        let _ = write!(text, " The server allows {server} connections, enough for {fit} instances of this size.");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(per_second: u32, hold_ms: f64, max: u32, waiting: u32) -> Advice {
        let hold = Quantiles { count: u64::from(per_second) * 60, mean: hold_ms, ..Quantiles::default() };
        Advice::new(&hold, Duration::from_mins(1), max, waiting, Some(97))
    }

    #[test]
    fn the_size_follows_from_rate_and_hold_time() {
        let example = advice(500, 4.0, 10, 0);
        assert_eq!((example.operations_per_second, example.busy, example.suggested_max), (500.0, 2.0, 7));
        assert_eq!((example.server_max_connections, example.instances_that_fit), (Some(97), Some(8)));
        assert_eq!(
            example.sentence,
            "500.0 operations per second hold a connection for 4.0 ms on average: 2.00 busy connections; max = 10 is \
             adequate. The server allows 97 connections, enough for 8 instances of this size."
        );
        for (per_second, hold_ms, max, waiting, verdict) in [
            (2450, 4.0, 10, 80, "max = 10 is too small for bursts; 20 is suggested."),
            (100, 4.0, 10, 5, "max = 10 fits the mean, but 5 are waiting; check the longest holders first."),
            (100, 4.0, 50, 0, "max = 50 is more than needed; 3 is enough."),
        ] {
            let sentence = advice(per_second, hold_ms, max, waiting).sentence;
            assert!(sentence.contains(verdict), "{sentence}");
        }
        let nothing = Advice::new(&Quantiles::default(), Duration::ZERO, 10, 0, None);
        assert_eq!(nothing.sentence, "No recent operations, so no size can be suggested.");
    }
}
