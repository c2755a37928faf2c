//! The HTTP server, the internal door, and calls between services.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use common::health::{self, Health};
use common::http_client::{self, CallError, Upstream};
use common::internal::{self, Deadline, OnBehalfOf};
use common::serve::Server;
use common::settings::{DrainSettings, HttpSettings, InternalSettings, UrlList};
use reqwest::{Method, StatusCode};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::far;

const TOKEN: &str = "the-token-of-these-tests";
const NEXT_TOKEN: &str = "the-token-that-comes-next";
const LOCAL: HttpSettings =
    HttpSettings { host: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port: 0, workers: 1 };

fn secrets() -> InternalSettings {
    InternalSettings { token: TOKEN.into(), token_also: NEXT_TOKEN.into() }
}

/// A service with one slow route and one that tells what it heard.
struct Service {
    url: String,
    health: Health,
    stop: CancellationToken,
    /// Lets the slow route answer, once per permit.
    gate: Arc<Semaphore>,
    ended: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Service {
    fn start(ready_delay_ms: u64) -> Self {
        let (health, stop) = (Health::default(), CancellationToken::new());
        let gate = Arc::new(Semaphore::new(0));
        let route_gate = web::Data::from(gate.clone());
        let drain = DrainSettings { ready_delay_ms, timeout_ms: 30_000 };
        let server = Server::bind(&LOCAL, drain, health.clone(), move |cfg| {
            let scope = web::scope("/internal/v1")
                .wrap(internal::guard(&secrets()))
                .route("/slow", web::get().to(slow))
                .route("/heard", web::post().to(heard))
                .route("/mine", web::get().to(mine));
            cfg.app_data(route_gate.clone()).configure(health::routes).service(scope);
        });
        let server = server.unwrap();
        let url = format!("http://{}", server.address());
        let ended = tokio::spawn(server.run(stop.clone()));
        Self { url, health, stop, gate, ended }
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let client = http_client::build(Duration::from_secs(5), Duration::from_secs(30)).unwrap();
        let response = client.get(format!("{}{path}", self.url)).send().await.unwrap();
        (response.status(), response.json().await.unwrap_or_default())
    }
}

async fn slow(gate: web::Data<Semaphore>) -> HttpResponse {
    gate.acquire().await.unwrap().forget();
    HttpResponse::Ok().json("slow")
}

async fn heard(request: HttpRequest, deadline: Deadline, body: web::Json<Value>) -> HttpResponse {
    let remaining_ms = u64::try_from(deadline.0.duration_since(Instant::now()).as_millis()).unwrap();
    HttpResponse::Ok().json(json!({
        "path": request.uri().to_string(),
        "body": *body,
        "remaining_ms": remaining_ms,
    }))
}

async fn mine(user: OnBehalfOf) -> HttpResponse {
    HttpResponse::Ok().json(user.user_id)
}

fn upstream(urls: &str) -> Upstream {
    let client = http_client::build(Duration::from_secs(5), Duration::from_secs(30)).unwrap();
    let urls = UrlList::try_from(urls.to_owned()).unwrap();
    Upstream::new("test", urls, client, &SecretString::from(TOKEN)).unwrap()
}

/// An address that nobody listens at.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_internal_token_nothing_is_heard() {
    let service = Service::start(0);
    let client = http_client::build(Duration::from_secs(5), Duration::from_secs(30)).unwrap();
    for token in [None, Some(""), Some("the-token-of-these-test"), Some("the-token-of-these-testsx")] {
        let mut request = client.get(format!("{}/internal/v1/mine", service.url)).header("x-user-id", "u1");
        if let Some(token) = token {
            request = request.header(internal::TOKEN_HEADER, token);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{token:?}");
        assert_eq!(response.json::<Value>().await.unwrap()["code"], "unauthenticated");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_secret_is_changed_both_are_heard() {
    let service = Service::start(0);
    let client = http_client::build(Duration::from_secs(5), Duration::from_secs(30)).unwrap();
    for token in [TOKEN, NEXT_TOKEN] {
        let request = client.get(format!("{}/internal/v1/mine", service.url)).header("x-user-id", "u1");
        let response = request.header(internal::TOKEN_HEADER, token).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_for_nobody_is_refused_where_a_user_is_needed() {
    let service = Service::start(0);
    let upstream = upstream(&service.url);
    for (user, status) in [
        (None, StatusCode::UNAUTHORIZED),
        (Some("../etc"), StatusCode::UNAUTHORIZED),
        (Some("u1"), StatusCode::OK),
    ] {
        let mut call = upstream.request(Method::GET, "/internal/v1/mine", far());
        if let Some(user) = user {
            call = call.header(internal::USER_HEADER, user);
        }
        assert_eq!(call.send().await.unwrap().status(), status, "{user:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_carries_path_query_body_and_the_time_that_is_left() {
    let service = Service::start(0);
    let deadline = Instant::now() + Duration::from_secs(20);
    let call = upstream(&format!("{}/", service.url)).request(Method::POST, "/internal/v1/heard", deadline);
    let response = call.query(&[("cursor", "a b")]).json(&json!({"n": 1})).send().await.unwrap();
    let heard: Value = response.json().await.unwrap();
    assert_eq!(heard["path"], "/internal/v1/heard?cursor=a+b");
    assert_eq!(heard["body"]["n"], 1);
    let remaining_ms = heard["remaining_ms"].as_u64().unwrap();
    assert!((1..=20_000).contains(&remaining_ms), "{remaining_ms}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_cannot_be_reached_is_passed_over() {
    let service = Service::start(0);
    let upstream = upstream(&format!("{},{}", nobody(), service.url));
    for _ in 0..4 {
        let call =
            upstream.request(Method::GET, "/internal/v1/mine", far()).header(internal::USER_HEADER, "u1");
        assert_eq!(call.send().await.unwrap().status(), StatusCode::OK);
    }
}

/// An address where connections are taken and reset: a balancer in front of a replica that died. Counts them.
async fn dead_behind_a_balancer() -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, Ordering::Relaxed);
            connection.set_zero_linger().unwrap();
            // The request has been sent by then: who sent it cannot know what became of it.
            connection.read_u8().await.ok();
        }
    });
    (url, taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_connections_break_is_left_alone_for_a_moment() {
    let (dead, taken) = dead_behind_a_balancer().await;
    let service = Service::start(0);
    let upstream = upstream(&format!("{dead},{}", service.url));
    let began = Instant::now();
    let mut unknown = 0;
    for _ in 0..100 {
        let call = upstream.request(Method::POST, "/internal/v1/heard", far()).json(&json!({}));
        match call.send().await {
            Ok(response) => assert_eq!(response.status(), StatusCode::OK),
            Err(CallError::Unknown { .. }) => unknown += 1,
            Err(error @ CallError::NotSent { .. }) => panic!("{error:?}"),
        }
    }
    // Once, and once more for each rest that went by on a machine that is busy.
    let allowed = 1 + usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!((1..=allowed).contains(&unknown), "{unknown} of 100 calls were lost, {allowed} may be");
    assert!(taken.load(Ordering::Relaxed) <= allowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_call_says_whether_anything_was_sent() {
    let nobody = upstream(&nobody()).request(Method::GET, "/internal/v1/slow", far()).send().await;
    assert!(matches!(nobody, Err(CallError::NotSent { .. })), "{nobody:?}");

    let service = Service::start(0);
    let late = upstream(&service.url).request(Method::GET, "/internal/v1/slow", Instant::now()).send().await;
    assert!(matches!(late, Err(CallError::NotSent { source: None, .. })), "{late:?}");

    let soon = Instant::now() + Duration::from_millis(500);
    let sent = upstream(&service.url).request(Method::GET, "/internal/v1/slow", soon).send().await;
    assert!(matches!(sent, Err(CallError::Unknown { .. })), "{sent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_checks_and_says_why_not() {
    let service = Service::start(0);
    let (redis, broker) = (service.health.check("redis"), service.health.dependency("broker"));
    let (status, body) = service.get("/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body["checks"], json!({"redis": "starting", "broker": "starting"}));

    redis.ready();
    assert_eq!(
        service.get("/readyz").await.0,
        StatusCode::SERVICE_UNAVAILABLE,
        "the broker was never reached"
    );
    broker.ready();
    assert_eq!(service.get("/readyz").await.0, StatusCode::OK);

    broker.not_ready("connection lost");
    let (status, body) = service.get("/readyz").await;
    assert_eq!((status, &body["checks"]["broker"]), (StatusCode::OK, &json!("connection lost")));

    redis.not_ready("refuses connections");
    let (status, body) = service.get("/readyz").await;
    assert_eq!(
        (status, &body["checks"]["redis"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("refuses connections"))
    );
    assert_eq!(service.get("/healthz").await.0, StatusCode::OK, "alive all the time");
    assert_eq!(service.get("/metrics").await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_serves_on_until_balancers_have_noticed_and_finishes_what_is_in_flight() {
    let service = Service::start(2_000);
    let upstream = upstream(&service.url);
    let slow = upstream.request(Method::GET, "/internal/v1/slow", far());
    let slow = tokio::spawn(slow.send());
    testkit::eventually("a request in flight", async || {
        (service.get("/readyz").await.0 == StatusCode::OK).then_some(())
    })
    .await;

    service.stop.cancel();
    let (status, body) = testkit::eventually("not ready", async || {
        let (status, body) = service.get("/readyz").await;
        (status != StatusCode::OK).then_some((status, body))
    })
    .await;
    assert_eq!((status, &body["draining"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(true)));

    let address = service.url.trim_start_matches("http://").to_owned();
    testkit::eventually("no new connections", async || {
        tokio::net::TcpStream::connect(&address).await.err().map(|_| ())
    })
    .await;
    assert!(!slow.is_finished() && !service.ended.is_finished());
    service.gate.add_permits(1);
    let response = slow.await.unwrap().unwrap();
    assert_eq!(response.json::<Value>().await.unwrap(), "slow");
    service.ended.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_an_error_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let drain = DrainSettings { ready_delay_ms: 0, timeout_ms: 1 };
    let refused = Server::bind(&HttpSettings { port, ..LOCAL }, drain, Health::default(), |_| {});
    let error = format!("{:#}", refused.err().unwrap());
    assert!(error.contains(&format!("127.0.0.1:{port}")), "{error}");
}
