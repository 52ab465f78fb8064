//! `GET /users/changes`: the feed as an event stream, NDJSON or batches of CloudEvents.

mod batch;
mod event_stream;
mod ndjson;

use std::{ops::RangeInclusive, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        Method,
        header::{self, HeaderName},
    },
    web,
};
use utoipa::{
    PartialSchema,
    openapi::{RefOr, Schema},
};

pub(super) use self::event_stream::{RECONNECT_MS, Resync};
use super::{
    access::{Allowed, FeedRead},
    feed_position::{self, FEED_POSITION},
    feed_reader::{Client, FeedReader},
    media_types::{CLOUDEVENTS_BATCH, EVENT_STREAM, NDJSON, NDJSON_ALIASES, Offer, negotiate},
    problem::{Kind, Problem},
    query::Query,
    request_info::RequestInfo,
    responses::{FeedProblems, ServerProblems},
};
use crate::{
    domain::{UserId, ValidationError},
    exchange::{TextValue, list, query_parameters, reference, text, whole_number, whole_number_schema, word},
    feed::{After, EventBody, EventType, EventTypes, Feed, Filter, Position, ResyncReason},
};

pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

const LIMITS: RangeInclusive<u64> = 1..=1000;
const DEFAULT_LIMIT: usize = 100;
const MAX_WAIT_SECONDS: u64 = 30;

query_parameters! {
    /// The events to read.
    pub(super) struct ChangesParameters {
        /// Events after this position: `Feed-Position` of a response, or `position` of an event; `earliest`, or `now`. The
        /// header `Last-Event-ID` takes precedence.
        after: Option<After>,
        /// Maximum number of events. Default: 100 in a batch, and no limit in a stream.
        limit: Option<EventLimit>,
        /// Only events of these users, at most 100; separated by commas.
        ids: Option<Vec<UserId>>,
        /// Only events of these types, separated by commas.
        types: Option<EventTypes>,
        /// How long a batch waits for an event if there is none: `0s` to `30s`.
        wait: Option<Wait>,
        /// Whether NDJSON continues with future events.
        live: Option<bool>,
    }
}

/// A maximum number of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EventLimit(usize);

impl TextValue for EventLimit {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        // At most a thousand.
        whole_number(text, &LIMITS).map(|limit| Self(usize::try_from(limit).unwrap_or(usize::MAX)))
    }

    fn schema() -> RefOr<Schema> {
        whole_number_schema(&LIMITS).into()
    }
}

/// A time to wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wait(Duration);

impl TextValue for Wait {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        let seconds = text.strip_suffix('s').and_then(|seconds| seconds.parse().ok());
        // Only as it is written here: without a sign or leading zeros.
        let seconds = seconds.filter(|seconds| *seconds <= MAX_WAIT_SECONDS && format!("{seconds}s") == text);
        let error =
            || ValidationError::new("out-of-range", format!("must be a duration from 0s to {MAX_WAIT_SECONDS}s"));
        seconds.map(|seconds| Self(Duration::from_secs(seconds))).ok_or_else(error)
    }

    fn schema() -> RefOr<Schema> {
        // Patterns cannot compare numbers, so each one is listed.
        let seconds: Vec<String> = (0..=MAX_WAIT_SECONDS).map(|seconds| seconds.to_string()).collect();
        text().pattern(Some(format!("^({})s$", seconds.join("|")))).default(Some("0s".into())).into()
    }
}

impl TextValue for After {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        text.parse()
    }

    fn schema() -> RefOr<Schema> {
        <Self as PartialSchema>::schema()
    }
}

impl TextValue for EventTypes {
    const IS_LIST: bool = true;

    fn parse(text: &str) -> Result<Self, ValidationError> {
        text.split(',').map(word::<EventType>).collect::<Result<_, _>>().map(Self)
    }

    fn schema() -> RefOr<Schema> {
        list(reference::<EventType>()).into()
    }
}

#[derive(Clone, Copy)]
enum Format {
    Batch,
    EventStream,
    Ndjson,
}

const OFFERS: [Offer<Format>; 6] = [
    Offer::new(Format::Batch, CLOUDEVENTS_BATCH),
    Offer::alias(Format::Batch, "application/json"),
    Offer::new(Format::EventStream, EVENT_STREAM),
    Offer::new(Format::Ndjson, NDJSON),
    Offer::alias(Format::Ndjson, NDJSON_ALIASES[0]),
    Offer::alias(Format::Ndjson, NDJSON_ALIASES[1]),
];

/// Read the feed of changes
///
/// Returns the changes of users as CloudEvents, in the order of their commits, without gaps and duplicates. `Accept`
/// selects the format: `text/event-stream` for `EventSource` in browsers, `application/x-ndjson`, or a batch, which is the
/// default and can be polled with `wait`. Continue with the last position. If its events are no longer available, batches
/// and NDJSON respond 410 with the current position, and an event stream sends a message `resync`: then read the users
/// again and continue after that position.
#[utoipa::path(
    get,
    path = "/users/changes",
    tag = "users",
    operation_id = "listUserChanges",
    params(
        ChangesParameters,
        ("Last-Event-ID" = Option<String>, Header, description = "The position after which an event stream continues"),
    ),
    responses(
        (status = 200, description = "The events, oldest first", content(
            ([EventBody] = "application/cloudevents-batch+json"),
            (String = "text/event-stream", example = "id: 5b1c9f0e7a2d4e63.42\nevent: user.deleted\ndata: {\"specversion\":\"1.0\"}\n\n"),
            (String = "application/x-ndjson", example = "{\"specversion\":\"1.0\"}\n"),
        ), headers(
            ("Feed-Position" = String, description = "The position after these events; of NDJSON, where it begins. An event stream has `id` instead"),
        )),
        FeedProblems,
        ServerProblems,
    ),
)]
pub(super) async fn changes(
    caller: Allowed<FeedRead>,
    query: Query<ChangesParameters>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let Query(query) = query;
    let not_acceptable = || {
        let detail = format!("Available media types: {CLOUDEVENTS_BATCH}, {EVENT_STREAM}, {NDJSON}.");
        Problem::new(Kind::NotAcceptable, detail)
    };
    let Offer { format, name, .. } = negotiate(&request, &OFFERS).ok_or_else(not_acceptable)?;
    let feed = request.app_data::<web::Data<Feed>>().ok_or_else(disabled)?;
    let is_live = query.live.unwrap_or_default();
    let is_endless = matches!((format, is_live), (Format::EventStream, _) | (Format::Ndjson, true));
    if is_endless && RequestInfo::of(&request).is_some_and(|info| info.method == Method::HEAD) {
        // The connection would wait for the end before the next request.
        return Ok(with_headers(None).content_type(name).finish());
    }
    let filter = Filter { users: query.ids, types: query.types, receiver: None };
    let after = last_event_id(&request).or(query.after).unwrap_or(After::Now);
    let limit = query.limit.map(|limit| limit.0);
    let subscription = feed.subscribe(after, filter);
    let client = Client::new(&caller, &request, feed)?;
    match format {
        Format::Batch => {
            if let Some(info) = RequestInfo::of(&request) {
                // The wait has its own limit.
                info.is_timeout_disabled.set(true);
            }
            let Wait(wait) = query.wait.unwrap_or_default();
            batch::respond(subscription, name, limit.unwrap_or(DEFAULT_LIMIT), wait).await
        }
        Format::EventStream => Ok(event_stream::respond(FeedReader::new(subscription, client, limit))),
        Format::Ndjson => ndjson::respond(FeedReader::new(subscription, client, limit), name, is_live).await,
    }
}

/// The position that a reconnecting `EventSource` sends. What is not a position belongs to another feed.
fn last_event_id(request: &HttpRequest) -> Option<After> {
    let value = request.headers().get(LAST_EVENT_ID).filter(|value| !value.is_empty())?;
    let position = value.to_str().ok().and_then(|text| text.parse().ok());
    Some(After::Position(position.unwrap_or_else(Position::of_another_feed)))
}

pub(super) fn disabled() -> Problem {
    Problem::new(Kind::NotFound, "The feed is disabled (feed.enabled).")
}

/// The problem of a client that must read the users again.
fn gone(reason: ResyncReason, position: Option<&Position>) -> Problem {
    let detail = format!("Read the users again, and continue after Feed-Position: {}.", reason.describe());
    let problem = Problem::new(Kind::PositionGone, detail);
    match position {
        Some(position) => problem.with_header(FEED_POSITION, position.to_string()),
        None => problem,
    }
}

/// Adds the headers of every response with events.
fn with_headers(position: Option<&Position>) -> actix_web::HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response.insert_header((header::VARY, "Accept"));
    if let Some(position) = position.and_then(feed_position::value) {
        response.insert_header((FEED_POSITION, position));
    }
    response
}
