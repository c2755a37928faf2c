//! What the running system tells of one order: a connected trace, log lines and metrics that name no person.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use e2e::client::Client;
use e2e::collector::{Collector, Span};
use reqwest::{Method, StatusCode};
use testkit::{Services, eventually};

use super::support::World;

const SERVICES: [&str; 4] = ["GATEWAY", "STOCK_SERVICE", "ORDER_SERVICE", "NOTIFY_SERVICE"];
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// Things that must be in no span and no log line.
const PHONE: &str = "13800138000";
const ADDRESS: &str = "Chaoyang-Road-18-Apt-3";

async fn world(endpoint: &str, more: &[(&str, &str)]) -> World {
    let settings: Vec<(String, String)> = SERVICES
        .iter()
        .flat_map(|service| {
            let key = |name: &str| format!("{service}__TELEMETRY__{name}");
            [
                (key("OTLP_ENDPOINT"), endpoint.to_owned()),
                (key("FORMAT"), "json".to_owned()),
                (key("LOG"), "info".to_owned()),
            ]
        })
        .chain(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
        .collect();
    let settings: Vec<(&str, &str)> =
        settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let services = Services::start_with(1, &settings).await;
    let client = Client::new(services.gateway_urls()).unwrap();
    let admin = client.token("admin", "admin").await.unwrap();
    World { services, client, admin }
}

/// The path from a span to the first of its trace, by parents and links: `service name`.
fn ancestry(spans: &[Span], of: &Span) -> Vec<String> {
    let by_id: HashMap<&str, &Span> = spans.iter().map(|span| (span.span_id.as_str(), span)).collect();
    let mut path = Vec::new();
    let mut next = Some(of);
    while let Some(span) = next {
        path.push(format!("{} {}", span.service, span.name));
        next = by_id.get(span.parent_id.as_str()).copied();
    }
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn one_order_is_one_trace_from_the_click_to_the_notification() {
    let (collector, address) = Collector::start(0).unwrap();
    let world = world(&format!("http://{address}"), &[]).await;
    let sale = world.open_sale(5, 5, 3_600).await;
    let token = world.customer(&format!("u{PHONE}")).await;
    let stream = world.client.request(Method::GET, "/api/v1/events").bearer_auth(&token);
    let _stream = stream.send().await.unwrap();

    let path = format!("/api/v1/items/{}/orders?address={ADDRESS}&access_token={token}", sale.items[0].id);
    let request = world.client.request(Method::POST, &path).bearer_auth(&token);
    let request = request.header("traceparent", TRACEPARENT).header("x-address", ADDRESS);
    let answer = world.client.send(request.json(&serde_json::json!({ "quantity": 1 }))).await.unwrap();
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", String::from_utf8_lossy(&answer.body));

    let names = [
        "gateway POST /api/v1/items/{item_id}/orders",
        "gateway reserve batch",
        "gateway POST stock-service",
        "stock-service POST /internal/v1/items/{item_id}/reservations",
        "stock-service reserve",
        "stock-service EVALSHA reserve",
        "stock-service publish stock.reserved.v1",
        "order-service transaction orders",
        "order-service publish order.created.v1",
        "stock-service process stock-service.orders",
        "stock-service EVALSHA apply_order",
        "notify-service process notify-service.orders",
        "notify-service transaction notify",
        "notify-service notify streams",
    ];
    let spans = eventually("every hop is in the trace", async || {
        let spans = collector.trace(TRACE_ID);
        let seen: HashSet<String> =
            spans.iter().map(|span| format!("{} {}", span.service, span.name)).collect();
        names.iter().all(|name| seen.contains(*name)).then_some(spans)
    })
    .await;
    assert!(spans.iter().all(|span| span.trace_id == TRACE_ID));

    let last = spans.iter().find(|span| span.name == "notify streams").unwrap();
    let path = ancestry(&spans, last);
    let from_the_click = "gateway POST /api/v1/items/{item_id}/orders";
    assert_eq!(path.last().map(String::as_str), Some(from_the_click), "{path:#?}");
    for hop in [
        "order-service publish order.created.v1",
        "order-service transaction orders",
        "stock-service reserve",
    ] {
        assert!(path.iter().any(|name| name == hop), "{hop} is on the way: {path:#?}");
    }
    let first = spans.iter().find(|span| span.parent_id == "00f067aa0ba902b7").expect("a child of the click");
    assert_eq!(first.kind, "server");

    let secret = token.split('.').next_back().unwrap();
    for canary in [PHONE, ADDRESS, secret] {
        assert!(!collector.has_heard(canary), "{canary} left the process");
    }
}

/// Everybody who is in one batch has a link to it, or is its parent.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_travels_in_batches_that_are_linked_to_everybody_in_them() {
    let (collector, address) = Collector::start(0).unwrap();
    let one_at_a_time =
        [("GATEWAY__ADMISSION__FLIGHTS_MAX", "1"), ("GATEWAY__TELEMETRY__SAMPLING_RATIO", "1.0")];
    let world = world(&format!("http://{address}"), &one_at_a_time).await;
    let sale = world.open_sale(200, 100, 3_600).await;
    let item = sale.items[0].id;
    let token = world.customer("buyer").await;
    let orders = (0..60).map(|index| {
        let (world, token) = (&world, &token);
        async move { world.client.order(token, item, &format!("key-{index}"), 1).await }
    });
    futures_util::future::join_all(orders).await;

    let linked = eventually("a batch with links", async || {
        let lines = collector.spans_named("reserve batch");
        lines.into_iter().find(|span| !span.links.is_empty())
    })
    .await;
    let size = linked.attributes.iter().find(|(key, _)| key == "stampede.batch.size").unwrap();
    let size: usize = size.1.parse().unwrap();
    assert_eq!(linked.links.len(), (size - 1).min(32), "all but the parent, as far as there is room");
    let (trace, _) = &linked.links[0];
    let seen = collector.trace(trace);
    assert!(
        seen.iter().any(|span| span.span_id == linked.span_id),
        "who looks up their trace finds the batch"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_a_counter_and_one_line() {
    let world = world("http://127.0.0.1:9", &[("GATEWAY__TELEMETRY__SAMPLING_RATIO", "1.0")]).await;
    let sale = world.open_sale(5, 5, 3_600).await;
    let token = world.customer("buyer").await;
    for key in ["one", "two", "three"] {
        world.accepted(&token, sale.items[0].id, key).await;
    }
    let dropped = r#"telemetry_dropped_total{signal="traces",reason="export_failed"} "#;
    eventually("what was dropped is counted", async || {
        let text = metrics(&world, "gateway").await;
        let line = text.lines().find_map(|line| line.strip_prefix(dropped)).map(str::to_owned)?;
        (line.parse::<f64>().unwrap() > 0.0).then_some(())
    })
    .await;
    world.quiet(sale.id).await;
    let log = world.services.log("gateway");
    let said =
        log.lines().filter(|line| line.contains("the collector takes nothing") && line.contains("traces"));
    assert_eq!(said.count(), 1, "{log}");
}

async fn metrics(world: &World, service: &str) -> String {
    let url = format!("{}/metrics", world.services.ops_url(service));
    world.client.text(&url).await.unwrap()
}

/// The names in the list of metrics of a service's README.
fn listed(service: &str) -> HashSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(root.join(service).join("README.md")).unwrap();
    let table = text.split_once("| metric | kind | labels | meaning |").expect("a list of metrics").1;
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.filter_map(|row| Some(row.split('`').nth(1)?.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_those_of_the_readme_and_their_series_have_a_bound() {
    let world = World::start().await;
    let sale = world.open_sale(50, 50, 3_600).await;
    let token = world.customer("wang-xiaoming").await;
    for index in 0..20 {
        world.accepted(&token, sale.items[0].id, &format!("canary-{index}")).await;
    }
    let unknown = uuid::Uuid::new_v4();
    world.client.get(&format!("/api/v1/orders/{unknown}"), &token).await.unwrap();
    world.client.get(&format!("/api/v1/nothing/{unknown}"), &token).await.unwrap();
    world.quiet(sale.id).await;
    for service in ["gateway", "stock-service", "order-service", "notify-service"] {
        let (text, listed) = (metrics(&world, service).await, listed(service));
        let mut series: HashMap<String, usize> = HashMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let name = line.split(['{', ' ']).next().unwrap();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let base = base.filter(|base| listed.contains(*base)).unwrap_or(name);
            assert!(listed.contains(base), "{service}: {base} is not in its README");
            *series.entry(base.to_owned()).or_default() += 1;
        }
        for (name, count) in &series {
            assert!(*count < 1_500, "{service}: {name} has {count} series");
        }
        assert!(
            !text.contains("wang-xiaoming") && !text.contains("canary-"),
            "{service}: a label names a person or a request"
        );
        assert!(!text.contains(&unknown.to_string()), "{service}: a raw path is a label");
    }
    let left = format!("stock_item_units_available{{item=\"{}\"}} 30\n", sale.items[0].id);
    eventually("what is left is shown", async || {
        metrics(&world, "stock-service").await.contains(&left).then_some(())
    })
    .await;
}
