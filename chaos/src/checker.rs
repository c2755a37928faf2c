//! One verdict per invariant (reliability rules, "Invariants"). Each proves a contradiction from observations only.

mod accepted;
mod contract;
mod lives;
mod messages;
mod money;
mod refusals;
mod stock;
#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::evidence::Evidence;

/// Most contradictions that a verdict shows.
const SHOWN_MAX: usize = 5;

/// Whether one invariant held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Its id, such as `S1`.
    pub invariant: &'static str,
    /// What it says.
    pub says: &'static str,
    /// Contradictions found; 0: it held.
    pub contradictions: usize,
    /// The first few of them.
    pub shown: Vec<String>,
}

impl Verdict {
    /// Whether the invariant held.
    pub fn holds(&self) -> bool {
        self.contradictions == 0
    }
}

/// A check: finds contradictions.
type Check = fn(&Evidence) -> Vec<String>;

/// Every invariant that is checked, with what it says.
pub const CHECKS: [(&str, &str, Check); 32] = [
    ("S1", "held and sold units never exceed the total, at any moment", stock::s1_no_oversell),
    ("S2", "at quiet both stores have the same books", stock::s2_conservation),
    ("S3", "Redis' own books add up at any moment", stock::s3_own_books),
    ("S4", "an epoch grants no more than was there", stock::s4_epoch_budget),
    ("S5", "units move along their path, and come back once", lives::s5_released_once),
    ("S6", "no user has more than the limit, at any moment", stock::s6_user_limit),
    ("S7", "nobody is told sold out while units are certainly there", refusals::s7_no_false_sold_out),
    ("S8", "no unit is left over while somebody wants it", stock::s8_nothing_leaks),
    ("A1", "each accepted order is in the database, as it was accepted", accepted::a1_not_lost),
    ("A2", "each order in the database was asked for", accepted::a2_no_phantom),
    ("A3", "what was refused for sure has no effect", refusals::a3_definite),
    ("A4", "the same key is the same order, and has the same answer", accepted::a4_idempotent),
    ("A5", "no accepted order is rejected", accepted::a5_no_broken_promise),
    ("A6", "what is seen of an order never goes back", lives::a6_monotonic),
    ("A7", "an order lives along the table of transitions", lives::a7_legal),
    ("A8", "orders end in time, and not before it", lives::a8_bounded),
    ("A9", "a retry is never refused once its order was granted", refusals::a9_retry_not_refused),
    ("P1", "paid means exactly one kept payment of the right amount", money::p1_one_kept),
    ("P2", "captured money is kept or given back", money::p2_conserved),
    ("P3", "money without goods goes back once", money::p3_refunded_once),
    ("P4", "the same notice again changes nothing and is welcome", money::p4_repeated_notices),
    ("P5", "a forged notice changes nothing", money::p5_forged_notices),
    ("P8", "nobody sees somebody else's order", contract::p8_own_orders_only),
    ("M1", "at quiet nothing is under way", messages::m1_drained),
    ("M2", "parked is exactly what cannot be handled", messages::m2_poison),
    ("M3", "webhooks are told of every event, under one id, signed", messages::m3_webhooks),
    ("M4", "a stream is without a gap and its user's own", messages::m4_streams),
    ("M5", "users are told of every change of their orders, once", messages::m5_told),
    ("C1", "every answer is as documented", contract::c1_documented),
    ("H1", "no panic, no crash without a cause, no secret in a log", contract::h1_hygiene),
    ("L1", "the system comes to rest in time", contract::l1_quiet),
    ("L2", "who may ask has an answer in the end", contract::l2_status),
];

/// Checks everything.
pub fn check(evidence: &Evidence) -> Vec<Verdict> {
    let verdict = |(invariant, says, check): &(&'static str, &'static str, Check)| {
        let mut shown = check(evidence);
        let contradictions = shown.len();
        shown.truncate(SHOWN_MAX);
        Verdict { invariant, says, contradictions, shown }
    };
    CHECKS.iter().map(verdict).collect()
}
