//! The cases: small enough to be explored to the end, large enough to hold every fault of the reliability table.

use crate::explorer::{Report, explore};
use crate::guard::Rules;
use crate::shelf::UserNo;
use crate::world::{Budget, Case, Detail, Model};

/// A case with a name.
#[derive(Debug, Clone)]
pub struct Named {
    /// What it is about.
    pub name: &'static str,
    /// The case.
    pub case: Case,
}

/// Two buyers who want the one unit, each asking twice with the same key.
const TWO: &[(UserNo, u8)] = &[(0, 2), (1, 2)];
/// As [`TWO`], and only the first asks twice.
const ONE_AND_A_HALF: &[(UserNo, u8)] = &[(0, 2), (1, 1)];
/// Two buyers who ask once.
const ONCE: &[(UserNo, u8)] = &[(0, 1), (1, 1)];
/// One buyer with two keys, who may have one unit, and another buyer; two units.
const TWO_KEYS: &[(UserNo, u8)] = &[(0, 2), (0, 1), (1, 1)];

const NOTHING: Budget = Budget {
    flushes: 0,
    restarts: 0,
    stale_copies: 0,
    failovers: 0,
    wipes: 0,
    crashes: 0,
    pauses: 0,
    duplicates: 0,
    expiries: 0,
    payments: 0,
    raises: 0,
    cuts: 0,
};
/// One order ends and its unit returns.
const ONE_ENDS: Budget = Budget { expiries: 1, ..NOTHING };

const PLAIN: Detail = Detail { first_load: false, outbox: false, notify: false };
const TOLD: Detail = Detail { outbox: true, notify: true, ..PLAIN };

fn named(name: &'static str, buyers: &[(UserNo, u8)], detail: Detail, budget: Budget) -> Named {
    let total = i64::try_from(buyers.len()).unwrap_or(i64::MAX) - 1;
    let case = Case { total, limit: 1, buyers: buyers.to_vec(), budget, detail, rules: Rules::ALL };
    Named { name, case }
}

/// The cases that every test run explores.
pub fn small() -> Vec<Named> {
    let one = ONE_ENDS;
    let everything = Detail { first_load: true, ..TOLD };
    vec![
        named("nothing fails, from the first load on", TWO, everything, Budget { payments: 1, ..one }),
        named("processes die", ONE_AND_A_HALF, TOLD, Budget { crashes: 2, ..one }),
        named(
            "processes stand still, events come twice",
            TWO,
            PLAIN,
            Budget { pauses: 2, duplicates: 1, ..one },
        ),
        named(
            "the total is raised while Redis is flushed",
            TWO,
            PLAIN,
            Budget { raises: 1, flushes: 1, ..one },
        ),
        named(
            "one user tries two keys while Redis is flushed",
            TWO_KEYS,
            PLAIN,
            Budget { flushes: 1, ..one },
        ),
        named("Redis is flushed", TWO, PLAIN, Budget { flushes: 1, ..one }),
        named(
            "Redis is flushed, a process stands still",
            ONE_AND_A_HALF,
            PLAIN,
            Budget { flushes: 1, pauses: 1, ..one },
        ),
        named(
            "Redis starts again with its data",
            ONE_AND_A_HALF,
            PLAIN,
            Budget { restarts: 1, crashes: 1, ..one },
        ),
        named("Redis starts again with earlier data", TWO, PLAIN, Budget { stale_copies: 1, ..one }),
        named("two replicas load at a time", ONE_AND_A_HALF, PLAIN, Budget { restarts: 1, pauses: 1, ..one }),
        named("Redis is flushed twice", ONCE, PLAIN, Budget { flushes: 2, ..one }),
        named("the broker loses everything", ONE_AND_A_HALF, TOLD, Budget { wipes: 1, pauses: 1, ..NOTHING }),
        named("the broker loses everything, orders end", ONE_AND_A_HALF, TOLD, Budget { wipes: 1, ..one }),
        named(
            "Redis fails over, the old one still serves",
            ONE_AND_A_HALF,
            PLAIN,
            Budget { failovers: 1, ..one },
        ),
    ]
}

/// Larger ones, with faults that meet.
pub fn large() -> Vec<Named> {
    let one = ONE_ENDS;
    let everything = Detail { first_load: true, ..TOLD };
    vec![
        named(
            "nothing fails, from the first load on",
            TWO,
            everything,
            Budget { payments: 1, expiries: 2, ..one },
        ),
        named("processes die", TWO, TOLD, Budget { crashes: 2, ..one }),
        named(
            "processes die and stand still",
            TWO,
            TOLD,
            Budget { crashes: 1, pauses: 1, duplicates: 1, ..one },
        ),
        named(
            "one user tries two keys, Redis is flushed",
            TWO_KEYS,
            PLAIN,
            Budget { flushes: 1, crashes: 1, ..one },
        ),
        named("Redis is flushed", TWO, PLAIN, Budget { flushes: 1, crashes: 1, ..one }),
        named(
            "Redis is flushed, a process stands still",
            TWO,
            PLAIN,
            Budget { flushes: 1, pauses: 1, ..one },
        ),
        named("Redis is flushed twice", ONE_AND_A_HALF, PLAIN, Budget { flushes: 2, ..one }),
        named("Redis starts again with its data", TWO, PLAIN, Budget { restarts: 1, crashes: 1, ..one }),
        named(
            "Redis starts again with earlier data",
            TWO,
            PLAIN,
            Budget { stale_copies: 1, crashes: 1, ..one },
        ),
        named("two replicas load at a time", TWO, PLAIN, Budget { restarts: 1, pauses: 1, ..one }),
        named(
            "two replicas load, Redis is flushed",
            ONE_AND_A_HALF,
            PLAIN,
            Budget { flushes: 1, pauses: 2, ..one },
        ),
        named("the broker loses everything", TWO, TOLD, Budget { wipes: 1, pauses: 1, ..one }),
        named(
            "the broker loses everything, Redis starts again",
            TWO,
            PLAIN,
            Budget { wipes: 1, restarts: 1, ..one },
        ),
        named(
            "the total is raised while Redis is flushed",
            TWO,
            PLAIN,
            Budget { raises: 1, flushes: 1, pauses: 1, ..one },
        ),
        named(
            "Redis fails over, the old one still serves",
            TWO,
            PLAIN,
            Budget { failovers: 1, crashes: 1, ..one },
        ),
    ]
}

/// Not among the cases: an admin lowers the total to what Postgres counts as taken, while a grant is on its way there, and
/// Redis has not withdrawn the units before.
pub fn lowered_total() -> Named {
    named("the total is lowered", ONE_AND_A_HALF, PLAIN, Budget { cuts: 1, ..NOTHING })
}

/// Explores a case.
///
/// # Errors
/// The case makes no sense.
pub fn run(case: &Case, states_max: usize) -> anyhow::Result<Report> {
    let model = Model::new(case.clone())?;
    Ok(explore(&model.start(), states_max, |world| model.moves(world), |world| model.judge(world)))
}
