//! `GET /pool/live`: the state of the pool, several times per second.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Utc};
use orm_pool::{DetailedSnapshot, Pool};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    access::{Allowed, OpsRead},
    live::Live,
    problem::Problem,
    responses::HostProblems,
};
use crate::{
    exchange::microseconds,
    feed::{BrokerKind, Feed},
    lifecycle::{CurrentPhase, Phase},
    service::clock,
};

/// The data of a message of `GET /pool/live`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct LivePool {
    /// When the state was read.
    #[serde(serialize_with = "microseconds")]
    time: DateTime<Utc>,
    /// The phase of the service: `serving`, or a phase of the shutdown.
    phase: Phase,
    /// Whether the service is a demonstration (`users-api demo`).
    demo: bool,
    /// The database engine.
    #[schema(example = "PostgreSQL")]
    engine: &'static str,
    #[serde(flatten)]
    pool: DetailedSnapshot,
    /// The live feed. It is missing if the feed is disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    feed: Option<LiveFeed>,
    /// The number of clients that read this stream from this process.
    #[schema(example = 1)]
    viewers: usize,
}

/// The live feed, as `GET /pool/live` shows it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct LiveFeed {
    /// The kind of `feed.broker`.
    broker: BrokerKind,
    /// Whether the broker is connected. If not, events of other processes arrive with the next poll.
    connected: bool,
    /// The number of clients that read the feed from this process.
    #[schema(example = 3)]
    subscribers: usize,
    /// The position of the latest event that this process knows. It is missing until the database has been read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "5b1c9f0e7a2d4e63.42")]
    position: Option<String>,
}

/// The live state of the pool.
#[derive(Clone)]
pub(super) struct PoolStream(Live);

impl PoolStream {
    pub(super) fn new(pool: Pool, feed: Option<Feed>, phase: Arc<CurrentPhase>, is_demo: bool) -> Self {
        Self(Live::new("pool", move |viewers| LivePool {
            time: clock::now(),
            phase: phase.get(),
            demo: is_demo,
            engine: pool.engine().name(),
            pool: pool.detailed_snapshot(),
            feed: feed.as_ref().map(live_feed),
            viewers,
        }))
    }
}

fn live_feed(feed: &Feed) -> LiveFeed {
    let status = feed.status();
    LiveFeed {
        broker: status.broker,
        connected: status.is_listening,
        subscribers: status.subscribers,
        position: status.head.map(|head| head.latest.to_string()),
    }
}

/// Follow the state of the connection pool
///
/// Returns an event stream with four messages of type `pool` per second. The data of each is the document of `GET /pool`
/// with each connection, histograms of wait and hold times since the start, and the state of the feed (`LivePool`). The
/// state is read once for all clients, and only while there are clients. A client that reads slowly misses messages.
#[utoipa::path(
    get,
    path = "/pool/live",
    tag = "operations",
    operation_id = "poolLive",
    responses(
        (status = 200, description = "The state of the pool, continuously", content(
            (String = "text/event-stream", example = "event: pool\ndata: {\"phase\":\"serving\",\"state\":\"up\",\"total\":4}\n\n"),
        )),
        HostProblems,
    ),
)]
pub(super) async fn live(
    caller: Allowed<OpsRead>,
    request: HttpRequest,
    stream: web::Data<PoolStream>,
) -> Result<HttpResponse, Problem> {
    stream.0.respond(&caller, &request)
}
