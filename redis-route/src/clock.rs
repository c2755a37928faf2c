//! A server's clock, as far as this process knows it.

use std::sync::atomic::{AtomicI64, Ordering};

use tokio::time::Instant;

/// The difference between a server's clock and the monotonic clock of this process, kept from the times in replies.
///
/// A reply that was sent at `s` and heard at `h` with the time `t` in it bounds the difference to `t - h ..= t - s`. The
/// known one is moved into these bounds and no further, so a slow reply does not spoil it.
#[derive(Debug)]
pub struct Clock {
    began: Instant,
    difference_ms: AtomicI64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { began: Instant::now(), difference_ms: AtomicI64::new(0) }
    }
}

impl Clock {
    /// A reply with the time `redis_ms` in it to what was sent at `sent` has just come in.
    pub fn heard(&self, redis_ms: i64, sent: Instant) {
        self.learn(redis_ms, sent, Instant::now());
    }

    fn learn(&self, redis_ms: i64, sent: Instant, heard: Instant) {
        let (lowest, highest) = (redis_ms - self.own_ms(heard), redis_ms - self.own_ms(sent) + 1);
        let known = self.difference_ms.load(Ordering::Relaxed);
        if known < lowest || known > highest {
            self.difference_ms.store(known.clamp(lowest, highest.max(lowest)), Ordering::Relaxed);
        }
    }

    /// A moment of this process in ms of the server's clock.
    pub fn redis_ms(&self, moment: Instant) -> i64 {
        self.own_ms(moment) + self.difference_ms.load(Ordering::Relaxed)
    }

    fn own_ms(&self, moment: Instant) -> i64 {
        match moment.checked_duration_since(self.began) {
            Some(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX / 2),
            None => -i64::try_from(self.began.duration_since(moment).as_millis()).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_slow_reply_does_not_spoil_what_a_fast_one_told() {
        let (clock, sent) = (Clock::default(), Instant::now());
        clock.learn(1_000_000, sent, sent);
        let exact = clock.redis_ms(sent);
        clock.learn(1_000_010, sent, sent + Duration::from_millis(400));
        assert_eq!(clock.redis_ms(sent), exact);
    }

    #[test]
    fn a_clock_that_jumps_is_followed() {
        let (clock, now) = (Clock::default(), Instant::now());
        clock.learn(9_000_000, now, now);
        clock.learn(1_000_000, now, now);
        assert!((1_000_000..=1_000_001).contains(&clock.redis_ms(now)));
        clock.learn(9_000_000, now, now);
        assert!((9_000_000..=9_000_001).contains(&clock.redis_ms(now)));
    }
}
