//! Server-sent events: messages with the position as `id`, so that `EventSource` resumes automatically.

use std::{convert::Infallible, ops::Range};

use actix_web::{
    HttpResponse,
    http::header,
    web::{Bytes, BytesMut},
};
use futures_util::stream;
use serde::Serialize;
use tokio::time::sleep;
use utoipa::ToSchema;

use super::with_headers;
use crate::{
    error_chain::chain,
    feed::{Position, ResyncReason},
    http::{
        feed_reader::{FeedReader, Part, RETRY},
        media_types::{ACCEL_BUFFERING, EVENT_STREAM},
    },
};

/// After how many milliseconds clients reconnect.
pub(in crate::http) const RECONNECT_MS: Range<u32> = 1000..3000;

/// Returns the stream. It starts before anything is read: `EventSource` does not connect again after most other statuses.
pub(super) fn respond(stream: FeedReader) -> HttpResponse {
    let mut response = with_headers(None);
    response.content_type(EVENT_STREAM).insert_header((ACCEL_BUFFERING, "no"));
    response.insert_header((header::CACHE_CONTROL, "no-store"));
    response.streaming(stream::unfold(State::Begin(Box::new(stream)), |state| async move {
        let (chunk, state) = state.next().await?;
        Some((Ok::<_, Infallible>(chunk), state))
    }))
}

enum State {
    Begin(Box<FeedReader>),
    Streaming(Box<FeedReader>),
    Ended,
}

impl State {
    async fn next(self) -> Option<(Bytes, Self)> {
        match self {
            Self::Begin(mut stream) => match stream.attach().await {
                Ok(reason) => {
                    let position = stream.position()?;
                    let first = match reason {
                        Some(reason) => retry() + &resync(reason, position),
                        None => format!("{}id: {position}\n\n", retry()),
                    };
                    Some((first.into(), Self::Streaming(stream)))
                }
                Err(_) if stream.is_closing() => Some((retry().into(), Self::Ended)),
                Err(error) => {
                    tracing::debug!(error = chain(&error), "cannot read the feed");
                    sleep(RETRY).await;
                    Some((Bytes::from_static(b": waiting for the database\n\n"), Self::Begin(stream)))
                }
            },
            Self::Streaming(mut stream) => loop {
                let chunk = match stream.next().await {
                    Ok(Part::Events(events)) => {
                        let mut chunk = BytesMut::new();
                        for event in &events {
                            chunk.extend_from_slice(&event.message());
                        }
                        chunk.freeze()
                    }
                    Ok(Part::Heartbeat) => format!("id: {}\n\n", stream.position()?).into(),
                    Ok(Part::Resync(reason)) => resync(reason, stream.position()?).into(),
                    Ok(Part::End(_)) => return Some((retry().into(), Self::Ended)),
                    Err(_) if stream.is_closing() => return Some((retry().into(), Self::Ended)),
                    Err(error) => {
                        tracing::debug!(error = chain(&error), "cannot read the feed");
                        sleep(RETRY).await;
                        continue;
                    }
                };
                return Some((chunk, Self::Streaming(stream)));
            },
            Self::Ended => None,
        }
    }
}

/// The data of a message `resync`.
#[derive(Serialize, ToSchema)]
#[schema(as = ChangesResync)]
pub(in crate::http) struct Resync<'a> {
    reason: ResyncReason,
    #[schema(value_type = Position)]
    position: &'a Position,
}

fn resync(reason: ResyncReason, position: &Position) -> String {
    // Strings always serialize.
    let data = serde_json::to_string(&Resync { reason, position }).unwrap_or_default();
    format!("id: {position}\nevent: resync\ndata: {data}\n\n")
}

/// Returns the field with the time until a client reconnects: random, so that not all of them do at the same moment.
fn retry() -> String {
    let Range { start, end } = RECONNECT_MS;
    format!("retry: {}\n", start + getrandom::u32().unwrap_or_default() % (end - start))
}
