//! How often calls are tried again: at most one in ten of what was first tried, over ten seconds. So our own retries
//! never make of a small outage a big one (Google's SRE book, "Addressing Cascading Failures").

use parking_lot::Mutex;
use tokio::time::Instant;

/// Length of the window, in seconds: one slot each.
const WINDOW_S: usize = 10;
/// First attempts for each retry.
const ATTEMPTS_PER_RETRY: u64 = 10;

#[derive(Default, Clone, Copy)]
struct Slot {
    second: u64,
    attempts: u64,
    retries: u64,
}

/// The budget of one service.
pub struct Budget {
    began: Instant,
    slots: Mutex<[Slot; WINDOW_S]>,
}

impl Budget {
    /// Nothing to spend yet.
    pub fn new() -> Self {
        Self { began: Instant::now(), slots: Mutex::default() }
    }

    /// A first attempt is made.
    pub fn attempt(&self, now: Instant) {
        let mut slots = self.slots.lock();
        self.slot(&mut slots, now).attempts += 1;
    }

    /// Whether a call may be tried again now; if so, it counts.
    pub fn retry(&self, now: Instant) -> bool {
        let mut slots = self.slots.lock();
        let oldest = self.second(now).saturating_sub(WINDOW_S as u64 - 1);
        let recent = slots.iter().filter(|slot| slot.second >= oldest);
        let (attempts, retries) = recent
            .fold((0, 0), |(attempts, retries), slot| (attempts + slot.attempts, retries + slot.retries));
        let allowed = (retries + 1) * ATTEMPTS_PER_RETRY <= attempts;
        if allowed {
            self.slot(&mut slots, now).retries += 1;
        }
        allowed
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs()
    }

    fn slot<'a>(&self, slots: &'a mut [Slot; WINDOW_S], now: Instant) -> &'a mut Slot {
        let second = self.second(now);
        let slot = &mut slots[usize::try_from(second % WINDOW_S as u64).unwrap_or(0)];
        if slot.second != second {
            *slot = Slot { second, ..Slot::default() };
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_in_ten_and_what_is_not_spent_is_lost() {
        let budget = Budget::new();
        let now = budget.began;
        assert!(!budget.retry(now), "nothing was tried yet");
        (0..100).for_each(|_| budget.attempt(now));
        assert_eq!((0..50).filter(|_| budget.retry(now)).count(), 10);
        let soon = now + Duration::from_secs(9);
        (0..100).for_each(|_| budget.attempt(soon));
        assert_eq!((0..50).filter(|_| budget.retry(soon)).count(), 10);
        assert!(!budget.retry(now + Duration::from_secs(60)), "the window is over");
    }
}
