//! Bytes that are almost HTTP: whatever a proxy before us might make of them, no second request comes of them here,
//! and nothing fails.

use common::api::ItemState;
use common::api::inventory::ReserveOutcome;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::*;

fn accepting() -> impl Fn(&Recorded) -> Reply + Send + Sync {
    stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted)
}

/// Sends bytes, says that there are no more, and reads to the end.
async fn conversation(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(gateway.address).await.expect("connected");
    let _cut_off = stream.write_all(bytes).await;
    let _gone = stream.shutdown().await;
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _cut_off = tokio::time::timeout(std::time::Duration::from_secs(20), reading).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn answers(text: &str) -> usize {
    text.matches("HTTP/1.1 ").count() + text.matches("HTTP/1.0 ").count()
}

/// What an attacker would smuggle: a call that reaches order-service, if it is taken for one.
fn smuggled(token: &str) -> String {
    format!("GET /api/v1/orders HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n")
}

/// Requests with a body of which two parsers may disagree.
fn framing(inner: &str) -> Vec<String> {
    let length = inner.len();
    let post =
        |headers: &str, body: &str| format!("POST /nowhere HTTP/1.1\r\nhost: x\r\n{headers}\r\n{body}");
    let chunked = format!("0\r\n\r\n{inner}");
    let mut cases = vec![
        post(&format!("content-length: {}\r\ntransfer-encoding: chunked\r\n", chunked.len()), &chunked),
        post(&format!("transfer-encoding: chunked\r\ncontent-length: {}\r\n", chunked.len()), &chunked),
        post("content-length: 6\r\ntransfer-encoding: chunked\r\n", &chunked),
        post("content-length: 0\r\ntransfer-encoding: chunked\r\n", &chunked),
        post(&format!("content-length: 4\r\ncontent-length: {length}\r\n"), inner),
        post(&format!("content-length: {length}\r\ncontent-length: 0\r\n"), inner),
        post("content-length: 0\r\ncontent-length: 0\r\n", inner),
        post(&format!("content-length: 0, {length}\r\n"), inner),
        post(&format!("content-length: {length}, {length}\r\n"), inner),
    ];
    for value in
        ["+5", "-1", "0x10", "5 5", "", " ", "5;", "\"5\"", "1e1", "99999999999999999999", "5\t6", "٣"]
    {
        cases.push(post(&format!("content-length: {value}\r\n"), inner));
    }
    for coding in [
        "xchunked",
        "chunked, chunked",
        "identity",
        "identity, chunked",
        "chunked, identity",
        "gzip, chunked",
        "gzip",
        "chunked;x=y",
        "\"chunked\"",
        "chunk ed",
        "",
        "chunked,",
        ",chunked",
        "\u{b}chunked",
    ] {
        cases.push(post(&format!("transfer-encoding: {coding}\r\n"), &chunked));
        cases.push(post(&format!("content-length: 5\r\ntransfer-encoding: {coding}\r\n"), &chunked));
    }
    for header in [
        "transfer-encoding : chunked",
        "transfer-encoding\t: chunked",
        " transfer-encoding: chunked",
        "x: y\r\n transfer-encoding: chunked",
        "x: y\r\n\ttransfer-encoding: chunked",
        "transfer_encoding: chunked",
        "transfer-encoding:\r\n chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity",
        "transfer-encoding: identity\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\rx: y",
        "x: y\rtransfer-encoding: chunked",
        "x: y\ntransfer-encoding: chunked",
        "\u{0}transfer-encoding: chunked",
        "transfer-encoding: chunked\u{0}",
        "content-length : 5",
        "content-length: 5\r\n content-length: 0",
    ] {
        cases.push(post(&format!("content-length: 5\r\n{header}\r\n"), &chunked));
    }
    for size in ["-1", "0x0", "G", "+0", " 0", "ffffffffffffffffff", "0\n\n", "\r\n", "1;\rX"] {
        cases.push(post("transfer-encoding: chunked\r\n", &format!("{size}\r\nx\r\n0\r\n\r\n{inner}")));
    }
    cases.push(post("transfer-encoding: chunked\r\n", &format!("1\r\nxY\r\n0\r\n\r\n{inner}")));
    cases.push(post("transfer-encoding: chunked\r\n", &format!("1\nx\n0\n\n{inner}")));
    cases
}

/// Heads that are wrong in other ways.
fn heads(inner: &str) -> Vec<String> {
    let lines = [
        "GET  /api/v1/orders HTTP/1.1",
        "GET /api/v1/orders  HTTP/1.1",
        "GET\t/api/v1/orders\tHTTP/1.1",
        "GET /api/v1/orders HTTP/1.1 x",
        "GET /api/v1/orders",
        "GET /api/v1/orders HTTP/0.9",
        "GET /api/v1/orders HTTP/2.0",
        "GET /api/v1/orders HTTP/1.11",
        "GET /api/v1/orders http/1.1",
        "GET /api/v1/orders HTTP/1,1",
        " GET /api/v1/orders HTTP/1.1",
        "G\u{0}T / HTTP/1.1",
        "GET / HTTP/1.1\u{0}",
        "GET /\u{7f} HTTP/1.1",
        "GET /a b HTTP/1.1",
        "PRI * HTTP/2.0",
        "CONNECT 127.0.0.1:22 HTTP/1.1",
        "GET http://127.0.0.1:22/ HTTP/1.1",
        "GET * HTTP/1.1",
        "GET api HTTP/1.1",
        "GET ? HTTP/1.1",
        "é / HTTP/1.1",
    ];
    let mut cases: Vec<String> =
        lines.iter().map(|line| format!("{line}\r\nhost: x\r\nconnection: close\r\n\r\n")).collect();
    for headers in [
        "host: x\r\nhost: y",
        "",
        "host x",
        ": x",
        "host: x\r\n: y",
        "host: x\r\nna me: y",
        "host: x\r\nx: \u{0}",
        "host: x\r\nx: a\rb",
        "host: x\r\n\u{7f}: y",
        "host: x\r\nexpect: 200-nothing\r\nconnection: close",
    ] {
        cases.push(format!("GET /nowhere HTTP/1.1\r\n{headers}\r\nconnection: close\r\n\r\n"));
    }
    cases.push(format!("GET /nowhere HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{inner}"));
    cases.push(format!("POST /nowhere HTTP/1.0\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{inner}"));
    cases.push(format!("GET /nowhere HTTP/1.1\nhost: x\nconnection: close\n\n{inner}"));
    cases.push(format!("GET /nowhere HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n{inner}", "y".repeat(20_000)));
    cases.push(format!("GET /nowhere HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n{inner}", "y".repeat(200_000)));
    cases.push(format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n{inner}", "y".repeat(9_000)));
    cases.push(format!("GET /nowhere HTTP/1.1\r\nhost: x\r\n{}\r\n{inner}", "x: y\r\n".repeat(200)));
    cases.push(format!("GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n{inner}"));
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn no_second_request_comes_of_bytes_that_are_almost_one() {
    let gateway = start(&[("HTTP__HALF_CLOSED", "true")], accepting()).await;
    let token = gateway.token("u1", "customer").await;
    let inner = smuggled(&token);
    let sane = conversation(&gateway, format!("{inner}{inner}").as_bytes()).await;
    assert_eq!(
        (answers(&sane), gateway.orders.calls("/v1/orders").len()),
        (2, 2),
        "two requests are two: {sane}"
    );

    let cases = [framing(&inner), heads(&inner)].concat();
    assert!(cases.len() >= 100, "{}", cases.len());
    let talks = cases.iter().map(async |case| (case, conversation(&gateway, case.as_bytes()).await));
    let mut wrong = Vec::new();
    for (case, answer) in join_all(talks).await {
        let refused = answer.starts_with("HTTP/1.1 4") && answer.contains("application/problem+json");
        if answers(&answer) > 1 || !(answer.is_empty() || refused) {
            wrong
                .push(format!("{:?} was answered with {answer}", case.chars().take(160).collect::<String>()));
        }
    }
    assert!(wrong.is_empty(), "{}: {}", wrong.len(), wrong.join("\n\n"));
    assert_eq!(gateway.orders.calls("/v1/orders").len(), 2, "nothing was smuggled in");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_answered_as_get_without_the_body() {
    let gateway = start(&[("HTTP__HALF_CLOSED", "true")], accepting()).await;
    let token = gateway.token("u1", "customer").await;
    for path in ["/healthz", "/openapi.json", "/docs", "/api/v1/sales", "/nowhere", "/api/v1/orders"] {
        let ask = |method: &str| {
            format!("{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n")
        };
        let get = conversation(&gateway, ask("GET").as_bytes()).await;
        let head = conversation(&gateway, ask("HEAD").as_bytes()).await;
        let (get_head, body) = get.split_once("\r\n\r\n").expect("a head");
        let (head_head, nothing) = head.split_once("\r\n\r\n").expect("a head");
        let comparable = |head: &str| {
            let changing = ["date:", "x-request-id:", "retry-after:"];
            let mut lines: Vec<String> = head.lines().map(str::to_owned).collect();
            lines.retain(|line| !changing.iter().any(|name| line.starts_with(name)));
            lines.sort();
            lines
        };
        assert!(!body.is_empty() && nothing.is_empty(), "{path}");
        assert_eq!(comparable(head_head), comparable(get_head), "{path}");
    }
    let posted = gateway.client.head(format!("{}/api/v1/auth/dev-token", gateway.url)).send().await;
    assert_eq!(posted.expect("answered").status(), 405);
    let stream =
        gateway.client.head(format!("{}/api/v1/events", gateway.url)).bearer_auth(&token).send().await;
    assert_eq!(stream.expect("answered").status(), 405, "a stream has nothing but its body");
}
