//! From the process to the collector: a bounded queue, and a thread of its own that empties it.
//!
//! Whoever has something to export never waits: what does not fit is dropped and counted. The same goes for what the
//! collector does not take; that it is away is said once, and once that it is back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::FutureExt as _;
use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::logs::{LogProcessor, SdkLogRecord};
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::oneshot;

use super::dropped;

/// Most items that wait to be exported; one more is dropped. A span has about 1 KiB.
const QUEUE_MAX: usize = 4_096;
/// Most items in one export.
const BATCH_MAX: usize = 512;
/// How long an item waits for others to be exported with it.
const INTERVAL: Duration = Duration::from_millis(500);

/// A log line on its way out.
pub(super) type Record = Box<(SdkLogRecord, InstrumentationScope)>;

/// The way into the queue.
#[derive(Debug)]
pub(super) struct Queue<T> {
    signal: &'static str,
    items: SyncSender<T>,
}

/// A thread that exports.
pub(super) struct Pipeline {
    stop: Arc<AtomicBool>,
    ended: oneshot::Receiver<()>,
}

impl Pipeline {
    /// Waits until everything that is queued has been sent, or refused.
    pub(super) async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        // Fails when the thread has died, which has ended it too.
        let _ended = self.ended.await;
    }
}

/// Starts a thread that exports by what `build` makes there: a blocking client must not be made inside a runtime.
///
/// # Errors
/// `build` failed.
pub(super) fn start<T, B, E>(signal: &'static str, build: B) -> anyhow::Result<(Pipeline, Queue<T>)>
where
    T: Send + 'static,
    B: FnOnce() -> anyhow::Result<E> + Send + 'static,
    E: FnMut(Vec<T>) -> OTelSdkResult,
{
    let (items, received) = sync_channel(QUEUE_MAX);
    let (built, result) = sync_channel(1);
    let (done, ended) = oneshot::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    std::thread::Builder::new().name(format!("otlp-{signal}")).spawn(move || {
        // What the exporter itself does is neither traced nor exported.
        let _quiet = Context::enter_telemetry_suppressed_scope();
        match build() {
            Ok(export) => {
                // Nobody waits for this any more if it fails.
                let _heard = built.send(Ok(()));
                Worker { signal, received, stop: stopped, export, away: false }.run();
            }
            Err(error) => {
                let _heard = built.send(Err(error));
            }
        }
        let _waiting = done.send(());
    })?;
    result.recv().context("the exporter's thread has died")??;
    Ok((Pipeline { stop, ended }, Queue { signal, items }))
}

/// The result of an export by a blocking client, which is there at the first look.
pub(super) fn at_once(export: impl Future<Output = OTelSdkResult>) -> OTelSdkResult {
    let late = || OTelSdkError::InternalFailure("the export did not end".to_owned());
    export.now_or_never().unwrap_or_else(|| Err(late()))
}

impl<T> Queue<T> {
    fn push(&self, item: T) {
        if self.items.try_send(item).is_err() {
            dropped(self.signal, "queue_full", 1);
        }
    }
}

struct Worker<T, E> {
    signal: &'static str,
    received: Receiver<T>,
    stop: Arc<AtomicBool>,
    export: E,
    /// Whether the last export failed.
    away: bool,
}

impl<T, E: FnMut(Vec<T>) -> OTelSdkResult> Worker<T, E> {
    fn run(mut self) {
        loop {
            let stopping = self.stop.load(Ordering::Relaxed);
            let mut batch = Vec::new();
            let until = Instant::now() + INTERVAL;
            let closed = loop {
                let wait =
                    if stopping { Duration::ZERO } else { until.saturating_duration_since(Instant::now()) };
                match self.received.recv_timeout(wait.min(INTERVAL / 10)) {
                    Ok(item) => batch.push(item),
                    Err(RecvTimeoutError::Disconnected) => break true,
                    Err(RecvTimeoutError::Timeout) if stopping || self.stop.load(Ordering::Relaxed) => {
                        break false;
                    }
                    Err(RecvTimeoutError::Timeout) if Instant::now() >= until => break false,
                    Err(RecvTimeoutError::Timeout) => {}
                }
                if batch.len() >= BATCH_MAX {
                    break false;
                }
            };
            let idle = batch.is_empty();
            if !idle {
                self.send(batch);
            }
            if closed || (stopping && idle) {
                return;
            }
        }
    }

    fn send(&mut self, batch: Vec<T>) {
        let count = batch.len();
        match (self.export)(batch) {
            Ok(()) => {
                metrics::counter!("telemetry_exported_total", "signal" => self.signal)
                    .increment(count as u64);
                if std::mem::take(&mut self.away) {
                    tracing::info!(signal = self.signal, "the collector is back");
                }
            }
            Err(error) => {
                dropped(self.signal, "export_failed", count);
                if !std::mem::replace(&mut self.away, true) {
                    tracing::warn!(signal = self.signal, %error, "the collector takes nothing: dropped and counted");
                }
            }
        }
    }
}

/// Takes ended spans to the queue.
#[derive(Debug)]
pub(super) struct Spans(pub(super) Queue<SpanData>);

impl SpanProcessor for Spans {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Takes log lines to the queue.
#[derive(Debug)]
pub(super) struct Logs(pub(super) Queue<Record>);

impl LogProcessor for Logs {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        self.0.push(Box::new((record.clone(), scope.clone())));
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_that_hangs_holds_up_nobody_and_what_does_not_fit_is_dropped() {
        let (release, held) = sync_channel::<()>(0);
        let (exported, seen) = std::sync::mpsc::channel();
        let (pipeline, queue) = start("traces", move || {
            Ok(move |batch: Vec<usize>| {
                let _released = held.recv();
                exported.send(batch.len()).map_err(|error| OTelSdkError::InternalFailure(error.to_string()))
            })
        })
        .unwrap();
        for item in 0..3 * QUEUE_MAX {
            queue.push(item);
        }
        drop(release);
        pipeline.finish().await;
        let sent: usize = seen.try_iter().sum();
        assert!((QUEUE_MAX..=QUEUE_MAX + 2 * BATCH_MAX).contains(&sent), "{sent}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_queued_at_the_end_is_sent() {
        let (exported, seen) = std::sync::mpsc::channel();
        let (pipeline, queue) = start("logs", move || {
            Ok(move |batch: Vec<usize>| {
                exported.send(batch.len()).map_err(|error| OTelSdkError::InternalFailure(error.to_string()))
            })
        })
        .unwrap();
        (0..BATCH_MAX + 1).for_each(|item| queue.push(item));
        pipeline.finish().await;
        assert_eq!(seen.try_iter().sum::<usize>(), BATCH_MAX + 1);
    }

    #[test]
    fn an_exporter_that_cannot_be_built_is_an_error() {
        let build = || -> anyhow::Result<fn(Vec<()>) -> OTelSdkResult> { anyhow::bail!("no") };
        assert!(start("logs", build).is_err());
    }
}
