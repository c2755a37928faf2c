//! What tracing costs work that is not traced, which is nearly all of it.

use common::telemetry::trace::{self, Describe, Origin, Sampling, SpanKind};
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt as _;

/// Requests in a batch.
const BATCH: usize = 64;
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

fn describe() -> Describe {
    Describe::new("never made", SpanKind::Internal)
}

fn unsampled(criterion: &mut Criterion) {
    let sampling = Sampling::new(true, 0.0);
    let mut group = criterion.benchmark_group("trace unsampled");
    group.bench_function("request", |bencher| bencher.iter(|| sampling.request(None, describe)));
    group.bench_function("request of a caller", |bencher| {
        bencher.iter(|| sampling.request(Some(UNSAMPLED), describe))
    });
    let context = sampling.request(None, describe);
    group.bench_function("poll within", |bencher| {
        bencher.iter(|| trace::within(context.clone(), std::future::ready(())).now_or_never());
    });
    group.bench_function("child", |bencher| bencher.iter(|| trace::child_of(&context, describe)));
    let origins = [Origin::parse(UNSAMPLED); BATCH];
    group.bench_function("batch of 64", |bencher| bencher.iter(|| trace::batch(origins, describe)));
    group.finish();
}

criterion_group!(benches, unsampled);
criterion_main!(benches);
