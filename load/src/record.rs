//! What came back, counted; accepted and refused apart, always.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use crate::wire::Outcome;

/// Longest latency that is told apart, in microseconds.
const LATENCY_US_MAX: u64 = 120_000_000;
/// Significant digits of latencies.
const DIGITS: u8 = 3;

/// Answers over some time.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Latencies of accepted orders, in microseconds from when they were due.
    pub accepted_us: Histogram<u64>,
    /// Latencies of documented refusals.
    pub refused_us: Histogram<u64>,
    /// Latencies of what was read.
    pub read_us: Histogram<u64>,
    /// How much later than due requests were sent: the load tool's own delay.
    pub late_us: Histogram<u64>,
    /// Answers by what they came to.
    pub outcomes: HashMap<Outcome, u64>,
    /// Arrivals that were due while as many requests as allowed were in flight: never sent.
    pub beyond_bound: u64,
}

impl Tally {
    /// Nothing yet.
    ///
    /// # Errors
    /// Never for the constants used; the histogram asks for it.
    pub fn new() -> anyhow::Result<Self> {
        let empty = Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS)?;
        Ok(Self {
            accepted_us: empty.clone(),
            refused_us: empty.clone(),
            read_us: empty.clone(),
            late_us: empty,
            outcomes: HashMap::new(),
            beyond_bound: 0,
        })
    }

    fn count(&mut self, outcome: Outcome, latency: Duration) {
        let histogram = match outcome {
            Outcome::Accepted => Some(&mut self.accepted_us),
            Outcome::Refused(_) => Some(&mut self.refused_us),
            Outcome::Read => Some(&mut self.read_us),
            Outcome::Undocumented(_) | Outcome::NoAnswer => None,
        };
        if let Some(histogram) = histogram {
            histogram.saturating_record(microseconds(latency));
        }
        *self.outcomes.entry(outcome).or_default() += 1;
    }

    /// Adds what another one counted.
    ///
    /// # Errors
    /// Never for tallies made by [`Tally::new`].
    pub fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.accepted_us.add(&other.accepted_us)?;
        self.refused_us.add(&other.refused_us)?;
        self.read_us.add(&other.read_us)?;
        self.late_us.add(&other.late_us)?;
        for (outcome, count) in &other.outcomes {
            *self.outcomes.entry(*outcome).or_default() += count;
        }
        self.beyond_bound += other.beyond_bound;
        Ok(())
    }

    /// Accepted orders.
    pub fn accepted(&self) -> u64 {
        self.outcomes.get(&Outcome::Accepted).copied().unwrap_or(0)
    }

    /// Documented refusals.
    pub fn refused(&self) -> u64 {
        self.sum(|outcome| matches!(outcome, Outcome::Refused(_)))
    }

    /// Answers that must not be: undocumented ones, and none.
    pub fn failed(&self) -> u64 {
        self.sum(|outcome| matches!(outcome, Outcome::Undocumented(_) | Outcome::NoAnswer))
    }

    /// Requests that came to something, if only to no answer.
    pub fn answered(&self) -> u64 {
        self.sum(|_| true)
    }

    fn sum(&self, which: impl Fn(Outcome) -> bool) -> u64 {
        self.outcomes.iter().filter(|(outcome, _)| which(**outcome)).map(|(_, count)| count).sum()
    }

    fn clear(&mut self) {
        self.accepted_us.reset();
        self.refused_us.reset();
        self.read_us.reset();
        self.late_us.reset();
        self.outcomes.clear();
        self.beyond_bound = 0;
    }
}

/// A quantile of a histogram of microseconds, in milliseconds; 0 when it is empty.
pub fn quantile_ms(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "below two minutes in microseconds")]
    let us = histogram.value_at_quantile(quantile) as f64;
    us / 1_000.0
}

/// Counts the answers to the arrivals of one step, while others read along.
#[derive(Debug)]
pub struct Recorder {
    end: Instant,
    counts: Mutex<Counts>,
    sent: AtomicU64,
    in_flight: AtomicI64,
}

#[derive(Debug)]
struct Counts {
    /// Since the last look.
    window: Tally,
    /// Until the last look.
    earlier: Tally,
    accepted_in_time: u64,
    refused_in_time: u64,
}

/// What a step came to.
#[derive(Debug, Clone)]
pub struct Totals {
    /// All answers to its arrivals.
    pub all: Tally,
    /// Accepted orders whose answer came before the step's end.
    pub accepted_in_time: u64,
    /// Refusals that came before the step's end.
    pub refused_in_time: u64,
    /// Requests that were sent.
    pub sent: u64,
}

impl Recorder {
    /// For a step that ends at `end`.
    ///
    /// # Errors
    /// As [`Tally::new`].
    pub fn new(end: Instant) -> anyhow::Result<Self> {
        let counts =
            Counts { window: Tally::new()?, earlier: Tally::new()?, accepted_in_time: 0, refused_in_time: 0 };
        Ok(Self { end, counts: Mutex::new(counts), sent: AtomicU64::new(0), in_flight: AtomicI64::new(0) })
    }

    /// A request that was due at `due` is sent now.
    pub fn sent(&self, due: Instant) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let late = due.elapsed();
        self.counts.lock().window.late_us.saturating_record(microseconds(late));
    }

    /// It came to `outcome` now.
    pub fn answered(&self, due: Instant, outcome: Outcome) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut counts = self.counts.lock();
        counts.window.count(outcome, now.saturating_duration_since(due));
        if now <= self.end {
            match outcome {
                Outcome::Accepted => counts.accepted_in_time += 1,
                Outcome::Refused(_) => counts.refused_in_time += 1,
                Outcome::Read | Outcome::Undocumented(_) | Outcome::NoAnswer => {}
            }
        }
    }

    /// An arrival was not sent, because as many requests as allowed were in flight.
    pub fn beyond_bound(&self) {
        self.counts.lock().window.beyond_bound += 1;
    }

    /// Requests sent so far.
    pub fn sent_count(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Requests without an answer yet.
    pub fn in_flight(&self) -> i64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// What was counted since the last look.
    ///
    /// # Errors
    /// As [`Tally::add`].
    pub fn look(&self) -> anyhow::Result<Tally> {
        let mut counts = self.counts.lock();
        let counts = &mut *counts;
        counts.earlier.add(&counts.window)?;
        let window = counts.window.clone();
        counts.window.clear();
        Ok(window)
    }

    /// Everything so far.
    ///
    /// # Errors
    /// As [`Tally::add`].
    pub fn totals(&self) -> anyhow::Result<Totals> {
        let counts = self.counts.lock();
        let mut all = counts.earlier.clone();
        all.add(&counts.window)?;
        let (accepted_in_time, refused_in_time) = (counts.accepted_in_time, counts.refused_in_time);
        Ok(Totals { all, accepted_in_time, refused_in_time, sent: self.sent_count() })
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use common::problem::Code;

    use super::*;

    #[test]
    fn accepted_and_refused_have_percentiles_of_their_own() {
        let mut tally = Tally::new().unwrap();
        for ms in 1..=100 {
            tally.count(Outcome::Accepted, Duration::from_millis(ms));
            tally.count(Outcome::Refused(Code::SoldOut), Duration::from_micros(ms));
        }
        tally.count(Outcome::NoAnswer, Duration::from_secs(15));
        let near = |value: f64, expected: f64| (value / expected - 1.0).abs() < 0.002;
        assert!(near(quantile_ms(&tally.accepted_us, 0.5), 50.0));
        assert!(near(quantile_ms(&tally.accepted_us, 0.99), 99.0));
        assert!(near(quantile_ms(&tally.refused_us, 0.99), 0.099));
        assert_eq!((tally.accepted(), tally.refused(), tally.failed()), (100, 100, 1));
        assert_eq!(tally.answered(), 201);
    }

    #[test]
    fn looking_along_changes_no_total() {
        let recorder = Recorder::new(Instant::now() + Duration::from_secs(60)).unwrap();
        let due = Instant::now();
        for _ in 0..3 {
            recorder.sent(due);
            recorder.answered(due, Outcome::Accepted);
            assert_eq!(recorder.look().unwrap().accepted(), 1);
        }
        recorder.beyond_bound();
        let totals = recorder.totals().unwrap();
        assert_eq!((totals.all.accepted(), totals.accepted_in_time, totals.sent), (3, 3, 3));
        assert_eq!((totals.all.beyond_bound, recorder.in_flight()), (1, 0));
    }

    #[test]
    fn an_answer_after_the_end_is_counted_but_is_not_throughput() {
        let recorder = Recorder::new(Instant::now()).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        recorder.sent(Instant::now());
        recorder.answered(Instant::now(), Outcome::Accepted);
        let totals = recorder.totals().unwrap();
        assert_eq!((totals.all.accepted(), totals.accepted_in_time), (1, 0));
    }
}
