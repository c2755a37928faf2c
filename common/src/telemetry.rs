//! What a process tells about itself: logs on stdout, metrics for Prometheus, traces to a collector (optional).
//!
//! Trace context travels as W3C `traceparent`, over HTTP and AMQP alike.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{SpanRef, TraceContextExt as _, TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tokio::task::JoinHandle;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry};

use crate::settings::{LogFormat, TelemetrySettings};

/// The header that carries the trace context.
pub const TRACEPARENT_HEADER: &str = "traceparent";

/// How often histograms are folded together; without it they grow without bound.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Most time for one export, and for the last one at the end.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bounds of histograms of times, in seconds.
const SECONDS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0];
/// Bounds of histograms of counts, such as batch sizes.
const SIZES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
/// Put before the configured filter: lapin logs returned messages as a whole, users' data included, and calls every
/// lost connection an error (what matters of it is logged by [`crate::amqp`]); actix tells about each worker.
const QUIET: &str = "lapin=off,actix_server=warn";

/// Running telemetry of the process.
pub struct Telemetry {
    metrics: Metrics,
    upkeep: JoinHandle<()>,
    traces: Option<SdkTracerProvider>,
}

/// What `/metrics` shows; the default shows nothing, for tests.
#[derive(Clone, Default)]
pub struct Metrics(Option<PrometheusHandle>);

impl Metrics {
    /// All metrics in the Prometheus text format.
    pub fn render(&self) -> String {
        self.0.as_ref().map(PrometheusHandle::render).unwrap_or_default()
    }
}

/// Starts logs, metrics and, if there is an endpoint, traces. Once per process, inside its runtime.
///
/// # Errors
/// A bad filter or endpoint, or a second call.
pub fn init(service: &'static str, settings: &TelemetrySettings) -> anyhow::Result<Telemetry> {
    crate::http_client::install_crypto();
    let traces = match settings.otlp_endpoint.as_str() {
        "" => None,
        endpoint => Some(traces(service, endpoint, settings.sample_ratio)?),
    };
    logs(service, settings, traces.as_ref()).context("telemetry.log")?;
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(location = panic.location().map(tracing::field::display), "{panic}");
    }));

    let handle = PrometheusBuilder::new()
        .set_buckets(&SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), &SIZES)?
        .install_recorder()
        .context("metrics")?;
    metrics::gauge!("build_info", "service" => service).set(1.0);
    let upkeep = tokio::spawn(upkeep(handle.clone()));
    Ok(Telemetry { metrics: Metrics(Some(handle)), upkeep, traces })
}

impl Telemetry {
    /// What `/metrics` shows; see [`crate::health::Health::new`].
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Sends what is left. Call it after a failure too: the last spans are the interesting ones.
    pub async fn flush(self) {
        self.upkeep.abort();
        let Some(traces) = self.traces else { return };
        // Blocks on the exporter's own thread.
        let ended = tokio::task::spawn_blocking(move || traces.shutdown_with_timeout(EXPORT_TIMEOUT)).await;
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last spans were not sent"),
            Err(error) => tracing::warn!(%error, "the last spans were not sent"),
        }
    }
}

/// The trace context of the current span as a `traceparent` header; `None` without one.
pub fn current_traceparent() -> Option<String> {
    let context = tracing::Span::current().context();
    if !context.span().span_context().is_valid() {
        return None;
    }
    let mut headers = HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut headers);
    headers.remove(TRACEPARENT_HEADER)
}

/// The context that a `traceparent` header names; an empty one if it is not valid.
pub fn remote_context(traceparent: &str) -> opentelemetry::Context {
    let headers = HashMap::from([(TRACEPARENT_HEADER.to_owned(), traceparent.to_owned())]);
    TraceContextPropagator::new().extract_with_context(&opentelemetry::Context::new(), &headers)
}

/// The trace id that `span` belongs to, for logs; `None` without tracing.
pub fn trace_id(span: &tracing::Span) -> Option<String> {
    with_trace(span, |trace| trace.span_context().trace_id().to_string())
}

/// Does something with what is exported of `span`; nothing without tracing.
pub(crate) fn with_trace<T>(span: &tracing::Span, with: impl FnOnce(SpanRef<'_>) -> T) -> Option<T> {
    let context = span.context();
    let trace = context.span();
    trace.span_context().is_valid().then(|| with(trace))
}

fn logs(
    service: &'static str,
    settings: &TelemetrySettings,
    traces: Option<&SdkTracerProvider>,
) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", settings.log))?;
    let lines = match settings.format {
        LogFormat::Json => tracing_subscriber::fmt::layer::<Registry>()
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .boxed(),
        LogFormat::Text => tracing_subscriber::fmt::layer().boxed(),
    };
    let spans = traces.map(|traces| tracing_opentelemetry::layer().with_tracer(traces.tracer(service)));
    tracing_subscriber::registry().with(lines).with(spans).with(filter).try_init()?;
    Ok(())
}

fn traces(service: &'static str, endpoint: &str, ratio: f64) -> anyhow::Result<SdkTracerProvider> {
    let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
    // On a thread of its own: the blocking client must not be built inside a runtime.
    let exporter = std::thread::spawn(move || {
        SpanExporter::builder().with_http().with_endpoint(url).with_timeout(EXPORT_TIMEOUT).build()
    });
    let exporter = match exporter.join() {
        Ok(exporter) => exporter.context("telemetry.otlp_endpoint")?,
        Err(_) => anyhow::bail!("telemetry.otlp_endpoint: the exporter cannot be built"),
    };
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))))
        .with_resource(Resource::builder().with_service_name(service).build())
        .build())
}

async fn upkeep(handle: PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        handle.run_upkeep();
        let runtime = tokio::runtime::Handle::current().metrics();
        metrics::gauge!("tokio_alive_tasks").set(as_f64(runtime.num_alive_tasks()));
        metrics::gauge!("tokio_global_queue_depth").set(as_f64(runtime.global_queue_depth()));
        if let Some(bytes) = resident_bytes() {
            metrics::gauge!("process_resident_memory_bytes").set(bytes);
        }
    }
}

fn as_f64(count: usize) -> f64 {
    count as f64
}

/// Memory in use, from `/proc/self/status`, which gives it in KiB.
fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}
