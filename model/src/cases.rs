//! The cases: small enough to be explored to the end, large enough to hold every fault of the reliability table.

use crate::explorer::{Report, explore};
use crate::guard::Rules;
use crate::shelf::UserNo;
use crate::world::{Budget, Case, Model};

/// A case with a name.
#[derive(Debug, Clone)]
pub struct Named {
    /// What it is about.
    pub name: &'static str,
    /// The case.
    pub case: Case,
}

fn case(total: i64, buyers: &[UserNo], attempts: u8, budget: Budget) -> Case {
    Case { total, limit: 1, buyers: buyers.to_vec(), attempts, budget, rules: Rules::ALL }
}

/// The cases that every test run explores.
pub fn small() -> Vec<Named> {
    let none = Budget::default();
    let named = |name, budget| Named { name, case: case(1, &[0, 1], 2, budget) };
    vec![
        named("nothing fails", Budget { expiries: 1, payments: 1, ..none }),
        named("Redis is flushed", Budget { flushes: 1, expiries: 1, ..none }),
        named("Redis starts again with its data", Budget { restarts: 1, expiries: 1, ..none }),
        named("Redis starts again with earlier data", Budget { stale_copies: 1, expiries: 1, ..none }),
        named("the broker loses everything", Budget { wipes: 1, expiries: 1, ..none }),
        named("processes die", Budget { crashes: 1, expiries: 1, ..none }),
        named("processes stand still", Budget { pauses: 1, duplicates: 1, expiries: 1, ..none }),
        named("Redis fails over while the old one still serves", Budget { failovers: 1, ..none }),
    ]
}

/// Explores a case.
///
/// # Errors
/// The case makes no sense.
pub fn run(case: &Case, states_max: usize) -> anyhow::Result<Report> {
    let model = Model::new(case.clone())?;
    Ok(explore(&model.start(), states_max, |world| model.moves(world), |world| model.judge(world)))
}
