//! Log lines: JSON on stdout with the ids of trace and span, the same to the collector, or text for people.

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;
use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use opentelemetry::Context;
use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity};
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context as LayerContext, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

use crate::serve::{ANSWERED, RequestLine};
use crate::settings::{LogFormat, TelemetrySettings};

/// Put before the configured filter: lapin logs returned messages as a whole, users' data included, and calls every
/// lost connection an error (what matters of it is logged by [`crate::amqp`]); actix tells about each worker; that the
/// collector is away is said by [`super::export`], once.
const QUIET: &str = "lapin=off,actix_server=warn,opentelemetry=off,opentelemetry_sdk=off,opentelemetry_otlp=off,\
                     opentelemetry_http=off";

/// Starts logging; once per process.
pub(super) fn install(settings: &TelemetrySettings, export: Option<SdkLoggerProvider>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", settings.log))?;
    let (json, text) = match settings.format {
        LogFormat::Json => (Some(JsonLines), None),
        LogFormat::Text => (None, Some(tracing_subscriber::fmt::layer())),
    };
    let export = export.map(|provider| Export(provider.logger("stampede")));
    tracing_subscriber::registry().with(text).with(json).with(export).with(filter).try_init()?;
    Ok(())
}

/// Writes each event as one line of JSON.
struct JsonLines;

impl<S: Subscriber> Layer<S> for JsonLines {
    fn on_event(&self, event: &Event<'_>, _: LayerContext<'_, S>) {
        let line = line(event, SystemTime::now());
        // There is nowhere to say that there is nowhere to log to.
        let _written = std::io::stdout().lock().write_all(&line);
    }
}

fn line(event: &Event<'_>, now: SystemTime) -> Vec<u8> {
    let Fields { values, target } = Fields::of(event);
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    for (key, value) in values {
        put(&key, value);
    }
    let now = DateTime::<Utc>::from(now).to_rfc3339_opts(SecondsFormat::Micros, true);
    put("timestamp", now.into());
    put("level", event.metadata().level().as_str().into());
    put("target", target.into());
    Context::map_current(|context| {
        let span = context.span();
        let span = span.span_context();
        if span.is_valid() {
            put("trace_id", span.trace_id().to_string().into());
            put("span_id", span.span_id().to_string().into());
        }
    });
    // Most lines belong to no request.
    let _none = ANSWERED.try_with(|RequestLine { method, target }| {
        put("method", method.as_str().into());
        put("path", target.path().into());
    });
    let mut line = serde_json::to_vec(&Value::Object(object)).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Sends each event to the collector, in the trace that it happened in.
struct Export(SdkLogger);

impl<S: Subscriber> Layer<S> for Export {
    fn on_event(&self, event: &Event<'_>, _: LayerContext<'_, S>) {
        let Fields { values, target } = Fields::of(event);
        let mut record = self.0.create_log_record();
        let level = *event.metadata().level();
        record.set_severity_number(severity(level));
        record.set_severity_text(level.as_str());
        record.set_timestamp(SystemTime::now());
        record.set_target(target.into_owned());
        for (key, value) in values {
            if key == "message" {
                record.set_body(any(value));
            } else {
                record.add_attribute(key, any(value));
            }
        }
        self.0.emit(record);
    }
}

fn severity(level: Level) -> Severity {
    match level {
        Level::ERROR => Severity::Error,
        Level::WARN => Severity::Warn,
        Level::INFO => Severity::Info,
        Level::DEBUG => Severity::Debug,
        Level::TRACE => Severity::Trace,
    }
}

fn any(value: Value) -> AnyValue {
    match value {
        Value::Bool(value) => value.into(),
        Value::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.as_f64().unwrap_or_default().into(),
        },
        Value::String(text) => text.into(),
        other @ (Value::Null | Value::Array(_) | Value::Object(_)) => other.to_string().into(),
    }
}

/// What an event says.
struct Fields {
    values: Vec<(Cow<'static, str>, Value)>,
    target: Cow<'static, str>,
}

impl Fields {
    fn of(event: &Event<'_>) -> Self {
        let mut fields = Self { values: Vec::new(), target: event.metadata().target().into() };
        event.record(&mut fields);
        fields
    }

    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            // Events that come through the crate `log` have their place as fields.
            ("log.target", Value::String(target)) => self.target = target.into(),
            (name, _) if name.starts_with("log.") => {}
            (name, value) => self.values.push((name.into(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        self.put(field, text.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::telemetry::trace::Origin;
    use actix_web::http::{Method, Uri};

    struct Kept(Arc<Mutex<Vec<Value>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: LayerContext<'_, S>) {
            let line = line(event, SystemTime::UNIX_EPOCH);
            assert!(line.ends_with(b"}\n"));
            self.0.lock().unwrap().push(serde_json::from_slice(&line).unwrap());
        }
    }

    #[test]
    fn a_line_has_the_ids_of_its_trace_and_span_and_what_was_asked() {
        let lines = Arc::default();
        let subscriber = tracing_subscriber::registry().with(Kept(Arc::clone(&lines)));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(count = 3, of = "\"many\"\n", "without a trace");
            let origin = Origin::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
            let _within = origin.context().attach();
            let error = std::io::Error::other("a cause");
            tracing::warn!(error = &error as &dyn std::error::Error, "within one");
            let target = Uri::from_static("/api/v1/orders?access_token=secret");
            let line = RequestLine { method: Method::GET, target };
            ANSWERED.sync_scope(line, || tracing::info!("answering"));
        });
        let lines = lines.lock().unwrap();
        assert_eq!(lines[0]["timestamp"], "1970-01-01T00:00:00.000000Z");
        assert_eq!((&lines[0]["count"], &lines[0]["of"]), (&3.into(), &"\"many\"\n".into()));
        assert!(lines[0].get("trace_id").is_none() && lines[0].get("path").is_none());
        assert_eq!((&lines[1]["level"], &lines[1]["error"]), (&"WARN".into(), &"a cause".into()));
        assert_eq!(lines[1]["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(lines[1]["span_id"], "b7ad6b7169203331");
        assert_eq!(lines[2]["method"], "GET");
        assert_eq!(lines[2]["path"], "/api/v1/orders", "without the query, which may hold a token");
    }
}
