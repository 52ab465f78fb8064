//! The housekeeper: enforces idle timeout and max lifetime, maintains `min`, probes the database, warns about long
//! holds, and aborts operations that get no response.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use sea_orm::sqlx;
use tokio::time::{Instant, sleep, timeout};

use super::{PoolInner, lost_responses::LostResponses};
use crate::{
    connect::url::Engine,
    context::{OperationContext, PendingStatement},
    error_kind::{root_cause, timed_out},
    health::State,
    set::CloseReason,
};

/// How long a response may exceed its limit before the operation is aborted.
const RESPONSE_GRACE: Duration = Duration::from_secs(5);
/// How long the pool waits beyond `statement_timeout` before it kills a statement: the response of a server that
/// enforces the limit itself may be in flight.
const KILL_MARGIN: Duration = Duration::from_millis(100);
/// Time limit for killing statements.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failed attempt to kill statements.
const KILL_PAUSE: Duration = Duration::from_millis(500);
const MIN_TICK: Duration = Duration::from_millis(20);
const MAX_TICK: Duration = Duration::from_millis(250);
/// A round that is delayed by more than this indicates that the process was paused. Its sockets may hold unread
/// responses.
const MAX_ROUND_DELAY: Duration = Duration::from_secs(1);

/// Runs until the pool is closed and its last connection is too.
pub(crate) async fn run_housekeeper(inner: Arc<PoolInner>) {
    let kill_lock = Arc::new(tokio::sync::Mutex::new(()));
    let mut lost_responses = LostResponses::default();
    while !(inner.admission.is_closed() && inner.admission.connections().counts().open == 0) {
        let (began, tick) = (Instant::now(), tick(&inner));
        tokio::select! {
            () = inner.attention.notified() => {}
            () = sleep(tick) => {}
        }
        if began.elapsed() > tick + MAX_ROUND_DELAY {
            tracing::warn!(elapsed = ?began.elapsed(), "process was paused; skipping a housekeeping round");
            continue;
        }
        // A failure is recorded in the health state; writes check the file again.
        let _ = inner.check_file();
        discard_suspect(&inner);
        inner.probe_if_due();
        close_expired(&inner);
        inner.replenish();
        mark_up_if_restored(&inner);
        warn_about_slow_holds(&inner);
        kill_timed_out(&inner, &kill_lock);
        abort_stranded(&inner);
        lost_responses.check(&inner);
    }
}

fn tick(inner: &PoolInner) -> Duration {
    let options = inner.options();
    let shortest = [options.idle, options.lifetime].into_iter().filter(|time| !time.is_zero()).min();
    shortest.map_or(MAX_TICK, |time| (time / 4).clamp(MIN_TICK, MAX_TICK))
}

/// While the database is down, closes connections that have been idle since before the outage. Those that have
/// responded since then are kept.
fn discard_suspect(inner: &Arc<PoolInner>) {
    if !inner.can_be_silent || !inner.health.is_down() {
        return;
    }
    while let Some(entry) = inner.admission.take_idle_if(|entry| inner.health.is_suspect(entry.last_response.elapsed()))
    {
        drop(entry);
        inner.discard(CloseReason::Broken);
    }
}

/// Closes idle connections that exceed the idle timeout, the max lifetime or `max`.
fn close_expired(inner: &Arc<PoolInner>) {
    let options = inner.options();
    // One may have been checked in while the connector was being replaced.
    inner.close_outdated();
    while let Some(entry) = inner.admission.take_idle_if(|entry| entry.is_too_old(options.lifetime)) {
        inner.close(entry, CloseReason::Lifetime);
    }
    let staying = || inner.admission.connections().counts().staying();
    while staying() > options.max {
        let Some(entry) = inner.admission.take_idle_if(|_| true) else { break };
        inner.close(entry, CloseReason::Replaced);
    }
    while !options.idle.is_zero() && staying() > options.min {
        let Some(entry) = inner.admission.take_idle_if(|entry| entry.last_used.elapsed() >= options.idle) else {
            break;
        };
        inner.close(entry, CloseReason::Idle);
    }
}

fn mark_up_if_restored(inner: &PoolInner) {
    if !matches!(inner.health.state(), State::Recovering) {
        return;
    }
    let staying = inner.admission.connections().counts().staying();
    if staying >= inner.options().min && (inner.admission.pending() == 0 || inner.is_at_full_speed()) {
        inner.health.mark_up();
    }
}

fn warn_about_slow_holds(inner: &PoolInner) {
    let slow = inner.options().slow_hold;
    if slow.is_zero() {
        return;
    }
    for holder in inner.admission.connections().holders() {
        let held = holder.since.elapsed();
        if held >= slow && !holder.context.warned.swap(true, Ordering::Relaxed) {
            inner.metrics.slow_hold();
            let request = holder.context.label();
            tracing::warn!(
                operation = holder.context.operation,
                request_id = request.as_deref(),
                ?held,
                "connection held longer than slow_hold"
            );
        }
    }
}

/// Kills statements that exceed `statement_timeout` on MySQL, which enforces it for reads only.
fn kill_timed_out(inner: &Arc<PoolInner>, kill_lock: &Arc<tokio::sync::Mutex<()>>) {
    let limit = inner.options().statement_timeout;
    if inner.engine != Engine::MySql || limit.is_zero() {
        return;
    }
    let Ok(guard) = Arc::clone(kill_lock).try_lock_owned() else { return };
    let expired = inner.unanswered(limit + KILL_MARGIN).into_iter().filter_map(|holder| {
        let killed = holder.context.kill_after(limit + KILL_MARGIN, inner.clock)?;
        Some((holder.context, killed))
    });
    let expired: Vec<_> = expired.collect();
    if expired.is_empty() {
        return;
    }
    let inner = Arc::clone(inner);
    inner.handle.clone().spawn(async move {
        if let Err(error) = kill(&inner, &expired).await {
            tracing::warn!(
                error = root_cause(error.as_ref()),
                "failed to kill statements that exceed statement_timeout; retrying"
            );
            sleep(KILL_PAUSE).await;
        }
        drop(guard);
    });
}

/// Kills these statements, over one connection to each of their hosts. It does not belong to the pool.
async fn kill(
    inner: &PoolInner,
    expired: &[(Arc<OperationContext>, PendingStatement)],
) -> Result<(), Arc<sqlx::Error>> {
    let mut hosts: Vec<Option<usize>> = expired.iter().map(|(context, _)| context.host()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    // At the same time: one of several hosts may not respond.
    let outcomes = join_all(hosts.into_iter().map(|host| async move {
        let on_host = expired.iter().filter(|(context, _)| context.host() == host);
        timeout(KILL_TIMEOUT, kill_on(inner, host, on_host)).await.unwrap_or_else(|_| Err(Arc::new(timed_out())))
    }));
    outcomes.await.into_iter().collect()
}

/// Kills statements on one host.
async fn kill_on(
    inner: &PoolInner,
    host: Option<usize>,
    expired: impl Iterator<Item = &(Arc<OperationContext>, PendingStatement)>,
) -> Result<(), Arc<sqlx::Error>> {
    let Some(opened) = inner.open_detached(inner.connector().only(host)).await else { return Ok(()) };
    let mut connection = opened.map_err(|failure| failure.source)?;
    let mut outcome = Ok(());
    for (context, killed) in expired {
        if let Err(error) = connection.kill_statement(killed.session).await {
            outcome = Err(Arc::new(error));
            continue;
        }
        context.is_dead(*killed);
        let request = context.label();
        tracing::warn!(
            operation = context.operation,
            request_id = request.as_deref(),
            statement_timeout = ?inner.options().statement_timeout,
            "statement killed: no response within statement_timeout"
        );
    }
    // The server cleans up the session in any case.
    let _ = connection.close().await;
    outcome
}

/// Aborts operations that get no response, so that their connections can be replaced: after `statement_timeout` plus a
/// grace period, or after the grace period alone if the server was found silent. [`LostResponses`] detects lost
/// responses earlier, and finds silent servers among several. A refused connection attempt aborts no operation.
fn abort_stranded(inner: &PoolInner) {
    if !inner.can_be_silent {
        return;
    }
    let statement = inner.options().statement_timeout;
    let (is_silent, connector) = (inner.health.is_silent(), inner.connector());
    let is_expired = |context: &OperationContext| {
        let is_on_silent_host = || context.host().is_some_and(|host| connector.hosts().is_silent(host));
        let waited = context.pending_for(inner.clock).unwrap_or_default();
        is_silent || !statement.is_zero() && waited >= statement + RESPONSE_GRACE || is_on_silent_host()
    };
    for holder in inner.unanswered(RESPONSE_GRACE) {
        if is_expired(&holder.context) && holder.context.strand() {
            tracing::warn!(
                operation = holder.context.operation,
                held = ?holder.since.elapsed(),
                "operation aborted: no response from the database"
            );
        }
    }
}
