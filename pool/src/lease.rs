//! A connection in use: from being let in to giving it back.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use crate::{
    Error, Fault, PoolOptions, Refusal, Scene,
    admission::{Lane, Taken, Terms},
    core::Core,
    raw::Raw,
    record::Closing,
    store::Slot,
    ticket::Ticket,
};

/// A connection in use. Dropped without [`Lease::end`] (a panic, an abort), its connection is closed.
#[derive(Debug)]
pub(crate) struct Lease {
    core: Arc<Core>,
    ticket: Arc<Ticket>,
    id: u64,
    slot: Option<Slot<Raw>>,
    waited: Duration,
    ended: bool,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Core {
    /// Lets an operation in, with a connection that works as far as can be known without asking it.
    pub(crate) async fn enter(self: &Arc<Self>, ticket: &Arc<Ticket>, lane: Lane) -> Result<Lease, Error> {
        let arrived = Instant::now();
        let options = self.options();
        match self.admission.enter(ticket, lane, &self.terms(&options, &|| self.grow())).await {
            Ok(taken) => Ok(self.lease(ticket, taken, arrived.elapsed())),
            Err(reason) => Err(self.refusal(ticket.operation, reason)),
        }
    }

    /// What an arriving operation has to know.
    pub(crate) fn terms<'a>(&'a self, options: &'a PoolOptions, demand: &'a (dyn Fn() + Sync)) -> Terms<'a> {
        Terms { options, health: &self.health, mean_hold: self.record.mean_hold(), demand }
    }

    pub(crate) fn lease(self: &Arc<Self>, ticket: &Arc<Ticket>, taken: Taken<Raw>, waited: Duration) -> Lease {
        Lease {
            core: Arc::clone(self),
            ticket: Arc::clone(ticket),
            id: taken.slot.id,
            slot: Some(taken.slot),
            waited,
            ended: false,
            _turn: taken.turn,
        }
    }

    /// A time-out while nothing is in use is an outage, and not a busy pool.
    fn without_a_connection(&self, reason: Refusal) -> Refusal {
        if !matches!(reason, Refusal::TimedOut { .. }) || self.admission.store().in_use() > 0 {
            return reason;
        }
        match self.health.shortage() {
            Some(trouble) => Refusal::Down { fault: trouble.fault, detail: trouble.detail },
            None if self.admission.store().live() == 0 => {
                Refusal::Down { fault: Fault::Silent, detail: "no connection could be opened in time".into() }
            }
            None => reason,
        }
    }

    pub(crate) fn refusal(&self, operation: &'static str, reason: Refusal) -> Error {
        let reason = self.without_a_connection(reason);
        self.record.refused(&reason);
        let scene = Scene { counts: self.status(), holders: self.longest_holders(3) };
        Error::Refused { operation, reason, scene: Box::new(scene) }
    }
}

impl Lease {
    pub(crate) fn take(&mut self) -> Option<Slot<Raw>> {
        self.slot.take()
    }

    /// The lease turned out to be for a batch, whose members have waited for so long.
    pub(crate) fn waited(&mut self, waited: Duration) {
        self.waited = waited;
    }

    pub(crate) fn slot(&mut self) -> Option<&mut Slot<Raw>> {
        self.slot.as_mut()
    }

    /// Gives a connection back that works.
    pub(crate) fn end(self, slot: Slot<Raw>) {
        self.give_back(slot, true);
    }

    /// The same after something that says nothing of how long others will take.
    pub(crate) fn end_unlike_others(self, slot: Slot<Raw>) {
        self.give_back(slot, false);
    }

    fn give_back(mut self, mut slot: Slot<Raw>, is_usual: bool) {
        self.ended = true;
        self.released(is_usual);
        slot.used = Instant::now();
        self.core.keep_or_close(slot);
        self.core.changed.notify_waiters();
    }

    fn released(&self, is_usual: bool) {
        let since = self.core.admission.store().release(self.id);
        if let Some(since) = since {
            self.core.record.used(self.waited, since.elapsed(), is_usual);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.released(false);
        // Its socket is closed with it: the peer learns it, if it still listens.
        drop(self.slot.take());
        let is_stranded = self.ticket.is_stranded.load(Ordering::Relaxed);
        self.core.loses(if is_stranded { Closing::Stranded } else { Closing::Broken });
    }
}
