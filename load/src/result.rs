//! What a run came to, second by second and step by step; the shape of `load.json`.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::depths;
use crate::engine::{Pace, Step};
use crate::record::{Tally, Totals, quantile_ms};
use crate::requests::Mix;
use crate::trend;

/// Growth of what is under way that is no backlog yet: half a second's worth of orders, and so many more.
const BACKLOG_ORDERS: f64 = 50.0;
/// Growth of a queue's messages that is no backlog yet. A message holds up to 256 orders.
const BACKLOG_MESSAGES: f64 = 100.0;

/// Latency of some kind of answer, in milliseconds from when the request was due.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// Half of the answers were quicker.
    pub p50_ms: f64,
    /// 99 of 100 were quicker.
    pub p99_ms: f64,
    /// 999 of 1,000 were quicker.
    pub p999_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

impl Latency {
    /// Of a histogram of microseconds; `None` when it is empty.
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let ms = |quantile| quantile_ms(histogram, quantile);
        (!histogram.is_empty()).then(|| Self {
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            p999_ms: ms(0.999),
            max_ms: ms(1.0),
        })
    }
}

/// What was seen in about a second.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Second {
    /// Seconds since the first step began.
    pub at_s: f64,
    /// Which step it belongs to, from 0; `None` after the last one.
    pub step: Option<usize>,
    /// Arrivals a second that the schedule asked for; `None` in a closed loop.
    pub offered_per_s: Option<f64>,
    /// Requests that were sent, a second.
    pub sent_per_s: f64,
    /// Accepted orders, a second.
    pub accepted_per_s: f64,
    /// Documented refusals, a second.
    pub refused_per_s: f64,
    /// Answers a second by what they came to.
    pub answers_per_s: BTreeMap<String, f64>,
    /// Latency of accepted orders.
    pub accepted: Option<Latency>,
    /// Latency of refusals.
    pub refused: Option<Latency>,
    /// Requests without an answer at its end.
    pub in_flight: i64,
    /// Arrivals that were not sent because too many were in flight.
    pub beyond_bound: u64,
    /// Connections that are open.
    pub connections: usize,
    /// What waits, by name.
    pub depths: BTreeMap<String, u64>,
    /// CPU time used by each part, in cores.
    pub cores: BTreeMap<String, f64>,
    /// Memory of each part, in MiB.
    pub memory_mib: BTreeMap<String, f64>,
}

impl Second {
    /// Takes over what was counted in `took`.
    pub fn count(&mut self, tally: &Tally, sent: u64, took: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "counts of a second")]
        let per_s = |count: u64| count as f64 / took.as_secs_f64().max(1e-6);
        self.sent_per_s = per_s(sent);
        self.accepted_per_s = per_s(tally.accepted());
        self.refused_per_s = per_s(tally.refused());
        self.answers_per_s =
            tally.outcomes.iter().map(|(outcome, count)| (outcome.name(), per_s(*count))).collect();
        self.accepted = Latency::of(&tally.accepted_us);
        self.refused = Latency::of(&tally.refused_us);
        self.beyond_bound = tally.beyond_bound;
    }
}

/// What one step came to.
#[derive(Debug, Clone, Serialize)]
pub struct StepResult {
    /// Arrivals a second that the schedule asked for; `None` in a closed loop.
    pub offered_per_s: Option<f64>,
    /// Connections of a closed loop.
    pub connections: Option<usize>,
    /// How long it lasted, in seconds.
    pub hold_s: f64,
    /// Requests that were sent.
    pub sent: u64,
    /// Arrivals that were not sent because too many were in flight.
    pub beyond_bound: u64,
    /// Accepted orders a second, answered before the step's end.
    pub accepted_per_s: f64,
    /// Refusals a second, answered before the step's end.
    pub refused_per_s: f64,
    /// Answers by what they came to, all of them.
    pub answers: BTreeMap<String, u64>,
    /// Accepted orders, all of them.
    pub accepted_count: u64,
    /// Answers that must not be: undocumented ones, and none.
    pub failed_count: u64,
    /// Latency of accepted orders.
    pub accepted: Option<Latency>,
    /// Latency of refusals.
    pub refused: Option<Latency>,
    /// Latency of reads.
    pub read: Option<Latency>,
    /// How much later than due this tool sent requests.
    pub sent_late: Option<Latency>,
    /// CPU microseconds for each accepted order, by part; the last step's with all that follows, until nothing waits.
    pub cpu_us_per_order: BTreeMap<String, f64>,
    /// CPU microseconds for each answer, by part.
    pub cpu_us_per_answer: BTreeMap<String, f64>,
    /// Most memory of each part, in MiB.
    pub memory_mib_max: BTreeMap<String, f64>,
    /// By how much what waits grew from the beginning to the end, by name.
    pub backlog_growth: BTreeMap<String, f64>,
    /// Whether any of that is a growing backlog.
    pub backlog_grew: bool,
}

impl StepResult {
    /// From what was counted, from the CPU time of each part in it, and from its seconds.
    pub fn of(step: &Step, totals: &Totals, cpu: &BTreeMap<String, Duration>, seconds: &[&Second]) -> Self {
        let hold_s = step.hold.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let per_s = |count: u64| count as f64 / hold_s;
        let all = &totals.all;
        let accepted_per_s = per_s(totals.accepted_in_time);
        let backlog_growth = growth(seconds);
        let mut memory_mib_max = BTreeMap::<String, f64>::new();
        for (part, mib) in seconds.iter().flat_map(|second| &second.memory_mib) {
            let most = memory_mib_max.entry(part.clone()).or_default();
            *most = most.max(*mib);
        }
        let (offered_per_s, connections) = match step.pace {
            Pace::Open { per_second } => (Some(per_second), None),
            Pace::Closed { connections } => (None, Some(connections)),
        };
        Self {
            offered_per_s,
            connections,
            hold_s,
            sent: totals.sent,
            beyond_bound: all.beyond_bound,
            accepted_per_s,
            refused_per_s: per_s(totals.refused_in_time),
            answers: all.outcomes.iter().map(|(outcome, count)| (outcome.name(), *count)).collect(),
            accepted_count: all.accepted(),
            failed_count: all.failed(),
            accepted: Latency::of(&all.accepted_us),
            refused: Latency::of(&all.refused_us),
            read: Latency::of(&all.read_us),
            sent_late: Latency::of(&all.late_us),
            cpu_us_per_order: per(cpu, all.accepted()),
            cpu_us_per_answer: per(cpu, all.answered()),
            memory_mib_max,
            backlog_grew: is_backlog(&backlog_growth, accepted_per_s),
            backlog_growth,
        }
    }

    /// CPU microseconds for each accepted order, of all parts but the load tool.
    pub fn cpu_us_per_order_of_system(&self) -> Option<f64> {
        let parts = self.cpu_us_per_order.iter().filter(|(part, _)| *part != crate::processes::TOOL);
        (!self.cpu_us_per_order.is_empty()).then(|| parts.map(|(_, us)| us).sum())
    }
}

/// Microseconds for each of `count`, by part; nothing when there is none.
fn per(cpu: &BTreeMap<String, Duration>, count: u64) -> BTreeMap<String, f64> {
    if count == 0 {
        return BTreeMap::new();
    }
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let each = |time: &Duration| time.as_secs_f64() * 1e6 / count as f64;
    cpu.iter().map(|(part, time)| (part.clone(), each(time))).collect()
}

fn growth(seconds: &[&Second]) -> BTreeMap<String, f64> {
    let mut series = BTreeMap::<String, Vec<f64>>::new();
    for (name, depth) in seconds.iter().flat_map(|second| &second.depths) {
        #[expect(clippy::cast_precision_loss, reason = "depths far below 2^52")]
        series.entry(name.clone()).or_default().push(*depth as f64);
    }
    series.into_iter().map(|(name, depths)| (name, trend::growth(&depths))).collect()
}

fn is_backlog(growth: &BTreeMap<String, f64>, accepted_per_s: f64) -> bool {
    growth.iter().any(|(name, growth)| {
        let allowed =
            if name == depths::UNSETTLED { accepted_per_s / 2.0 + BACKLOG_ORDERS } else { BACKLOG_MESSAGES };
        *growth > allowed
    })
}

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Accepted orders a second in the best step: the one that accepted most. `None`: the audit was not clean.
    pub accepted_per_s: Option<f64>,
    /// Refusals a second in that step.
    pub refused_per_s: Option<f64>,
    /// Latency of accepted orders in that step.
    pub p50_ms: Option<f64>,
    /// Latency of accepted orders in that step.
    pub p99_ms: Option<f64>,
    /// Latency of accepted orders in that step.
    pub p999_ms: Option<f64>,
    /// Whether both stores agree about every order, and nothing waits any more.
    pub audit_consistent: bool,
    /// Seconds from the last answer until every accepted order was in Postgres.
    pub all_in_postgres_after_s: Option<f64>,
    /// CPU microseconds of all parts but this tool for each accepted order of that step.
    pub cpu_us_per_order: Option<f64>,
    /// Whether what waits grew in that step.
    pub backlog_grew: Option<bool>,
    /// Accepted orders of all steps.
    pub accepted_count: u64,
    /// How many of them Postgres has.
    pub in_postgres_count: u64,
    /// Who came.
    pub mix: Mix,
    /// Where and how it was run.
    pub circumstances: BTreeMap<String, String>,
    /// Each step.
    pub steps: Vec<StepResult>,
    /// Each second.
    pub seconds: Vec<Second>,
}

impl Report {
    /// The step that accepted most; in a run without orders, that answered most.
    pub fn best(&self) -> Option<&StepResult> {
        self.steps.iter().max_by(|one, other| {
            let rate = |step: &StepResult| (step.accepted_per_s, step.refused_per_s);
            rate(one).partial_cmp(&rate(other)).unwrap_or(std::cmp::Ordering::Equal)
        })
    }

    /// Takes the figures of the best step to the top; a run whose audit is not clean gets none.
    pub fn conclude(&mut self) {
        let clean = self.audit_consistent && self.all_in_postgres_after_s.is_some();
        let Some(best) = self.best().filter(|_| clean).cloned() else { return };
        self.accepted_per_s = Some(best.accepted_per_s);
        self.refused_per_s = Some(best.refused_per_s);
        self.p50_ms = best.accepted.map(|latency| latency.p50_ms);
        self.p99_ms = best.accepted.map(|latency| latency.p99_ms);
        self.p999_ms = best.accepted.map(|latency| latency.p999_ms);
        self.cpu_us_per_order = best.cpu_us_per_order_of_system();
        self.backlog_grew = Some(best.backlog_grew);
    }
}
