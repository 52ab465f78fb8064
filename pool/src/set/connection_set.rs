//! The open connections and their holders: bookkeeping under one lock, without I/O or waiting.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::entry::{CloseReason, PoolEntry};
use crate::context::OperationContext;

/// An operation that holds a connection, and since when.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    pub(crate) context: Arc<OperationContext>,
    pub(crate) since: Instant,
}

/// The connections that are idle or in use.
#[derive(Debug)]
pub(crate) struct Members {
    pub(crate) in_use: Vec<(u64, Holder)>,
    /// With the time of their last use.
    pub(crate) idle: Vec<(u64, Instant)>,
}

/// Connection counts at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) max: u32,
    /// Open: idle, in use, being pinged or being closed.
    pub(crate) open: u32,
    pub(crate) idle: u32,
    pub(crate) in_use: u32,
    /// Being opened.
    pub(crate) connecting: u32,
    /// Being closed.
    pub(crate) closing: u32,
}

impl Counts {
    /// Returns how many open connections are not being closed.
    pub(crate) fn staying(&self) -> u32 {
        self.open.saturating_sub(self.closing)
    }

    /// Returns how many more may be opened.
    pub(crate) fn room(&self) -> u32 {
        self.max.saturating_sub(self.open + self.connecting)
    }
}

/// The open connections of a pool, and reservations for those being opened.
#[derive(Debug)]
pub(crate) struct ConnectionSet<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    max: u32,
    // Ordered by last use: the most recently used one is at the back and is reused first, so that surplus ones age at
    // the front.
    idle: VecDeque<PoolEntry<T>>,
    holders: HashMap<u64, Holder>,
    open: u32,
    connecting: u32,
    closing: u32,
    last_id: u64,
    /// Whether the pool is being closed: then no connection becomes idle.
    is_closed: bool,
}

impl<T> ConnectionSet<T> {
    pub(crate) fn new(max: u32) -> Self {
        Self(Mutex::new(State {
            max,
            idle: VecDeque::new(),
            holders: HashMap::new(),
            open: 0,
            connecting: 0,
            closing: 0,
            last_id: 0,
            is_closed: false,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_max(&self, max: u32) {
        self.state().max = max;
    }

    pub(crate) fn counts(&self) -> Counts {
        self.state().counts()
    }

    /// Returns the operations that hold connections.
    pub(crate) fn holders(&self) -> Vec<Holder> {
        self.state().holders.values().cloned().collect()
    }

    /// Returns the connections in use and the idle ones, by their ids.
    pub(crate) fn members(&self) -> Members {
        let state = self.state();
        Members {
            in_use: state.holders.iter().map(|(id, holder)| (*id, holder.clone())).collect(),
            idle: state.idle.iter().map(|entry| (entry.id, entry.last_used)).collect(),
        }
    }

    /// Whether an idle connection matches.
    pub(crate) fn any_idle(&self, matches: impl Fn(&PoolEntry<T>) -> bool) -> bool {
        self.state().idle.iter().any(matches)
    }

    /// Reserves slots for connections that are about to be opened. `wanted` returns how many, given the current counts.
    pub(crate) fn reserve(&self, wanted: impl FnOnce(Counts) -> u32) -> u32 {
        let mut state = self.state();
        let count = wanted(state.counts());
        state.connecting += count;
        count
    }

    /// Releases the slot of a connection that could not be opened.
    pub(crate) fn cancel_reservation(&self) {
        let mut state = self.state();
        state.connecting = state.connecting.saturating_sub(1);
    }

    /// Adds a connection that has been opened in a reserved slot. It is neither idle nor in use yet.
    pub(crate) fn add(&self, connection: T, generation: u32) -> PoolEntry<T> {
        let mut state = self.state();
        state.connecting = state.connecting.saturating_sub(1);
        state.open += 1;
        state.last_id += 1;
        PoolEntry::new(state.last_id, connection, generation)
    }

    /// Takes the most recently used idle connection.
    pub(super) fn take(&self, context: &Arc<OperationContext>) -> Option<PoolEntry<T>> {
        let mut state = self.state();
        let entry = state.idle.pop_back()?;
        state.holders.insert(entry.id, Holder { context: Arc::clone(context), since: Instant::now() });
        Some(entry)
    }

    /// Takes the longest idle connection that is `wanted`. It has no holder.
    pub(super) fn take_idle_if(&self, wanted: impl Fn(&PoolEntry<T>) -> bool) -> Option<PoolEntry<T>> {
        let mut state = self.state();
        let at = state.idle.iter().position(wanted)?;
        state.idle.remove(at)
    }

    /// Removes the holder of a connection. Returns since when it held it.
    pub(crate) fn release(&self, id: u64) -> Option<Instant> {
        self.state().holders.remove(&id).map(|holder| holder.since)
    }

    /// Makes a connection idle if it is to stay open; otherwise counts it as closing and returns it with the reason.
    /// Both happen under one lock, so that a closing pool cannot miss a connection.
    pub(super) fn check_in(
        &self,
        entry: PoolEntry<T>,
        lifetime: Duration,
        generation: u32,
    ) -> Result<(), (PoolEntry<T>, CloseReason)> {
        let mut state = self.state();
        let reason = if state.is_closed {
            CloseReason::PoolClosed
        } else if state.counts().staying() > state.max || entry.generation != generation {
            CloseReason::Replaced
        } else if entry.is_too_old(lifetime) {
            CloseReason::Lifetime
        } else {
            state.push_idle(entry);
            return Ok(());
        };
        state.closing += 1;
        Err((entry, reason))
    }

    /// Stops connections from becoming idle. Returns the idle ones, counted as closing.
    pub(super) fn close(&self) -> Vec<PoolEntry<T>> {
        let mut state = self.state();
        state.is_closed = true;
        let idle: Vec<_> = std::mem::take(&mut state.idle).into();
        state.closing += u32::try_from(idle.len()).unwrap_or(u32::MAX);
        idle
    }

    /// Counts a connection as closing. Its slot is free once it is [`closed`](Self::closed).
    pub(crate) fn closing(&self) {
        self.state().closing += 1;
    }

    pub(crate) fn closed(&self) {
        let mut state = self.state();
        state.closing = state.closing.saturating_sub(1);
        state.open = state.open.saturating_sub(1);
    }

    /// Frees the slot of a connection that was lost.
    pub(crate) fn discard(&self) {
        let mut state = self.state();
        state.open = state.open.saturating_sub(1);
    }
}

impl<T> State<T> {
    fn counts(&self) -> Counts {
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        Counts {
            max: self.max,
            open: self.open,
            idle: count(self.idle.len()),
            in_use: count(self.holders.len()),
            connecting: self.connecting,
            closing: self.closing,
        }
    }

    fn push_idle(&mut self, entry: PoolEntry<T>) {
        // Usually at the back. A connection that was only pinged returns to its position.
        let at = self.idle.partition_point(|other| other.last_used <= entry.last_used);
        self.idle.insert(at, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle_ids(set: &ConnectionSet<()>) -> Vec<u64> {
        set.state().idle.iter().map(|entry| entry.id).collect()
    }

    #[test]
    fn a_ping_does_not_count_as_use() {
        let set = ConnectionSet::new(3);
        for _ in 0..3 {
            let mut entry = set.add((), 0);
            entry.last_used += Duration::from_secs(entry.id);
            set.check_in(entry, Duration::ZERO, 0).unwrap();
        }
        let oldest = set.take_idle_if(|_| true).unwrap();
        assert_eq!(oldest.id, 1);
        set.check_in(oldest, Duration::ZERO, 0).unwrap();
        assert_eq!(idle_ids(&set), [1, 2, 3]);
    }

    #[test]
    fn no_connection_becomes_idle_after_close() {
        let set = ConnectionSet::new(3);
        let (idle, in_use) = (set.add((), 0), set.add((), 0));
        set.check_in(idle, Duration::ZERO, 0).unwrap();
        assert_eq!(set.close().len(), 1);
        let (_, reason) = set.check_in(in_use, Duration::ZERO, 0).unwrap_err();
        assert_eq!(reason, CloseReason::PoolClosed);
        assert_eq!((set.counts().closing, set.counts().idle), (2, 0));
    }
}
