//! Puzzles that were spent, and on what: in Redis for all replicas, and in this process for while it is away.

use std::collections::HashMap;

use common::ids::ItemId;
use parking_lot::Mutex;
use redis::Value;

use super::puzzle::Puzzle;
use crate::store::Store;

/// Spent puzzles in one of the two generations that are remembered here.
const GENERATION_MAX: usize = 16_384;

pub(super) struct Spent {
    store: Option<Store>,
    here: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: HashMap<String, String>,
    old: HashMap<String, String>,
}

impl Spent {
    pub(super) fn new(store: Option<Store>) -> Self {
        Self { store, here: Mutex::default() }
    }

    /// Spends the puzzle on `purpose`; `false`: it was spent on something else.
    pub(super) async fn spend(&self, item: ItemId, puzzle: &Puzzle, purpose: &str, now_ms: i64) -> bool {
        if !self.here.lock().spend(&puzzle.nonce, purpose) {
            return false;
        }
        let Some(store) = &self.store else { return true };
        let key = format!("line:{{{item}}}:spent:{}", puzzle.nonce);
        let left_ms = (puzzle.expires_ms - now_ms).max(1);
        let mut set = redis::cmd("SET");
        set.arg(&key).arg(purpose).arg("NX").arg("GET").arg("PX").arg(left_ms);
        match store.command(&key, &set).await {
            Ok(Value::BulkString(before)) => before == purpose.as_bytes(),
            Ok(_) => true,
            // What was spent at another replica meanwhile can be spent once more here: less exact, not closed.
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "a spent puzzle is known here only"
                );
                true
            }
        }
    }
}

impl Generations {
    fn spend(&mut self, nonce: &str, purpose: &str) -> bool {
        if let Some(before) = self.young.get(nonce).or_else(|| self.old.get(nonce)) {
            return before == purpose;
        }
        if self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(nonce.to_owned(), purpose.to_owned());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_puzzle_is_spent_on_one_thing_and_memory_is_bounded() {
        let mut spent = Generations::default();
        assert!(spent.spend("a", "order 1"));
        assert!(spent.spend("a", "order 1"), "the same request again");
        assert!(!spent.spend("a", "order 2"));
        for n in 0..GENERATION_MAX * 3 {
            spent.spend(&format!("n{n}"), "x");
        }
        assert!(spent.young.len() + spent.old.len() <= GENERATION_MAX * 2);
    }
}
