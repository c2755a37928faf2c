//! Who comes to a waiting room when, and how they behave there: written down before the waiting room's rules were tuned,
//! so that these were not made to fit.
//!
//! People: 95 in 100 gather at some moment before the opening, 5 in 100 come within as long after it as half of the
//! gathering took. They ask as often as they are told to, think for a moment before they buy, and 2 in 100 have walked
//! away by the time it is their turn. Bots: half are there from the first moment, half come in the last tenth of the
//! gathering. They ask twenty times as often as they are told to, try to order without waiting for their turn, buy at
//! once, try every purchase token again with another key, and line up again when they have bought.

use std::time::Duration;

/// How much more often than it is told to a bot does something.
pub const BOT_RATE: u32 = 20;
/// Of a thousand people, so many come after the opening.
const LATE_PER_MILLE: u64 = 50;
/// Of a thousand people, so many do not buy when it is their turn.
const GONE_PER_MILLE: u64 = 20;
/// Shortest and longest time to think, in milliseconds.
const THINK_MS: (u64, u64) = (300, 3_000);

/// One account of the crowd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Whether a program is behind it.
    pub is_bot: bool,
    /// When it comes, from the moment at which the line opens.
    pub after: Duration,
    /// How long it thinks before it buys.
    pub think: Duration,
    /// Whether it buys at all.
    pub buys: bool,
}

/// The crowd: `people`, then `bots`, of a sale that opens `gathering` after its line. The same numbers give the same
/// crowd.
pub fn crowd(people: usize, bots: usize, gathering: Duration) -> Vec<Arrival> {
    (0..people).map(|n| person(n, gathering)).chain((0..bots).map(|n| bot(n, bots, gathering))).collect()
}

fn person(n: usize, gathering: Duration) -> Arrival {
    let chance = |of: u64| mix(n as u64 * 8 + of);
    let late = chance(1) % 1_000 < LATE_PER_MILLE;
    let within = if late { gathering / 2 } else { gathering };
    let after = within.mul_f64((chance(2) % 10_000) as f64 / 10_000.0);
    Arrival {
        is_bot: false,
        after: if late { gathering + after } else { after },
        think: Duration::from_millis(THINK_MS.0 + chance(3) % (THINK_MS.1 - THINK_MS.0)),
        buys: chance(4) % 1_000 >= GONE_PER_MILLE,
    }
}

fn bot(n: usize, bots: usize, gathering: Duration) -> Arrival {
    let last_moments = gathering.mul_f64(0.9 + 0.1 * (mix(n as u64) % 1_000) as f64 / 1_000.0);
    let after = if n < bots / 2 { Duration::ZERO } else { last_moments };
    Arrival { is_bot: true, after, think: Duration::ZERO, buys: true }
}

/// SplitMix64: a number that looks like chance, the same each time.
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crowd_is_what_the_module_says() {
        let gathering = Duration::from_secs(20);
        let crowd = crowd(10_000, 2_000, gathering);
        assert_eq!(crowd, super::crowd(10_000, 2_000, gathering), "the same each time");
        let (people, bots) = crowd.split_at(10_000);
        let late = people.iter().filter(|arrival| arrival.after >= gathering).count();
        let gone = people.iter().filter(|arrival| !arrival.buys).count();
        assert!((400..600).contains(&late), "{late}");
        assert!((150..250).contains(&gone), "{gone}");
        assert!(people.iter().all(|arrival| arrival.after < gathering.mul_f64(1.5)));
        assert!(bots.iter().all(|arrival| arrival.is_bot && arrival.buys && arrival.after < gathering));
        assert_eq!(bots.iter().filter(|arrival| arrival.after.is_zero()).count(), 1_000);
    }
}
