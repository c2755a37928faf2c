//! Metrics for Prometheus: what there is, in tables, and what it says now.
//!
//! Every metric of a service is in a table of it, which its README repeats. A label has values from a list, or a bound:
//! never an id of a user or an order. Items are the one thing that comes and goes; see [`Metrics::family`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::process;
use super::trace::Sampling;

/// Bounds of histograms of times, in seconds.
const SECONDS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0];
/// Bounds of histograms of counts, such as batch sizes.
const SIZES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size; its name ends in its unit.
    Histogram,
}

/// A label and its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// One of these.
    OneOf(&'static str, &'static [&'static str]),
    /// As many different ones as this at most.
    UpTo(&'static str, usize),
}

impl Label {
    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Self::OneOf(name, _) | Self::UpTo(name, _) => name,
        }
    }

    fn count(self) -> usize {
        match self {
            Self::OneOf(_, values) => values.len(),
            Self::UpTo(_, count) => count,
        }
    }
}

/// One metric of a table.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The name, with its unit.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What tells its series apart.
    pub labels: &'static [Label],
    /// What it says, in one line.
    pub help: &'static str,
}

/// A counter.
pub const fn a_counter(name: &'static str, labels: &'static [Label], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help }
}

/// A gauge.
pub const fn a_gauge(name: &'static str, labels: &'static [Label], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help }
}

/// A histogram.
pub const fn a_histogram(name: &'static str, labels: &'static [Label], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, labels, help }
}

impl Metric {
    /// Most series that it may have, the buckets of a histogram counted as one.
    pub fn series_max(&self) -> usize {
        self.labels.iter().map(|label| label.count()).product()
    }

    /// Tells what it is; what can be known of its series exists from now on, at 0.
    fn register(&self) {
        match self.kind {
            Kind::Counter => describe_counter!(self.name, self.help),
            Kind::Gauge => describe_gauge!(self.name, self.help),
            Kind::Histogram => describe_histogram!(self.name, self.help),
        }
        for labels in self.known_series() {
            match self.kind {
                Kind::Counter => counter!(self.name, &labels).increment(0),
                Kind::Histogram => drop(histogram!(self.name, &labels)),
                // 0 would be a statement.
                Kind::Gauge => {}
            }
        }
    }

    /// The labels of every series, if all values are known.
    fn known_series(&self) -> Vec<Vec<(&'static str, &'static str)>> {
        let mut series = vec![Vec::new()];
        for label in self.labels {
            let Label::OneOf(name, values) = *label else { return Vec::new() };
            let with = |known: &Vec<_>, value| {
                let mut labels = known.clone();
                labels.push((name, value));
                labels
            };
            series =
                series.iter().flat_map(|known| values.iter().map(move |value| with(known, *value))).collect();
        }
        series
    }
}

/// The list of metrics as a README has it.
pub fn markdown(tables: &[&[Metric]]) -> String {
    let mut metrics: Vec<&Metric> = tables.iter().copied().flatten().collect();
    metrics.sort_by_key(|metric| metric.name);
    let mut text = "| metric | kind | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for Metric { name, kind, labels, help } in metrics {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels: Vec<String> = labels.iter().map(|label| format!("`{}`", label.name())).collect();
        // Writing into a String cannot fail.
        let _written = writeln!(text, "| `{name}` | {kind} | {} | {help} |", labels.join(" "));
    }
    text
}

/// What `/metrics` shows; the default shows nothing, for tests.
#[derive(Clone, Default)]
pub struct Metrics {
    registry: Option<Registry>,
    sampling: Sampling,
}

impl Metrics {
    pub(super) fn new(registry: Registry, sampling: Sampling) -> Self {
        Self { registry: Some(registry), sampling }
    }

    /// All metrics in the Prometheus text format.
    pub fn render(&self) -> String {
        self.registry.as_ref().map(Registry::render).unwrap_or_default()
    }

    /// Gauges `name` told apart by `label`, whose values come and go; at most `series_max` of them are shown.
    pub fn family(&self, name: &'static str, label: &'static str, series_max: usize) -> Family {
        let shown = self.registry.as_ref().map(|registry| registry.families.clone()).unwrap_or_default();
        Family { name, label, series_max, shown }
    }

    /// Who decides which requests are traced.
    pub(crate) fn sampling(&self) -> Sampling {
        self.sampling.clone()
    }
}

type Families = Arc<Mutex<BTreeMap<&'static str, String>>>;

/// See [`Metrics::family`].
#[derive(Clone)]
pub struct Family {
    name: &'static str,
    label: &'static str,
    series_max: usize,
    shown: Families,
}

impl Family {
    /// These are all there are: others are no longer shown. A label's value is an id or the like, without quotes.
    pub fn set(&self, values: impl IntoIterator<Item = (String, f64)>) {
        let Self { name, label, series_max, shown } = self;
        let mut text = String::new();
        for (of, value) in values.into_iter().take(*series_max) {
            // Writing into a String cannot fail.
            let _written = writeln!(text, "{name}{{{label}=\"{of}\"}} {value}");
        }
        lock(shown).insert(name, text);
    }
}

fn lock(families: &Families) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
    families.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the process keeps its metrics.
#[derive(Clone)]
pub(super) struct Registry {
    handle: PrometheusHandle,
    families: Families,
    tables: Arc<[&'static [Metric]]>,
}

impl Registry {
    pub(super) fn install(service: &'static str, tables: &[&'static [Metric]]) -> anyhow::Result<Self> {
        let handle = PrometheusBuilder::new()
            .set_buckets(&SECONDS)?
            .set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), &SIZES)?
            .install_recorder()
            .with_context(|| format!("metrics of {service}"))?;
        let metrics = tables.iter().copied().flatten();
        metrics.filter(|metric| metric.name != process::CPU).for_each(Metric::register);
        Ok(Self { handle, families: Families::default(), tables: tables.into() })
    }

    /// Folds histograms together; without it they grow without bound.
    pub(super) fn run_upkeep(&self) {
        self.handle.run_upkeep();
    }

    fn render(&self) -> String {
        let mut text = self.handle.render();
        if let Some(seconds) = process::cpu_seconds() {
            let name = process::CPU;
            // Writing into a String cannot fail.
            let _written = write!(text, "# TYPE {name} counter\n{name} {seconds}\n\n");
        }
        for (name, series) in &*lock(&self.families) {
            let metric = self.tables.iter().copied().flatten().find(|metric| metric.name == *name);
            let help = metric.map_or("", |metric| metric.help);
            // Writing into a String cannot fail.
            let _written = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{series}\n");
        }
        text
    }
}

const METHODS: &[&str] = &["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "other"];
const SIGNALS: &[&str] = &["traces", "logs"];

/// What every service shows.
pub static COMMON: &[Metric] = &[
    a_gauge("build_info", &[Label::UpTo("service", 1)], "1; the label says what runs"),
    a_histogram(
        "http_server_request_duration_seconds",
        &[Label::UpTo("route", 100), Label::OneOf("method", METHODS), Label::UpTo("status", 30)],
        "time to answer a request, by the template of its route",
    ),
    a_counter(
        "http_connections_refused_total",
        &[Label::OneOf("limit", &["total", "address"])],
        "connections that there was no room for",
    ),
    a_counter(
        "http_connections_timed_out_total",
        &[],
        "connections closed because the other side was too slow",
    ),
    a_gauge("health_check", &[Label::UpTo("check", 20)], "1 while a condition of /readyz holds, else 0"),
    a_counter(
        "telemetry_exported_total",
        &[Label::OneOf("signal", SIGNALS)],
        "spans and log lines that the collector took",
    ),
    a_counter(
        "telemetry_dropped_total",
        &[Label::OneOf("signal", SIGNALS), Label::OneOf("reason", &["queue_full", "export_failed"])],
        "spans and log lines that the collector did not get",
    ),
    a_counter("process_cpu_seconds_total", &[], "processor time used, user and system"),
    a_gauge("process_resident_memory_bytes", &[], "memory in use"),
    a_gauge("process_virtual_memory_bytes", &[], "address space in use"),
    a_gauge("process_open_fds", &[], "open files and sockets"),
    a_gauge("process_max_fds", &[], "most files and sockets that may be open"),
    a_gauge("process_threads", &[], "threads"),
    a_gauge("process_start_time_seconds", &[], "when the process began, in Unix time"),
    a_gauge("tokio_alive_tasks", &[], "tasks of the runtime"),
    a_gauge("tokio_global_queue_depth", &[], "tasks that wait for a thread of the runtime"),
];

/// What services with a batcher show.
pub static BATCHER: &[Metric] = &[
    a_gauge("batcher_queue_depth", &[Label::UpTo("name", 8)], "requests that wait for a batch"),
    a_histogram("batcher_batch_size", &[Label::UpTo("name", 8)], "requests in a batch"),
    a_histogram(
        "batcher_wait_seconds",
        &[Label::UpTo("name", 8)],
        "how long the oldest request of a batch had waited",
    ),
    a_counter(
        "batcher_overloaded_total",
        &[Label::UpTo("name", 8)],
        "requests refused because the queue was full",
    ),
];

/// What services that speak AMQP show.
pub static AMQP: &[Metric] = &[
    a_histogram("amqp_batch_size", &[Label::UpTo("queue", 24)], "events in a batch from a queue"),
    a_counter("amqp_retries_total", &[Label::UpTo("queue", 24)], "batches that have to be handled again"),
    a_counter(
        "amqp_parked_total",
        &[Label::UpTo("queue", 24)],
        "messages parked because they can never work",
    ),
    a_histogram(
        "amqp_publish_seconds",
        &[Label::OneOf("outcome", &["confirmed", "not_ready", "unroutable", "refused", "unknown"])],
        "from publishing a message to its confirm",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_kind_and_unit() {
        for metric in [COMMON, BATCHER, AMQP].into_iter().flatten() {
            let name = metric.name;
            assert_eq!(metric.kind == Kind::Counter, name.ends_with("_total"), "{name}");
            let unit = name.ends_with("_seconds") || name.ends_with("_size");
            assert!(metric.kind != Kind::Histogram || unit, "{name}");
        }
    }

    #[test]
    fn every_combination_of_known_labels_is_a_series() {
        let metric =
            a_counter("x_total", &[Label::OneOf("a", &["1", "2"]), Label::OneOf("b", &["3", "4", "5"])], "");
        assert_eq!((metric.known_series().len(), metric.series_max()), (6, 6));
        assert_eq!(a_counter("y_total", &[], "").known_series(), [vec![]]);
        assert!(a_counter("z_total", &[Label::UpTo("a", 9)], "").known_series().is_empty());
    }

    #[test]
    fn a_family_forgets_what_is_gone_and_has_a_bound() {
        let family = Metrics::default().family("left", "item", 2);
        family.set((0..5).map(|index| (format!("i{index}"), f64::from(index))));
        assert_eq!(lock(&family.shown)["left"], "left{item=\"i0\"} 0\nleft{item=\"i1\"} 1\n");
        family.set([("i9".to_owned(), 2.5)]);
        assert_eq!(lock(&family.shown)["left"], "left{item=\"i9\"} 2.5\n");
    }
}
