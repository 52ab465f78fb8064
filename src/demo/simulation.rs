//! The simulation: the distance to the database, and a database that does not respond.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

/// Delays round trips to the database. Clones share it.
#[derive(Clone, Debug)]
pub struct Simulation(watch::Sender<State>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    latency: Duration,
    /// Until when the database does not respond.
    silent_until: Option<Instant>,
}

impl Default for Simulation {
    fn default() -> Self {
        Self(watch::Sender::new(State::default()))
    }
}

impl Simulation {
    /// Returns the hook of the pool: a future that completes after the simulated part of a round trip.
    pub(crate) fn round_trip(&self) -> BoxFuture<'static, ()> {
        let mut state = self.0.subscribe();
        Box::pin(async move {
            until_responsive(&mut state).await;
            let latency = state.borrow().latency;
            if !latency.is_zero() {
                sleep(latency).await;
                // An outage that has begun in the meantime delays the response.
                until_responsive(&mut state).await;
            }
        })
    }

    /// Sets the time of a round trip.
    pub(super) fn set_latency(&self, latency: Duration) {
        self.0.send_modify(|state| state.latency = latency);
    }

    /// Makes the database unresponsive for this long; zero ends it.
    pub(super) fn stop_for(&self, duration: Duration) {
        self.0.send_modify(|state| state.silent_until = Some(Instant::now() + duration));
    }

    /// Returns for how long the database will not respond.
    pub(super) fn silent_for(&self) -> Duration {
        let until = self.0.borrow().silent_until;
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }
}

async fn until_responsive(state: &mut watch::Receiver<State>) {
    loop {
        let Some(until) = state.borrow_and_update().silent_until.filter(|until| *until > Instant::now()) else {
            return;
        };
        tokio::select! {
            () = sleep_until(until) => {}
            // The sender may be gone: then the state is final.
            Ok(()) = state.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_round_trip_takes_the_latency() {
        let simulation = Simulation::default();
        let began = Instant::now();
        simulation.round_trip().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        simulation.set_latency(Duration::from_millis(20));
        simulation.round_trip().await;
        assert_eq!(began.elapsed(), Duration::from_millis(20));
    }

    #[tokio::test(start_paused = true)]
    async fn no_round_trip_completes_in_an_outage() {
        let simulation = Simulation::default();
        let began = Instant::now();
        simulation.set_latency(Duration::from_secs(1));
        let in_flight = tokio::spawn(simulation.round_trip());
        tokio::task::yield_now().await;
        simulation.stop_for(Duration::from_secs(5));
        assert_eq!(simulation.silent_for(), Duration::from_secs(5));
        in_flight.await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        simulation.stop_for(Duration::from_secs(5));
        let waiting = tokio::spawn(simulation.round_trip());
        tokio::task::yield_now().await;
        simulation.stop_for(Duration::ZERO);
        waiting.await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(6), "an outage can be ended");
    }
}
