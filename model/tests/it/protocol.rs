//! Everything holds in every state of the small cases; nothing can be left out.

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

/// Each guard, a case in which it is missed, and what breaks first there.
const MISSED: [(Guard, &str, &str); Guard::ALL.len()] = [
    (Guard::RunId, "Redis starts again with earlier data", "S2"),
    (Guard::Fence, "Redis is flushed", "P"),
    (Guard::Unsettled, "the broker loses everything", "P2"),
    (Guard::Tombstones, "Redis is flushed", "P5"),
    (Guard::Versions, "nothing fails, from the first load on", "S2"),
    (Guard::Taken, "Redis fails over, the old one still serves", "P1"),
    (Guard::LoaderEpoch, "Redis is flushed twice", "S"),
    (Guard::Generation, "the broker loses everything", "P2"),
    (Guard::StragglerWait, "Redis is flushed", "P"),
    (Guard::FreshGrant, "Redis is flushed, a process stands still", "P"),
    (Guard::ConfirmOfThisBroker, "the broker loses everything", "P2"),
];

#[test]
fn every_guard_is_missed_when_it_is_taken_away() {
    assert!(Guard::ALL.iter().all(|guard| MISSED.iter().any(|(missed, ..)| missed == guard)));
    for (guard, name, promise) in MISSED {
        let mut case = cases::small().into_iter().find(|named| named.name == name).unwrap().case;
        case.rules = Rules::without(guard);
        let report = cases::run(&case, STATES_MAX).unwrap();
        let Outcome::Broken { property, .. } = &report.outcome else {
            panic!("nothing breaks without {guard:?}: {report:?}");
        };
        assert!(property.starts_with(promise), "without {guard:?}: {property}");
    }
}

/// What Redis' withdrawal before a lower total is for: Postgres does not count what Redis has granted and the queue still
/// carries. Here the total is lowered without one; order-service does not do so to what is sold, see docs/RELIABILITY.md.
#[test]
fn a_total_that_is_lowered_without_a_withdrawal_rejects_an_accepted_order() {
    let report = cases::run(&cases::lowered_total().case, STATES_MAX).unwrap();
    let Outcome::Broken { property, trace } = report.outcome else { panic!("{report:?}") };
    assert_eq!(property, "P2: an accepted order is rejected");
    assert_eq!(trace.len(), 4, "{trace:?}");
}
