//! A client's subscription to the feed.

use std::{sync::atomic::Ordering, time::Duration};

use serde::Serialize;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use utoipa::ToSchema;

use super::{After, Event, Feed, Filter, Head, Known, Position, SUBSCRIBERS, random_fraction};
use crate::service::{Error, shutting_down};

/// Maximum size of a delivery in bytes. A single larger event is delivered alone.
pub const MAX_BYTES: usize = 32 << 10;

/// A delivery of a subscription.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// Events, in their order.
    Events(Vec<Event>),
    /// Events may be missing: the client must read its state again. It continues after the subscription's position.
    Resync(ResyncReason),
    /// The service is shutting down.
    Closing,
}

/// The reason why a client must read the users again. `expired`: the events after its position are no longer available.
/// `epoch`: its position belongs to another epoch of the feed. `ahead`: its position is after the latest event, because
/// the database was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ResyncReason {
    /// The events after its position are no longer available.
    Expired,
    /// Its position belongs to another epoch.
    Epoch,
    /// Its position is after the latest event: the database was restored.
    Ahead,
}

impl ResyncReason {
    /// Returns the reason in words.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Expired => "the events after this position are no longer available",
            Self::Epoch => "the position belongs to an earlier epoch of the feed",
            Self::Ahead => "the position is after the latest event, because the database was restored",
        }
    }
}

/// A client's subscription to the feed: a cursor and a filter.
pub struct Subscription {
    feed: Feed,
    filter: Filter,
    cursor: Cursor,
    known: watch::Receiver<Known>,
    /// How long after the beginning of a shutdown it ends.
    closing_delay: Duration,
}

/// The end of a subscription at a shutdown: after a random part of `feed.drain`, so that not all of them end at once.
#[derive(Clone)]
pub struct Closing {
    known: watch::Receiver<Known>,
    delay: Duration,
}

impl Closing {
    /// Returns whether the service is shutting down.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.known.borrow().closing_since.is_some()
    }

    /// Completes when it is time to end. It may be cancelled.
    pub async fn reached(mut self) {
        // If the feed was dropped, this counts as a shutdown.
        let has_begun = |known: &Known| known.closing_since.is_some();
        let since = self.known.wait_for(has_begun).await.ok().and_then(|known| known.closing_since);
        sleep_until(since.unwrap_or_else(Instant::now) + self.delay).await;
    }
}

enum Cursor {
    /// The beginning that the client has requested.
    Requested(After),
    At(Position),
}

/// The position at which a subscription starts.
enum Start {
    At(Position),
    Resync(ResyncReason, Position),
    /// The feed state of this process does not suffice.
    Unknown,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.feed.0.subscribers.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!(SUBSCRIBERS).decrement(1);
    }
}

impl Feed {
    /// Subscribes. Nothing is read yet.
    #[must_use]
    pub fn subscribe(&self, after: After, filter: Filter) -> Subscription {
        if self.0.subscribers.fetch_add(1, Ordering::Relaxed) == 0 {
            // From now on changes are looked for more often.
            self.0.arrival.notify_one();
            self.0.signal.notify();
        }
        metrics::gauge!(SUBSCRIBERS).increment(1);
        Subscription {
            feed: self.clone(),
            filter,
            cursor: Cursor::Requested(after),
            known: self.0.known.subscribe(),
            closing_delay: self.0.drain.mul_f64(random_fraction()),
        }
    }

    /// Returns when a client has to be disconnected at a shutdown.
    #[must_use]
    pub fn closing(&self) -> Closing {
        Closing { known: self.0.known.subscribe(), delay: self.0.drain.mul_f64(random_fraction()) }
    }
}

impl Subscription {
    /// Returns the position that a client continues after; `None` until it is known.
    #[must_use]
    pub fn position(&self) -> Option<&Position> {
        match &self.cursor {
            Cursor::At(position) => Some(position),
            Cursor::Requested(_) => None,
        }
    }

    /// Waits until the position is known. Returns why the client must read its state again, if it must.
    ///
    /// # Errors
    ///
    /// The database could not be read, or the service is shutting down.
    pub async fn attach(&mut self) -> Result<Option<ResyncReason>, Error> {
        let Cursor::Requested(after) = &self.cursor else { return Ok(None) };
        // A position that this process does not know yet may be that of another process.
        if matches!(after, After::Position(_))
            && self.feed.0.is_fresh()
            && let Start::At(position) = start(after, self.feed.head().as_ref())
        {
            self.cursor = Cursor::At(position);
            return Ok(None);
        }
        // What is known may be old. It may also have values of a user that another process has deleted.
        let refreshed = self.feed.refresh().await;
        let found = match (start(after, self.feed.head().as_ref()), after, refreshed) {
            (found, _, Ok(())) | (found @ Start::At(_), After::Position(_), Err(_)) => found,
            (.., Err(error)) => return Err(error),
        };
        let found = match found {
            Start::Resync(ResyncReason::Ahead, _) => self.caught_up().await?,
            found => found,
        };
        let (position, reason) = match found {
            Start::At(position) => (position, None),
            Start::Resync(reason, position) => (position, Some(reason)),
            Start::Unknown => return Ok(None),
        };
        self.cursor = Cursor::At(position);
        Ok(reason)
    }

    /// Waits until this process knows the position that the client continues after, unless the database was restored.
    async fn caught_up(&mut self) -> Result<Start, Error> {
        let Cursor::Requested(after) = &self.cursor else { return Ok(Start::Unknown) };
        let is_behind = |head: Option<&Head>| matches!(start(after, head), Start::Resync(ResyncReason::Ahead, _));
        let caught_up = self.known.wait_for(|known| known.closing_since.is_some() || !is_behind(known.head.as_ref()));
        // The background job reads the feed in the meantime.
        let _ = timeout(self.feed.0.lag.max(), caught_up).await;
        let head = self.feed.head();
        // At a shutdown it is not known whether events are missing: the client continues at another process.
        if self.is_closing() && is_behind(head.as_ref()) {
            return Err(shutting_down());
        }
        Ok(start(after, head.as_ref()))
    }

    /// Reads what other processes, and this one, have committed until now.
    ///
    /// # Errors
    ///
    /// The database could not be read.
    pub async fn refresh(&self) -> Result<(), Error> {
        self.feed.refresh().await
    }

    /// Returns how long a connection with this subscription may last: a random part of up to 10 % less than
    /// [`FeedOptions::max_age`](super::FeedOptions::max_age), so that not all of them end at once.
    #[must_use]
    pub fn max_age(&self) -> Duration {
        self.feed.0.max_age.mul_f64(1.0 - random_fraction() / 10.0)
    }

    /// Returns whether the service is shutting down.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.known.borrow().closing_since.is_some()
    }

    /// Returns the number of the latest event that this process knows.
    #[must_use]
    pub fn latest(&self) -> u64 {
        self.known.borrow().head.as_ref().map_or(0, |head| head.latest.number)
    }

    /// Returns the next events, at most `limit`, as soon as there are some. It may be cancelled: no event is lost.
    ///
    /// # Errors
    ///
    /// The database could not be read. The next call tries again.
    pub async fn next(&mut self, limit: usize) -> Result<Delivery, Error> {
        loop {
            // A subscription ends also if there is always another event.
            let end = self.known.borrow().closing_since.map(|since| since + self.closing_delay);
            if end.is_some_and(|end| end <= Instant::now()) {
                return Ok(Delivery::Closing);
            }
            let closing = Closing { known: self.known.clone(), delay: self.closing_delay };
            let delivery = tokio::select! {
                biased;
                delivery = self.try_next(limit) => delivery?,
                // Only if it waits for the database.
                () = closing.reached() => Some(Delivery::Closing),
            };
            if let Some(delivery) = delivery {
                return Ok(delivery);
            }
            // The sender is part of the feed, which this subscription owns.
            match end {
                None => drop(self.known.changed().await),
                Some(end) => drop(timeout_at(end, self.known.changed()).await),
            }
        }
    }

    /// Returns the next events, at most `limit`; `None` if there are none yet.
    ///
    /// # Errors
    ///
    /// The database could not be read. The next call tries again.
    pub async fn try_next(&mut self, limit: usize) -> Result<Option<Delivery>, Error> {
        loop {
            if let Some(reason) = self.attach().await? {
                return Ok(Some(Delivery::Resync(reason)));
            }
            let head = self.known.borrow_and_update().head.clone();
            let (Cursor::At(at), Some(head)) = (&self.cursor, head) else { return Ok(None) };
            if let Some((reason, position)) = gone(at, &head) {
                self.cursor = Cursor::At(position);
                return Ok(Some(Delivery::Resync(reason)));
            }
            if at.number >= head.latest.number {
                return Ok(None);
            }
            match self.take(&head, limit).await? {
                // None of them is wanted.
                Some(events) if events.is_empty() => {}
                Some(events) => return Ok(Some(Delivery::Events(events))),
                None => {
                    self.cursor = Cursor::At(head.latest);
                    return Ok(Some(Delivery::Resync(ResyncReason::Expired)));
                }
            }
        }
    }

    /// Takes the next events that are wanted, and moves the cursor. `None`: they are no longer available.
    async fn take(&mut self, head: &Head, limit: usize) -> Result<Option<Vec<Event>>, Error> {
        let Cursor::At(at) = &mut self.cursor else { return Ok(Some(Vec::new())) };
        // The ring may have newer events than the head that this subscription knows.
        if let Some(events) = self.feed.0.ring().between(at.number, head.latest.number) {
            return Ok(Some(select(events, &self.filter, limit, &mut at.number)));
        }
        let page = self.feed.0.catch_up.page(&self.feed.0.store, &at.epoch, at.number).await?;
        let known = page.partition_point(|event| event.number() <= at.number);
        let events = &page[known..];
        // A gap: events that have expired.
        if events.first().is_none_or(|first| first.number() != at.number + 1) {
            return Ok(None);
        }
        // What is newer than the head is read with it, so that the epoch is known to be the same.
        let known = events.iter().take_while(|event| event.number() <= head.latest.number);
        Ok(Some(select(known, &self.filter, limit, &mut at.number)))
    }
}

/// Selects the events of a delivery, and moves the cursor behind the last one that was considered.
fn select<'a>(events: impl Iterator<Item = &'a Event>, filter: &Filter, limit: usize, cursor: &mut u64) -> Vec<Event> {
    let mut selected = Vec::new();
    let mut bytes = 0;
    for event in events {
        if filter.accepts(event) {
            bytes += event.size();
            if selected.len() == limit || bytes > MAX_BYTES && !selected.is_empty() {
                break;
            }
            selected.push(event.clone());
        }
        *cursor = event.number();
    }
    selected
}

/// Decides where a client is, from what is known of the feed.
fn start(after: &After, head: Option<&Head>) -> Start {
    let Some(head) = head else { return Start::Unknown };
    match after {
        After::Now => Start::At(head.latest.clone()),
        After::Earliest => Start::At(Position { epoch: head.latest.epoch.clone(), number: head.floor }),
        After::Position(position) => match gone(position, head) {
            Some((reason, position)) => Start::Resync(reason, position),
            None => Start::At(position.clone()),
        },
    }
}

/// Returns why the events after a position are not available, and the position to continue after.
fn gone(at: &Position, head: &Head) -> Option<(ResyncReason, Position)> {
    let reason = if at.epoch != head.latest.epoch {
        ResyncReason::Epoch
    } else if at.number < head.floor {
        ResyncReason::Expired
    } else if at.number > head.latest.number {
        ResyncReason::Ahead
    } else {
        return None;
    };
    Some((reason, head.latest.clone()))
}
