//! The inside of the batcher: queued entries, and the task that makes flights of them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use metrics::{Counter, Gauge, Histogram};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{BatchError, BatcherSettings, Pending};

/// States of an entry: who moves it out of `QUEUED` decides whether the work is begun.
const QUEUED: u8 = 0;
const STARTED: u8 = 1;
const GIVEN_UP: u8 = 2;

/// One request in the queue.
pub(super) struct Entry<R, A> {
    request: R,
    deadline: Instant,
    queued_at: Instant,
    state: Arc<AtomicU8>,
    caller: Caller<A>,
}

/// The dispatcher's end of one request.
#[derive(Debug)]
pub(super) struct Caller<A>(oneshot::Sender<A>);

impl<A> Caller<A> {
    pub(super) fn has_gone(&self) -> bool {
        self.0.is_closed()
    }

    pub(super) fn answer(self, answer: A) {
        // Fails if the caller has gone; the work is done all the same.
        let _gone = self.0.send(answer);
    }
}

/// The caller's end of one request.
pub(super) struct Ticket<A> {
    state: Arc<AtomicU8>,
    answer: oneshot::Receiver<A>,
}

pub(super) fn entry<R, A>(request: R, deadline: Instant) -> (Entry<R, A>, Ticket<A>) {
    let (sender, answer) = oneshot::channel();
    let state = Arc::new(AtomicU8::new(QUEUED));
    let entry =
        Entry { request, deadline, queued_at: Instant::now(), state: state.clone(), caller: Caller(sender) };
    (entry, Ticket { state, answer })
}

impl<A> Ticket<A> {
    /// The answer, or why there is none.
    pub(super) async fn answer(&mut self) -> Result<A, BatchError> {
        match (&mut self.answer).await {
            Ok(answer) => Ok(answer),
            Err(_) => self.give_up(),
        }
    }

    /// No answer came in time: takes one that comes just now, or says whether work was begun.
    pub(super) fn give_up(&mut self) -> Result<A, BatchError> {
        if self.state.compare_exchange(QUEUED, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return Err(BatchError::Expired);
        }
        self.answer.try_recv().map_err(|_| BatchError::Lost)
    }
}

impl<R, A> Entry<R, A> {
    /// Begins the work, unless the caller has gone or its time is over.
    fn start(self, now: Instant) -> Option<Pending<R, A>> {
        if now >= self.deadline || self.caller.has_gone() {
            return None;
        }
        self.state.compare_exchange(QUEUED, STARTED, Ordering::AcqRel, Ordering::Acquire).ok()?;
        Some(Pending { request: self.request, deadline: self.deadline, caller: self.caller })
    }
}

/// What a batcher tells about itself.
#[derive(Clone)]
pub(super) struct Metrics {
    depth: Gauge,
    batch_size: Histogram,
    wait: Histogram,
    overloaded: Counter,
}

impl Metrics {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            depth: metrics::gauge!("batcher_queue_depth", "name" => name),
            batch_size: metrics::histogram!("batcher_batch_size", "name" => name),
            wait: metrics::histogram!("batcher_wait_seconds", "name" => name),
            overloaded: metrics::counter!("batcher_overloaded_total", "name" => name),
        }
    }

    pub(super) fn queued(&self) {
        self.depth.increment(1.0);
    }

    pub(super) fn overloaded(&self) {
        self.overloaded.increment(1);
    }
}

/// Takes entries out of the queue and makes flights of them.
pub(super) struct Dispatcher<R, A> {
    settings: BatcherSettings,
    queue: mpsc::Receiver<Entry<R, A>>,
    metrics: Metrics,
    flights: JoinSet<()>,
    last_flight: Option<Instant>,
}

impl<R: Send + 'static, A: Send + 'static> Dispatcher<R, A> {
    pub(super) fn new(
        settings: BatcherSettings,
        queue: mpsc::Receiver<Entry<R, A>>,
        metrics: Metrics,
    ) -> Self {
        Self { settings, queue, metrics, flights: JoinSet::new(), last_flight: None }
    }

    /// Works until `stop` or the last handle is dropped, then until the queue is empty and the last flight landed.
    pub(super) async fn run<F, Fut>(mut self, stop: CancellationToken, flush: F) -> anyhow::Result<()>
    where
        F: Fn(Vec<Pending<R, A>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let flush = Arc::new(flush);
        let mut entries = Vec::with_capacity(self.settings.batch_max);
        while self.next_batch(&stop, &mut entries).await {
            let now = Instant::now();
            let batch = self.begin(&mut entries, now);
            if batch.is_empty() {
                continue;
            }
            self.last_flight = Some(now);
            let flush = flush.clone();
            self.flights.spawn(async move { flush(batch).await });
        }
        while let Some(landed) = self.flights.join_next().await {
            self.landed(landed);
        }
        Ok(())
    }

    /// Waits for a free flight and for at least one entry; `false` when nothing can come any more.
    async fn next_batch(&mut self, stop: &CancellationToken, entries: &mut Vec<Entry<R, A>>) -> bool {
        while let Some(landed) = self.flights.try_join_next() {
            self.landed(landed);
        }
        while self.flights.len() >= self.settings.flights_max {
            tokio::select! {
                Some(landed) = self.flights.join_next() => self.landed(landed),
                () = stop.cancelled(), if !self.queue.is_closed() => self.queue.close(),
            }
        }
        let received = tokio::select! {
            biased; // Stop first: a flood of requests must not keep the queue open.
            () = stop.cancelled(), if !self.queue.is_closed() => {
                self.queue.close();
                self.queue.recv_many(entries, self.settings.batch_max).await
            }
            received = self.queue.recv_many(entries, self.settings.batch_max) => received,
        };
        if received == 0 {
            return false;
        }
        if let Some(last) = self.last_flight {
            self.fill_until(last + self.settings.min_interval, stop, entries).await;
        }
        true
    }

    /// Lets the batch fill until `until`, or until it is full or no more can come.
    async fn fill_until(&mut self, until: Instant, stop: &CancellationToken, entries: &mut Vec<Entry<R, A>>) {
        while !self.settings.min_interval.is_zero() && entries.len() < self.settings.batch_max {
            let room = self.settings.batch_max - entries.len();
            tokio::select! {
                received = timeout_at(until, self.queue.recv_many(entries, room)) => match received {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                },
                () = stop.cancelled() => return,
            }
        }
    }

    /// Drops the entries whose caller has gone or whose time is over, and begins the others.
    fn begin(&self, entries: &mut Vec<Entry<R, A>>, now: Instant) -> Vec<Pending<R, A>> {
        self.metrics.depth.decrement(entries.len() as f64);
        if let Some(oldest) = entries.first() {
            self.metrics.wait.record(now.saturating_duration_since(oldest.queued_at));
        }
        let batch: Vec<_> = entries.drain(..).filter_map(|entry| entry.start(now)).collect();
        if !batch.is_empty() {
            self.metrics.batch_size.record(batch.len() as f64);
        }
        batch
    }

    fn landed(&self, flight: Result<(), tokio::task::JoinError>) {
        if let Err(error) = flight {
            tracing::error!(name = self.settings.name, %error, "a flush failed; its callers know no outcome");
        }
    }
}
