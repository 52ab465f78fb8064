//! The state of the pool at one moment.

use std::time::Duration;

use tokio::time::Instant;

use super::{PoolInner, probe::PING_TIMEOUT};
use crate::{
    connect::hosts::{self, HostInfo},
    context::OperationContext,
    error_kind::DbErrorKind,
    health::{Incident, State},
    set::{Holder, Members},
    stats::{
        detailed_snapshot::{ConnectionInfo, ConnectionState, DetailedSnapshot},
        gauges::Values,
        snapshot::{Advice, Cause, HostState, HostStatus, Limits, OperationInfo, PoolState, Snapshot, Status, millis},
    },
};

/// Number of the longest waiters and holders in a snapshot.
const MAX_SHOWN: usize = 5;
/// Number of connections in a detailed snapshot.
const MAX_CONNECTIONS: usize = 200;

impl PoolInner {
    pub(crate) fn status(&self) -> Status {
        let stranded = if self.health.is_down() { self.unanswered(PING_TIMEOUT).len() } else { 0 };
        let counts = self.admission.connections().counts();
        Status {
            total: counts.open,
            idle: counts.idle,
            in_use: counts.in_use,
            opening: counts.connecting,
            stranded: u32::try_from(stranded).unwrap_or(u32::MAX),
            waiting: self.admission.waiting(),
        }
    }

    /// Returns the holders whose statement has had no response for this long.
    pub(crate) fn unanswered(&self, limit: Duration) -> Vec<Holder> {
        let mut holders = self.admission.connections().holders();
        holders.retain(|holder| holder.context.pending_for(self.clock).is_some_and(|time| time >= limit));
        holders
    }

    pub(crate) fn longest_holders(&self, count: usize) -> Vec<OperationInfo> {
        let mut holders = self.admission.connections().holders();
        holders.sort_by_key(|holder| holder.since);
        holders.truncate(count);
        holders.iter().map(|holder| info(&holder.context, holder.since)).collect()
    }

    fn state(&self, counts: &Status) -> (PoolState, Option<Incident>) {
        match self.health.state() {
            _ if self.admission.is_closed() && counts.total == 0 => (PoolState::Closed, None),
            _ if self.admission.is_closed() => (PoolState::Draining, None),
            State::Up => (PoolState::Up, None),
            State::Recovering => (PoolState::Recovering, None),
            State::Down { incident } => (PoolState::Down, Some(incident)),
        }
    }

    pub(crate) fn update_gauges(&self) {
        let status = self.status();
        self.gauges.update(&Values {
            status: &status,
            state: self.state(&status).0,
            shortage: self.health.shortage().map(|incident| incident.kind),
            impairment: self.health.impairment().map(|incident| incident.kind),
            options: &self.options(),
            tasks: self.handle.metrics().num_alive_tasks(),
        });
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let options = self.options();
        let counts = self.status();
        let (wait, hold, span) = self.metrics.recent();
        let (state, incident) = self.state(&counts);
        let waiters = self.admission.longest_waiters(MAX_SHOWN);
        let connector = self.connector();
        let session = connector.session();
        Snapshot {
            name: options.application_name.clone(),
            state,
            cause: incident.map(cause),
            shortage: self.health.shortage().map(self::cause),
            impairment: self.health.impairment().map(self::cause),
            pooler: session.pooler(),
            hosts: if connector.has_several_hosts() {
                connector.hosts().infos().into_iter().map(host_status).collect()
            } else {
                Vec::new()
            },
            limits: Limits {
                max: options.max,
                min: options.min,
                queue_limit: options.queue_limit,
                wait: options.wait,
                #[cfg(feature = "batch")]
                batch: options.batch,
                #[cfg(feature = "batch")]
                batch_max: options.batch_max,
                #[cfg(feature = "bulk")]
                bulk_share: options.bulk_share,
                acquire_ms: millis(options.acquire),
                idle_ms: millis(options.idle),
                lifetime_ms: millis(options.lifetime),
                statement_timeout_ms: millis(session.statement_timeout()),
            },
            counts,
            #[cfg(feature = "bulk")]
            bulk: self.bulk_usage(),
            longest_waiters: waiters.iter().map(|context| info(context, context.arrived)).collect(),
            longest_holders: self.longest_holders(MAX_SHOWN),
            counters: self.metrics.counters(),
            wait,
            advice: Advice::new(&hold, span, options.max, counts.waiting, session.max_connections()),
            hold,
        }
    }
}

/// The detailed snapshot.
impl PoolInner {
    pub(crate) fn detailed_snapshot(&self) -> DetailedSnapshot {
        let counts = self.admission.connections().counts();
        let known = counts.idle + counts.in_use + counts.closing;
        DetailedSnapshot {
            snapshot: self.snapshot(),
            closing: counts.closing,
            validating: counts.open.saturating_sub(known),
            connections: self.connections(),
            histograms: self.metrics.histograms(),
        }
    }

    fn connections(&self) -> Vec<ConnectionInfo> {
        let Members { in_use, idle } = self.admission.connections().members();
        let is_down = self.health.is_down();
        let in_use = in_use.into_iter().map(|(id, holder)| {
            let is_silent = || holder.context.pending_for(self.clock).is_some_and(|time| time >= PING_TIMEOUT);
            ConnectionInfo {
                id,
                state: if is_down && is_silent() { ConnectionState::Stranded } else { ConnectionState::InUse },
                operation: Some(holder.context.operation),
                request: holder.context.label(),
                for_ms: millis(holder.since.elapsed()),
            }
        });
        let idle = idle.into_iter().map(|(id, last_used)| ConnectionInfo {
            id,
            state: ConnectionState::Idle,
            operation: None,
            request: None,
            for_ms: millis(last_used.elapsed()),
        });
        let mut connections: Vec<_> = in_use.chain(idle).collect();
        connections.sort_by_key(|connection| connection.id);
        connections.truncate(MAX_CONNECTIONS);
        connections
    }
}

#[cfg(feature = "bulk")]
impl PoolInner {
    fn bulk_usage(&self) -> crate::stats::snapshot::BulkUsage {
        let (places, taken, waiting) = self.bulk.usage();
        crate::stats::snapshot::BulkUsage { places, taken, waiting }
    }
}

fn info(context: &OperationContext, since: Instant) -> OperationInfo {
    OperationInfo { operation: context.operation, request: context.label(), for_ms: millis(since.elapsed()) }
}

fn host_status(host: HostInfo) -> HostStatus {
    let (state, failure) = match host.state {
        hosts::HostState::Untried => (HostState::Untried, None),
        hosts::HostState::Working => (HostState::Up, None),
        hosts::HostState::Failed(failure) if failure.kind == DbErrorKind::ReadOnly => {
            (HostState::ReadOnly, Some(failure))
        }
        hosts::HostState::Failed(failure) => (HostState::Down, Some(failure)),
    };
    let cause = failure.map(|failure| Cause {
        kind: failure.kind,
        detail: failure.detail,
        for_ms: millis(failure.since.elapsed()),
    });
    HostStatus { host: host.address, state, cause, connections: host.connections }
}

fn cause(incident: Incident) -> Cause {
    Cause { kind: incident.kind, detail: incident.detail, for_ms: millis(incident.since.elapsed()) }
}
