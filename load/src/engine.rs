//! Sends requests and takes the answers, on threads of its own.
//!
//! Open loop: arrivals are due by the clock, each is sent when it is due on whatever connection is free, or on a new one,
//! and its latency counts from when it was due. A system that stalls gets no pause: latency and requests in flight grow,
//! up to a bound; arrivals beyond it are counted as such. Closed loop: so many connections, each of which asks again
//! when it was answered; that finds what a system takes, and says nothing about latency under a given load
//! (Gil Tene, "How NOT to Measure Latency").

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::record::Recorder;
use crate::requests::Requests;
use crate::schedule::Schedule;
use crate::wire::{Connection, Failure, Outcome};

/// How long an answer is waited for; then there is none.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// A request's usual length, in bytes.
const REQUEST_BYTES: usize = 768;

/// How fast requests come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// So many a second, by the clock.
    Open {
        /// Arrivals a second, above 0.
        per_second: f64,
    },
    /// As they are answered.
    Closed {
        /// Connections, each with one request at a time.
        connections: usize,
    },
}

/// Some time at one pace.
#[derive(Debug, Clone)]
pub struct Step {
    /// How fast.
    pub pace: Pace,
    /// When it begins.
    pub begin: Instant,
    /// How long it lasts.
    pub hold: Duration,
    /// Who counts.
    pub recorder: Arc<Recorder>,
}

impl Step {
    /// When it ends.
    pub fn end(&self) -> Instant {
        self.begin + self.hold
    }
}

/// Where requests go, and what they are.
#[derive(Debug)]
pub struct Plan {
    /// The gateways, in turn.
    pub gateways: Vec<SocketAddr>,
    /// What to send.
    pub requests: Requests,
    /// Most requests in flight, of all threads together.
    pub in_flight_max: usize,
    /// Threads that send.
    pub threads: usize,
    /// Connections that are opened before the first step, of all threads together.
    pub connections_ready: usize,
}

/// The threads at work.
#[derive(Debug)]
pub struct Engine {
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
    lanes: Vec<Arc<Lane>>,
}

impl Engine {
    /// Opens what has to be open and starts; `steps` follow one another without a pause, and begin late enough for that.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(plan: &Arc<Plan>, steps: &[Step]) -> anyhow::Result<Self> {
        let mut engine = Self { threads: Vec::new(), lanes: Vec::new() };
        for number in 0..plan.threads {
            let lane = Arc::new(Lane::new(plan.clone(), number));
            engine.lanes.push(lane.clone());
            let steps = steps.to_vec();
            let work = move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(lane.run(&steps))
            };
            let thread = std::thread::Builder::new().name(format!("load-{number}"));
            engine.threads.push(thread.spawn(work).context("starting a thread")?);
        }
        Ok(engine)
    }

    /// Whether everything was sent and answered.
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Connections that are open, in use or not.
    pub fn connections(&self) -> usize {
        self.lanes.iter().map(|lane| lane.open.load(Ordering::Relaxed)).sum()
    }

    /// Waits for the threads.
    ///
    /// # Errors
    /// One of them could not do its work.
    pub fn join(self) -> anyhow::Result<()> {
        for thread in self.threads {
            thread.join().map_err(|_| anyhow::anyhow!("a thread that sends requests panicked"))??;
        }
        Ok(())
    }
}

/// One thread's share.
#[derive(Debug)]
struct Lane {
    plan: Arc<Plan>,
    number: usize,
    /// Connections that wait for a request, by gateway.
    idle: Vec<Mutex<VecDeque<Connection>>>,
    turn: AtomicUsize,
    in_flight: AtomicUsize,
    open: AtomicUsize,
}

impl Lane {
    fn new(plan: Arc<Plan>, number: usize) -> Self {
        let idle = plan.gateways.iter().map(|_| Mutex::default()).collect();
        let (turn, in_flight, open) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        Self { plan, number, idle, turn, in_flight, open }
    }

    /// This thread's share of a number.
    fn share(&self, of: usize) -> usize {
        of / self.plan.threads + usize::from(self.number < of % self.plan.threads)
    }

    async fn run(self: Arc<Self>, steps: &[Step]) -> anyhow::Result<()> {
        self.clone().open_ahead().await;
        let mut tasks = JoinSet::new();
        for step in steps {
            match step.pace {
                Pace::Open { per_second } => self.arrive(step, per_second, &mut tasks).await,
                Pace::Closed { connections } => self.circle(step, connections, &mut tasks).await,
            }
        }
        while let Some(task) = tasks.join_next().await {
            task.context("a task that sends requests ended")?;
        }
        Ok(())
    }

    /// Opens the connections that are asked for ahead, as far as the gateway takes them.
    async fn open_ahead(self: Arc<Self>) {
        for _ in 0..self.share(self.plan.connections_ready) {
            let gateway = self.next_gateway();
            if let Ok(connection) = self.connect(gateway).await {
                self.idle[gateway].lock().push_back(connection);
            }
        }
    }

    /// Sends each arrival when it is due.
    async fn arrive(self: &Arc<Self>, step: &Step, per_second: f64, tasks: &mut JoinSet<()>) {
        let lanes = (self.number as u64, self.plan.threads as u64);
        let mut schedule = Schedule::new(step.begin, per_second, step.hold, lanes);
        let in_flight_max = self.share(self.plan.in_flight_max);
        while let Some(due) = schedule.due() {
            if due > Instant::now() {
                tokio::time::sleep_until(due.into()).await;
                // What has ended meanwhile needs no room any more.
                while tasks.try_join_next().is_some() {}
            }
            if self.in_flight.load(Ordering::Relaxed) >= in_flight_max {
                step.recorder.beyond_bound();
                // Or the answers that are there already would not be read.
                tokio::task::yield_now().await;
                continue;
            }
            self.in_flight.fetch_add(1, Ordering::Relaxed);
            let (lane, recorder) = (self.clone(), step.recorder.clone());
            tasks.spawn(async move {
                let mut request = Vec::with_capacity(REQUEST_BYTES);
                lane.one(due, &mut request, &recorder).await;
                lane.in_flight.fetch_sub(1, Ordering::Relaxed);
            });
        }
        tokio::time::sleep_until(step.end().into()).await;
    }

    /// Lets each connection ask again when it was answered.
    async fn circle(self: &Arc<Self>, step: &Step, connections: usize, tasks: &mut JoinSet<()>) {
        tokio::time::sleep_until(step.begin.into()).await;
        for _ in 0..self.share(connections) {
            let (lane, recorder, end) = (self.clone(), step.recorder.clone(), step.end());
            tasks.spawn(async move {
                let mut request = Vec::with_capacity(REQUEST_BYTES);
                loop {
                    let now = Instant::now();
                    if now >= end {
                        return;
                    }
                    lane.one(now, &mut request, &recorder).await;
                }
            });
        }
        tokio::time::sleep_until(step.end().into()).await;
    }

    async fn one(&self, due: Instant, request: &mut Vec<u8>, recorder: &Recorder) {
        self.plan.requests.next(request);
        recorder.sent(due);
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, self.ask(request)).await;
        recorder.answered(due, asked.unwrap_or(Outcome::NoAnswer));
    }

    /// Sends a request; once more on a new connection when an idle one turns out to be closed.
    async fn ask(&self, request: &[u8]) -> Outcome {
        let gateway = self.next_gateway();
        let idle = self.next_idle(gateway);
        if let Some(connection) = idle {
            match self.exchange(gateway, connection, request).await {
                Ok(outcome) => return outcome,
                Err(Failure::Broken) => return Outcome::NoAnswer,
                Err(Failure::ClosedBefore) => {}
            }
        }
        let Ok(connection) = self.connect(gateway).await else { return Outcome::NoAnswer };
        self.exchange(gateway, connection, request).await.unwrap_or(Outcome::NoAnswer)
    }

    /// The last one used, so that no more are open than are needed; where they were opened ahead, the one that has waited
    /// longest, so that all of them are used.
    fn next_idle(&self, gateway: usize) -> Option<Connection> {
        let mut idle = self.idle[gateway].lock();
        if self.plan.connections_ready > 0 { idle.pop_front() } else { idle.pop_back() }
    }

    async fn exchange(
        &self,
        gateway: usize,
        mut connection: Connection,
        request: &[u8],
    ) -> Result<Outcome, Failure> {
        let open = Counted(&self.open);
        let answer = connection.exchange(request).await?;
        if !answer.closes {
            self.idle[gateway].lock().push_back(connection);
            open.keep();
        }
        Ok(answer.outcome)
    }

    async fn connect(&self, gateway: usize) -> std::io::Result<Connection> {
        let connection = Connection::open(self.plan.gateways[gateway]).await?;
        self.open.fetch_add(1, Ordering::Relaxed);
        Ok(connection)
    }

    fn next_gateway(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed) % self.plan.gateways.len()
    }
}

/// Counts a connection out when it is dropped, as it is when the answer takes too long.
struct Counted<'a>(&'a AtomicUsize);

impl Counted<'_> {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
