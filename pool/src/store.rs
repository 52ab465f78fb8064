//! The connections: which there are, who holds them, which nobody uses. Bookkeeping alone; it opens and waits for none.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::ticket::Ticket;

/// One open connection.
#[derive(Debug)]
pub(crate) struct Slot<T> {
    pub(crate) id: u64,
    pub(crate) raw: T,
    /// When its last operation ended, or it was opened.
    pub(crate) used: Instant,
    /// When the server last answered on it.
    pub(crate) proven: Instant,
    pub(crate) opened: Instant,
    /// Which share of the lifetime it gets, 0.9 to 1: drawn once, so that connections which were opened together are not
    /// replaced together.
    share: f64,
    /// Which target it was opened for: one with older credentials is not used again.
    pub(crate) generation: u32,
}

impl<T> Slot<T> {
    /// Whether its time is over; a lifetime of zero is none.
    pub(crate) fn is_too_old(&self, lifetime: Duration) -> bool {
        !lifetime.is_zero() && self.opened.elapsed() >= lifetime.mul_f64(self.share)
    }
}

/// Who uses a connection, and since when.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    pub(crate) ticket: Arc<Ticket>,
    pub(crate) since: Instant,
}

#[derive(Debug)]
pub(crate) struct Store<T> {
    max: u32,
    // By last use: the one that was used last is at the back and is used next, so that those which are not needed get old in front.
    idle: VecDeque<Slot<T>>,
    holders: HashMap<u64, Holder>,
    live: u32,
    dialing: u32,
    closing: u32,
    next: u64,
}

impl<T> Store<T> {
    pub(crate) fn new(max: u32) -> Self {
        Self { max, idle: VecDeque::new(), holders: HashMap::new(), live: 0, dialing: 0, closing: 0, next: 0 }
    }

    pub(crate) fn max(&self) -> u32 {
        self.max
    }

    pub(crate) fn set_max(&mut self, max: u32) {
        self.max = max;
    }

    /// Open connections: idle, in use, or being looked after.
    pub(crate) fn live(&self) -> u32 {
        self.live
    }

    /// Those that are to stay open.
    pub(crate) fn staying(&self) -> u32 {
        self.live.saturating_sub(self.closing)
    }

    pub(crate) fn dialing(&self) -> u32 {
        self.dialing
    }

    pub(crate) fn idle(&self) -> u32 {
        u32::try_from(self.idle.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn in_use(&self) -> u32 {
        u32::try_from(self.holders.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn resting(&self) -> impl Iterator<Item = &Slot<T>> {
        self.idle.iter()
    }

    pub(crate) fn holders(&self) -> impl Iterator<Item = &Holder> {
        self.holders.values()
    }

    /// How many more may be opened.
    pub(crate) fn room(&self) -> u32 {
        self.max.saturating_sub(self.live + self.dialing)
    }

    pub(crate) fn dials(&mut self, count: u32) {
        self.dialing += count;
    }

    pub(crate) fn dial_failed(&mut self) {
        self.dialing = self.dialing.saturating_sub(1);
    }

    /// A new connection is open. It is nobody's yet.
    pub(crate) fn dialed(&mut self, raw: T, generation: u32) -> Slot<T> {
        self.dialing = self.dialing.saturating_sub(1);
        self.live += 1;
        self.next += 1;
        let now = Instant::now();
        Slot { id: self.next, raw, used: now, proven: now, opened: now, share: 1.0 - 0.1 * fastrand::f64(), generation }
    }

    pub(crate) fn hold(&mut self, ticket: Arc<Ticket>, since: Instant) -> Option<Slot<T>> {
        let slot = self.idle.pop_back()?;
        self.holders.insert(slot.id, Holder { ticket, since });
        Some(slot)
    }

    /// Its holder has done with it; when it began to hold it.
    pub(crate) fn release(&mut self, id: u64) -> Option<Instant> {
        self.holders.remove(&id).map(|holder| holder.since)
    }

    pub(crate) fn rest(&mut self, slot: Slot<T>) {
        // At the back as a rule. One that was only looked after goes back to where it was.
        let at = self.idle.partition_point(|other| other.used <= slot.used);
        self.idle.insert(at, slot);
    }

    /// Takes the idle one that has rested longest among those that are `wanted`.
    pub(crate) fn pick(&mut self, wanted: impl Fn(&Slot<T>) -> bool) -> Option<Slot<T>> {
        let at = self.idle.iter().position(wanted)?;
        self.idle.remove(at)
    }

    /// One is about to be closed. Its place is free once it is [`closed`](Self::closed).
    pub(crate) fn closes(&mut self) {
        self.closing += 1;
    }

    pub(crate) fn closed(&mut self) {
        self.closing = self.closing.saturating_sub(1);
        self.live = self.live.saturating_sub(1);
    }

    /// One is lost, without a goodbye.
    pub(crate) fn lost(&mut self) {
        self.live = self.live.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_looked_after_grows_no_younger() {
        let mut store = Store::new(3);
        for _ in 0..3 {
            let mut slot = store.dialed((), 0);
            slot.used += Duration::from_secs(slot.id);
            store.rest(slot);
        }
        let oldest = store.pick(|_| true).unwrap();
        assert_eq!(oldest.id, 1);
        store.rest(oldest);
        assert_eq!(store.resting().map(|slot| slot.id).collect::<Vec<_>>(), [1, 2, 3]);
    }
}
