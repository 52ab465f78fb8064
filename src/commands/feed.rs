//! `users-api feed tail`: prints the events of the feed as they happen. `users-api feed export`: copies them to Kafka.

use std::{fmt::Write as _, time::Duration};

use clap::{Args, Subcommand};
use orm_pool::Pool;
use serde_json::Value;

use super::{
    CommandError,
    interruptible::{check_schema, print_if_open, with_pool},
};
use crate::{
    domain::UserId,
    error_chain::chain,
    feed::{After, Delivery, Event, EventType, EventTypes, Feed, Filter, Subscription},
    jobs,
    lifecycle::StopRequest,
    service::FeedStore,
    settings::Settings,
};
#[cfg(feature = "kafka")]
use crate::{
    feed::{Exporter, KafkaUrl},
    service::ExportStore,
};

/// Pause before another attempt to read the database.
const RETRY: Duration = Duration::from_secs(1);
/// Maximum number of events that are printed together.
const MAX_EVENTS: usize = 256;

/// The commands of `feed`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum FeedAction {
    /// Print events as they happen, and those after a position
    ///
    /// Reads the database, so it needs no service. Ctrl-C prints the position to continue with.
    Tail(TailOptions),
    /// Copy events to a topic of Kafka as they happen, beginning where the last export ended
    ///
    /// Reads the database, so it needs no service. Each record has the id of the user as its key, and the event as a
    /// CloudEvent in JSON as its value. Waits while a service with `feed.export`, or another command, copies. Ctrl-C
    /// ends it.
    #[cfg(feature = "kafka")]
    Export(ExportOptions),
}

/// Options of `feed export`.
#[cfg(feature = "kafka")]
#[derive(Clone, Debug, Args)]
pub(crate) struct ExportOptions {
    /// The topic: `kafka://USER:PASSWORD@HOST:9092,HOST:9092/TOPIC`; `feed.export` by default
    ///
    /// `kafka+ssl://` with TLS; `?sasl=plain`, `scram-sha-256` or `scram-sha-512`. Other users of this machine can see a
    /// password on the command line: prefer `USERS_API__FEED__EXPORT` or `USERS_API__FEED__EXPORT_FILE`.
    #[arg(long, value_name = "URL", value_parser = |text: &str| text.parse::<KafkaUrl>())]
    to: Option<KafkaUrl>,
    /// Begin after this position, or with the earliest event or now, instead of where the last export ended
    #[arg(long, value_name = "POSITION", value_parser = |text: &str| text.parse::<After>().map_err(|error| error.message))]
    after: Option<After>,
    /// The name under which the position is stored; the name of the topic by default
    #[arg(long)]
    name: Option<String>,
}

/// Options of `feed tail`.
#[derive(Clone, Debug, Args)]
pub(crate) struct TailOptions {
    /// Print events after this position; earliest, or now
    #[arg(long, value_name = "POSITION", default_value = "now", value_parser = |text: &str| text.parse::<After>().map_err(|error| error.message))]
    after: After,
    /// Only events of these users
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = |text: &str| text.parse::<UserId>().map_err(|error| error.message))]
    user: Vec<UserId>,
    /// Only events of these types: user.created, user.updated, user.deleted
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',', value_parser = parse_type)]
    types: Vec<EventType>,
    /// Print each event as JSON
    #[arg(long)]
    json: bool,
}

fn parse_type(text: &str) -> Result<EventType, String> {
    let all = [EventType::Created, EventType::Updated, EventType::Deleted];
    let unknown = || format!("must be one of {}", all.map(EventType::name).join(", "));
    all.into_iter().find(|event_type| event_type.name() == text).ok_or_else(unknown)
}

/// Runs `feed`.
pub(crate) fn feed(settings: &Settings, action: FeedAction) -> Result<(), CommandError> {
    match action {
        FeedAction::Tail(options) => print(settings, options),
        #[cfg(feature = "kafka")]
        FeedAction::Export(options) => export(settings, options),
    }
}

/// Runs a command with the feed of a separate pool.
fn with_feed(
    settings: &Settings,
    command: impl AsyncFnOnce(Feed, Pool, StopRequest) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let feed_options = settings.feed.options();
    let feed_options =
        feed_options.ok_or_else(|| CommandError::Usage("the feed is disabled (feed.enabled)".to_owned()))?;
    let pool_options = settings.pool.clone().max(2).min(0);
    with_pool(settings, &pool_options, async |pool, stop| {
        check_schema(&pool, settings, &stop).await?;
        let feed = Feed::new(FeedStore::new(pool.clone()), feed_options);
        command(feed, pool, stop).await
    })
}

#[cfg(feature = "kafka")]
fn export(settings: &Settings, options: ExportOptions) -> Result<(), CommandError> {
    let target = options.to.or_else(|| settings.feed.export());
    let target = target.ok_or_else(|| CommandError::Usage("needs --to, or feed.export".to_owned()))?;
    with_feed(settings, async |feed, pool, stop| {
        let lease = ExportStore::new(pool, options.name.unwrap_or_else(|| Exporter::name(&target)));
        let mut exporter = Exporter::new(feed.clone(), lease.clone(), target, options.after);
        let _jobs = jobs::FeedJobs::start(&feed);
        let ended = stop.run_until_requested(Box::pin(exporter.run())).await;
        let _ = lease.release().await;
        match ended {
            Some(ended) => ended.map_err(CommandError::failed),
            None => Err(CommandError::Interrupted("stopped; the next export continues here".to_owned())),
        }
    })
}

fn print(settings: &Settings, options: TailOptions) -> Result<(), CommandError> {
    with_feed(settings, async |feed, _, stop| {
        let filter = Filter {
            users: (!options.user.is_empty()).then_some(options.user),
            types: (!options.types.is_empty()).then_some(EventTypes(options.types)),
            receiver: None,
        };
        let mut subscription = feed.subscribe(options.after, filter);
        let _jobs = jobs::FeedJobs::start(&feed);
        let printed = stop.run_until_requested(Box::pin(tail(&mut subscription, options.json, &stop))).await;
        match (printed, subscription.position()) {
            (Some(ended), _) => ended,
            (None, None) => Err(CommandError::no_effect()),
            (None, Some(position)) => {
                Err(CommandError::Interrupted(format!("stopped; continue with --after {position}")))
            }
        }
    })
}

/// Prints events until the reader of standard output is gone.
async fn tail(subscription: &mut Subscription, is_json: bool, stop: &StopRequest) -> Result<(), CommandError> {
    loop {
        match subscription.next(MAX_EVENTS).await {
            Ok(Delivery::Events(events)) => {
                let lines: Vec<u8> = events.iter().flat_map(|event| line(event, is_json)).collect();
                if !print_if_open(String::from_utf8_lossy(&lines).into_owned(), stop).await? {
                    return Ok(());
                }
            }
            Ok(Delivery::Resync(reason)) => {
                let position = subscription.position().map(ToString::to_string);
                tracing::warn!(position, reason = reason.describe(), "events may be missing");
            }
            Ok(Delivery::Closing) => return Ok(()),
            Err(error) => {
                tracing::warn!(error = chain(&error), "cannot read the feed");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn line(event: &Event, is_json: bool) -> Vec<u8> {
    if is_json {
        return event.json_line().to_vec();
    }
    // It has just been encoded.
    let event: Value = serde_json::from_slice(&event.json()).unwrap_or_default();
    let data = &event["data"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (time, kind, user, actor) =
        (text(&event["time"]), text(&event["type"]), text(&event["subject"]), text(&event["actor"]));
    let mut line = format!("{time}  {user}  version {}  {kind}  {actor}", data["version"]);
    for value in [&data["name"], &data["email"]].into_iter().filter(|value| !value.is_null()) {
        // As in JSON, because a name may have any visible character.
        // Writing into a String does not fail.
        let _ = write!(line, "  {value}");
    }
    (line + "\n").into_bytes()
}
