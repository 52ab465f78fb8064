//! Which connections are open and who uses them: bookkeeping under one lock, which never leaves this file. It opens, closes
//! and waits for none.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::entry::{CloseReason, PoolEntry};
use crate::context::OperationContext;

/// An operation that uses a connection, and since when.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    pub(crate) context: Arc<OperationContext>,
    pub(crate) since: Instant,
}

/// Connections at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) max: u32,
    /// Open: idle, in use, being checked or being closed.
    pub(crate) open: u32,
    pub(crate) idle: u32,
    pub(crate) in_use: u32,
    /// Being opened.
    pub(crate) connecting: u32,
    /// Being closed.
    pub(crate) closing: u32,
}

impl Counts {
    /// Those that stay open.
    pub(crate) fn staying(&self) -> u32 {
        self.open.saturating_sub(self.closing)
    }

    /// How many more may be opened.
    pub(crate) fn room(&self) -> u32 {
        self.max.saturating_sub(self.open + self.connecting)
    }
}

#[derive(Debug)]
pub(crate) struct ConnectionSet<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    max: u32,
    // By last use: the one that was used last is at the back and is used next, so that those which are not needed get old
    // in front.
    idle: VecDeque<PoolEntry<T>>,
    holders: HashMap<u64, Holder>,
    open: u32,
    connecting: u32,
    closing: u32,
    last_id: u64,
    /// Whether the pool is being closed: then nothing becomes idle any more.
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

    /// Connections in use, with their operations.
    pub(crate) fn holders(&self) -> Vec<Holder> {
        self.state().holders.values().cloned().collect()
    }

    /// Whether an idle connection is so.
    pub(crate) fn any_idle(&self, is_so: impl Fn(&PoolEntry<T>) -> bool) -> bool {
        self.state().idle.iter().any(is_so)
    }

    /// Counts connections that are about to be opened, as many as `wanted` says for the counts of this moment.
    pub(crate) fn reserve(&self, wanted: impl FnOnce(Counts) -> u32) -> u32 {
        let mut state = self.state();
        let count = wanted(state.counts());
        state.connecting += count;
        count
    }

    /// One that was counted as being opened is not opened after all.
    pub(crate) fn cancel_reservation(&self) {
        let mut state = self.state();
        state.connecting = state.connecting.saturating_sub(1);
    }

    /// One that was counted as being opened is open. It is neither idle nor in use yet.
    pub(crate) fn add(&self, connection: T, generation: u32) -> PoolEntry<T> {
        let mut state = self.state();
        state.connecting = state.connecting.saturating_sub(1);
        state.open += 1;
        state.last_id += 1;
        PoolEntry::new(state.last_id, connection, generation)
    }

    /// Takes the idle connection that was used last.
    pub(super) fn take(&self, context: &Arc<OperationContext>) -> Option<PoolEntry<T>> {
        let mut state = self.state();
        let entry = state.idle.pop_back()?;
        state.holders.insert(entry.id, Holder { context: Arc::clone(context), since: Instant::now() });
        Some(entry)
    }

    /// Takes the connection that has been idle for longest among those that are `wanted`. It has no holder.
    pub(super) fn take_idle_if(&self, wanted: impl Fn(&PoolEntry<T>) -> bool) -> Option<PoolEntry<T>> {
        let mut state = self.state();
        let at = state.idle.iter().position(wanted)?;
        state.idle.remove(at)
    }

    /// Its holder is done with it. Returns when it began.
    pub(crate) fn release(&self, id: u64) -> Option<Instant> {
        self.state().holders.remove(&id).map(|holder| holder.since)
    }

    /// Makes a connection idle, if it is to stay open; otherwise counts it as being closed and returns it with the reason.
    /// All of it under one lock, so that a pool that closes cannot overlook one.
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

    /// From now on nothing becomes idle. Returns what was, counted as being closed.
    pub(super) fn close(&self) -> Vec<PoolEntry<T>> {
        let mut state = self.state();
        state.is_closed = true;
        let idle: Vec<_> = std::mem::take(&mut state.idle).into();
        state.closing += u32::try_from(idle.len()).unwrap_or(u32::MAX);
        idle
    }

    /// One is about to be closed. Its place is free once it is [`closed`](Self::closed).
    pub(crate) fn closing(&self) {
        self.state().closing += 1;
    }

    pub(crate) fn closed(&self) {
        let mut state = self.state();
        state.closing = state.closing.saturating_sub(1);
        state.open = state.open.saturating_sub(1);
    }

    /// One is gone, without having been closed in order.
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
        // At the back as a rule. One that was only pinged goes back to where it was.
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
    fn nothing_becomes_idle_once_it_is_closed() {
        let set = ConnectionSet::new(3);
        let (idle, in_use) = (set.add((), 0), set.add((), 0));
        set.check_in(idle, Duration::ZERO, 0).unwrap();
        assert_eq!(set.close().len(), 1);
        let (_, reason) = set.check_in(in_use, Duration::ZERO, 0).unwrap_err();
        assert_eq!(reason, CloseReason::PoolClosed);
        assert_eq!((set.counts().closing, set.counts().idle), (2, 0));
    }
}
