//! Batches of events, for clients that poll.

use std::time::Duration;

use actix_web::{
    HttpResponse,
    http::header,
    web::{Bytes, BytesMut},
};
use tokio::time::timeout;

use super::{gone, with_headers};
use crate::{
    feed::{Delivery, Event, Subscription},
    http::{compression::compressible, problem::Problem},
};

/// Returns the events of everything that has been committed, at most `limit`. Without any, waits for the first.
pub(super) async fn respond(
    mut subscription: Subscription,
    media_type: &'static str,
    limit: usize,
    wait: Duration,
) -> Result<HttpResponse, Problem> {
    subscription.refresh().await?;
    let mut events: Vec<Event> = Vec::new();
    while events.len() < limit {
        match subscription.try_next(limit - events.len()).await? {
            Some(Delivery::Events(more)) => events.extend(more),
            Some(Delivery::Resync(reason)) => return Err(gone(reason, subscription.position())),
            Some(Delivery::Closing) | None => break,
        }
    }
    if events.is_empty() && !wait.is_zero() {
        match timeout(wait, subscription.next(limit)).await {
            Ok(Ok(Delivery::Events(first))) => events = first,
            Ok(Ok(Delivery::Resync(reason))) => return Err(gone(reason, subscription.position())),
            Ok(Err(error)) => return Err(error.into()),
            Ok(Ok(Delivery::Closing)) | Err(_) => {}
        }
    }
    let mut response = with_headers(subscription.position());
    response.insert_header((header::CACHE_CONTROL, "no-store")).content_type(media_type);
    Ok(compressible(response.body(array(&events))))
}

/// Returns the events as a JSON array.
fn array(events: &[Event]) -> Bytes {
    let mut array = BytesMut::from(&b"["[..]);
    for (index, event) in events.iter().enumerate() {
        if index > 0 {
            array.extend_from_slice(b",");
        }
        array.extend_from_slice(&event.json());
    }
    array.extend_from_slice(b"]");
    array.freeze()
}
