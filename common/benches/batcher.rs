//! What the batcher costs a request, by the largest batch, with 256 callers at a time.

use std::time::Duration;

use common::batcher::{Batcher, BatcherSettings, Pending};
use common::shutdown::Tasks;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const CALLERS: usize = 256;
const PATIENCE: Duration = Duration::from_secs(60);

fn start(batch_max: usize) -> Batcher<u64, u64> {
    let settings = BatcherSettings {
        name: "bench",
        queue_max: CALLERS,
        batch_max,
        flights_max: 4,
        min_interval: Duration::ZERO,
    };
    let tasks = Tasks::new(CancellationToken::new());
    Batcher::start(settings, &tasks, |batch: Vec<Pending<u64, u64>>| async move {
        // One turn of the scheduler stands for the work, so that the next batch can fill.
        tokio::task::yield_now().await;
        for pending in batch {
            let (request, caller) = pending.split();
            caller.answer(request);
        }
    })
}

fn batcher(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut group = criterion.benchmark_group("batcher");
    group.throughput(Throughput::Elements(CALLERS as u64));
    for batch_max in [1, 8, 64, 256] {
        let batcher = runtime.block_on(async { start(batch_max) });
        group.bench_with_input(BenchmarkId::new("submit", batch_max), &batcher, |bencher, batcher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    let deadline = Instant::now() + PATIENCE;
                    join_all((0..CALLERS as u64).map(|request| batcher.submit(request, deadline))).await
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, batcher);
criterion_main!(benches);
