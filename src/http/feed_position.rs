//! `Feed-Position`: where the feed continues after what a response contains.

use std::{
    convert::Infallible,
    future::{Ready, ready},
};

use actix_web::{
    FromRequest, HttpRequest, HttpResponseBuilder,
    dev::Payload,
    http::header::{HeaderName, HeaderValue},
    web,
};

use crate::feed::{Feed, Position};

pub(super) const FEED_POSITION: HeaderName = HeaderName::from_static("feed-position");

/// The position of the feed before anything was read. A client that reads users, and then the events after this position,
/// misses no change; it may get a change twice. `None` without a feed, and until the feed has been read.
pub(super) struct FeedPosition(Option<Position>);

impl FeedPosition {
    /// Adds the header.
    pub(super) fn insert(self, response: &mut HttpResponseBuilder) {
        if let Some(position) = self.0.as_ref().and_then(value) {
            response.insert_header((FEED_POSITION, position));
        }
    }
}

/// Returns a position as the value of a header.
pub(super) fn value(position: &Position) -> Option<HeaderValue> {
    HeaderValue::try_from(position.to_string()).ok()
}

impl FromRequest for FeedPosition {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let feed = request.app_data::<web::Data<Feed>>();
        ready(Ok(Self(feed.and_then(|feed| feed.head()).map(|head| head.latest))))
    }
}
