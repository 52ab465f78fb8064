//! Probes, which find out whether the database responds. One runs at a time, for all callers.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, timeout, timeout_at};

use super::{PoolInner, SILENCE_THRESHOLD};
use crate::{
    connect::connector::ConnectFailure,
    error_kind::DbErrorKind,
    health::State,
    set::{AcquireError, CloseReason},
};

/// Time without a response after which the database is probed while no operation runs.
const IDLE_PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Time limit of a ping.
pub(crate) const PING_TIMEOUT: Duration = Duration::from_millis(1500);
pub(crate) const PING_UNANSWERED: &str = "the server did not respond to a ping";

impl PoolInner {
    /// Checks that the database responds: by its last response if that is recent, otherwise by a probe. Never queues
    /// behind operations.
    pub(crate) async fn ping(&self) -> Result<(), AcquireError> {
        const MAX_AGE: Duration = Duration::from_secs(1);
        if self.admission.is_closed() {
            return Err(AcquireError::Closing);
        }
        self.refuse_if_down()?;
        if self.health.since_response() < MAX_AGE || self.is_in_memory() {
            return Ok(());
        }
        let mut ended = self.probes.ended.subscribe();
        self.probes.requested.store(true, Ordering::Release);
        self.attention.notify_one();
        // Enough for a probe, which pings an idle connection and then requests a new one.
        let _ = timeout(PING_TIMEOUT * 3, ended.changed()).await;
        self.refuse_if_down()
    }

    fn refuse_if_down(&self) -> Result<(), AcquireError> {
        match self.health.state() {
            State::Down { incident } => Err(AcquireError::Down { kind: incident.kind, detail: incident.detail }),
            State::Up | State::Recovering => Ok(()),
        }
    }

    /// Starts a probe if one is requested or due, and none is running.
    pub(super) fn probe_if_due(self: &Arc<Self>) {
        let is_requested = self.probes.requested.swap(false, Ordering::AcqRel);
        if !(is_requested || self.is_probe_due()) || self.probes.is_running.swap(true, Ordering::AcqRel) {
            return;
        }
        let inner = Arc::clone(self);
        self.handle.spawn(async move {
            inner.probe().await;
            inner.probes.is_running.store(false, Ordering::Release);
            inner.probes.ended.send_modify(|ended| *ended += 1);
        });
    }

    fn is_probe_due(&self) -> bool {
        if !self.can_be_silent || self.admission.is_closed() {
            return false;
        }
        if self.health.is_down() {
            // A connection that has responded since the outage began may show that it is over.
            return self
                .admission
                .connections()
                .any_idle(|entry| !self.health.is_suspect(entry.last_response.elapsed()));
        }
        let counts = self.admission.connections().counts();
        let silence = self.health.since_response();
        // A connection broke; operations run without a response; nothing has run for a while; no connection can be
        // opened.
        self.admission.connections().any_idle(|entry| self.health.is_suspect(entry.last_response.elapsed()))
            || (counts.in_use > 0 && silence >= SILENCE_THRESHOLD)
            || (counts.open > 0 && silence >= IDLE_PROBE_INTERVAL)
            || (counts.open == 0 && self.admission.pending() > 0 && self.is_connect_overdue())
    }

    /// Whether a connection attempt takes longer than a ping may take.
    fn is_connect_overdue(&self) -> bool {
        let progress = self.connect_progress();
        let progress = progress.borrow();
        progress.is_in_flight() && progress.began.is_some_and(|began| began.elapsed() >= PING_TIMEOUT)
    }

    /// Pings idle connections, or else requests a new one. Marks the database as down if neither responds.
    async fn probe(self: &Arc<Self>) {
        // A connection to a deleted file still responds.
        if self.check_file().is_err() {
            return;
        }
        if self.ping_idle().await {
            self.recover();
            return;
        }
        if self.health.is_down() {
            // The connector task keeps trying anyway.
            return;
        }
        let mut progress = self.connect_progress();
        let ended = progress.borrow().ended;
        self.request_probe();
        // The server has as long as for a ping. The connector task handles failures; a slow attempt continues, but
        // until it succeeds the database counts as silent.
        let requested_at = Instant::now();
        loop {
            let (has_ended, connecting_since) = {
                let progress = progress.borrow_and_update();
                (progress.ended > ended, progress.began.filter(|_| progress.is_in_flight()))
            };
            let began = connecting_since.unwrap_or(requested_at);
            if has_ended || timeout_at(began + PING_TIMEOUT, progress.changed()).await.is_ok() {
                if has_ended || self.admission.is_closed() {
                    return;
                }
                continue;
            }
            // During a pause no attempt is in flight, and the cause of the last failure is known.
            if connecting_since.is_some() && self.health.since_response() >= began.elapsed().min(PING_TIMEOUT) {
                self.mark_down(&ConnectFailure::silent());
            }
            return;
        }
    }

    /// Pings suspect connections, and other idle ones until one responds. Stops at a ping that times out: the others would
    /// take as long. Returns whether any has responded.
    async fn ping_idle(self: &Arc<Self>) -> bool {
        let mut has_responded = false;
        while let Some(mut entry) =
            self.admission.take_idle_if(|entry| !has_responded || self.health.is_suspect(entry.last_response.elapsed()))
        {
            match timeout(PING_TIMEOUT, entry.connection.ping()).await {
                Ok(Ok(())) => {
                    has_responded = true;
                    self.health.on_response();
                    entry.connection.host_responded();
                    entry.last_response = Instant::now();
                    self.check_in(entry);
                }
                Ok(Err(_)) => {
                    drop(entry);
                    self.discard(CloseReason::Broken);
                }
                Err(_) => {
                    entry.connection.host_failed(DbErrorKind::Silent, PING_UNANSWERED);
                    drop(entry);
                    self.health.on_silence();
                    self.discard(CloseReason::Broken);
                    break;
                }
            }
        }
        has_responded
    }

    /// Checks that the file of an SQLite database has not been moved or replaced. If it has, marks the database as
    /// down.
    pub(crate) fn check_file(&self) -> Result<(), ConnectFailure> {
        let checked = self.connector().check_file();
        if let Err(failure) = &checked
            && !self.health.is_down()
        {
            self.health.mark_down(failure);
            self.replenish();
        }
        checked
    }
}
