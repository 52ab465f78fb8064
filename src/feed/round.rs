//! A round: gives committed changes their positions, and reads new events into memory. Notices if the database has lost
//! events: because it was restored, or because a server without the latest commits replaces another one.

use std::sync::{PoisonError, atomic::Ordering};

use tokio::time::Instant;

use super::{EVENTS, Epoch, Event, EventType, Head, Position, Shared};
use crate::service::{Error, FeedState};

/// Whether the events that are known are those of the database.
#[derive(Clone, Copy, PartialEq, Eq)]
enum History {
    Same,
    /// The latest event in memory is not the one that the database has at its position.
    Other,
}

impl Shared {
    pub(super) async fn advance(&self) -> Result<(), Error> {
        let round = self.rounds.fetch_add(1, Ordering::AcqRel) + 1;
        let began = Instant::now();
        let mut state = self.store.state().await?;
        let is_sequencer = state.has_pending;
        if is_sequencer {
            while self.store.stamp().await? {}
            state = self.store.state().await?;
        }
        let known = self.known.borrow().head.clone();
        if state.epoch.is_empty() {
            state = self.new_epoch(state, None).await?;
        } else if let Some(head) = known.as_ref().filter(|head| is_behind(&state, head)) {
            if self.lag.may_catch_up(began) {
                // Possibly a replica that lags. What this process knows stays valid until then.
                self.succeed(round, began);
                return Ok(());
            }
            let epoch = &state.epoch;
            tracing::warn!(epoch, "the database has fewer events than before: it was restored; clients read again");
            state = self.new_epoch(state, Some(head.latest.number.cast_signed())).await?;
        }
        self.lag.caught_up();
        let latest = match &known {
            Some(head) if *head.latest.epoch == *state.epoch => head.latest.clone(),
            _ => self.restart(&state),
        };
        // On SQLite nothing is pending, and each process that finds events reports them.
        if is_sequencer || self.store.is_in_commit_order() && latest.number < state.number.cast_unsigned() {
            self.doorbell.ring();
        }
        if self.read_to(latest, &state).await? == History::Other {
            let epoch = &state.epoch;
            tracing::warn!(epoch, "the database has lost events, and others have their positions; clients read again");
            state = self.new_epoch(state, None).await?;
            let latest = self.restart(&state);
            self.publish(&latest, state.floor.cast_unsigned());
        }
        self.succeed(round, began);
        Ok(())
    }

    /// Replaces the epoch, unless another process has replaced it. With `only_below`, only while the latest position is still
    /// lower: otherwise the server has caught up in the meantime.
    async fn new_epoch(&self, state: FeedState, only_below: Option<i64>) -> Result<FeedState, Error> {
        self.store.replace_epoch(state.epoch, Epoch::generate().to_string(), only_below).await?;
        self.store.state().await
    }

    /// Forgets all events. The next one follows the latest position.
    fn restart(&self, state: &FeedState) -> Position {
        let latest = Position { epoch: Epoch::from_stored(&state.epoch), number: state.number.cast_unsigned() };
        self.ring_mut().restart(latest.number);
        self.catch_up.forget();
        latest
    }

    fn succeed(&self, round: u64, began: Instant) {
        self.succeeded.store(round, Ordering::Release);
        *self.succeeded_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(began);
    }

    /// Reads the events after `latest` into the ring.
    async fn read_to(&self, mut latest: Position, state: &FeedState) -> Result<History, Error> {
        let (number, floor) = (state.number.cast_unsigned(), state.floor.cast_unsigned());
        if latest.number < number && self.subscribers.load(Ordering::Relaxed) == 0 {
            // No one needs them in memory. A client that continues before this position reads from the database.
            self.ring_mut().restart(number);
            self.catch_up.forget();
            latest.number = number;
        }
        self.publish(&latest, floor);
        while latest.number < number {
            let last = self.ring().last().filter(|last| last.number() == latest.number).cloned();
            // With the latest event that is known, to compare it.
            let after = latest.number - u64::from(last.is_some());
            let page = self.store.page(after.cast_signed()).await?;
            let known = page.partition_point(|entry| entry.number.cast_unsigned() <= latest.number);
            if let (Some(last), Some(entry)) = (last, page[..known].last())
                && !last.is_of(entry)
            {
                return Ok(History::Other);
            }
            let events: Vec<Event> = page[known..].iter().map(|entry| Event::new(&latest.epoch, entry)).collect();
            if events.iter().any(|event| event.event_type() == Some(EventType::Deleted)) {
                self.catch_up.forget();
            }
            let mut ring = self.ring_mut();
            if let Some(last) = events.last().filter(|_| events[0].number() == latest.number + 1) {
                latest.number = last.number();
                metrics::counter!(EVENTS).increment(events.len() as u64);
                ring.extend(events);
            } else {
                // They expired before they were read.
                latest.number = number;
                ring.restart(number);
            }
            drop(ring);
            self.publish(&latest, floor);
        }
        Ok(History::Same)
    }

    fn publish(&self, latest: &Position, floor: u64) {
        self.known.send_if_modified(|known| {
            let next = Some(Head { latest: latest.clone(), floor: floor.min(latest.number) });
            let is_new = known.head != next;
            known.head = next;
            is_new
        });
    }
}

/// Returns whether the database has fewer events than this process has read.
fn is_behind(state: &FeedState, known: &Head) -> bool {
    *known.latest.epoch == *state.epoch && known.latest.number > state.number.cast_unsigned()
}
