//! What is not what it should be: a documented refusal that names the field, never a failure.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::access::routes;
use crate::support::*;

/// Sends bytes and reads until the gateway closes, for five seconds at most.
pub async fn raw(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(gateway.address).await.expect("connected");
    stream.write_all(bytes).await.expect("sent");
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _cut_off = tokio::time::timeout(std::time::Duration::from_secs(5), reading).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_quantity_is_named() {
    let gateway = open().await;
    let token = gateway.token("u1", "customer").await;
    let deep = format!("{{\"quantity\":{}1{}}}", "[".repeat(7000), "]".repeat(7000));
    let long = format!("{{\"quantity\":[{}1]}}", "1,".repeat(8000));
    let table: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "body"),
        (b"not json".to_vec(), "body"),
        (b"[1]".to_vec(), "body"),
        (b"1".to_vec(), "body"),
        (b"\xEF\xBB\xBF{\"quantity\":1}".to_vec(), "body"),
        (b"{\"quantity\":1,}".to_vec(), "body"),
        (b"{\"quantity\":NaN}".to_vec(), "body"),
        (b"{\"quantity\":1e999}".to_vec(), "body"),
        (b"{\"quantity\":\"\xC0\xAF\"}".to_vec(), "body"),
        (b"{\"quantity\":\"\\uD800\"}".to_vec(), "body"),
        (b"{\"quantity\":1}{\"quantity\":1}".to_vec(), "body"),
        (b"{}".to_vec(), "quantity"),
        (b"{\"quantity\":0}".to_vec(), "quantity"),
        (b"{\"quantity\":-0}".to_vec(), "quantity"),
        (b"{\"quantity\":-1}".to_vec(), "quantity"),
        (b"{\"quantity\":1.5}".to_vec(), "quantity"),
        (b"{\"quantity\":\"1\"}".to_vec(), "quantity"),
        (b"{\"quantity\":null}".to_vec(), "quantity"),
        (b"{\"quantity\":true}".to_vec(), "quantity"),
        (b"{\"quantity\":[1]}".to_vec(), "quantity"),
        (b"{\"quantity\":1000000000}".to_vec(), "quantity"),
        (b"{\"quantity\":9007199254740993}".to_vec(), "quantity"),
        (b"{\"quantity\":9223372036854775808}".to_vec(), "quantity"),
        (b"{\"quantity\":1,\"quantity\":1}".to_vec(), "quantity"),
        (b"{\"quantity\":1,\"price_cents\":1}".to_vec(), "price_cents"),
        (b"{\"quantity\":1,\"user_id\":\"u2\"}".to_vec(), "user_id"),
        (deep.into_bytes(), "*"),
        (long.into_bytes(), "*"),
    ];
    for (body, field) in table {
        let shown: String = String::from_utf8_lossy(&body).chars().take(60).collect();
        let request =
            gateway.post(&order_path(ITEM)).bearer_auth(&token).header("content-type", "application/json");
        let response = request.body(body).send().await.expect("answered");
        let named = problem(response, 400, "invalid_request").await["field"].clone();
        assert!(named == field || (field == "*" && named.is_string()), "{shown}: {named}");
    }
    assert_eq!(gateway.stock.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_head_is_named() {
    let gateway = open().await;
    let token = gateway.token("u1", "customer").await;
    let order = || gateway.post(&order_path(ITEM)).bearer_auth(&token).json(&json!({ "quantity": 1 }));
    for key in ["", "a b", &"k".repeat(129), "k\u{e9}", "\u{4f60}"] {
        let response = order().header("Idempotency-Key", key).send().await.expect("answered");
        assert_eq!(problem(response, 400, "invalid_request").await["field"], "Idempotency-Key", "{key}");
    }
    let twice = order().header("Idempotency-Key", "a").header("Idempotency-Key", "b").send().await;
    assert_eq!(problem(twice.expect("answered"), 400, "invalid_request").await["field"], "Idempotency-Key");
    assert_eq!(
        order().header("Idempotency-Key", "k".repeat(128)).send().await.expect("answered").status(),
        202
    );

    for item in ["1", "x", "00000000-0000-4000-8000-00000000001", "%00", "..%2F..", "%F0%9F%8D%9C"] {
        let request = gateway.post(&format!("/api/v1/items/{item}/orders")).bearer_auth(&token);
        let response = request.json(&json!({ "quantity": 1 })).send().await.expect("answered");
        problem(response, 404, "not_found").await;
    }
    for media in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "multipart/form-data; boundary=x",
    ] {
        let request = gateway.post(&order_path(ITEM)).bearer_auth(&token).header("content-type", media);
        let response = request.body("{\"quantity\":1}").send().await.expect("answered");
        problem(response, 415, "unsupported_media_type").await;
    }
    for query in [format!("x={}", "y".repeat(3000)), vec!["a=b"; 30].join("&")] {
        let response = gateway.get(&format!("/api/v1/orders?{query}")).bearer_auth(&token).send().await;
        assert_eq!(problem(response.expect("answered"), 400, "invalid_request").await["field"], "query");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_fails_whatever_it_is_sent() {
    let gateway = open().await;
    let admin = gateway.token("boss", "admin").await;
    let bodies: [&[u8]; 7] =
        [b"", b"{", b"[]", b"null", b"\xFF\xFE", b"{\"\\u0000\":1}", b"{\"quantity\":1,\"provider\":\"x\"}"];
    for (method, path, ..) in routes(&gateway).await {
        for body in bodies {
            for media in ["application/json", "text/plain", ""] {
                let method = method.parse().expect("a method");
                let request =
                    gateway.client.request(method, format!("{}{path}", gateway.url)).bearer_auth(&admin);
                let request = if media.is_empty() { request } else { request.header("content-type", media) };
                let response = request.body(body).send().await.expect("answered");
                let status = response.status().as_u16();
                assert!(status < 500 || status == 503, "{path} {status}");
                if status >= 400 {
                    assert_eq!(response.headers()["content-type"], "application/problem+json", "{path}");
                }
            }
        }
        for wrong in ["PUT", "TRACE", "OPTIONS", "PROPFIND"] {
            let request =
                gateway.client.request(wrong.parse().expect("a method"), format!("{}{path}", gateway.url));
            let response = request.send().await.expect("answered");
            assert!(response.headers().contains_key("allow"), "{wrong} {path}");
            problem(response, 405, "method_not_allowed").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_long_is_refused_by_its_length_and_by_its_bytes() {
    let gateway = open().await;
    let token = gateway.token("u1", "customer").await;
    let padded = |length: usize| format!("{{\"quantity\":1{}}}", " ".repeat(length - 14));
    let post = async |body: reqwest::Body| {
        let request =
            gateway.post(&order_path(ITEM)).bearer_auth(&token).header("content-type", "application/json");
        request.body(body).send().await.expect("answered")
    };
    assert_eq!(post(padded(16 * 1024).into()).await.status(), 202);
    problem(post(padded(16 * 1024 + 1).into()).await, 413, "too_large").await;
    let chunks = vec![Ok::<_, std::io::Error>(padded(10_000)), Ok(padded(10_000))];
    let chunked = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
    problem(post(chunked).await, 413, "too_large").await;
    let callback = gateway.post("/api/v1/payments/sandbox/callback").body(padded(20_000)).send().await;
    problem(callback.expect("answered"), 413, "too_large").await;
    assert_eq!(gateway.orders.calls("/callback").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_leaves_the_connection_usable() {
    let gateway = open().await;
    let body = format!("{{\"quantity\":1{}}}", " ".repeat(15_000));
    let too_long = " ".repeat(20_000);
    let refused = [
        format!(
            "POST {} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            order_path(ITEM),
            body.len()
        ),
        format!(
            "POST {} HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}",
            order_path(ITEM),
            body.len()
        ),
        format!("POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
        format!("PUT /api/v1/orders HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
        format!(
            "POST {} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{too_long}",
            order_path(ITEM),
            too_long.len()
        ),
    ];
    let last = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned();
    let all: Vec<String> = refused.into_iter().chain([last]).collect();
    let mut stream = TcpStream::connect(gateway.address).await.expect("connected");
    let mut answers = Vec::new();
    for request in &all {
        stream.write_all(request.as_bytes()).await.expect("the connection is usable");
        let mut buffer = vec![0; 8192];
        let read = stream.read(&mut buffer).await.expect("answered");
        answers.push(String::from_utf8_lossy(&buffer[..read]).chars().take(12).collect::<String>());
    }
    let expected =
        ["HTTP/1.1 401", "HTTP/1.1 415", "HTTP/1.1 404", "HTTP/1.1 405", "HTTP/1.1 413", "HTTP/1.1 200"];
    assert_eq!(answers, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_http_ends_with_a_refusal_or_a_closed_connection() {
    let gateway = start(
        &[("HTTP__BODY_TIMEOUT_MS", "500")],
        stock(
            vec![catalogue_item(common::api::ItemState::Active)],
            common::api::inventory::ReserveOutcome::Accepted,
        ),
    )
    .await;
    let token = gateway.token("u1", "customer").await;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n",
        order_path(ITEM)
    );
    let cases = [
        format!("{head}content-length: 50\r\n\r\n{{\"quantity\":1}}"),
        format!("{head}transfer-encoding: chunked\r\n\r\nZZ\r\n{{\"quantity\":1}}\r\n0\r\n\r\n"),
        format!("{head}transfer-encoding: chunked\r\n\r\n5\r\n{{\"qua"),
        format!("{head}content-length: 14\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}content-length: 14\r\ncontent-length: 15\r\n\r\n{{\"quantity\":1}}"),
        format!("{head}content-length: -1\r\n\r\n"),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        "\u{0}\u{1}\u{2}\r\n\r\n".to_owned(),
        format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(200_000)),
        format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(1000)),
    ];
    for case in cases {
        let answer = raw(&gateway, case.as_bytes()).await;
        let shown: String = case.chars().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{shown:?}: {answer}");
    }
    assert_eq!(gateway.stock.calls("/reservations").len(), 0);
    assert_eq!(gateway.order(&token, "k1").await.status(), 202);
}
