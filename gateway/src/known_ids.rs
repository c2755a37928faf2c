//! A Bloom filter of every sale and item there ever was: an id that is not in it names nothing, and that is said without
//! asking anybody. Its hashes are keyed by the process, so that nobody can make ids that look known.
//!
//! It is filled from order-service's list of all ids once, and from every listing and catalogue since. Until the list has been
//! read whole, and while no listing comes, everything may be known.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

/// Ids for which the filter is made: one stranger in about a hundred looks known then, more with more ids.
const IDS_EXPECTED: usize = 1 << 20;
/// Bits for each id.
const BITS_PER_ID: usize = 10;
/// Bits looked at for an id.
const PROBES: u64 = 7;
/// Without a listing for so long there may be sales that are not in here.
const FRESH_FOR: Duration = Duration::from_secs(5);

/// See the module. 1.3 MB.
pub struct KnownIds {
    bits: Vec<AtomicU64>,
    hashers: [RandomState; 2],
    complete: AtomicBool,
    listed_at: Mutex<Option<Instant>>,
}

impl Default for KnownIds {
    fn default() -> Self {
        let words = (IDS_EXPECTED * BITS_PER_ID).div_ceil(64);
        Self {
            bits: (0..words).map(|_| AtomicU64::new(0)).collect(),
            hashers: [RandomState::new(), RandomState::new()],
            complete: AtomicBool::new(false),
            listed_at: Mutex::new(None),
        }
    }
}

impl KnownIds {
    /// There is such a sale or item.
    pub fn add(&self, id: Uuid) {
        for (word, mask) in self.probes(id) {
            self.bits[word].fetch_or(mask, Ordering::Relaxed);
        }
    }

    /// All ids that there were before this process have been added.
    pub fn completed(&self) {
        self.complete.store(true, Ordering::Release);
    }

    /// Whether all ids that there were before this process have been added.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// The listing that was asked for then has been added.
    pub fn listed(&self, asked_at: Instant) {
        *self.listed_at.lock() = Some(asked_at);
    }

    /// False: there is no sale or item of this id. True: there is, or one stranger in a hundred, or it cannot be told.
    pub fn may_contain(&self, id: Uuid, now: Instant) -> bool {
        let fresh = self.listed_at.lock().is_some_and(|at| now < at + FRESH_FOR);
        !fresh
            || !self.is_complete()
            || self.probes(id).all(|(word, mask)| self.bits[word].load(Ordering::Relaxed) & mask != 0)
    }

    fn probes(&self, id: Uuid) -> impl Iterator<Item = (usize, u64)> + use<> {
        let length = self.bits.len() as u64 * 64;
        let [start, step] = [0, 1].map(|n: usize| self.hashers[n].hash_one(id.as_u128()));
        (0..PROBES).map(move |probe| {
            let bit = start.wrapping_add(probe.wrapping_mul(step | 1)) % length;
            (usize::try_from(bit / 64).unwrap_or(0), 1 << (bit % 64))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_known_and_nearly_nothing_else() {
        let (known, now) = (KnownIds::default(), Instant::now());
        (0..100_000).for_each(|n| known.add(Uuid::from_u128(n)));
        known.completed();
        known.listed(now);
        assert!((0..100_000).all(|n| known.may_contain(Uuid::from_u128(n), now)));
        let strangers = (200_000..300_000).filter(|n| known.may_contain(Uuid::from_u128(*n), now)).count();
        assert!(strangers < 1_000, "{strangers} of 100,000 strangers look known");
    }

    #[test]
    fn whoever_does_not_know_all_ids_denies_none() {
        let (known, now) = (KnownIds::default(), Instant::now());
        let stranger = Uuid::from_u128(1);
        known.listed(now);
        assert!(known.may_contain(stranger, now), "not read whole yet");
        known.completed();
        assert!(!known.may_contain(stranger, now));
        assert!(known.may_contain(stranger, now + FRESH_FOR), "there may be news");
    }
}
