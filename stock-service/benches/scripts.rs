//! What the scripts cost Redis, by the number of requests in a call: on a Redis of its own with its append-only file on,
//! which has one core to itself if the machine has one to give.
//!
//! The time is Redis' own CPU time, which other work on the machine disturbs least.

#[path = "../tests/it/support/shelf.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "it is of the tests, which use the rest of it")]
mod shelf;

use std::time::Duration;

use common::messages::order::Units;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use shelf::Shelf;
use stock_service::stock::{OrderState, Wish};
use tokio::runtime::Runtime;

/// Units on offer: more than any round takes.
const UNITS: i64 = 1_000_000_000;
/// Orders that are made before the clock is looked at.
const ROUND: usize = 4_096;

/// CPU time that Redis has used so far.
async fn used(shelf: &Shelf) -> Duration {
    let info: String = shelf.ask(&["INFO", "cpu"]).await;
    let seconds = |name: &str| -> f64 {
        let line = info.lines().find_map(|line| line.strip_prefix(name)).expect("a line of INFO");
        line.trim().parse().expect("seconds")
    };
    Duration::from_secs_f64(seconds("used_cpu_user:") + seconds("used_cpu_sys:"))
}

/// Requests of buyers that nobody has seen before.
fn fresh(shelf: &Shelf, next: &mut usize, count: usize) -> Vec<Wish> {
    let first = *next;
    *next += count;
    (first..*next).map(|number| shelf.wish(&format!("u{number}"), "key", 1)).collect()
}

fn created(shelf: &Shelf, wishes: &[Wish]) -> Vec<OrderState> {
    wishes.iter().map(|wish| shelf.order(wish.user_id.as_str(), "key", 1, (Units::Held, 1))).collect()
}

/// Rounds of `calls` until `iterations` of them were made; the time that Redis took for these.
async fn timed<T>(
    shelf: &Shelf,
    (iterations, per_round): (u64, usize),
    mut prepare: impl AsyncFnMut(usize) -> Vec<T>,
    call: impl AsyncFn(&T),
) -> Duration {
    let (mut left, mut took) = (usize::try_from(iterations).expect("fits"), Duration::ZERO);
    while left > 0 {
        let now = left.min(per_round);
        let calls = prepare(now).await;
        let before = used(shelf).await;
        for one in &calls {
            call(one).await;
        }
        took += used(shelf).await.saturating_sub(before);
        left -= now;
    }
    took
}

fn reserve(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("reserve.lua");
    for size in [1, 2, 4, 8, 16, 32, 64] {
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_custom(|iterations| {
                runtime.block_on(async {
                    let (shelf, mut next) = (Shelf::open(UNITS, 100).await, 0);
                    let prepare =
                        async |calls| (0..calls).map(|_| fresh(&shelf, &mut next, size)).collect::<Vec<_>>();
                    let call = async |wishes: &Vec<Wish>| drop(shelf.reserve_all(wishes).await);
                    timed(&shelf, (iterations, ROUND / size), prepare, call).await
                })
            });
        });
    }
    group.finish();
}

fn apply(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("apply_order.lua");
    for size in [1, 8, 64, 256] {
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_custom(|iterations| {
                runtime.block_on(async {
                    let (shelf, mut next) = (Shelf::open(UNITS, 100).await, 0);
                    let prepare = async |calls| {
                        let mut orders = Vec::with_capacity(calls);
                        for _ in 0..calls {
                            let wishes = fresh(&shelf, &mut next, size);
                            for wishes in wishes.chunks(64) {
                                shelf.reserve_all(wishes).await;
                            }
                            orders.push(created(&shelf, &wishes));
                        }
                        orders
                    };
                    let call = async |orders: &Vec<OrderState>| drop(shelf.apply(orders).await);
                    timed(&shelf, (iterations, ROUND / size), prepare, call).await
                })
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(4));
    targets = reserve, apply
}
criterion_main!(benches);
