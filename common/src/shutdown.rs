//! Stopping in order: the signal, and the background tasks with what they stand on.
//!
//! A process stops in stages. The signal makes the HTTP server drain ([`crate::serve`]) while
//! everything behind it still works; then [`Tasks::finish`] stops the tasks stage by stage: first the work itself,
//! then what the work needs ([`Tasks::outliving`]), last the connections ([`Tasks::last`]).

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The number of stages that tasks are stopped in.
const STAGES: usize = 3;

/// A token that is cancelled by SIGTERM or SIGINT.
pub fn on_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let cancelled = stop.clone();
    tokio::spawn(async move {
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(mut terminate), Ok(mut interrupt)) => {
                tokio::select! {
                    _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
                    _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
                }
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "cannot listen for signals, stopping");
            }
        }
        cancelled.cancel();
    });
    stop
}

/// The named background tasks of a process, and the order in which they stop. Cheap to clone.
///
/// A task that ends before it was told to stops the whole process: a half-dead one must not linger.
#[derive(Clone)]
pub struct Tasks {
    shared: Arc<Shared>,
    stage: usize,
}

struct Shared {
    /// Where tasks run, whoever starts them: an HTTP worker has a runtime of its own, which ends with the server.
    runtime: Handle,
    /// Stops the process, as a signal does.
    stop: CancellationToken,
    stages: [Stage; STAGES],
    running: Mutex<Vec<&'static str>>,
    failure: Mutex<Option<anyhow::Error>>,
}

#[derive(Default)]
struct Stage {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    /// No tasks yet; `stop` is the token of [`on_signal`], cancelled when a task ends too early.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(stop: CancellationToken) -> Self {
        let shared = Shared {
            runtime: Handle::current(),
            stop,
            stages: <[Stage; STAGES]>::default(),
            running: Mutex::default(),
            failure: Mutex::default(),
        };
        Self { shared: Arc::new(shared), stage: 0 }
    }

    /// For tasks that the tasks of `self` need until their own end, such as a batcher that a batcher feeds.
    #[must_use]
    pub fn outliving(&self) -> Self {
        Self { shared: self.shared.clone(), stage: (self.stage + 1).min(STAGES - 1) }
    }

    /// For what is stopped when all else has ended: the connections.
    #[must_use]
    pub fn last(&self) -> Self {
        Self { shared: self.shared.clone(), stage: STAGES - 1 }
    }

    /// Tells the tasks started through `self` to stop. Not the token of the signal: they work on while HTTP drains.
    pub fn stop_token(&self) -> CancellationToken {
        self.stage().stop.clone()
    }

    /// Runs `task` until [`Tasks::stop_token`] is cancelled; if it ends or panics before, the process stops.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = self.stop_token();
        self.spawn_finite(name, async move {
            task.await?;
            anyhow::ensure!(stop.is_cancelled(), "ended by itself");
            Ok(())
        });
    }

    /// Runs `task`, which may end whenever its work is done; if it fails or panics, the process stops.
    pub fn spawn_finite<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let shared = self.shared.clone();
        lock(&shared.running).push(name);
        let task = async move {
            let result = AssertUnwindSafe(task).catch_unwind().await;
            if let Err(error) = result.unwrap_or_else(|_| Err(anyhow::anyhow!("panicked"))) {
                let error = error.context(format!("task {name}"));
                tracing::error!(error = format!("{error:#}"), "a background task failed, stopping");
                lock(&shared.failure).get_or_insert(error);
                shared.stop.cancel();
            }
            let mut running = lock(&shared.running);
            if let Some(at) = running.iter().position(|other| *other == name) {
                running.swap_remove(at);
            }
        };
        self.stage().tracker.spawn_on(task, &self.shared.runtime);
    }

    /// Stops all tasks, stage by stage, and waits for them, `timeout` at most.
    ///
    /// # Errors
    /// The first failure of a task, or that some did not end in time.
    pub async fn finish(&self, timeout: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + timeout;
        for stage in &self.shared.stages {
            stage.stop.cancel();
            stage.tracker.close();
            if timeout_at(deadline, stage.tracker.wait()).await.is_err() {
                let running = lock(&self.shared.running).join(", ");
                anyhow::bail!("not ended within {timeout:?}: {running}");
            }
        }
        lock(&self.shared.failure).take().map_or(Ok(()), Err)
    }

    fn stage(&self) -> &Stage {
        &self.shared.stages[self.stage]
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
