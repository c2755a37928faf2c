//! A collector that keeps the last spans and log lines in memory, for `./dev trace` and tests. Not for production.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix_web::web::{self, Bytes, Data, Path, ServiceConfig};
use actix_web::{HttpResponse, Responder};
use common::health::Health;
use common::serve::Server;
use common::settings::{DrainSettings, HttpSettings};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// Most spans, and most log lines, that are kept.
const KEPT_MAX: usize = 50_000;
/// Longest export that is read, in bytes.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One span, as text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Span {
    /// The trace, in hexadecimal digits.
    pub trace_id: String,
    /// The span.
    pub span_id: String,
    /// Whose child it is; empty for the first.
    pub parent_id: String,
    /// The service that made it.
    pub service: String,
    /// Its name.
    pub name: String,
    /// `server`, `client`, `producer`, `consumer` or `internal`.
    pub kind: String,
    /// When it began, in nanoseconds of Unix time.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// What it says of itself.
    pub attributes: Vec<(String, String)>,
    /// Trace and span that it works for besides its parent.
    pub links: Vec<(String, String)>,
    /// What went wrong, if it says so.
    pub error: Option<String>,
}

/// One log line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    /// The trace that it belongs to; may be empty.
    pub trace_id: String,
    /// The service that wrote it.
    pub service: String,
    /// All that it says.
    pub text: String,
}

/// What was received. Cheap to clone.
#[derive(Clone, Default)]
pub struct Collector(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    spans: VecDeque<Span>,
    lines: VecDeque<Line>,
    /// Everything as it came, as text: for tests that look for what must not be there.
    said: String,
}

impl Collector {
    /// Listens on loopback, `port` 0 for a free one; the server is to be run.
    ///
    /// # Errors
    /// The port is taken.
    pub fn listen(port: u16) -> anyhow::Result<(Self, Server)> {
        let collector = Self::default();
        let http = HttpSettings { host: IpAddr::V4(Ipv4Addr::LOCALHOST), port, workers: 1 };
        let drain = DrainSettings { ready_delay_ms: 0, timeout_ms: 1_000 };
        let shared = collector.clone();
        let routes = move |cfg: &mut ServiceConfig| {
            cfg.app_data(Data::new(shared.clone()))
                .app_data(web::PayloadConfig::new(BODY_BYTES_MAX))
                .configure(common::health::routes)
                .route("/v1/traces", web::post().to(traces))
                .route("/v1/logs", web::post().to(logs))
                .route("/traces/{trace_id}", web::get().to(show));
        };
        let server = Server::bind(&http, drain, Health::default(), routes)?;
        Ok((collector, server))
    }

    /// As [`Collector::listen`], running until the process ends.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(port: u16) -> anyhow::Result<(Self, SocketAddr)> {
        let (collector, server) = Self::listen(port)?;
        let address = server.address();
        tokio::runtime::Handle::current().spawn(server.run(CancellationToken::new()));
        Ok((collector, address))
    }

    /// The spans of a trace, and those that are linked to one of it, oldest first.
    pub fn trace(&self, trace_id: &str) -> Vec<Span> {
        let kept = self.lock();
        let of =
            |span: &&Span| span.trace_id == trace_id || span.links.iter().any(|(trace, _)| trace == trace_id);
        let mut spans: Vec<Span> = kept.spans.iter().filter(of).cloned().collect();
        spans.sort_by_key(|span| span.start_ns);
        spans
    }

    /// The spans of this name.
    pub fn spans_named(&self, name: &str) -> Vec<Span> {
        self.lock().spans.iter().filter(|span| span.name == name).cloned().collect()
    }

    /// The log lines of a trace; of all if it is empty.
    pub fn lines(&self, trace_id: &str) -> Vec<Line> {
        let of = |line: &&Line| trace_id.is_empty() || line.trace_id == trace_id;
        self.lock().lines.iter().filter(of).cloned().collect()
    }

    /// Whether `text` is anywhere in what was received.
    pub fn has_heard(&self, text: &str) -> bool {
        self.lock().said.contains(text)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn say(&mut self, text: &str) {
        if self.said.len() < BODY_BYTES_MAX {
            self.said.push_str(text);
        }
    }
}

async fn traces(collector: Data<Collector>, body: Bytes) -> impl Responder {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return HttpResponse::BadRequest() };
    let mut kept = collector.lock();
    kept.say(&format!("{request:?}"));
    for of_resource in request.resource_spans {
        let service = service(of_resource.resource.as_ref());
        for span in of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans) {
            kept.spans.push_back(read(span, &service));
        }
    }
    let surplus = kept.spans.len().saturating_sub(KEPT_MAX);
    kept.spans.drain(..surplus);
    HttpResponse::Ok()
}

async fn logs(collector: Data<Collector>, body: Bytes) -> impl Responder {
    let Ok(request) = ExportLogsServiceRequest::decode(body) else { return HttpResponse::BadRequest() };
    let mut kept = collector.lock();
    kept.say(&format!("{request:?}"));
    for of_resource in request.resource_logs {
        let service = service(of_resource.resource.as_ref());
        for record in of_resource.scope_logs.into_iter().flat_map(|of_scope| of_scope.log_records) {
            let mut text = value(record.body.as_ref());
            for KeyValue { key, value: of, .. } in &record.attributes {
                text = format!("{text} {key}={}", value(of.as_ref()));
            }
            kept.lines.push_back(Line {
                trace_id: hex::encode(record.trace_id),
                service: service.clone(),
                text,
            });
        }
    }
    let surplus = kept.lines.len().saturating_sub(KEPT_MAX);
    kept.lines.drain(..surplus);
    HttpResponse::Ok()
}

async fn show(collector: Data<Collector>, trace_id: Path<String>) -> impl Responder {
    HttpResponse::Ok().json(collector.trace(&trace_id))
}

fn service(resource: Option<&Resource>) -> String {
    let attributes = resource.map(|resource| resource.attributes.as_slice()).unwrap_or_default();
    let name = attributes.iter().find(|attribute| attribute.key == "service.name");
    name.map(|name| value(name.value.as_ref())).unwrap_or_default()
}

fn read(span: otlp::Span, service: &str) -> Span {
    let kind = match span.kind() {
        otlp::span::SpanKind::Server => "server",
        otlp::span::SpanKind::Client => "client",
        otlp::span::SpanKind::Producer => "producer",
        otlp::span::SpanKind::Consumer => "consumer",
        otlp::span::SpanKind::Internal | otlp::span::SpanKind::Unspecified => "internal",
    };
    let failed = span.status.as_ref().filter(|status| status.code() == otlp::status::StatusCode::Error);
    Span {
        kind: kind.to_owned(),
        error: failed.map(|status| status.message.clone()),
        trace_id: hex::encode(&span.trace_id),
        span_id: hex::encode(&span.span_id),
        parent_id: hex::encode(&span.parent_span_id),
        service: service.to_owned(),
        name: span.name,
        start_ns: span.start_time_unix_nano,
        end_ns: span.end_time_unix_nano,
        attributes: span.attributes.iter().map(|kv| (kv.key.clone(), value(kv.value.as_ref()))).collect(),
        links: span
            .links
            .iter()
            .map(|link| (hex::encode(&link.trace_id), hex::encode(&link.span_id)))
            .collect(),
    }
}

fn value(of: Option<&AnyValue>) -> String {
    match of.and_then(|of| of.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::IntValue(value)) => value.to_string(),
        Some(Value::DoubleValue(value)) => value.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}
