//! Whatever callers and flushes do: every request is answered exactly once, and the answer is true.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::batcher::{BatchError, Batcher, BatcherSettings, Pending};
use common::shutdown::Tasks;
use futures_util::future::join_all;
use proptest::prelude::*;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// What becomes of a request inside its flush.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Answered,
    Dropped,
    Panics,
}

/// One caller.
#[derive(Debug, Clone)]
struct Caller {
    starts_after_us: u64,
    waits_us: u64,
    leaves_after_us: Option<u64>,
    fate: Fate,
}

#[derive(Debug, Clone)]
struct Scenario {
    callers: Vec<Caller>,
    queue_max: usize,
    batch_max: usize,
    flights_max: usize,
    min_interval_us: u64,
    flush_takes_us: u64,
    stops_after_us: u64,
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let fate = prop_oneof![8 => Just(Fate::Answered), 1 => Just(Fate::Dropped), 1 => Just(Fate::Panics)];
    let caller = (0..4_000_u64, 0..8_000_u64, proptest::option::weighted(0.2, 0..4_000_u64), fate).prop_map(
        |(starts_after_us, waits_us, leaves_after_us, fate)| Caller {
            starts_after_us,
            waits_us,
            leaves_after_us,
            fate,
        },
    );
    let callers = proptest::collection::vec(caller, 1..60);
    (callers, 1..20_usize, 1..8_usize, 1..4_usize, 0..1_000_u64, 0..3_000_u64, 0..12_000_u64).prop_map(
        |(callers, queue_max, batch_max, flights_max, min_interval_us, flush_takes_us, stops_after_us)| {
            Scenario {
                callers,
                queue_max,
                batch_max,
                flights_max,
                min_interval_us,
                flush_takes_us,
                stops_after_us,
            }
        },
    )
}

type Flushed = Arc<Mutex<HashMap<usize, u32>>>;

fn start(scenario: &Scenario, tasks: &Tasks, flushed: &Flushed) -> Batcher<(usize, Fate), usize> {
    let settings = BatcherSettings {
        name: "property",
        queue_max: scenario.queue_max,
        batch_max: scenario.batch_max,
        flights_max: scenario.flights_max,
        min_interval: Duration::from_micros(scenario.min_interval_us),
    };
    let takes = Duration::from_micros(scenario.flush_takes_us);
    let (flushed, batch_max) = (flushed.clone(), scenario.batch_max);
    Batcher::start(settings, tasks, move |batch: Vec<Pending<(usize, Fate), usize>>| {
        assert!((1..=batch_max).contains(&batch.len()));
        for pending in &batch {
            *flushed.lock().unwrap().entry(pending.request.0).or_default() += 1;
        }
        async move {
            sleep(takes).await;
            for pending in batch {
                match pending.request {
                    (number, Fate::Answered) => pending.answer(number),
                    (_, Fate::Dropped) => drop(pending),
                    (_, Fate::Panics) => panic!("a flush that panics"),
                }
            }
        }
    })
}

/// `None`: the caller left.
async fn call(
    batcher: Batcher<(usize, Fate), usize>,
    number: usize,
    caller: Caller,
) -> Option<Result<usize, BatchError>> {
    sleep(Duration::from_micros(caller.starts_after_us)).await;
    let deadline = Instant::now() + Duration::from_micros(caller.waits_us);
    let submitted = batcher.submit((number, caller.fate), deadline);
    match caller.leaves_after_us {
        None => Some(submitted.await),
        Some(after_us) => tokio::time::timeout(Duration::from_micros(after_us), submitted).await.ok(),
    }
}

async fn play(scenario: Scenario) {
    let tasks = Tasks::new(CancellationToken::new());
    let flushed = Flushed::default();
    let batcher = start(&scenario, &tasks, &flushed);
    let callers = scenario.callers.iter().cloned().enumerate();
    let calls = callers.map(|(number, caller)| tokio::spawn(call(batcher.clone(), number, caller)));
    let calls: Vec<_> = calls.collect();
    sleep(Duration::from_micros(scenario.stops_after_us)).await;
    tasks.finish(Duration::from_secs(30)).await.unwrap();

    let answers = join_all(calls).await;
    let flushed = flushed.lock().unwrap();
    for (number, answer) in answers.into_iter().enumerate() {
        let times = flushed.get(&number).copied().unwrap_or(0);
        match answer.unwrap() {
            Some(Ok(answer)) => assert_eq!((answer, times), (number, 1), "its own answer, of one flush"),
            Some(Err(BatchError::Lost)) => assert_eq!(times, 1, "lost means begun"),
            Some(Err(error)) => assert_eq!(times, 0, "{number}: {error:?} means that nothing was done"),
            None => assert!(times <= 1),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn each_request_is_answered_exactly_once_and_truly(scenario in scenario()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(play(scenario));
    }
}
