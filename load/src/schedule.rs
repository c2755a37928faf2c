//! When arrivals are due: by the clock alone, whatever the system does.

use std::time::{Duration, Instant};

/// Evenly spaced arrivals of one lane; with several lanes each takes every so-many-th.
#[derive(Debug, Clone)]
pub struct Schedule {
    begin: Instant,
    per_second: f64,
    next: u64,
    count: u64,
    lanes: u64,
}

impl Schedule {
    /// The arrivals of lane `lane` (from 0) of `lanes` in `hold`, from `begin` on.
    pub fn new(begin: Instant, per_second: f64, hold: Duration, (lane, lanes): (u64, u64)) -> Self {
        Self { begin, per_second, next: lane, count: arrivals(per_second, hold), lanes }
    }

    /// Offers the arrivals one by one; an arrival that nobody fetched in time stays due at its time.
    pub fn due(&mut self) -> Option<Instant> {
        if self.next >= self.count {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "below 2^52 arrivals")]
        let offset = Duration::from_secs_f64(self.next as f64 / self.per_second);
        self.next += self.lanes;
        Some(self.begin + offset)
    }
}

/// How many arrivals there are in `hold`.
pub fn arrivals(per_second: f64, hold: Duration) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rates and times are positive, and their product is far below 2^63"
    )]
    let count = (per_second * hold.as_secs_f64()).round() as u64;
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_together_have_every_arrival_once_at_its_time() {
        let (begin, hold) = (Instant::now(), Duration::from_secs(3));
        let mut due: Vec<Instant> = Vec::new();
        for lane in 0..3 {
            let mut schedule = Schedule::new(begin, 1_000.0, hold, (lane, 3));
            due.extend(std::iter::from_fn(|| schedule.due()));
        }
        due.sort_unstable();
        assert_eq!(due.len(), 3_000);
        assert_eq!(due[0], begin);
        assert_eq!(due[1_500], begin + Duration::from_millis(1_500));
        assert!(due.windows(2).all(|pair| pair[1] - pair[0] == Duration::from_millis(1)));
    }
}
