//! What callers of a batcher can rely on.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use common::batcher::{BatchError, Batcher, BatcherSettings, Pending};
use common::shutdown::Tasks;
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::{SOON, eventually_true, far};

const SETTINGS: BatcherSettings = BatcherSettings {
    name: "test",
    queue_max: 100,
    batch_max: 10,
    flights_max: 1,
    min_interval: Duration::ZERO,
};

/// A batcher whose flushes wait for a permit each, and note what they were given.
struct Bench {
    batcher: Batcher<u32, u32>,
    tasks: Tasks,
    gate: Arc<Semaphore>,
    batches: Arc<Mutex<Vec<Vec<u32>>>>,
}

impl Bench {
    fn start(settings: BatcherSettings) -> Self {
        let tasks = Tasks::new(CancellationToken::new());
        let (gate, batches) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (flush_gate, flush_batches) = (gate.clone(), batches.clone());
        let batcher = Batcher::start(settings, &tasks, move |batch: Vec<Pending<u32, u32>>| {
            let requests = batch.iter().map(|pending| pending.request).collect();
            flush_batches.lock().unwrap().push(requests);
            let gate = flush_gate.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                for pending in batch {
                    let answer = pending.request * 2;
                    pending.answer(answer);
                }
            }
        });
        Self { batcher, tasks, gate, batches }
    }

    /// Submits; when this returns, the request stands in the queue or in a flight.
    async fn submit(&self, request: u32) -> Submitted<u32> {
        submit(&self.batcher, request).await
    }

    fn batches(&self) -> Vec<Vec<u32>> {
        self.batches.lock().unwrap().clone()
    }

    /// Fills the one flight, so that what follows has to wait.
    async fn occupy(&self) -> Submitted<u32> {
        let first = self.submit(0).await;
        eventually_true("the flight is taken", || self.batches() == [[0]]).await;
        first
    }
}

type Submitted<A> = Pin<Box<dyn Future<Output = Result<A, BatchError>> + Send>>;

/// Submits and asks once for the answer, which enters the request in the queue.
async fn submit<R, A>(batcher: &Batcher<R, A>, request: R) -> Submitted<A>
where
    R: Send + 'static,
    A: Send + 'static,
{
    let batcher = batcher.clone();
    let mut submitted: Submitted<A> = Box::pin(async move { batcher.submit(request, far()).await });
    let answer = std::future::poll_fn(|context| Poll::Ready(submitted.as_mut().poll(context))).await;
    assert!(answer.is_pending(), "no answer without a flush");
    submitted
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_one_request_when_idle() {
    let bench = Bench::start(SETTINGS);
    bench.gate.add_permits(3);
    for request in 1..=3 {
        assert_eq!(bench.batcher.submit(request, far()).await, Ok(request * 2));
    }
    assert_eq!(bench.batches(), [[1], [2], [3]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_what_waited_while_the_flights_were_busy_in_order_of_arrival() {
    let bench = Bench::start(SETTINGS);
    let mut submitted = vec![bench.occupy().await];
    for request in 1..=12 {
        submitted.push(bench.submit(request).await);
    }
    bench.gate.add_permits(3);

    for (request, answer) in (0..).zip(join_all(submitted).await) {
        assert_eq!(answer, Ok(request * 2));
    }
    assert_eq!(bench.batches(), [vec![0], (1..=10).collect(), vec![11, 12]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn flights_are_in_the_air_together_up_to_their_bound() {
    let bench = Bench::start(BatcherSettings { flights_max: 2, batch_max: 1, ..SETTINGS });
    let submitted = [bench.submit(1).await, bench.submit(2).await, bench.submit(3).await];
    eventually_true("two flights", || bench.batches().len() == 2).await;
    tokio::time::sleep(SOON).await;
    let mut batches = bench.batches();
    batches.sort_unstable();
    assert_eq!(batches, [[1], [2]], "the third waits");

    bench.gate.add_permits(3);
    assert!(join_all(submitted).await.iter().all(Result::is_ok));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_answers_at_once() {
    let bench = Bench::start(BatcherSettings { queue_max: 2, ..SETTINGS });
    let mut submitted = vec![bench.occupy().await];
    submitted.push(bench.submit(1).await);
    submitted.push(bench.submit(2).await);

    let answer = bench.batcher.submit(3, far()).now_or_never();
    assert_eq!(answer, Some(Err(BatchError::Overloaded)), "refused without waiting");

    bench.gate.add_permits(2);
    assert!(join_all(submitted).await.iter().all(Result::is_ok));
    assert_eq!(bench.batches(), [vec![0], vec![1, 2]], "the refused request was not flushed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_past_its_deadline_is_not_flushed() {
    let bench = Bench::start(SETTINGS);
    let first = bench.occupy().await;
    assert_eq!(bench.batcher.submit(1, Instant::now() + SOON).await, Err(BatchError::Expired));
    assert_eq!(bench.batcher.submit(2, Instant::now()).await, Err(BatchError::Expired));
    let last = bench.submit(3).await;

    bench.gate.add_permits(2);
    assert_eq!((first.await, last.await), (Ok(0), Ok(6)));
    assert_eq!(bench.batches(), [[0], [3]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_has_gone_is_not_started() {
    let bench = Bench::start(SETTINGS);
    let first = bench.occupy().await;
    let gone = bench.submit(1).await;
    drop(gone);
    let last = bench.submit(2).await;

    bench.gate.add_permits(2);
    assert_eq!((first.await, last.await), (Ok(0), Ok(4)));
    assert_eq!(bench.batches(), [[0], [2]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_goes_on_without_a_caller_that_left_it() {
    let bench = Bench::start(SETTINGS);
    let gone = bench.occupy().await;
    drop(gone);
    let next = bench.submit(1).await;
    bench.gate.add_permits(2);
    assert_eq!(next.await, Ok(2));
    assert_eq!(bench.batches(), [[0], [1]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_after_the_deadline_is_lost_not_expired() {
    let bench = Bench::start(SETTINGS);
    // Started at once, but the flush has no permit: whatever it does has an unknown outcome.
    let deadline = Instant::now() + Duration::from_secs(1);
    assert_eq!(bench.batcher.submit(1, deadline).await, Err(BatchError::Lost));
    assert_eq!(bench.batches(), [[1]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_do_not_wait_for_the_rest_of_the_batch() {
    let tasks = Tasks::new(CancellationToken::new());
    let gate = Arc::new(Semaphore::new(0));
    let flush_gate = gate.clone();
    let batcher = Batcher::start(SETTINGS, &tasks, move |batch: Vec<Pending<bool, &str>>| {
        let gate = flush_gate.clone();
        async move {
            let (slow, quick): (Vec<_>, Vec<_>) = batch.into_iter().partition(|pending| pending.request);
            quick.into_iter().for_each(|pending| pending.answer("refused"));
            gate.acquire().await.unwrap().forget();
            slow.into_iter().for_each(|pending| pending.answer("accepted"));
        }
    });
    let first = submit(&batcher, true).await;
    tokio::time::sleep(SOON).await;
    let mut slow = submit(&batcher, true).await;
    let quick = submit(&batcher, false).await;
    gate.add_permits(1);
    assert_eq!(first.await, Ok("accepted"));

    assert_eq!(quick.await, Ok("refused"));
    assert_eq!(slow.as_mut().now_or_never(), None);
    gate.add_permits(1);
    assert_eq!(slow.await, Ok("accepted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_fails_loses_only_its_own_callers() {
    let tasks = Tasks::new(CancellationToken::new());
    let batcher = Batcher::start(SETTINGS, &tasks, |batch: Vec<Pending<u32, u32>>| {
        assert!(batch[0].request != 0, "0 fails before its flush is a future");
        async move {
            for pending in batch {
                match pending.request {
                    1 => panic!("1 fails in its flush"),
                    2 => drop(pending),
                    other => pending.answer(other),
                }
            }
        }
    });
    for request in 0..=2 {
        assert_eq!(batcher.submit(request, far()).await, Err(BatchError::Lost), "{request}");
        assert_eq!(batcher.submit(3, far()).await, Ok(3), "after {request}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_refuses_what_is_new_and_finishes_what_is_queued() {
    let bench = Bench::start(BatcherSettings { flights_max: 2, ..SETTINGS });
    let mut submitted = vec![bench.occupy().await, bench.submit(1).await];
    submitted.push(bench.submit(2).await);
    submitted.push(bench.submit(3).await);

    let tasks = bench.tasks.clone();
    let finished = tokio::spawn(async move { tasks.finish(Duration::from_secs(30)).await });
    let refused = || async { bench.batcher.submit(4, Instant::now() + SOON).await };
    testkit::eventually("refused", async || (refused().await == Err(BatchError::Stopped)).then_some(()))
        .await;
    assert!(!finished.is_finished(), "flights are in the air");

    bench.gate.add_permits(10);
    for (request, answer) in (0..).zip(join_all(submitted).await) {
        assert_eq!(answer, Ok(request * 2), "queued before the stop");
    }
    finished.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batcher_without_handles_ends_after_its_last_flight_and_stops_nothing() {
    let stop = CancellationToken::new();
    let tasks = Tasks::new(stop.clone());
    let (gate, alive) = (Arc::new(Semaphore::new(0)), Arc::new(()));
    let (flush_gate, flush_alive) = (gate.clone(), alive.clone());
    let batcher = Batcher::start(SETTINGS, &tasks, move |batch: Vec<Pending<u32, u32>>| {
        let (gate, _alive) = (flush_gate.clone(), flush_alive.clone());
        async move {
            gate.acquire().await.unwrap().forget();
            batch.into_iter().for_each(|pending| pending.answer(1));
        }
    });
    let submitted = submit(&batcher, 1).await;
    drop(batcher);
    gate.add_permits(1);
    assert_eq!(submitted.await, Ok(1));
    eventually_true("the dispatcher is gone", || Arc::strong_count(&alive) == 1).await;
    assert!(!stop.is_cancelled());
    tasks.finish(Duration::from_secs(30)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_minimum_interval_gathers_but_does_not_hold_back_a_full_batch() {
    let bench =
        Bench::start(BatcherSettings { min_interval: Duration::from_secs(3600), flights_max: 9, ..SETTINGS });
    bench.gate.add_permits(10);
    assert_eq!(bench.batcher.submit(0, far()).await, Ok(0), "the first one does not wait");
    let answers = join_all((1..=10).map(|request| bench.batcher.submit(request, far()))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(bench.batches(), [vec![0], (1..=10).collect()]);
}
