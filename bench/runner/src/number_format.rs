//! Numbers as the reports show them.

use crate::spread::Spread;

/// A whole number with thousands separators.
pub fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A ratio, with fewer decimals the larger it is.
pub fn times(ratio: f64) -> String {
    match ratio {
        ratio if ratio >= 9.95 => format!("{ratio:.0}×"),
        ratio if ratio >= 1.995 => format!("{ratio:.1}×"),
        ratio => format!("{ratio:.2}×"),
    }
}

/// A median ratio, with its minimum and maximum in brackets.
pub fn times_with_range(ratios: Spread) -> String {
    format!("**{}** ({}–{})", times(ratios.median), times(ratios.min), times(ratios.max))
}

/// The mark of a figure with failed requests; empty if none failed.
pub fn failed_mark(errors: u64) -> String {
    if errors > 0 { format!(" †{errors}") } else { String::new() }
}

/// Explains [`failed_mark`] below a table.
pub const FAILED_NOTE: &str = "\n† Followed by the number of failed requests in all rounds. Requests per second count \
                               successful responses only.\n";

/// A time in milliseconds, with fewer decimals the larger it is.
pub fn short(ms: f64) -> String {
    match ms {
        ms if ms >= 99.5 => grouped(ms),
        ms if ms >= 9.95 => format!("{ms:.1}"),
        ms => format!("{ms:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_rounded() {
        assert_eq!(["7", "999", "1,000", "1,234,567"], [7.0, 999.0, 1000.0, 1_234_567.0].map(grouped));
        assert_eq!(
            (times(12.3), times(1.26), short(0.123), short(1234.0)),
            ("12×".into(), "1.26×".into(), "0.12".into(), "1,234".into())
        );
    }
}
