//! Media types of bulk requests and exports.

/// The media type of NDJSON, and its aliases.
pub(super) const NDJSON: &str = "application/x-ndjson";
pub(super) const NDJSON_ALIASES: [&str; 2] = ["application/ndjson", "application/jsonl"];
pub(super) const CSV: &str = "text/csv";
