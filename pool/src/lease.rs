//! A connection in use: from being let in to giving it back.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use crate::{
    Error, Fault, Refusal, Scene,
    admission::{Lane, Terms},
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
        let terms = Terms {
            options: &options,
            health: &self.health,
            mean_hold: self.record.mean_hold(),
            demand: &|| self.grow(),
        };
        match self.admission.enter(ticket, lane, &terms).await {
            Ok(taken) => {
                let id = taken.slot.id;
                Ok(Lease {
                    core: Arc::clone(self),
                    ticket: Arc::clone(ticket),
                    id,
                    slot: Some(taken.slot),
                    waited: arrived.elapsed(),
                    ended: false,
                    _turn: taken.turn,
                })
            }
            Err(reason) => Err(self.refusal(ticket.operation, self.without_a_connection(reason))),
        }
    }

    /// Who waited in vain while no connection could be opened at all was not kept out by others.
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
        self.record.refused(&reason);
        let scene = Scene { counts: self.status(), holders: self.longest_holders(3) };
        Error::Refused { operation, reason, scene: Box::new(scene) }
    }
}

impl Lease {
    pub(crate) fn take(&mut self) -> Option<Slot<Raw>> {
        self.slot.take()
    }

    pub(crate) fn slot(&mut self) -> Option<&mut Slot<Raw>> {
        self.slot.as_mut()
    }

    /// Gives a connection back that works.
    pub(crate) fn end(mut self, mut slot: Slot<Raw>) {
        self.ended = true;
        self.released(false);
        slot.used = Instant::now();
        slot.proven = slot.used;
        self.core.keep_or_close(slot);
        self.core.changed.notify_waiters();
    }

    fn released(&self, is_lost: bool) {
        let since = self.core.admission.store().release(self.id);
        if let Some(since) = since {
            self.core.record.used(self.waited, since.elapsed(), is_lost);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.released(true);
        // Its socket is closed with it: the peer learns it, if it still listens.
        drop(self.slot.take());
        let is_stranded = self.ticket.is_stranded.load(Ordering::Relaxed);
        self.core.loses(if is_stranded { Closing::Stranded } else { Closing::Broken });
    }
}
