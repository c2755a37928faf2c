//! Puzzles: `<bits>.<expires_ms>.<nonce>.<signature>`, and answers: the puzzle, a dot and a counter.

use common::ids::{ItemId, UserId};
use rand::Rng as _;
use ring::digest::{SHA256, digest};
use ring::hmac;

use crate::line::draw::{hex, unhex};

/// Longest answer that is looked at, in bytes.
const LENGTH_MAX_BYTES: usize = 192;
/// What the key is derived with, so that the same secret can serve other purposes.
const PURPOSE: &[u8] = b"stampede challenge 1";

/// One puzzle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Puzzle {
    pub(super) bits: u32,
    pub(super) expires_ms: i64,
    pub(super) nonce: String,
}

impl Puzzle {
    pub(super) fn new(bits: u32, expires_ms: i64) -> Self {
        let nonce: u128 = rand::rng().random();
        Self { bits, expires_ms, nonce: format!("{nonce:032x}") }
    }

    fn text(&self) -> String {
        format!("{}.{}.{}", self.bits, self.expires_ms, self.nonce)
    }
}

/// Writes puzzles and reads answers.
pub(super) struct Puzzles {
    current: hmac::Key,
    previous: Option<hmac::Key>,
}

impl Puzzles {
    pub(super) fn new((current, previous): (&[u8], Option<&[u8]>)) -> Self {
        let derived = |secret: &[u8]| {
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), PURPOSE);
            hmac::Key::new(hmac::HMAC_SHA256, tag.as_ref())
        };
        Self { current: derived(current), previous: previous.map(derived) }
    }

    pub(super) fn write(&self, puzzle: &Puzzle, item: ItemId, user: &UserId) -> String {
        let tag = hmac::sign(&self.current, signed(&puzzle.text(), item, user).as_bytes());
        format!("{}.{}", puzzle.text(), hex(tag.as_ref()))
    }

    /// The puzzle that `answer` solves; `None`: it is not ours, was set for somebody or something else, or is not solved.
    pub(super) fn solved(&self, answer: &str, item: ItemId, user: &UserId) -> Option<Puzzle> {
        if answer.len() > LENGTH_MAX_BYTES {
            return None;
        }
        let (written, _counter) = answer.rsplit_once('.')?;
        let (text, tag) = written.rsplit_once('.')?;
        let tag = unhex(tag)?;
        let message = signed(text, item, user);
        let good = |key: &hmac::Key| hmac::verify(key, message.as_bytes(), &tag).is_ok();
        if !good(&self.current) && !self.previous.as_ref().is_some_and(good) {
            return None;
        }
        let mut parts = text.splitn(3, '.');
        let puzzle = Puzzle {
            bits: parts.next()?.parse().ok()?,
            expires_ms: parts.next()?.parse().ok()?,
            nonce: parts.next()?.to_owned(),
        };
        (zero_bits(answer) >= puzzle.bits).then_some(puzzle)
    }
}

fn signed(text: &str, item: ItemId, user: &UserId) -> String {
    format!("{text}\n{item}\n{}", user.as_str())
}

fn zero_bits(answer: &str) -> u32 {
    let hash = digest(&SHA256, answer.as_bytes());
    let zeros = hash.as_ref().iter().take_while(|byte| **byte == 0).count();
    let rest = hash.as_ref().get(zeros).map_or(0, |byte| byte.leading_zeros());
    u32::try_from(zeros).map_or(0, |zeros| zeros * u8::BITS) + rest
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const ITEM: ItemId = ItemId(Uuid::from_u128(7));

    fn user(name: &str) -> UserId {
        UserId::try_from(name.to_owned()).expect("valid")
    }

    fn solve(written: &str, bits: u32) -> String {
        let answers = (0..).map(|counter| format!("{written}.{counter}"));
        answers.into_iter().find(|answer| zero_bits(answer) >= bits).expect("there is one")
    }

    #[test]
    fn an_answer_solves_the_puzzle_it_was_set_for_and_no_other() {
        let puzzles = Puzzles::new((b"one", None));
        let puzzle = Puzzle::new(8, 1_763_829_742_123);
        let written = puzzles.write(&puzzle, ITEM, &user("mei"));
        let answer = solve(&written, 8);
        assert_eq!(puzzles.solved(&answer, ITEM, &user("mei")), Some(puzzle));
        assert_eq!(puzzles.solved(&answer, ITEM, &user("li")), None);
        assert_eq!(puzzles.solved(&answer, ItemId(Uuid::from_u128(8)), &user("mei")), None);
        assert!(Puzzles::new((b"two", Some(b"one"))).solved(&answer, ITEM, &user("mei")).is_some());
        assert!(Puzzles::new((b"two", None)).solved(&answer, ITEM, &user("mei")).is_none());

        let easier = solve(&written.replacen('8', "1", 1), 1);
        assert_eq!(puzzles.solved(&easier, ITEM, &user("mei")), None, "a puzzle cannot be made easier");
        let lazy = (0..).map(|n| format!("{written}.{n}")).find(|answer| zero_bits(answer) < 8).expect("one");
        assert_eq!(puzzles.solved(&lazy, ITEM, &user("mei")), None, "not solved");
        for bad in ["", ".", "....", &written, &"9".repeat(5_000)] {
            assert_eq!(puzzles.solved(bad, ITEM, &user("mei")), None, "{bad}");
        }
    }
}
