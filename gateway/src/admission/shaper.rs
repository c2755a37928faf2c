//! A leaky bucket: batches leave for stock-service evenly, however unevenly buyers arrive. What does not leave yet waits
//! in the queue, which is bounded.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Orders leave one after the other, so far apart.
pub struct Shaper {
    gap: Duration,
    next: Mutex<Instant>,
}

impl Shaper {
    /// `per_second` orders; zero: as they come.
    pub fn new(per_second: u32) -> Self {
        let gap = if per_second == 0 { Duration::ZERO } else { Duration::from_secs(1) / per_second };
        Self { gap, next: Mutex::new(Instant::now()) }
    }

    /// When a batch of `orders` may leave. Its successor follows when all of them would have dripped out.
    pub fn leave_at(&self, orders: usize, now: Instant) -> Instant {
        let mut next = self.next.lock();
        let leave_at = (*next).max(now);
        *next = leave_at + self.gap * u32::try_from(orders).unwrap_or(u32::MAX);
        leave_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_leaves_at_the_rate() {
        let (shaper, now) = (Shaper::new(1000), Instant::now());
        let leaves: Vec<Duration> = (0..4).map(|_| shaper.leave_at(250, now) - now).collect();
        assert_eq!(leaves, [0, 250, 500, 750].map(Duration::from_millis));
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let (shaper, now) = (Shaper::new(1000), Instant::now());
        let later = now + Duration::from_secs(60);
        assert_eq!(shaper.leave_at(100, later), later);
        assert_eq!(shaper.leave_at(1, later), later + Duration::from_millis(100));
    }

    #[test]
    fn without_a_rate_everything_leaves_at_once() {
        let (shaper, now) = (Shaper::new(0), Instant::now());
        assert!((0..100).all(|_| shaper.leave_at(256, now) == now));
    }
}
