//! Converts Prometheus' text format to OpenMetrics 1.0. They differ in the family names of counters, in the escapes of
//! `HELP`, and in the last line.

use std::fmt::Write as _;

/// Converts metrics in Prometheus' text format to OpenMetrics.
#[must_use]
pub fn open_metrics(text: &str) -> String {
    let is_counter = |name: &str| text.contains(&format!("# TYPE {name} counter\n"));
    let mut metrics = String::with_capacity(text.len() + 8);
    for line in text.lines().filter(|line| !line.is_empty()) {
        // Writing into a String does not fail.
        let _ = match *line.splitn(4, ' ').collect::<Vec<_>>() {
            ["#", keyword, name, rest] if is_counter(name) => {
                writeln!(metrics, "# {keyword} {} {}", name.trim_end_matches("_total"), escaped(keyword, rest))
            }
            ["#", keyword, name, rest] => writeln!(metrics, "# {keyword} {name} {}", escaped(keyword, rest)),
            _ => writeln!(metrics, "{line}"),
        };
    }
    metrics.push_str("# EOF\n");
    metrics
}

fn escaped(keyword: &str, rest: &str) -> String {
    if keyword == "HELP" { rest.replace('"', "\\\"") } else { rest.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_families_lose_the_total_suffix() {
        let text = concat!(
            "# HELP a_total Counted \"so\"\n# TYPE a_total counter\na_total{b=\"c d\"} 1\n\n",
            "# HELP e_total_seconds Of no counter\n# TYPE e_total_seconds gauge\ne_total_seconds 2\n\n",
        );
        let expected = concat!(
            "# HELP a Counted \\\"so\\\"\n# TYPE a counter\na_total{b=\"c d\"} 1\n",
            "# HELP e_total_seconds Of no counter\n# TYPE e_total_seconds gauge\ne_total_seconds 2\n",
            "# EOF\n",
        );
        assert_eq!(open_metrics(text), expected);
    }
}
