//! The housekeeper: closes what is idle for too long or too old, keeps `min`, probes the database, warns of long holds, and
//! ends operations that get no answer.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sea_orm::sqlx;
use tokio::time::{Instant, sleep, timeout};

use super::{PoolInner, lost_answers::LostAnswers};
use crate::{
    connect::url::Engine,
    context::{OperationContext, PendingStatement},
    error_kind::{root_cause, timed_out},
    health::State,
    set::CloseReason,
};

/// How long an answer may take beyond its limit.
const RESPONSE_GRACE: Duration = Duration::from_secs(5);
/// How long past its limit a statement is killed by the pool: the answer of a server that limits it itself is on its way.
const KILL_MARGIN: Duration = Duration::from_millis(100);
/// How long it may take to kill statements.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long after a failure it is tried again.
const KILL_PAUSE: Duration = Duration::from_millis(500);
const SHORTEST_TICK: Duration = Duration::from_millis(20);
const LONGEST_TICK: Duration = Duration::from_millis(250);
/// A round that is later than this indicates that the process was paused. Its sockets may hold unread answers.
const PAUSED: Duration = Duration::from_secs(1);

/// Runs until the pool is closed and its last connection with it.
pub(crate) async fn keep_house(inner: Arc<PoolInner>) {
    let killing = Arc::new(tokio::sync::Mutex::new(()));
    let mut lost_answers = LostAnswers::default();
    while !(inner.admission.is_closed() && inner.admission.connections().counts().open == 0) {
        let (began, tick) = (Instant::now(), tick(&inner));
        tokio::select! {
            () = inner.attention.notified() => {}
            () = sleep(tick) => {}
        }
        if began.elapsed() > tick + PAUSED {
            tracing::warn!(late = ?began.elapsed(), "the process was paused; operations are not judged by this time");
            continue;
        }
        // Logged, and shown in `/pool`; a write checks it itself.
        let _ = inner.check_file();
        discard_suspect(&inner);
        inner.probe_if_due();
        retire(&inner);
        inner.replenish();
        check_restored(&inner);
        warn_of_slow_holds(&inner);
        kill_overlong(&inner, &killing);
        end_stranded(&inner);
        lost_answers.look(&inner);
    }
}

fn tick(inner: &PoolInner) -> Duration {
    let options = inner.options();
    let shortest = [options.idle, options.lifetime].into_iter().filter(|time| !time.is_zero()).min();
    shortest.map_or(LONGEST_TICK, |time| (time / 4).clamp(SHORTEST_TICK, LONGEST_TICK))
}

/// While the database is down, what has been idle since before cannot be trusted. What has answered since can.
fn discard_suspect(inner: &Arc<PoolInner>) {
    if inner.engine == Engine::Sqlite || !inner.health.is_down() {
        return;
    }
    while let Some(entry) = inner.admission.take_idle_if(|entry| inner.health.is_suspect(entry.last_response.elapsed()))
    {
        drop(entry);
        inner.discard(CloseReason::Broken);
    }
}

/// Closes what has been idle for too long, is too old, or is one too many.
fn retire(inner: &Arc<PoolInner>) {
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

fn check_restored(inner: &PoolInner) {
    if !matches!(inner.health.state(), State::Recovering) {
        return;
    }
    let staying = inner.admission.connections().counts().staying();
    if staying >= inner.options().min && (inner.admission.pending() == 0 || inner.is_at_full_speed()) {
        inner.health.mark_up();
    }
}

fn warn_of_slow_holds(inner: &PoolInner) {
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
fn kill_overlong(inner: &Arc<PoolInner>, killing: &Arc<tokio::sync::Mutex<()>>) {
    let limit = inner.options().statement_timeout;
    if inner.engine != Engine::MySql || limit.is_zero() {
        return;
    }
    let Ok(alone) = Arc::clone(killing).try_lock_owned() else { return };
    let overlong = inner.unanswered(limit + KILL_MARGIN).into_iter().filter_map(|holder| {
        let killed = holder.context.kill_after(limit + KILL_MARGIN, inner.clock)?;
        Some((holder.context, killed))
    });
    let overlong: Vec<_> = overlong.collect();
    if overlong.is_empty() {
        return;
    }
    let inner = Arc::clone(inner);
    inner.handle.clone().spawn(async move {
        let killed = timeout(KILL_TIMEOUT, kill(&inner, &overlong)).await;
        if let Err(error) = killed.unwrap_or_else(|_| Err(Arc::new(timed_out()))) {
            tracing::warn!(
                error = root_cause(error.as_ref()),
                "overlong statements could not be killed; trying again until their operations are aborted"
            );
            sleep(KILL_PAUSE).await;
        }
        drop(alone);
    });
}

/// Kills each of these statements over one connection, beside those of the pool.
async fn kill(
    inner: &PoolInner,
    overlong: &[(Arc<OperationContext>, PendingStatement)],
) -> Result<(), Arc<sqlx::Error>> {
    let Some(opened) = inner.open_aside(None).await else { return Ok(()) };
    let mut connection = opened.map_err(|failure| failure.source)?;
    let mut outcome = Ok(());
    for (context, killed) in overlong {
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
            "statement killed: no answer within statement_timeout"
        );
    }
    // The server cleans up the session in any case.
    let _ = connection.close().await;
    outcome
}

/// Aborts operations that get no answer, so that their connections can be replaced: past `statement_timeout` and a grace, or
/// after the grace alone if the server was found silent. [`LostAnswers`] finds those earlier that the server has answered. A connection attempt that is refused aborts no operation.
fn end_stranded(inner: &PoolInner) {
    if inner.engine == Engine::Sqlite {
        return;
    }
    let statement = inner.options().statement_timeout;
    let limit = if inner.health.is_silent() {
        RESPONSE_GRACE
    } else if statement.is_zero() {
        return;
    } else {
        statement + RESPONSE_GRACE
    };
    for holder in inner.unanswered(limit) {
        if holder.context.strand() {
            tracing::warn!(
                operation = holder.context.operation,
                held = ?holder.since.elapsed(),
                "operation aborted: no response from the database"
            );
        }
    }
}
