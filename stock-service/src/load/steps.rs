//! Where the time of a load goes.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

/// A load's steps that are done, with what each took. Nobody buys meanwhile, so an operator wants to know.
pub(super) struct Steps {
    since: Instant,
    done: Vec<(&'static str, Duration)>,
}

impl Steps {
    pub(super) fn begin() -> Self {
        Self { since: Instant::now(), done: Vec::new() }
    }

    /// What went on since the step before was `step`.
    pub(super) fn done(&mut self, step: &'static str) {
        let now = Instant::now();
        let took = now - std::mem::replace(&mut self.since, now);
        metrics::histogram!("stock_load_seconds", "step" => step).record(took);
        self.done.push((step, took));
    }
}

/// Such as `claim 12 ms, stragglers 1402 ms`.
impl fmt::Display for Steps {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (step, took)) in self.done.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(formatter, "{comma}{step} {} ms", took.as_millis())?;
        }
        Ok(())
    }
}
