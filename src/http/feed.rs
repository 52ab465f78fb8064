//! `GET /feed`: the state of the feed, for operators.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    access::{Allowed, OpsRead},
    changes::disabled,
    problem::Problem,
    responses::{FeedDisabledProblems, HostProblems},
};
use crate::feed::{BrokerKind, Feed, Position};

/// The state of the feed in this process.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FeedReport)]
struct Report {
    /// The position of the latest event that this process knows. It is missing until the database has been read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "5b1c9f0e7a2d4e63.42")]
    position: Option<String>,
    /// The position before the oldest event that is available.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "5b1c9f0e7a2d4e63.0")]
    earliest: Option<String>,
    /// The number of clients that read the feed from this process now.
    subscribers: usize,
    ring: RingReport,
    doorbell: Doorbell,
    /// The copy of the feed to another system (`feed.export`). It is missing without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    export: Option<ExportReport>,
}

/// The copy of the feed to another system.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FeedExport)]
struct ExportReport {
    /// The target to which events are copied, without credentials.
    #[schema(example = "kafka://kafka.example:9092/users")]
    target: String,
    /// Whether this process copies. If not, another one does, or the target cannot be reached.
    active: bool,
    /// The position of the last event that was copied. It is missing until this process has copied one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "5b1c9f0e7a2d4e63.42")]
    position: Option<String>,
    /// The number of events that are not copied yet.
    lag: u64,
}

/// The broker that notifies this process of events of other processes, in addition to polling.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FeedDoorbell)]
struct Doorbell {
    /// The kind of `feed.broker`.
    broker: BrokerKind,
    /// Whether it is connected. If not, events arrive with the next poll.
    connected: bool,
    /// How often it has reported events, or has connected.
    rings: u64,
}

/// The latest events in memory.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FeedRing)]
struct RingReport {
    /// Their number.
    events: usize,
    /// Their size.
    bytes: usize,
}

/// Get the state of the feed
///
/// Returns its latest and its earliest position, the number of subscribers, and how many events are in memory.
#[utoipa::path(
    get,
    path = "/feed",
    tag = "operations",
    operation_id = "feed",
    responses(
        (status = 200, description = "The state of the feed", body = Report),
        FeedDisabledProblems,
        HostProblems,
    ),
)]
pub(super) async fn status(_: Allowed<OpsRead>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let status = request.app_data::<web::Data<Feed>>().ok_or_else(disabled)?.status();
    let head = status.head.as_ref();
    let earliest = |number| head.map(|head| Position { epoch: head.latest.epoch.clone(), number });
    Ok(HttpResponse::Ok().json(Report {
        position: head.map(|head| head.latest.to_string()),
        earliest: head.and_then(|head| earliest(head.floor)).map(|position| position.to_string()),
        subscribers: status.subscribers,
        ring: RingReport { events: status.ring_events, bytes: status.ring_bytes },
        doorbell: Doorbell { broker: status.broker, connected: status.is_listening, rings: status.rings },
        export: status.export.map(|export| ExportReport {
            target: export.target,
            active: export.is_active,
            position: export.position.map(|position| position.to_string()),
            lag: export.lag,
        }),
    }))
}
