//! Traces reach a collector and connect what happened across HTTP and AMQP; metrics and logs tell about it.
//!
//! A binary of its own: there is one telemetry per process.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::{HttpResponse, web};
use common::amqp::{
    Accepts, AmqpSettings, Outgoing, Publisher, Source, Subscription, Topology, Verdict, consume,
};
use common::health::{self, Health};
use common::http_client;
use common::serve::Server;
use common::settings::{DrainSettings, HttpSettings, LogFormat, TelemetrySettings};
use common::shutdown::Tasks;
use common::telemetry;
use common::telemetry::trace::{self, Origin};
use common::topology::Queue;
use secrecy::SecretString;
use serde_json::{Value, json};
use testkit::Vhost;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const LOCAL: HttpSettings =
    HttpSettings { host: std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port: 0, workers: 1 };
const DRAIN: DrainSettings = DrainSettings { ready_delay_ms: 0, timeout_ms: 3_000 };
const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const KIND: &str = "sale.tested.v1";

/// A collector that keeps what it is sent.
fn collector() -> (String, Arc<Mutex<Vec<u8>>>) {
    let exported = Arc::new(Mutex::new(Vec::new()));
    let sink = exported.clone();
    let server = Server::bind(&LOCAL, DRAIN, Health::default(), move |cfg| {
        let sink = sink.clone();
        let receive = move |body: web::Bytes| {
            sink.lock().unwrap().extend_from_slice(&body);
            async { HttpResponse::Ok().finish() }
        };
        cfg.route("/v1/traces", web::post().to(receive.clone())).route("/v1/logs", web::post().to(receive));
    });
    let server = server.unwrap();
    let url = format!("http://{}", server.address());
    tokio::spawn(server.run(CancellationToken::new()));
    (url, exported)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Consumes one message; gives the trace that its handler ran in.
async fn consumed_trace(vhost: &Vhost, tasks: &Tasks) -> String {
    let settings = AmqpSettings {
        addresses: common::amqp::NodeList::default(),
        url: SecretString::from(vhost.url()),
        heartbeat_s: 10,
        connect_timeout_ms: 20_000,
        publish_timeout_ms: 20_000,
        publish_window: 4,
    };
    let (health, queue) = (Health::default(), Queue::stock_sales());
    let topology = Topology { queues: vec![queue.clone()], ..Topology::default() };
    let publisher = Publisher::start(&settings, "test", topology, health.check("publisher"), tasks);
    testkit::eventually("ready", async || publisher.is_ready().then_some(())).await;

    let event = json!({ "event_id": Uuid::new_v4() });
    let envelope = json!({
        "id": Uuid::new_v4(), "type": KIND, "occurred_at": "2026-11-22T12:00:00Z", "producer": "test",
        "events": [event],
    });
    let message = Outgoing {
        exchange: "sale",
        routing_key: KIND.to_owned(),
        message_id: Uuid::new_v4(),
        kind: KIND.to_owned(),
        body: envelope.to_string().into_bytes(),
    };
    let caller = Origin::parse(&format!("00-{TRACE_ID}-b7ad6b7169203331-01"));
    let deadline = Instant::now() + Duration::from_secs(30);
    trace::within(caller.context(), publisher.publish(message, deadline)).await.unwrap();

    let (sender, mut traces) = tokio::sync::mpsc::unbounded_channel();
    let subscription = Subscription {
        source: Source::Work(queue),
        prefetch: 1,
        batch_max: 1,
        min_interval: Duration::ZERO,
        line_up: std::sync::Arc::default(),
        publisher,
        health: health.check("consumer"),
    };
    let accepts = Accepts::new().kind(KIND, |event: Value| event);
    consume(&settings, subscription, accepts, tasks, move |batch| {
        sender.send(trace::current_trace_id()).unwrap();
        let verdicts = vec![Verdict::Done; batch.len()];
        async move { Ok(verdicts) }
    });
    traces.recv().await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_runs_through_http_and_amqp_and_reaches_the_collector() {
    http_client::install_crypto();
    let (collector_url, exported) = collector();
    let settings = TelemetrySettings {
        log: "info".to_owned(),
        format: LogFormat::Json,
        otlp_endpoint: collector_url,
        sampling_ratio: 1.0,
    };
    let tables = [telemetry::metrics::COMMON, telemetry::metrics::AMQP];
    let telemetry = telemetry::init("telemetry-test", &settings, &tables).unwrap();
    assert!(telemetry::init("telemetry-test", &settings, &tables).is_err(), "once per process");

    let server = Server::bind(&LOCAL, DRAIN, Health::new(telemetry.metrics()), |cfg| {
        let trace = || async { trace::current_traceparent().unwrap_or_default() };
        cfg.configure(health::routes).route("/items/{id}", web::get().to(trace));
    });
    let server = server.unwrap();
    let url = format!("http://{}", server.address());
    tokio::spawn(server.run(CancellationToken::new()));
    let client = http_client::build(Duration::from_secs(5), Duration::from_secs(30)).unwrap();
    let traceparent = format!("00-{TRACE_ID}-b7ad6b7169203331-01");
    let request =
        client.get(format!("{url}/items/4711?access_token=hunter2")).header("traceparent", traceparent);
    let seen = request.send().await.unwrap().text().await.unwrap();
    assert!(seen.contains(TRACE_ID), "the handler runs in the caller's trace: {seen}");
    assert!(!seen.contains("b7ad6b7169203331"), "in a span of its own");

    let tasks = Tasks::new(CancellationToken::new());
    let vhost = Vhost::create().await;
    assert_eq!(consumed_trace(&vhost, &tasks).await, TRACE_ID);
    tasks.finish(Duration::from_secs(30)).await.unwrap();

    let metrics = client.get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap();
    let counted =
        r#"http_server_request_duration_seconds_count{route="/items/{id}",method="GET",status="200"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
    assert!(metrics.contains(r#"amqp_batch_size_bucket{queue="stock-service.sales",le="1"} 1"#), "{metrics}");

    telemetry.flush().await;
    let exported = exported.lock().unwrap();
    for part in ["telemetry-test", "GET /items/{id}", "publish sale.tested.v1", "process stock-service.sales"]
    {
        assert!(contains(&exported, part.as_bytes()), "{part} is exported");
    }
    assert!(!contains(&exported, b"hunter2"), "a query may hold a token");
}
