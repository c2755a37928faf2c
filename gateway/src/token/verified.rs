//! Our own tokens that were found to count, so that the next request with one of them costs a look-up instead of a
//! signature and two readings of JSON. A crowd that presses "buy" again and again is most of the load of a sale.
//!
//! Only what never changes is remembered: that the signature is ours, and what the claims say. Whether the token has
//! ended is asked each time. Tokens of an identity provider are not kept here: it may withdraw a key at any moment.

use std::collections::HashMap;

use parking_lot::Mutex;
use ring::digest;

use super::Caller;

/// Parts with a lock each, so that the workers rarely meet.
const SHARDS: usize = 16;
/// Tokens in one of the two generations of a part: some 10 MiB in all.
const GENERATION_MAX: usize = 2_048;

/// What stands for a token, which is several times as long: its SHA-256. No two tokens share one.
type Digest = [u8; digest::SHA256_OUTPUT_LEN];

/// What is known of tokens, the newest of each part.
pub struct Verified {
    shards: Vec<Mutex<Shard>>,
}

#[derive(Default)]
struct Shard {
    young: HashMap<Digest, Caller>,
    old: HashMap<Digest, Caller>,
}

impl Default for Verified {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Verified {
    /// Whose token this is, if it was found to count before.
    pub fn get(&self, token: &str) -> Option<Caller> {
        let digest = digest_of(token);
        let mut shard = self.shard(&digest).lock();
        if let Some(caller) = shard.young.get(&digest) {
            return Some(caller.clone());
        }
        // Still in use: it moves to the young ones, and stays when the old ones go.
        let caller = shard.old.remove(&digest)?;
        shard.insert(digest, caller.clone());
        Some(caller)
    }

    /// Remembers a token that counts.
    pub fn insert(&self, token: &str, caller: &Caller) {
        let digest = digest_of(token);
        self.shard(&digest).lock().insert(digest, caller.clone());
    }

    fn shard(&self, digest: &Digest) -> &Mutex<Shard> {
        &self.shards[usize::from(digest[0]) % SHARDS]
    }
}

fn digest_of(token: &str) -> Digest {
    let mut bytes = Digest::default();
    bytes.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    bytes
}

impl Shard {
    fn insert(&mut self, digest: Digest, caller: Caller) {
        if self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, caller);
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
