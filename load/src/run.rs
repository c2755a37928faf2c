//! One run: steps, a look every second, the wait until nothing is under way, the audit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use common::api::admin::Audit;
use tokio::time::{sleep, sleep_until};

use crate::depths::{Depths, UNSETTLED};
use crate::engine::{Engine, Pace, Plan, Step};
use crate::processes::{self, Parts, Usage};
use crate::record::{Recorder, Tally};
use crate::result::{Second, StepResult};
use crate::stage::{Stage, Target};

/// How long after the start of the threads the first step begins.
const LEAD_IN: Duration = Duration::from_millis(300);
/// The same for each connection that is opened ahead.
const LEAD_IN_PER_CONNECTION: Duration = Duration::from_micros(300);
/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks whether all orders are in Postgres.
const SETTLED_POLL: Duration = Duration::from_millis(50);
/// How long orders may take to be in Postgres and back in the inventory after the last answer.
const SETTLED_WITHIN: Duration = Duration::from_secs(180);
/// How long the audit may take to be clean after that.
const QUIET_WITHIN: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Debug, Clone)]
pub struct Course {
    /// Paces, one after the other, and how long each is held.
    pub steps: Vec<(Pace, Duration)>,
    /// Most requests in flight.
    pub in_flight_max: usize,
    /// Threads that send.
    pub threads: usize,
    /// Connections that are opened before the first step.
    pub connections_ready: usize,
}

/// What came of it.
#[derive(Debug)]
pub struct Measured {
    /// Each step.
    pub steps: Vec<StepResult>,
    /// Each second.
    pub seconds: Vec<Second>,
    /// Accepted orders.
    pub accepted_count: u64,
    /// Units of the item that orders in Postgres have taken.
    pub in_postgres_count: u64,
    /// From the last answer until Postgres had them all; `None`: it never had.
    pub all_in_postgres_after: Option<Duration>,
    /// The books at the end; `None`: they did not come to rest.
    pub audit: Option<Audit>,
}

impl Measured {
    /// Whether the books are consistent with nothing under way, and all accepted orders are in Postgres.
    pub fn is_clean(&self) -> bool {
        self.audit.as_ref().is_some_and(|audit| audit.consistent) && self.all_in_postgres_after.is_some()
    }
}

/// Runs it; `watch` is shown each second.
///
/// # Errors
/// The system, or this tool, cannot do its part.
pub async fn measure(
    target: &Target,
    stage: Stage,
    course: &Course,
    mut watch: impl FnMut(&Second),
) -> anyhow::Result<Measured> {
    let Stage { admin, sale, requests } = stage;
    let depths = Depths::connect(&target.environment, requests.item).await.context("watching the queues")?;
    let plan = Arc::new(Plan {
        gateways: target.gateways.clone(),
        requests,
        in_flight_max: course.in_flight_max,
        threads: course.threads,
        connections_ready: course.connections_ready,
    });
    let ahead = LEAD_IN_PER_CONNECTION * u32::try_from(course.connections_ready).unwrap_or(u32::MAX);
    let steps = steps_of(course, Instant::now() + LEAD_IN + ahead)?;
    let engine = Engine::start(&plan, &steps)?;
    let mut look = Look::new(&target.parts, depths, &steps, engine);

    let answered = look.until_answered(&mut watch).await?;
    let accepted_count = look.accepted()?;
    let all_in_postgres_after = look.until_settled(answered, accepted_count, &mut watch).await?;
    let in_postgres_count = look.depths.in_postgres().await?;
    let (steps, seconds) = look.results()?;
    let audit = target.client.wait_until_quiet(&admin, sale.id, QUIET_WITHIN).await.ok();
    Ok(Measured { steps, seconds, accepted_count, in_postgres_count, all_in_postgres_after, audit })
}

fn steps_of(course: &Course, mut begin: Instant) -> anyhow::Result<Vec<Step>> {
    let mut steps = Vec::new();
    for (pace, hold) in &course.steps {
        let recorder = Arc::new(Recorder::new(begin + *hold)?);
        steps.push(Step { pace: *pace, begin, hold: *hold, recorder });
        begin += *hold;
    }
    Ok(steps)
}

/// Looks at everything once a second.
struct Look<'a> {
    parts: &'a Parts,
    depths: Depths,
    steps: &'a [Step],
    engine: Engine,
    seconds: Vec<Second>,
    last: Instant,
    last_sent: u64,
    last_usage: BTreeMap<String, Usage>,
    /// What had been used when each step began, and at the end.
    usage_at: Vec<BTreeMap<String, Usage>>,
}

impl<'a> Look<'a> {
    fn new(parts: &'a Parts, depths: Depths, steps: &'a [Step], engine: Engine) -> Self {
        let (last, last_usage) = (Instant::now(), BTreeMap::new());
        Self {
            parts,
            depths,
            steps,
            engine,
            seconds: Vec::new(),
            last,
            last_sent: 0,
            last_usage,
            usage_at: Vec::new(),
        }
    }

    /// Until every request has its answer; returns when that was.
    async fn until_answered(&mut self, watch: &mut impl FnMut(&Second)) -> anyhow::Result<Instant> {
        for step in self.steps {
            sleep_until(step.begin.into()).await;
            if self.usage_at.is_empty() {
                self.last = Instant::now();
                self.last_usage = self.parts.usage()?;
            }
            self.usage_at.push(self.last_usage.clone());
            let mut next = step.begin;
            while next < step.end() {
                next = (next + LOOK_INTERVAL).min(step.end());
                sleep_until(next.into()).await;
                self.look(watch).await?;
            }
        }
        let mut next = Instant::now() + LOOK_INTERVAL;
        while !self.engine.is_finished() {
            sleep(SETTLED_POLL / 5).await;
            if Instant::now() >= next {
                next += LOOK_INTERVAL;
                self.look(watch).await?;
            }
        }
        Ok(Instant::now())
    }

    /// Until Postgres has all accepted orders and the inventory has heard of each; how long the former took.
    async fn until_settled(
        &mut self,
        answered: Instant,
        accepted: u64,
        watch: &mut impl FnMut(&Second),
    ) -> anyhow::Result<Option<Duration>> {
        let mut all_there = None;
        loop {
            if all_there.is_none() && self.depths.in_postgres().await? >= accepted {
                all_there = Some(answered.elapsed());
            }
            if self.last.elapsed() >= LOOK_INTERVAL || all_there.is_some() {
                self.look(watch).await?;
                let unsettled = self.seconds.last().and_then(|second| second.depths.get(UNSETTLED).copied());
                if all_there.is_some() && unsettled == Some(0) {
                    break;
                }
            }
            if answered.elapsed() > SETTLED_WITHIN {
                break;
            }
            sleep(SETTLED_POLL).await;
        }
        self.usage_at.push(self.last_usage.clone());
        Ok(all_there)
    }

    /// One look at counts, processes and queues.
    async fn look(&mut self, watch: &mut impl FnMut(&Second)) -> anyhow::Result<()> {
        let now = Instant::now();
        let took = now - self.last;
        self.last = now;
        let mut tally = Tally::new()?;
        let (mut sent, mut in_flight) = (0, 0);
        for step in self.steps {
            tally.add(&step.recorder.look()?)?;
            sent += step.recorder.sent_count();
            in_flight += step.recorder.in_flight();
        }
        let middle = now - took / 2;
        let step = self.steps.iter().position(|step| step.begin <= middle && middle < step.end());
        let mut second =
            Second { step, in_flight, connections: self.engine.connections(), ..Second::default() };
        second.at_s = (now - self.steps[0].begin).as_secs_f64();
        second.offered_per_s = step.and_then(|step| match self.steps[step].pace {
            Pace::Open { per_second } => Some(per_second),
            Pace::Closed { .. } => None,
        });
        second.count(&tally, sent - self.last_sent, took);
        self.last_sent = sent;
        let usage = self.parts.usage()?;
        let cpu = processes::cpu_between(&self.last_usage, &usage);
        second.cores =
            cpu.into_iter().map(|(part, time)| (part, time.as_secs_f64() / took.as_secs_f64())).collect();
        #[expect(clippy::cast_precision_loss, reason = "bytes of memory")]
        let mib = |usage: &Usage| usage.memory_bytes as f64 / 1_048_576.0;
        second.memory_mib = usage.iter().map(|(part, usage)| (part.clone(), mib(usage))).collect();
        self.last_usage = usage;
        let depths = self.depths.read().await.context("reading what waits")?;
        second.depths = depths.into_iter().map(|(name, depth)| (name.to_owned(), depth)).collect();
        watch(&second);
        self.seconds.push(second);
        Ok(())
    }

    fn accepted(&self) -> anyhow::Result<u64> {
        self.steps.iter().map(|step| Ok(step.recorder.totals()?.all.accepted())).sum()
    }

    fn results(self) -> anyhow::Result<(Vec<StepResult>, Vec<Second>)> {
        self.engine.join()?;
        let mut results = Vec::new();
        for (number, step) in self.steps.iter().enumerate() {
            let cpu = processes::cpu_between(&self.usage_at[number], &self.usage_at[number + 1]);
            let seconds: Vec<&Second> =
                self.seconds.iter().filter(|second| second.step == Some(number)).collect();
            results.push(StepResult::of(step, &step.recorder.totals()?, &cpu, &seconds));
        }
        Ok((results, self.seconds))
    }
}
