//! What size the pool should have, by Little's law.

use std::time::Duration;

use serde::Serialize;

use super::quantiles::Quantiles;

/// What size would suit, by Little's law: connections busy at once = rate × hold time.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "utoipa", derive(utoipa::ToSchema), schema(as = PoolAdvice))]
#[non_exhaustive]
pub struct Advice {
    /// Operations a second, lately.
    #[cfg_attr(feature = "utoipa", schema(example = 850.0))]
    pub operations_per_second: f64,
    /// Connections busy at once on average: rate × mean hold.
    #[cfg_attr(feature = "utoipa", schema(example = 0.3))]
    pub busy: f64,
    /// A size that leaves room for bursts.
    #[cfg_attr(feature = "utoipa", schema(example = 3))]
    pub suggested_max: u32,
    /// How many connections the server takes from everybody together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "utoipa", schema(example = 97))]
    pub server_max_connections: Option<u32>,
    /// How many instances with this `max` fit into that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "utoipa", schema(example = 9))]
    pub instances_that_fit: Option<u32>,
    /// All this in a sentence.
    pub sentence: String,
}

impl Advice {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded")]
    pub(crate) fn new(hold: &Quantiles, span: Duration, max: u32, waiting: u32, server: Option<u32>) -> Self {
        let rate = hold.count as f64 / span.as_secs_f64().max(1.0);
        let busy = rate * hold.mean / 1e3;
        // Arrivals come in bunches; three deviations of a Poisson process above the mean leave hardly any waiting.
        let suggested = (busy + 3.0 * busy.sqrt()).ceil().clamp(1.0, 10_000.0) as u32;
        // One more of each instance looks around while all are out, or migrates.
        let fit = server.map(|server| server / max.saturating_add(1));
        let sentence = sentence(hold, rate, busy, suggested, max, waiting, server.zip(fit));
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

fn sentence(
    hold: &Quantiles,
    rate: f64,
    busy: f64,
    suggested: u32,
    max: u32,
    waiting: u32,
    server: Option<(u32, u32)>,
) -> String {
    let mut text = if hold.count == 0 {
        "Nothing has been asked lately, so there is nothing to size by.".to_owned()
    } else {
        let verdict = if waiting > 0 && hold.count < u64::from(waiting) {
            format!("too little to judge max = {max} by, and {waiting} wait")
        } else if suggested > max {
            format!("max = {max} is tight; {suggested} would leave room for bursts")
        } else if waiting > 0 {
            format!("max = {max} suits the mean, and yet {waiting} wait: look at the longest holders first")
        } else if suggested * 2 < max {
            format!("max = {max} is ample; {suggested} would do")
        } else {
            format!("max = {max} suits")
        };
        format!(
            "{rate:.1} operations a second hold a connection for {:.1} ms on average, so {busy:.2} are busy at once: {verdict}.",
            hold.mean
        )
    };
    if let Some((server, fit)) = server {
        use std::fmt::Write as _;
        // Writing to a text cannot fail.
        let _ =
            write!(text, " The server takes {server} connections, which is enough for {fit} instances of this size.");
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
        let suits = advice(500, 4.0, 10, 0);
        assert_eq!((suits.operations_per_second, suits.busy, suits.suggested_max), (500.0, 2.0, 7));
        assert_eq!((suits.server_max_connections, suits.instances_that_fit), (Some(97), Some(8)));
        assert_eq!(
            suits.sentence,
            "500.0 operations a second hold a connection for 4.0 ms on average, so 2.00 are busy at once: max = 10 suits. \
             The server takes 97 connections, which is enough for 8 instances of this size."
        );
        for (per_second, hold_ms, max, waiting, verdict) in [
            (2450, 4.0, 10, 80, "max = 10 is tight; 20 would leave room for bursts."),
            (100, 4.0, 10, 5, "max = 10 suits the mean, and yet 5 wait: look at the longest holders first."),
            (100, 4.0, 50, 0, "max = 50 is ample; 3 would do."),
        ] {
            let sentence = advice(per_second, hold_ms, max, waiting).sentence;
            assert!(sentence.contains(verdict), "{sentence}");
        }
        let nothing = Advice::new(&Quantiles::default(), Duration::ZERO, 10, 0, None);
        assert_eq!(nothing.sentence, "Nothing has been asked lately, so there is nothing to size by.");
    }
}
