//! One line a step: how long it has gone on, and how long it may still take.

use std::time::{Duration, Instant};

pub struct Progress {
    began: Instant,
    /// Seconds that the steps were expected to take, all and those that are done.
    planned: f64,
    done: f64,
    /// Seconds that the done ones took.
    took: f64,
    last: Instant,
}

impl Progress {
    pub fn new() -> Self {
        let now = Instant::now();
        Self { began: now, planned: 0.0, done: 0.0, took: 0.0, last: now }
    }

    /// Expects more to do; less, if negative.
    pub fn plan(&mut self, seconds: f64) {
        self.planned += seconds;
    }

    pub fn tell(&mut self, text: &str) {
        let rate = if self.done > 0.0 { self.took / self.done } else { 1.0 };
        let left = ((self.planned - self.done) * rate).max(0.0);
        println!("[{}, {} left] {text}", clock(self.began.elapsed().as_secs()), clock(left as u64));
        self.last = Instant::now();
    }

    /// A step is done that was expected to take so long.
    pub fn did(&mut self, seconds: f64, text: &str) {
        self.done += seconds;
        self.took += self.last.elapsed().as_secs_f64();
        self.tell(text);
    }

    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

pub fn clock(seconds: u64) -> String {
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
