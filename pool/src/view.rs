//! What the pool sees when it looks at itself.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;

use crate::{
    Advice, Condition, Doing, Limits, Snapshot, Status,
    core::{Core, SIGN_OF_LIFE},
    health::State,
    snapshot::millis,
    store::Holder,
    ticket::Ticket,
};

/// How many of the longest waiters and holders are told.
const TOLD: usize = 5;

impl Core {
    pub(crate) fn status(&self) -> Status {
        let stranded =
            if matches!(self.health.state(), State::Down { .. }) { self.unanswered(SIGN_OF_LIFE).len() } else { 0 };
        let waiting = self.admission.waiting();
        let store = self.admission.store();
        Status {
            total: store.live(),
            idle: store.idle(),
            in_use: store.in_use(),
            opening: store.dialing(),
            stranded: u32::try_from(stranded).unwrap_or(u32::MAX),
            waiting,
        }
    }

    /// Holders that the database has owed an answer for this long.
    pub(crate) fn unanswered(&self, limit: Duration) -> Vec<Holder> {
        let store = self.admission.store();
        let owed = |holder: &&Holder| holder.ticket.unanswered(self.clock).is_some_and(|owed| owed >= limit);
        store.holders().filter(owed).cloned().collect()
    }

    pub(crate) fn longest_holders(&self, count: usize) -> Vec<Doing> {
        let mut holders: Vec<Holder> = self.admission.store().holders().cloned().collect();
        holders.sort_by_key(|holder| holder.since);
        holders.truncate(count);
        holders.iter().map(|holder| doing(&holder.ticket, holder.since)).collect()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let options = self.options();
        let counts = self.status();
        let (wait, hold, span) = self.record.lately();
        let (state, cause) = match self.health.state() {
            _ if self.admission.is_closed() && counts.total == 0 => (Condition::Closed, None),
            _ if self.admission.is_closed() => (Condition::Draining, None),
            State::Up => (Condition::Up, None),
            State::Recovering => (Condition::Recovering, None),
            State::Down { trouble } => (Condition::Down, Some(trouble.into())),
        };
        let server = Some(self.server_limit.load(Ordering::Relaxed)).filter(|limit| *limit > 0);
        let waiters = self.admission.longest_waiters(TOLD);
        let target = self.target().0;
        Snapshot {
            name: options.application_name.clone(),
            state,
            cause,
            shortage: self.health.shortage().map(Into::into),
            impairment: self.health.impairment().map(Into::into),
            pooler: target.session().pooler(),
            limits: Limits {
                max: options.max,
                min: options.min,
                queue_limit: options.queue_limit,
                wait: options.wait,
                batch: options.batch,
                batch_max: options.batch_max,
                bulk_share: options.bulk_share,
                acquire_ms: millis(options.acquire),
                idle_ms: millis(options.idle),
                lifetime_ms: millis(options.lifetime),
                statement_timeout_ms: millis(target.session().statement_timeout()),
            },
            counts,
            bulk: self.bulk.counts(&options),
            longest_waiters: waiters.iter().map(|ticket| doing(ticket, ticket.arrived)).collect(),
            longest_holders: self.longest_holders(TOLD),
            counters: self.record.counters(),
            wait,
            advice: Advice::new(&hold, span, options.max, counts.waiting, server),
            hold,
        }
    }
}

fn doing(ticket: &Ticket, since: Instant) -> Doing {
    Doing { operation: ticket.operation, request: ticket.label(), for_ms: millis(since.elapsed()) }
}
