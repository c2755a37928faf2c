//! The clock of the line's Redis, as far as this process knows it: tokens are judged by the clock that they were made by.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::Utc;
use tokio::time::Instant;

/// The difference between the line's clock and the monotonic clock of this process, from the times in replies; until the
/// first one, from the wall clock of this machine.
pub(super) struct LineClock {
    began: Instant,
    difference_ms: AtomicI64,
}

impl LineClock {
    pub(super) fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the best guess until the first reply of Redis")]
        let now_ms = Utc::now().timestamp_millis();
        Self { began: Instant::now(), difference_ms: AtomicI64::new(now_ms) }
    }

    /// A reply with the time `now_ms` in it to what was sent at `sent` has just come in. It bounds the difference; the
    /// known one is moved into the bounds and no further, so that a slow reply does not spoil it.
    pub(super) fn heard(&self, now_ms: i64, sent: Instant) {
        let (lowest, highest) = (now_ms - self.own_ms(Instant::now()), now_ms - self.own_ms(sent) + 1);
        let known = self.difference_ms.load(Ordering::Relaxed);
        if known < lowest || known > highest {
            self.difference_ms.store(known.clamp(lowest, highest.max(lowest)), Ordering::Relaxed);
        }
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.own_ms(Instant::now()) + self.difference_ms.load(Ordering::Relaxed)
    }

    fn own_ms(&self, moment: Instant) -> i64 {
        i64::try_from(moment.saturating_duration_since(self.began).as_millis()).unwrap_or(i64::MAX / 2)
    }
}
