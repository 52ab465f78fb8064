//! NDJSON: an event per line.

use std::io;

use actix_web::{
    HttpResponse,
    http::header,
    web::{Bytes, BytesMut},
};
use futures_util::stream;

use super::{gone, with_headers};
use crate::http::{
    compression::compressible,
    feed_reader::{FeedReader, Part},
    problem::Problem,
};

/// Returns the events that exist now or, live, also those of the future, with an empty line as heartbeat.
pub(super) async fn respond(
    mut stream: FeedReader,
    media_type: &'static str,
    is_live: bool,
) -> Result<HttpResponse, Problem> {
    stream.refresh().await?;
    if let Some(reason) = stream.attach().await? {
        return Err(gone(reason, stream.position()));
    }
    if !is_live {
        stream.end_at_latest();
    }
    let mut response = with_headers(stream.position());
    response.insert_header((header::CACHE_CONTROL, "no-store")).content_type(media_type);
    let response = response.streaming(stream::unfold(stream, |mut stream| async {
        let chunk = match stream.next().await {
            Ok(Part::Events(events)) => {
                let mut chunk = BytesMut::new();
                for event in &events {
                    chunk.extend_from_slice(&event.json_line());
                }
                Ok(chunk.freeze())
            }
            Ok(Part::Heartbeat) => Ok(Bytes::from_static(b"\n")),
            Ok(Part::End(_)) => return None,
            // The missing end of the response shows that it is incomplete.
            Ok(Part::Resync(reason)) => Err(io::Error::other(reason.describe())),
            Err(error) => Err(io::Error::other(error)),
        };
        Some((chunk, stream))
    }));
    Ok(if is_live { response } else { compressible(response) })
}
