//! Our own tokens that were found to count, so that the next request with one of them costs a look-up instead of a
//! signature and two readings of JSON. A crowd that presses "buy" again and again is most of the load of a sale.
//!
//! Only what never changes is remembered: that the signature is ours, and what the claims say. Whether the token has
//! ended is asked each time. Tokens of an identity provider are not kept here: it may withdraw a key at any moment.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use parking_lot::Mutex;

use super::Caller;

/// Parts with a lock each, so that the workers rarely meet.
const SHARDS: usize = 16;
/// Tokens in one of the two generations of a part: some 20 MiB in all, with tokens of 300 bytes.
const GENERATION_MAX: usize = 2_048;

/// What is known of tokens, the newest of each part.
pub struct Verified {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
}

#[derive(Default)]
struct Shard {
    young: HashMap<Box<str>, Caller>,
    old: HashMap<Box<str>, Caller>,
}

impl Default for Verified {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

impl Verified {
    /// Whose token this is, if it was found to count before.
    pub fn get(&self, token: &str) -> Option<Caller> {
        let mut shard = self.shard(token).lock();
        if let Some(caller) = shard.young.get(token) {
            return Some(caller.clone());
        }
        // Still in use: it moves to the young ones, and stays when the old ones go.
        let (token, caller) = shard.old.remove_entry(token)?;
        shard.insert(token, caller.clone());
        Some(caller)
    }

    /// Remembers a token that counts.
    pub fn insert(&self, token: &str, caller: &Caller) {
        self.shard(token).lock().insert(token.into(), caller.clone());
    }

    fn shard(&self, token: &str) -> &Mutex<Shard> {
        let index = self.hasher.hash_one(token) % SHARDS as u64;
        &self.shards[usize::try_from(index).unwrap_or(0)]
    }
}

impl Shard {
    fn insert(&mut self, token: Box<str>, caller: Caller) {
        if self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(token, caller);
    }
}

#[cfg(test)]
mod tests {
    use common::ids::UserId;
    use common::internal::Role;

    use super::*;

    fn caller(number: usize) -> Caller {
        let user = UserId::try_from(format!("u{number}")).unwrap();
        Caller { user, role: Role::Customer, expires_at_s: 1 }
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let verified = Verified::default();
        verified.insert("in use", &caller(0));
        for number in 0..SHARDS * GENERATION_MAX * 8 {
            verified.insert(&format!("token {number}"), &caller(number));
            if number % GENERATION_MAX == 0 {
                assert_eq!(verified.get("in use"), Some(caller(0)));
            }
        }
        let kept = verified.shards.iter().map(|shard| {
            let shard = shard.lock();
            shard.young.len() + shard.old.len()
        });
        assert!(kept.sum::<usize>() <= SHARDS * GENERATION_MAX * 2);
        assert_eq!(verified.get("token 0"), None);
        let last = SHARDS * GENERATION_MAX * 8 - 1;
        assert_eq!(verified.get(&format!("token {last}")), Some(caller(last)));
    }
}
