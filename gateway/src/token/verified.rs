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

/// Tokens by the hash of their signatures, which is the shortest part that no two of them share.
#[derive(Default)]
struct Shard {
    young: HashMap<u64, Known>,
    old: HashMap<u64, Known>,
}

struct Known {
    token: Box<str>,
    caller: Caller,
}

impl Default for Verified {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

impl Verified {
    /// Whose token this is, if it was found to count before.
    pub fn get(&self, token: &str) -> Option<Caller> {
        let hash = self.hash(token);
        let mut shard = self.shard(hash).lock();
        if let Some(known) = shard.young.get(&hash) {
            return known.whose(token);
        }
        // Still in use: it moves to the young ones, and stays when the old ones go.
        let known = shard.old.remove(&hash)?;
        let caller = known.whose(token);
        shard.insert(hash, known);
        caller
    }

    /// Remembers a token that counts.
    pub fn insert(&self, token: &str, caller: &Caller) {
        let hash = self.hash(token);
        self.shard(hash).lock().insert(hash, Known { token: token.into(), caller: caller.clone() });
    }

    fn hash(&self, token: &str) -> u64 {
        self.hasher.hash_one(token.rsplit('.').next())
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[usize::try_from(hash % SHARDS as u64).unwrap_or(0)]
    }
}

impl Known {
    /// Signatures say nothing by themselves: the whole token has to be the same.
    fn whose(&self, token: &str) -> Option<Caller> {
        (*self.token == *token).then(|| self.caller.clone())
    }
}

impl Shard {
    fn insert(&mut self, hash: u64, known: Known) {
        if self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, known);
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
    fn a_signature_under_other_claims_is_not_known() {
        let verified = Verified::default();
        verified.insert("head.claims.signature", &caller(1));
        assert_eq!(verified.get("head.other.signature"), None);
        assert_eq!(verified.get("head.claims.signature"), Some(caller(1)));
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
