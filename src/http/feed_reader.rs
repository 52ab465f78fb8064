//! The common part of all responses with live events: heartbeats, and the check that the caller still has access.

use std::{future::poll_fn, pin::Pin, task::Poll, time::Duration};

use actix_web::HttpRequest;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    access::{Allowed, RequiredScope},
    live_connection::LiveConnection,
    problem::Problem,
    recheck::{AccessLost, Recheck},
};
use crate::{
    feed::{Closing, Delivery, Event, Feed, Position, ResyncReason, Subscription},
    service::Error,
};

/// How long a response may be silent.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often at most a caller is checked again.
const RECHECK: Duration = Duration::from_secs(1);
/// Pause before another attempt to read the database.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// Maximum number of events that are sent together.
pub(super) const MAX_EVENTS: usize = 64;

/// The next part of a response.
pub(super) enum Part {
    Events(Vec<Event>),
    /// Nothing happened for a while.
    Heartbeat,
    Resync(ResyncReason),
    End(End),
}

/// The reason why a response ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It has all that was requested.
    Complete,
    /// The caller may no longer read events.
    AccessLost(AccessLost),
    /// The service is shutting down, the connection is closed for another one, or it is old.
    Closing,
}

/// The client of a response with live events.
pub(super) struct Client {
    recheck: Recheck,
    connection: LiveConnection,
    closing: Closing,
}

impl Client {
    pub(super) fn new<S: RequiredScope>(
        caller: &Allowed<S>,
        request: &HttpRequest,
        feed: &Feed,
    ) -> Result<Self, Problem> {
        Ok(Self::on(LiveConnection::of(request), Recheck::of_caller(caller, request)?, feed))
    }

    /// Returns the client of a connection.
    pub(super) fn on(connection: LiveConnection, recheck: Recheck, feed: &Feed) -> Self {
        Self { recheck, connection, closing: feed.closing() }
    }

    /// Completes when the connection is closed for another one. Its task is woken then.
    pub(super) async fn displaced(&self) {
        poll_fn(|_| if self.is_displaced() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Replaces what is checked.
    pub(super) fn set_recheck(&mut self, recheck: Recheck) {
        self.recheck = recheck;
    }

    /// Returns whether the connection is closed for another one. At a shutdown all are, but the feed decides when.
    fn is_displaced(&self) -> bool {
        self.connection.is_closing() && !self.closing.has_begun()
    }
}

/// A subscription whose events are sent to a caller.
pub(super) struct FeedReader {
    subscription: Subscription,
    client: Client,
    checked_at: Option<Instant>,
    /// Since when nothing has been sent.
    silent_since: Instant,
    /// When to look whether something has been sent, or whether it is old. Kept, because most responses are not silent.
    timer: Pin<Box<Sleep>>,
    /// When it is old, if it waits for events.
    old_at: Instant,
    /// How many events may follow.
    remaining: usize,
    /// The position after which the response ends.
    end: Option<u64>,
}

impl FeedReader {
    pub(super) fn new(subscription: Subscription, client: Client, limit: Option<usize>) -> Self {
        let now = Instant::now();
        let remaining = limit.unwrap_or(usize::MAX);
        let old_at = now + subscription.max_age();
        Self {
            subscription,
            client,
            checked_at: None,
            silent_since: now,
            timer: Box::pin(sleep_until(old_at.min(now + HEARTBEAT))),
            old_at,
            remaining,
            end: None,
        }
    }

    /// Reads what has been committed until now.
    pub(super) async fn refresh(&self) -> Result<(), Error> {
        self.subscription.refresh().await
    }

    /// Waits until the position is known.
    pub(super) async fn attach(&mut self) -> Result<Option<ResyncReason>, Error> {
        self.subscription.attach().await
    }

    /// Ends the response with the events that exist now.
    pub(super) fn end_at_latest(&mut self) {
        self.end = Some(self.subscription.latest());
    }

    /// Returns the client.
    pub(super) fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Returns whether the service is shutting down.
    pub(super) fn is_closing(&self) -> bool {
        self.subscription.is_closing()
    }

    pub(super) fn position(&self) -> Option<&Position> {
        self.subscription.position()
    }

    /// Returns the next part. It may be cancelled: nothing is lost.
    pub(super) async fn next(&mut self) -> Result<Part, Error> {
        let at_end = |end| self.subscription.position().is_some_and(|position| position.number >= end);
        if self.remaining == 0 || self.end.is_some_and(at_end) {
            return Ok(Part::End(End::Complete));
        }
        let limit = self.remaining.min(MAX_EVENTS);
        let delivery = if self.end.is_some() {
            // Events of other users or types may be all that remains.
            let Some(delivery) = self.subscription.try_next(limit).await? else { return Ok(Part::End(End::Complete)) };
            delivery
        } else {
            let Some(delivery) = self.next_live(limit).await else {
                self.silent_since = Instant::now();
                return Ok(self.checked(Part::Heartbeat));
            };
            delivery?
        };
        self.silent_since = Instant::now();
        Ok(match delivery {
            Delivery::Events(events) => {
                self.remaining -= events.len();
                self.checked(Part::Events(events))
            }
            Delivery::Resync(reason) => Part::Resync(reason),
            Delivery::Closing => Part::End(End::Closing),
        })
    }

    /// Waits for events; `None` if nothing happens for a while.
    async fn next_live(&mut self, limit: usize) -> Option<Result<Delivery, Error>> {
        loop {
            if self.old_at <= Instant::now() {
                return Some(Ok(Delivery::Closing));
            }
            tokio::select! {
                delivery = self.subscription.next(limit) => return Some(delivery),
                () = self.timer.as_mut() => {}
                () = self.client.displaced() => return Some(Ok(Delivery::Closing)),
            }
            let due = self.silent_since + HEARTBEAT;
            let is_due = due <= Instant::now();
            let next = if is_due { Instant::now() + HEARTBEAT } else { due };
            self.timer.as_mut().reset(next.min(self.old_at));
            if is_due {
                return None;
            }
        }
    }

    /// Returns a part, or the end if the caller has lost access.
    fn checked(&mut self, part: Part) -> Part {
        if self.checked_at.is_some_and(|at| at.elapsed() < RECHECK) {
            return part;
        }
        self.checked_at = Some(Instant::now());
        match self.client.recheck.check() {
            Ok(()) => part,
            Err(lost) => Part::End(End::AccessLost(lost)),
        }
    }
}
