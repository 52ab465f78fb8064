//! The pool's own care: looks after the database's health and the connections that rest, and warns of what lasts.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sea_orm::sqlx;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::{
    Engine,
    core::{Core, SIGN_OF_LIFE, UNEASY},
    health::{State, words},
    record::Closing,
    target::{DialError, silence},
    ticket::{Overlong, Ticket},
};

/// While nothing runs, the database is looked at after this.
const BORED: Duration = Duration::from_secs(5);
/// While it is down, it is looked at again after this, and after twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// How long past its limit an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long past its limit a statement is killed by the pool: the answer of a server that limits it itself is on its way.
const KILL_MARGIN: Duration = Duration::from_millis(100);
/// How long it may take to open a connection and kill statements over it.
const KILL_LIMIT: Duration = Duration::from_secs(2);
/// How long after a failure it is tried again.
const KILL_PAUSE: Duration = Duration::from_millis(500);
const SHORTEST_TICK: Duration = Duration::from_millis(20);
const LONGEST_TICK: Duration = Duration::from_millis(250);

/// As long as the settings are at fault it is looked at less often: servers lock accounts that fail too often.
const PAUSE_OF_REFUSED: Duration = Duration::from_secs(2);

/// Cares for the pool until its last connection is closed.
pub(crate) async fn keep(core: Arc<Core>) {
    let mut pause = FIRST_PAUSE;
    let mut next_look = Instant::now();
    while !(core.admission.is_closed() && core.admission.store().live() == 0) {
        tokio::select! {
            () = core.attention.notified() => {}
            () = sleep(tick(&core)) => {}
            () = sleep_until(next_look), if core.health.is_down() => {}
        }
        if core.health.is_down() {
            drop_resting(&core);
            if Instant::now() >= next_look {
                pause = match core.look().await {
                    Ok(()) => FIRST_PAUSE,
                    Err(error) if error.fault.is_final() => PAUSE_OF_REFUSED,
                    Err(_) => (pause * 2).min(LONGEST_PAUSE),
                };
                // Instances that saw it go down together do not all come back together.
                next_look = Instant::now() + pause.mul_f64(0.5 + 0.5 * fastrand::f64());
            }
        } else if is_uneasy(&core) {
            // Apart, as a look may take a while and the others want care.
            let core = Arc::clone(&core);
            core.handle.clone().spawn(async move { core.look().await.is_ok() });
        }
        // Says so in the log and in `/pool`; a write looks for itself.
        let _ = core.check_file();
        retire(&core);
        core.grow();
        core.check_restored();
        warn_of_slow_holds(&core);
        kill_overlong(&core);
        give_up_stranded(&core);
    }
}

fn tick(core: &Core) -> Duration {
    let options = core.options();
    let shortest = [options.idle, options.lifetime].into_iter().filter(|time| !time.is_zero()).min();
    shortest.map_or(LONGEST_TICK, |time| (time / 4).clamp(SHORTEST_TICK, LONGEST_TICK))
}

fn is_uneasy(core: &Core) -> bool {
    // Who opens nothing any more need not know.
    if core.engine == Engine::Sqlite || core.admission.is_closed() || core.looking.try_lock().is_err() {
        return false;
    }
    let (live, in_use, doubtful) = {
        let store = core.admission.store();
        (store.live(), store.in_use(), store.resting().any(|slot| core.health.is_suspect(slot.proven.elapsed())))
    };
    let silence = core.health.silence();
    // While operations run and none gets an answer; while nothing runs.
    doubtful || (in_use > 0 && silence >= UNEASY) || (live > 0 && silence >= BORED)
}

/// While the database is down nothing that has rested since before can be trusted. What has answered since can.
fn drop_resting(core: &Arc<Core>) {
    if core.engine == Engine::Sqlite {
        return;
    }
    while let Some(slot) = core.admission.pick(|slot| core.health.is_suspect(slot.proven.elapsed())) {
        drop(slot);
        core.loses(Closing::Broken);
    }
}

/// Closes what has rested for too long, is too old, or is one too many.
fn retire(core: &Arc<Core>) {
    let options = core.options();
    while let Some(slot) = core.admission.pick(|slot| slot.is_too_old(options.lifetime)) {
        core.close(slot, Closing::Lifetime);
    }
    let staying = || core.admission.store().staying();
    while staying() > options.max {
        let Some(slot) = core.admission.pick(|_| true) else { break };
        core.close(slot, Closing::Replaced);
    }
    while !options.idle.is_zero() && staying() > options.min {
        let Some(slot) = core.admission.pick(|slot| slot.used.elapsed() >= options.idle) else { break };
        core.close(slot, Closing::Idle);
    }
}

fn warn_of_slow_holds(core: &Core) {
    let slow = core.options().slow_hold;
    if slow.is_zero() {
        return;
    }
    let store = core.admission.store();
    for holder in store.holders() {
        let held = holder.since.elapsed();
        if held >= slow && !holder.ticket.warned.swap(true, Ordering::Relaxed) {
            core.record.slow_hold();
            let request = holder.ticket.label();
            tracing::warn!(
                operation = holder.ticket.operation,
                request_id = request.as_deref(),
                ?held,
                "an operation has held its connection for long"
            );
        }
    }
}

/// Kills statements that exceed `statement_timeout` on MySQL, which enforces it for reads only.
fn kill_overlong(core: &Arc<Core>) {
    let limit = core.options().statement_timeout;
    if core.engine != Engine::MySql || limit.is_zero() {
        return;
    }
    let Ok(alone) = Arc::clone(&core.killing).try_lock_owned() else { return };
    let overlong = core.unanswered(limit + KILL_MARGIN).into_iter().filter_map(|holder| {
        let killed = holder.ticket.kill_after(limit + KILL_MARGIN, core.clock)?;
        Some((holder.ticket, killed))
    });
    let overlong: Vec<_> = overlong.collect();
    if overlong.is_empty() {
        return;
    }
    let core = Arc::clone(core);
    core.handle.clone().spawn(async move {
        let killed = timeout(KILL_LIMIT, kill(&core, &overlong)).await;
        if let Err(error) = killed.unwrap_or_else(|_| Err(silence())) {
            tracing::warn!(
                error = words(&error),
                "overlong statements could not be killed; trying again until their operations are given up"
            );
            sleep(KILL_PAUSE).await;
        }
        drop(alone);
    });
}

/// Kills each of these statements over one connection, beside those of the pool.
async fn kill(core: &Core, overlong: &[(Arc<Ticket>, Overlong)]) -> Result<(), sqlx::Error> {
    let mut killer = core.target().0.killer().await?;
    let mut outcome = Ok(());
    for (ticket, killed) in overlong {
        if let Err(error) = killer.kill(killed.session).await {
            outcome = Err(error);
            continue;
        }
        ticket.is_dead(*killed);
        let request = ticket.label();
        tracing::warn!(
            operation = ticket.operation,
            request_id = request.as_deref(),
            statement_timeout = ?core.options().statement_timeout,
            "statement killed: no answer within statement_timeout"
        );
    }
    killer.close().await;
    outcome
}

/// Ends operations whose answer will not come, so that their connections can be replaced.
fn give_up_stranded(core: &Core) {
    if core.engine == Engine::Sqlite {
        return;
    }
    let statement = core.options().statement_timeout;
    let limit = if core.health.is_down() {
        PATIENCE
    } else if statement.is_zero() {
        return;
    } else {
        statement + PATIENCE
    };
    for holder in core.unanswered(limit) {
        if let Some(abort) = holder.ticket.abort.get() {
            if !holder.ticket.is_stranded.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    operation = holder.ticket.operation,
                    held = ?holder.since.elapsed(),
                    "a connection was swallowed by a silent peer; it is given up"
                );
            }
            abort.abort();
        }
    }
}

impl Core {
    /// Asks the database for a sign of life: on a connection that rests, or else by opening one.
    ///
    /// When all are out and nothing has been heard, the one that is opened may be one more than `max`, for the moment of
    /// the question.
    pub(crate) async fn look(self: &Arc<Self>) -> Result<(), DialError> {
        let asked = self.clock.millis();
        let _alone = self.looking.lock().await;
        if !self.health.is_down() && self.health.silence() < Duration::from_millis(self.clock.millis() - asked) {
            // It answered while somebody else was looking.
            return Ok(());
        }
        // A connection to a deleted file still answers.
        self.check_file()?;
        let mut answered = false;
        while let Some(mut slot) =
            self.admission.pick(|slot| !answered || self.health.is_suspect(slot.proven.elapsed()))
        {
            match timeout(SIGN_OF_LIFE, slot.raw.ping()).await {
                Ok(Ok(())) => {
                    answered = true;
                    self.health.hears();
                    slot.proven = Instant::now();
                    self.keep_or_close(slot);
                }
                Ok(Err(_)) => {
                    drop(slot);
                    self.loses(Closing::Broken);
                }
                Err(_) => {
                    drop(slot);
                    self.loses(Closing::Broken);
                    break;
                }
            }
        }
        if answered {
            self.health.recovers();
            return Ok(());
        }
        self.admission.store().dials(1);
        self.dial(SIGN_OF_LIFE).await
    }

    fn check_restored(&self) {
        if !matches!(self.health.state(), State::Recovering) {
            return;
        }
        let staying = self.admission.store().staying();
        if staying >= self.options().min && (self.admission.thirsty() == 0 || self.is_at_full_speed()) {
            self.health.restore();
        }
    }
}
