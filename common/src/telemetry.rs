//! What a process tells about itself: logs on stdout, metrics for Prometheus, traces and logs to a collector (optional).
//!
//! Trace context travels as W3C `traceparent`, over HTTP and AMQP alike; see [`trace`]. Nothing here may hold up or fail
//! the work: what cannot be exported is dropped and counted, see [`export`](self).

mod export;
mod logs;
pub mod metrics;
mod process;
pub mod trace;

use std::time::Duration;

use ::metrics::{counter, gauge};
use anyhow::Context as _;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{LogExporter, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{LogBatch, SdkLoggerProvider};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData};
use tokio::task::JoinHandle;

use self::export::{Logs, Pipeline, Spans};
use self::metrics::{Metric, Registry};
use self::trace::Sampling;
use crate::settings::TelemetrySettings;

pub use self::metrics::Metrics;

/// Most time for one export.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most time for what is left at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Running telemetry of the process.
pub struct Telemetry {
    metrics: Metrics,
    upkeep: JoinHandle<()>,
    pipelines: Vec<Pipeline>,
}

/// Starts logs, metrics and, if there is an endpoint, traces. Once per process, inside its runtime. `tables` are the
/// metrics that the process may show; counters begin at 0, so that the first increment is an increase.
///
/// # Errors
/// A bad setting, or a second call.
pub fn init(
    service: &'static str,
    settings: &TelemetrySettings,
    tables: &[&'static [Metric]],
) -> anyhow::Result<Telemetry> {
    crate::http_client::install_crypto();
    settings.validate()?;
    let registry = Registry::install(service, tables)?;
    let mut pipelines = Vec::new();
    let mut log_export = None;
    if !settings.otlp_endpoint.is_empty() {
        let resource = Resource::builder()
            .with_service_name(service)
            .with_attribute(KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string()))
            .build();
        pipelines.push(traces(&settings.otlp_endpoint, resource.clone())?);
        let (pipeline, provider) = exported_logs(&settings.otlp_endpoint, resource)?;
        pipelines.push(pipeline);
        log_export = Some(provider);
    }
    logs::install(settings, log_export).context("telemetry.log")?;
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(location = panic.location().map(tracing::field::display), "{panic}");
    }));
    let sampling = Sampling::new(!pipelines.is_empty(), settings.sampling_ratio);
    let upkeep = tokio::spawn(process::upkeep(registry.clone()));
    gauge!("build_info", "service" => service).set(1.0);
    Ok(Telemetry { metrics: Metrics::new(registry, sampling), upkeep, pipelines })
}

impl Telemetry {
    /// What `/metrics` shows; see [`crate::health::Health::new`].
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Sends what is left, within five seconds. Call it after a failure too: the last spans are the interesting ones.
    pub async fn flush(self) {
        self.upkeep.abort();
        let sending = self.pipelines.into_iter().map(Pipeline::finish);
        if tokio::time::timeout(FLUSH_TIMEOUT, futures_util::future::join_all(sending)).await.is_err() {
            tracing::warn!("the last spans and logs were not sent in time");
        }
    }
}

fn traces(endpoint: &str, resource: Resource) -> anyhow::Result<Pipeline> {
    let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
    let (pipeline, queue) = export::start("traces", move || {
        let exporter =
            SpanExporter::builder().with_http().with_endpoint(url).with_timeout(EXPORT_TIMEOUT).build();
        let mut exporter = exporter.context("telemetry.otlp_endpoint")?;
        opentelemetry_sdk::trace::SpanExporter::set_resource(&mut exporter, &resource);
        Ok(move |spans: Vec<SpanData>| {
            export::at_once(opentelemetry_sdk::trace::SpanExporter::export(&exporter, spans))
        })
    })?;
    // Who begins a trace has decided already whether it is kept: see `Sampling`.
    let sampler = Sampler::ParentBased(Box::new(Sampler::AlwaysOn));
    let provider =
        SdkTracerProvider::builder().with_span_processor(Spans(queue)).with_sampler(sampler).build();
    opentelemetry::global::set_tracer_provider(provider);
    Ok(pipeline)
}

fn exported_logs(endpoint: &str, resource: Resource) -> anyhow::Result<(Pipeline, SdkLoggerProvider)> {
    let url = format!("{}/v1/logs", endpoint.trim_end_matches('/'));
    let (pipeline, queue) = export::start("logs", move || {
        let exporter =
            LogExporter::builder().with_http().with_endpoint(url).with_timeout(EXPORT_TIMEOUT).build();
        let mut exporter = exporter.context("telemetry.otlp_endpoint")?;
        opentelemetry_sdk::logs::LogExporter::set_resource(&mut exporter, &resource);
        Ok(move |records: Vec<export::Record>| {
            let records: Vec<_> = records.iter().map(|record| (&record.0, &record.1)).collect();
            let batch = LogBatch::new(&records);
            export::at_once(opentelemetry_sdk::logs::LogExporter::export(&exporter, batch))
        })
    })?;
    Ok((pipeline, SdkLoggerProvider::builder().with_log_processor(Logs(queue)).build()))
}

/// Counts what was dropped instead of exported.
fn dropped(signal: &'static str, reason: &'static str, count: usize) {
    counter!("telemetry_dropped_total", "signal" => signal, "reason" => reason).increment(count as u64);
}
