//! A breaker for each webhook, on this replica: a receiver that fails and fails is tried with one delivery at a time,
//! after growing pauses, until it takes one. The others wait meanwhile, and lose none of their attempts.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

/// First pause of a breaker that has opened.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Doublings after which a pause does not grow any more.
const DOUBLINGS_MAX: u32 = 16;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Failures in a row that open it.
    pub failures_max: u32,
    /// Longest pause.
    pub pause_max: Duration,
}

/// The breakers of all webhooks.
#[derive(Debug, Default)]
pub struct Circuits(HashMap<Uuid, Circuit>);

#[derive(Debug, Default)]
struct Circuit {
    /// Failures in a row.
    failures: u32,
    /// While it is open: when to try again.
    try_at: Option<Instant>,
}

impl Circuits {
    /// How many deliveries may be under way to `webhook`, of which `under_way` are: all of `places`, one, or none.
    pub fn places(&self, webhook: Uuid, under_way: usize, places: usize) -> usize {
        match self.0.get(&webhook).and_then(|circuit| circuit.try_at) {
            None => places,
            Some(at) if at <= Instant::now() && under_way == 0 => 1,
            Some(_) => 0,
        }
    }

    /// Notes how an attempt went.
    pub fn note(&mut self, webhook: Uuid, worked: bool, limits: Limits) {
        if worked {
            if self.0.remove(&webhook).is_some_and(|circuit| circuit.try_at.is_some()) {
                tracing::info!(%webhook, "the receiver takes deliveries again");
            }
        } else {
            let circuit = self.0.entry(webhook).or_default();
            circuit.failures = circuit.failures.saturating_add(1);
            if let Some(more) = circuit.failures.checked_sub(limits.failures_max) {
                if circuit.try_at.is_none() {
                    tracing::warn!(%webhook, failures = circuit.failures, "the receiver is tried with one delivery at a time");
                }
                let pause = PAUSE_MIN * 2_u32.pow(more.min(DOUBLINGS_MAX));
                // Some chance, so that replicas do not try in step.
                let pause = pause.min(limits.pause_max).mul_f64(0.5 + rand::random::<f64>() / 2.0);
                circuit.try_at = Some(Instant::now() + pause);
            }
        }
        let open = self.0.values().filter(|circuit| circuit.try_at.is_some()).count();
        metrics::gauge!("webhook_circuits_open").set(open as f64);
    }

    /// Forgets webhooks that are not among `active`.
    pub fn keep(&mut self, active: &HashSet<Uuid>) {
        self.0.retain(|webhook, _| active.contains(webhook));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEBHOOK: Uuid = Uuid::from_u128(1);
    const LIMITS: Limits = Limits { failures_max: 3, pause_max: Duration::ZERO };
    const PATIENT: Limits = Limits { failures_max: 3, pause_max: Duration::from_secs(3_600) };

    fn failed(times: u32, limits: Limits) -> Circuits {
        let mut circuits = Circuits::default();
        (0..times).for_each(|_| circuits.note(WEBHOOK, false, limits));
        circuits
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_of_no_other_webhook() {
        assert_eq!(failed(2, PATIENT).places(WEBHOOK, 0, 16), 16);
        assert_eq!(failed(3, PATIENT).places(WEBHOOK, 0, 16), 0);
        assert_eq!(failed(3, PATIENT).places(Uuid::nil(), 0, 16), 16);
        let mut circuits = failed(2, PATIENT);
        circuits.note(WEBHOOK, true, PATIENT);
        circuits.note(WEBHOOK, false, PATIENT);
        assert_eq!(circuits.places(WEBHOOK, 0, 16), 16, "not in a row");
    }

    #[test]
    fn after_its_pause_one_is_tried_and_if_that_works_all_are() {
        let mut circuits = failed(100, LIMITS);
        assert_eq!(circuits.places(WEBHOOK, 0, 16), 1);
        assert_eq!(circuits.places(WEBHOOK, 1, 16), 0);
        circuits.note(WEBHOOK, true, LIMITS);
        assert_eq!(circuits.places(WEBHOOK, 1, 16), 16);
    }
}
