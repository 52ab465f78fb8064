//! Delays refusals, so that clients that retry immediately cannot use all of the processor time. A thousand of them send
//! more requests than the process can refuse, and it would have no time left for those that it can serve.
//!
//! Only refusals of a busy pool wait (`pool-exhausted`), and only those beyond a rate: about 100 clients per worker that
//! obey `Retry-After` stay below it. The requests that the pool serves do not wait.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use tokio::time::sleep;

/// How many refusals each worker sends per period without a delay.
const IMMEDIATE: u32 = 100;
const PERIOD: Duration = Duration::from_secs(1);
/// The delay of the others.
const PAUSE: Duration = Duration::from_millis(500);

thread_local! {
    /// When the period began, and how many refusals there were since.
    static REFUSED: Cell<Option<(Instant, u32)>> = const { Cell::new(None) };
}

/// Waits before a refusal is sent, if this worker has sent many.
pub(super) async fn wait() {
    if !is_immediate(Instant::now()) {
        sleep(PAUSE).await;
    }
}

fn is_immediate(now: Instant) -> bool {
    let (began, count) = REFUSED.get().filter(|(began, _)| now - *began < PERIOD).unwrap_or((now, 0));
    REFUSED.set(Some((began, count.saturating_add(1))));
    count < IMMEDIATE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_beyond_the_rate_wait() {
        let began = Instant::now();
        let immediate = (0..600).filter(|_| is_immediate(began)).count();
        assert_eq!(immediate, 100);
        assert!(!is_immediate(began + PERIOD / 2));
        assert!(is_immediate(began + PERIOD));
    }
}
