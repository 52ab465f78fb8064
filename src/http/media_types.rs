//! Media types of bulk requests, exports and the feed, and their negotiation.

use std::cmp::Reverse;

use actix_web::{
    HttpRequest,
    http::header::{self, Accept, Header, HeaderName, Quality},
};

/// The media type of NDJSON, and its aliases.
pub(super) const NDJSON: &str = "application/x-ndjson";
pub(super) const NDJSON_ALIASES: [&str; 2] = ["application/ndjson", "application/jsonl"];
pub(super) const CSV: &str = "text/csv";
pub(super) const EVENT_STREAM: &str = "text/event-stream";
/// For nginx: do not collect the response before it is passed on.
pub(super) const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
pub(super) const CLOUDEVENTS_BATCH: &str = "application/cloudevents-batch+json";

/// A media type that a route offers.
#[derive(Clone, Copy)]
pub(super) struct Offer<T> {
    pub(super) format: T,
    pub(super) name: &'static str,
    /// Whether it is another name of an offer, for clients that ask for it.
    pub(super) is_alias: bool,
}

impl<T> Offer<T> {
    pub(super) const fn new(format: T, name: &'static str) -> Self {
        Self { format, name, is_alias: false }
    }

    pub(super) const fn alias(format: T, name: &'static str) -> Self {
        Self { format, name, is_alias: true }
    }

    /// The range of all media types with the same type.
    fn group(&self) -> String {
        self.name.split_once('/').map_or_else(String::new, |(kind, _)| format!("{kind}/*"))
    }
}

/// Negotiates the media type of a response (RFC 9110, section 12.5.1). The first offer is the default. `None`: the client
/// accepts none.
pub(super) fn negotiate<T: Copy>(request: &HttpRequest, offers: &[Offer<T>]) -> Option<Offer<T>> {
    let is_any = |value: &header::HeaderValue| value.as_bytes().trim_ascii().is_empty();
    if request.headers().get(header::ACCEPT).is_none_or(is_any) {
        return offers.first().copied();
    }
    let ranges = Accept::parse(request).ok()?;
    // The most specific range of a type decides: its quality and its position.
    let position = |of: &[&str]| of.iter().find_map(|of| ranges.iter().position(|it| it.item.essence_str() == *of));
    let preference = |offer: &Offer<T>| {
        let position = position(&[offer.name, &offer.group(), "*/*"])?;
        Some((ranges[position].quality, Reverse(position))).filter(|(quality, _)| *quality > Quality::ZERO)
    };
    let offered = offers.iter().filter(|offer| !offer.is_alias || position(&[offer.name]).is_some());
    // Of equal preferences the last one wins, so the default is last.
    let preferences = offered.rev().filter_map(|offer| Some((preference(offer)?, *offer)));
    preferences.max_by_key(|(preference, _)| *preference).map(|(_, offer)| offer)
}
