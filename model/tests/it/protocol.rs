//! Everything holds in every state of the small cases; nothing can be left out.

use std::collections::HashMap;

use model::cases::{self, Named};
use model::explorer::Outcome;
use model::guard::{Guard, Rules};

/// More than any small case has.
const STATES_MAX: usize = 1_000_000;

#[test]
fn every_promise_holds_in_every_state_of_the_small_cases() {
    for Named { name, case } in cases::small() {
        let report = cases::run(&case, STATES_MAX).unwrap();
        assert_eq!(report.outcome, Outcome::Holds, "{name}");
        assert!(report.states > 1_000 && report.quiet > 10, "{name} explores next to nothing: {report:?}");
    }
}

/// The first of the small cases in which `guard` is missed, and what breaks.
fn broken_without(guard: Guard) -> Option<(&'static str, String)> {
    cases::small().into_iter().find_map(|Named { name, mut case }| {
        case.rules = Rules::without(guard);
        match cases::run(&case, STATES_MAX).unwrap().outcome {
            Outcome::Broken { property, .. } => Some((name, property)),
            Outcome::Holds | Outcome::TooMany => None,
        }
    })
}

#[test]
fn every_guard_is_missed_when_it_is_taken_away() {
    let missed: HashMap<Guard, Option<(&str, String)>> =
        Guard::ALL.into_iter().map(|guard| (guard, broken_without(guard))).collect();
    let useless: Vec<&Guard> =
        missed.iter().filter(|(_, broken)| broken.is_none()).map(|(guard, _)| guard).collect();
    assert!(useless.is_empty(), "nothing breaks without {useless:?}");
    let breaks = |guard: Guard, promise: &str| {
        let broken = missed[&guard].as_ref().map(|(_, property)| property.as_str());
        assert!(
            broken.is_some_and(|property| property.starts_with(promise)),
            "without {guard:?}: {broken:?}"
        );
    };
    breaks(Guard::Taken, "P1");
    breaks(Guard::Unsettled, "P2");
    breaks(Guard::Generation, "P2");
    breaks(Guard::ConfirmOfThisBroker, "P2");
    breaks(Guard::Fence, "P3");
    breaks(Guard::Tombstones, "P5");
    breaks(Guard::Versions, "S2");
}

/// Known, and written down in docs/RELIABILITY.md: Postgres does not count what Redis has granted and the queue still
/// carries. Whoever changes this changes that page.
#[test]
fn a_total_that_is_lowered_in_mid_sale_can_reject_an_accepted_order() {
    let report = cases::run(&cases::lowered_total().case, STATES_MAX).unwrap();
    let Outcome::Broken { property, trace } = report.outcome else { panic!("{report:?}") };
    assert_eq!(property, "P2: an accepted order is rejected");
    assert_eq!(trace.len(), 4, "{trace:?}");
}
