//! What the streams of events have in common.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::{
    feed::{Delivery, Event, Position, ResyncReason, Subscription},
    http::access::Recheck,
    service::Error,
};

/// How long a stream may be silent.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often at most a caller is checked again.
const RECHECK: Duration = Duration::from_secs(1);
/// Maximum number of events that are sent together.
const MAX_EVENTS: usize = 64;

/// The next part of a stream.
pub(super) enum Part {
    Events(Vec<Event>),
    /// Nothing happened for a while.
    Heartbeat,
    Resync(ResyncReason),
    /// The stream ends: it has all that was requested, the caller may no longer read it, or the service is shutting down.
    End,
}

/// A subscription whose events are streamed to a caller.
pub(super) struct Streamed {
    subscription: Subscription,
    recheck: Recheck,
    checked_at: Instant,
    /// How many events may follow.
    remaining: usize,
    /// The position after which the stream ends.
    end: Option<u64>,
}

impl Streamed {
    pub(super) fn new(subscription: Subscription, recheck: Recheck, limit: Option<usize>) -> Self {
        Self { subscription, recheck, checked_at: Instant::now(), remaining: limit.unwrap_or(usize::MAX), end: None }
    }

    /// Reads what has been committed until now.
    pub(super) async fn refresh(&self) -> Result<(), Error> {
        self.subscription.refresh().await
    }

    /// Waits until the position is known.
    pub(super) async fn attach(&mut self) -> Result<Option<ResyncReason>, Error> {
        self.subscription.attach().await
    }

    /// Ends the stream with the events that exist now.
    pub(super) fn end_at_latest(&mut self) {
        self.end = Some(self.subscription.latest());
    }

    /// Returns whether the service is shutting down.
    pub(super) fn is_closing(&self) -> bool {
        self.subscription.is_closing()
    }

    pub(super) fn position(&self) -> Option<&Position> {
        self.subscription.position()
    }

    /// Returns the next part.
    pub(super) async fn next(&mut self) -> Result<Part, Error> {
        let at_end = |end| self.subscription.position().is_some_and(|position| position.number >= end);
        if self.remaining == 0 || self.end.is_some_and(at_end) {
            return Ok(Part::End);
        }
        let limit = self.remaining.min(MAX_EVENTS);
        let delivery = match self.end {
            // Events of other users or types may be all that remains.
            Some(_) => self.subscription.try_next(limit).await?.unwrap_or(Delivery::Closing),
            None => match timeout(HEARTBEAT, self.subscription.next(limit)).await {
                Ok(delivery) => delivery?,
                Err(_) if self.is_allowed() => return Ok(Part::Heartbeat),
                Err(_) => return Ok(Part::End),
            },
        };
        Ok(match delivery {
            Delivery::Events(events) if self.is_allowed() => {
                self.remaining -= events.len();
                Part::Events(events)
            }
            Delivery::Resync(reason) => Part::Resync(reason),
            Delivery::Events(_) | Delivery::Closing => Part::End,
        })
    }

    /// Returns whether the caller may still read the feed.
    fn is_allowed(&mut self) -> bool {
        if self.checked_at.elapsed() < RECHECK {
            return true;
        }
        self.checked_at = Instant::now();
        self.recheck.is_allowed()
    }
}
