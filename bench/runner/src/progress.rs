//! Progress output: one line per step, with the elapsed and the estimated remaining time.

use std::time::{Duration, Instant};

pub struct Progress {
    began: Instant,
    /// Expected seconds of all steps.
    planned: f64,
    /// Expected seconds of the completed steps.
    done: f64,
    /// Actual seconds of the completed steps.
    took: f64,
    last: Instant,
}

impl Progress {
    pub fn new() -> Self {
        let now = Instant::now();
        Self { began: now, planned: 0.0, done: 0.0, took: 0.0, last: now }
    }

    /// Adds to the expected seconds; a negative number reduces them.
    pub fn plan(&mut self, seconds: f64) {
        self.planned += seconds;
    }

    /// Prints a line.
    pub fn report(&mut self, text: &str) {
        let rate = if self.done > 0.0 { self.took / self.done } else { 1.0 };
        let left = ((self.planned - self.done) * rate).max(0.0);
        println!("[{}, {} left] {text}", clock(self.began.elapsed().as_secs()), clock(left as u64));
        self.last = Instant::now();
    }

    /// Completes a step that was expected to take this long, and prints a line.
    pub fn advance(&mut self, seconds: f64, text: &str) {
        self.done += seconds;
        self.took += self.last.elapsed().as_secs_f64();
        self.report(text);
    }

    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

pub fn clock(seconds: u64) -> String {
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
