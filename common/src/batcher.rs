//! Natural batching: whatever waits travels together.
//!
//! While `flights_max` flushes are in flight the queue fills; the next flush takes what is waiting, up to
//! `batch_max`. So a batch has size 1 when idle and is large under load. One task dispatches; a request costs one
//! slot in a bounded queue, one `oneshot` and one timer, no task of its own.

mod queue;

use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::shutdown::Tasks;
use queue::{Caller, Dispatcher, Entry, Metrics};

/// How a batcher batches.
#[derive(Debug, Clone, Copy)]
pub struct BatcherSettings {
    /// The name in metrics and logs.
    pub name: &'static str,
    /// Most requests that wait; one more is answered [`BatchError::Overloaded`].
    pub queue_max: usize,
    /// Most requests in one flush.
    pub batch_max: usize,
    /// Most flushes at a time.
    pub flights_max: usize,
    /// Least time between the starts of two flushes unless `batch_max` requests wait. Zero where callers wait.
    pub min_interval: Duration,
}

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The queue is full; nothing was done.
    #[error("too many requests are waiting")]
    Overloaded,
    /// The deadline passed before any work was done.
    #[error("waited until the deadline")]
    Expired,
    /// Work was begun and no answer came by the deadline, or ever: it may or may not have had an effect.
    #[error("no answer came back")]
    Lost,
    /// The process is stopping; nothing was done.
    #[error("stopping")]
    Stopped,
}

/// A request in a flush. Dropped unanswered, it is [`BatchError::Lost`] to its caller.
#[derive(Debug)]
pub struct Pending<R, A> {
    /// What the caller asked for.
    pub request: R,
    /// When the caller stops waiting.
    pub deadline: Instant,
    caller: Caller<A>,
}

impl<R, A> Pending<R, A> {
    /// Answers this caller now, without waiting for the rest of the batch.
    pub fn answer(self, answer: A) {
        self.caller.answer(answer);
    }

    /// Whether the caller still waits: it has not gone, and its deadline is not over.
    pub fn is_wanted(&self, now: Instant) -> bool {
        now < self.deadline && !self.caller.has_gone()
    }

    /// Takes the request out, to be worked on, and leaves what answers it.
    pub fn split(self) -> (R, Pending<(), A>) {
        (self.request, Pending { request: (), deadline: self.deadline, caller: self.caller })
    }
}

/// The way into a batch. Cheap to clone; see the module.
pub struct Batcher<R, A> {
    entries: mpsc::Sender<Entry<R, A>>,
    metrics: Metrics,
}

impl<R, A> Clone for Batcher<R, A> {
    fn clone(&self) -> Self {
        Self { entries: self.entries.clone(), metrics: self.metrics.clone() }
    }
}

impl<R: Send + 'static, A: Send + 'static> Batcher<R, A> {
    /// Starts the dispatcher as one of `tasks`; when these stop, it refuses what is new, flushes what is queued and
    /// waits for the flushes in flight. It ends, too, when the last handle is dropped.
    ///
    /// `flush` gets 1 to `batch_max` requests in the order of their arrival, none past its deadline; flights in the
    /// air together have no order among themselves. It must end by itself: every wait in it has a deadline. If it
    /// panics, the callers it has not answered get [`BatchError::Lost`] and the batcher goes on.
    pub fn start<F, Fut>(settings: BatcherSettings, tasks: &Tasks, flush: F) -> Self
    where
        F: Fn(Vec<Pending<R, A>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (entries, receiver) = mpsc::channel(settings.queue_max);
        let metrics = Metrics::new(settings.name);
        let dispatcher = Dispatcher::new(settings, receiver, metrics.clone());
        tasks.spawn_finite(settings.name, dispatcher.run(tasks.stop_token(), flush));
        Self { entries, metrics }
    }

    /// Waits for the answer to `request`, until `deadline` at most. Dropped while still queued, it is not started.
    ///
    /// # Errors
    /// See [`BatchError`]; only [`BatchError::Lost`] may have had an effect.
    pub async fn submit(&self, request: R, deadline: Instant) -> Result<A, BatchError> {
        let (entry, mut ticket) = queue::entry(request, deadline);
        match self.entries.try_send(entry) {
            Ok(()) => self.metrics.queued(),
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.metrics.overloaded();
                return Err(BatchError::Overloaded);
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(BatchError::Stopped),
        }
        match timeout_at(deadline, ticket.answer()).await {
            Ok(answer) => answer,
            Err(_) => ticket.give_up(),
        }
    }
}
