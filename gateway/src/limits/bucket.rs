//! Token buckets in this process, one per key (GCRA: a bucket is the time at which it will be full again).

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::settings::Bucket;

/// Parts of the table, so that threads seldom wait for each other.
const SHARDS: usize = 64;
/// What a bucket holds at the start of the process, as time of its steady rate: who restarts a gateway, or makes it
/// crash, gains no burst by it.
const CREDIT_AT_START: Duration = Duration::from_secs(1);

/// Into how many parts the burst is divided; see [`Buckets::part_of`].
const PARTS_OF_BURST: u32 = 100;
const SECOND_NS: u64 = 1_000_000_000;

/// What a bucket still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Whole tokens.
    pub tokens: u32,
    /// Until it is full.
    pub full_in: Duration,
}

/// All buckets of one policy.
pub struct Buckets<K> {
    /// When each bucket will be full, in nanoseconds since the start. Full ones need not be here.
    full_at_ns: Vec<Mutex<HashMap<K, u64>>>,
    hasher: RandomState,
    began: Instant,
    period_ns: u64,
    burst: u32,
    /// As if every bucket had been taken from at the start.
    floor_ns: u64,
}

impl<K: Clone + Eq + Hash> Buckets<K> {
    /// Buckets that hold, at the start, one second's worth of tokens.
    pub fn new(bucket: Bucket) -> Self {
        Self::with((SECOND_NS / u64::from(bucket.per_second.get())).max(1), bucket.burst.get())
    }

    /// The part of `bucket` that one of `replicas` has for itself: of the rate its share, of the burst a hundredth.
    pub fn part_of(bucket: Bucket, replicas: u32) -> Self {
        let period_ns = SECOND_NS * u64::from(replicas) / u64::from(bucket.per_second.get());
        Self::with(period_ns.max(1), bucket.burst.get().div_ceil(PARTS_OF_BURST))
    }

    /// A token every `period_ns`, at most `burst`.
    fn with(period_ns: u64, burst: u32) -> Self {
        let capacity_ns = period_ns * u64::from(burst);
        let credit_ns = u64::try_from(CREDIT_AT_START.as_nanos()).unwrap_or(u64::MAX).max(period_ns);
        Self {
            full_at_ns: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            began: Instant::now(),
            period_ns,
            burst,
            floor_ns: capacity_ns.saturating_sub(credit_ns),
        }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// How long until there is one.
    pub fn take(&self, key: &K) -> Result<Left, Duration> {
        self.take_at(key, 1, self.floor_ns, Instant::now())
    }

    /// Takes a token of which somebody else keeps the true count, so that there is no need to be careful at the start.
    ///
    /// # Errors
    /// How long until there is one.
    pub fn take_watched(&self, key: &K) -> Result<Left, Duration> {
        self.take_at(key, 1, 0, Instant::now())
    }

    /// Takes what the other `replicas - 1` may have given away meanwhile: with [`Buckets::take_watched`] before it
    /// that makes this bucket one of `replicas` that share rate and burst.
    ///
    /// # Errors
    /// How long until there is so much.
    pub fn take_share_of_others(&self, key: &K, replicas: u32) -> Result<Left, Duration> {
        self.take_at(key, replicas.min(self.burst).saturating_sub(1), self.floor_ns, Instant::now())
    }

    /// Forgets full buckets.
    pub fn forget_full(&self) {
        let now_ns = self.now_ns(Instant::now());
        for shard in &self.full_at_ns {
            let mut shard = shard.lock();
            shard.retain(|_, full_at_ns| *full_at_ns > now_ns);
            shard.shrink_to_fit();
        }
    }

    fn take_at(&self, key: &K, tokens: u32, floor_ns: u64, now: Instant) -> Result<Left, Duration> {
        let now_ns = self.now_ns(now);
        let latest_ns = now_ns + self.period_ns * u64::from(self.burst);
        let cost_ns = self.period_ns * u64::from(tokens);
        let shard = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        let mut shard = self.full_at_ns[shard].lock();
        let known = shard.get_mut(key);
        let from_ns = known.as_deref().copied().unwrap_or(0).max(floor_ns).max(now_ns);
        let full_at_ns = from_ns + cost_ns;
        if full_at_ns > latest_ns {
            return Err(Duration::from_nanos(full_at_ns - latest_ns));
        }
        match known {
            Some(known) => *known = full_at_ns,
            None => _ = shard.insert(key.clone(), full_at_ns),
        }
        let tokens = u32::try_from((latest_ns - full_at_ns) / self.period_ns).unwrap_or(u32::MAX);
        Ok(Left { tokens, full_in: Duration::from_nanos(full_at_ns - now_ns) })
    }

    fn now_ns(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn buckets(per_second: u32, burst: u32) -> Buckets<&'static str> {
        let number = |n| NonZeroU32::new(n).unwrap();
        Buckets::new(Bucket { per_second: number(per_second), burst: number(burst) })
    }

    /// How many of `tries` are let through at this moment.
    fn admitted(buckets: &Buckets<&'static str>, tries: u32, tokens: u32, at: Duration) -> u32 {
        let now = buckets.began + at;
        let taken = (0..tries).filter(|_| buckets.take_at(&"k", tokens, buckets.floor_ns, now).is_ok());
        u32::try_from(taken.count()).unwrap()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_the_rate() {
        let buckets = buckets(10, 50);
        assert_eq!(admitted(&buckets, 100, 1, SECOND * 100), 50);
        assert_eq!(admitted(&buckets, 100, 1, SECOND * 101), 10);
        assert_eq!(admitted(&buckets, 100, 1, SECOND * 101), 0);
        assert_eq!(admitted(&buckets, 100, 1, SECOND * 200), 50);
    }

    #[test]
    fn after_a_restart_there_is_the_rate_but_no_burst() {
        let buckets = buckets(10, 50);
        assert_eq!(admitted(&buckets, 100, 1, Duration::ZERO), 10);
        assert_eq!(admitted(&buckets, 100, 1, SECOND * 3), 30);
        let slow = super::tests::buckets(1, 5);
        assert_eq!(admitted(&slow, 100, 1, Duration::ZERO), 1);
    }

    #[test]
    fn whoever_keeps_the_true_count_is_believed_at_the_start() {
        let buckets = buckets(10, 50);
        assert!((0..50).all(|_| buckets.take_watched(&"k").is_ok()));
    }

    #[test]
    fn replicas_share_rate_and_burst() {
        let buckets = buckets(20, 100);
        // Each order costs as much as four: a quarter of everything.
        assert_eq!(admitted(&buckets, 100, 4, SECOND * 100), 25);
        assert_eq!(admitted(&buckets, 100, 4, SECOND * 101), 5);
        // More replicas than tokens: one at a time is still let through.
        assert!(buckets.take_share_of_others(&"other", 1_000).is_err(), "not before it has filled");
        let now = buckets.began + SECOND * 200;
        assert!(buckets.take_at(&"other", 100, 0, now).is_ok());
    }

    #[test]
    fn the_part_of_a_replica_is_its_share_of_the_rate_and_a_hundredth_of_the_burst() {
        let number = |n| NonZeroU32::new(n).unwrap();
        let part = Buckets::part_of(Bucket { per_second: number(20), burst: number(101) }, 4);
        let now = part.began + SECOND * 100;
        let taken = |at| (0..10).filter(|_| part.take_at(&"k", 1, 0, at).is_ok()).count();
        assert_eq!(taken(now), 2);
        assert_eq!(taken(now + SECOND / 5), 1);
    }

    #[test]
    fn refusals_say_when_to_come_back() {
        let buckets = buckets(10, 1);
        let now = buckets.began + SECOND;
        let left = buckets.take_at(&"k", 1, 0, now).expect("full");
        assert_eq!(left, Left { tokens: 0, full_in: SECOND / 10 });
        assert_eq!(buckets.take_at(&"k", 1, 0, now), Err(SECOND / 10));
        assert!(buckets.take_at(&"k", 1, 0, now + SECOND / 10).is_ok());
    }

    #[test]
    fn full_buckets_are_forgotten() {
        let buckets = buckets(1000, 1);
        assert!(buckets.take(&"k").is_ok());
        std::thread::sleep(Duration::from_millis(5));
        buckets.forget_full();
        assert!(buckets.full_at_ns.iter().all(|shard| shard.lock().is_empty()));
    }
}
