//! Challenges: work that a machine must do before it takes a place, or orders where there is no line. Switched on for a
//! sale, or for everything above a rate; harder above another one.
//!
//! What people expect: not to be asked at all, or a second's wait that their app takes care of. What the best do:
//! Cloudflare's Turnstile and Ticketmaster's Queue decide by risk, and let most people pass after a proof of work that
//! nobody sees; an image comes last. Here it is the proof of work (Hashcash) alone (ARCHITECTURE.md says why there is no
//! image): it needs no third party, works in a mini-program and for the blind, and makes twenty times the attempts cost twenty times the work. It does not tell
//! people from programs, so it comes on top of one place per account, not instead.
//!
//! A puzzle is signed, so it is not stored until it is solved; then it is remembered until it expires, with what it was
//! spent on, so that a repetition of the same request passes.

mod puzzle;
mod spent;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use common::ids::{ItemId, UserId};
use common::problem::{Challenge, Code, Problem};
use tokio::time::Instant;

use crate::error::ApiError;
use crate::settings::ChallengeSettings;
use crate::store::Store;
use puzzle::{Puzzle, Puzzles};
use spent::Spent;

/// The only kind so far.
const PROOF_OF_WORK: &str = "proof_of_work";

/// Sets challenges and judges answers.
pub struct Challenges {
    settings: ChallengeSettings,
    puzzles: Puzzles,
    spent: Spent,
    meter: Meter,
}

impl Challenges {
    /// Signs with the first of `secrets`; both count. Without `store` each replica remembers what was spent here.
    pub fn new(settings: &ChallengeSettings, secrets: (&[u8], Option<&[u8]>), store: Option<Store>) -> Self {
        Self {
            settings: settings.clone(),
            puzzles: Puzzles::new(secrets),
            spent: Spent::new(store),
            meter: Meter::new(),
        }
    }

    /// Lets `user` go on if nothing is asked, or if `answer` solves a puzzle that was set for this user and item and was
    /// not spent on anything but `purpose`. `switched_on`: the item's sale asks always.
    ///
    /// # Errors
    /// `challenge_required`, with a new puzzle.
    pub async fn pass(
        &self,
        switched_on: bool,
        (item, user): (ItemId, &UserId),
        answer: Option<&str>,
        purpose: &str,
    ) -> Result<(), ApiError> {
        let rate = self.meter.count();
        let above = |limit: u64| limit > 0 && rate > limit;
        if !switched_on && !above(self.settings.required_above_per_second) {
            return Ok(());
        }
        #[expect(clippy::disallowed_methods, reason = "no store is asked; a puzzle lives for minutes")]
        let now = Utc::now();
        let solved = answer.and_then(|answer| self.puzzles.solved(answer, item, user));
        if let Some(solved) = solved.filter(|solved| now.timestamp_millis() < solved.expires_ms)
            && self.spent.spend(item, &solved, purpose, now.timestamp_millis()).await
        {
            metrics::counter!("gateway_challenges_total", "outcome" => "solved").increment(1);
            return Ok(());
        }
        metrics::counter!("gateway_challenges_total", "outcome" => "set").increment(1);
        let hard = above(self.settings.hard_above_per_second);
        let bits = if hard { self.settings.hard_bits } else { self.settings.difficulty_bits };
        Err(self.set(bits, (item, user), now).into())
    }

    fn set(&self, bits: u32, (item, user): (ItemId, &UserId), now: DateTime<Utc>) -> Problem {
        let expires_at = now + Duration::from_millis(self.settings.ttl_ms);
        let puzzle = Puzzle::new(bits, expires_at.timestamp_millis());
        let challenge = Challenge {
            kind: PROOF_OF_WORK.to_owned(),
            puzzle: self.puzzles.write(&puzzle, item, user),
            difficulty_bits: bits,
            expires_at,
        };
        Problem { challenge: Some(Box::new(challenge)), ..Problem::new(Code::ChallengeRequired) }
    }
}

/// Counts requests by the second.
struct Meter {
    began: Instant,
    /// The second, counted from `began`, in the upper half; what came in it in the lower.
    now: AtomicU64,
    /// The same of the last second in which anything came before.
    before: AtomicU64,
}

impl Meter {
    fn new() -> Self {
        Self { began: Instant::now(), now: AtomicU64::new(0), before: AtomicU64::new(0) }
    }

    /// One more; how many came in this second, or in the last one if these are more.
    fn count(&self) -> u64 {
        self.count_at(self.began.elapsed().as_secs())
    }

    fn count_at(&self, second: u64) -> u64 {
        let counted = self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
            Some(if now >> 32 == second { now + 1 } else { (second << 32) | 1 })
        });
        let known = counted.unwrap_or_else(|now| now);
        if known >> 32 != second {
            self.before.store(known, Ordering::Relaxed);
            return self.last(second).max(1);
        }
        ((known + 1) & u64::from(u32::MAX)).max(self.last(second))
    }

    fn last(&self, second: u64) -> u64 {
        let before = self.before.load(Ordering::Relaxed);
        if before >> 32 == second.saturating_sub(1) { before & u64::from(u32::MAX) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meter_knows_this_second_and_the_last() {
        let meter = Meter::new();
        assert_eq!((1..=100).map(|_| meter.count_at(5)).max(), Some(100));
        assert_eq!(meter.count_at(6), 100, "the last second was busy");
        assert_eq!((1..=200).map(|_| meter.count_at(6)).max(), Some(201));
        assert_eq!(meter.count_at(8), 1);
    }
}
