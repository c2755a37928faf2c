//! Clients that are slow, or too many.

use std::time::Duration;

use common::api::inventory::ReserveOutcome;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::*;

const GET: &str = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
/// Far above the time limits of the server.
const SOON: Duration = Duration::from_secs(30);

async fn connect(gateway: &Gateway) -> TcpStream {
    TcpStream::connect(gateway.address).await.expect("connected")
}

/// What comes until the other side closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer)).await.expect("closed by the gateway").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

/// One answer, of a server that keeps the connection.
async fn answer(stream: &mut TcpStream) -> String {
    let mut buffer = vec![0; 16 * 1024];
    let read = timeout(SOON, stream.read(&mut buffer)).await.expect("answered").expect("answered");
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_come_ends_the_connection_the_first_and_any_later_one() {
    let gateway = open().await;
    let mut silent = connect(&gateway).await;
    let mut half = connect(&gateway).await;
    half.write_all(b"GET /healthz HTTP/1.1\r\nhost").await.expect("sent");
    let mut kept = connect(&gateway).await;
    kept.write_all(GET.as_bytes()).await.expect("sent");
    assert!(answer(&mut kept).await.starts_with("HTTP/1.1 200"));
    kept.write_all(b"GET /healthz HTTP/1.1\r\nhost").await.expect("sent");
    let mut dripping = connect(&gateway).await;
    dripping.write_all(GET.as_bytes()).await.expect("sent");
    assert!(answer(&mut dripping).await.starts_with("HTTP/1.1 200"));

    let drip = async {
        loop {
            if dripping.write_all(b"x").await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    let (silent, half, kept, dripped) =
        tokio::join!(rest(&mut silent), rest(&mut half), rest(&mut kept), timeout(SOON, drip));
    dripped.expect("a drop now and then does not help");
    for (case, answer) in [("silent", silent), ("half", half)] {
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{case}: {answer}");
        assert!(answer.is_empty() || answer.contains("application/problem+json"), "{case}: {answer}");
    }
    assert_eq!(kept, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_may_take_longer_than_a_head() {
    let gateway = open().await;
    gateway.orders.answer(|_| Reply::json(200, &serde_json::json!({ "items": [] })).part(7_000, " "));
    let token = gateway.token("u1", "customer").await;
    let settings = [("UPSTREAM__TIMEOUT_MS", "20000")];
    let patient = start(&settings, stock(vec![], ReserveOutcome::Accepted)).await;
    patient.orders.answer(|_| Reply::json(200, &serde_json::json!({ "items": [] })).part(7_000, " "));
    let response = patient.get("/api/v1/orders").bearer_auth(&token).send().await.expect("answered");
    assert_eq!(response.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_so_many_connections_and_the_next_is_told_so() {
    // A trusted proxy has no limit of its own; the dev profile exempts loopback.
    let settings = [
        ("PROFILE", "production"),
        ("INTERNAL__TOKEN", "kq8Zr2vX0pLw7TnYd4Hs9BfGc1MjUe6A"),
        ("AUTH__JWT_SECRET", "Wb3uQz8LxE5rNf0KtVy7PmCd2JhSa9Gi"),
        ("HTTP__CONNECTIONS_PER_IP_MAX", "20"),
    ];
    let gateway = start(&settings, stock(vec![], ReserveOutcome::Accepted)).await;
    // Connections of the client that waited for the start are counted too.
    let mut held = Vec::new();
    let refused = loop {
        let mut stream = connect(&gateway).await;
        stream.write_all(GET.as_bytes()).await.expect("sent");
        let said = answer(&mut stream).await;
        if !said.starts_with("HTTP/1.1 200") {
            break said;
        }
        held.push(stream);
        assert!(held.len() <= 20, "there is a limit");
    };
    assert!(held.len() >= 15, "{}", held.len());
    assert!(
        refused.starts_with("HTTP/1.1 429") && refused.contains("\"code\":\"rate_limited\""),
        "{refused}"
    );
    assert!(refused.contains("retry-after: 1"), "{refused}");
    held.truncate(5);
    testkit::eventually("there is room again", async || {
        let mut stream = connect(&gateway).await;
        stream.write_all(GET.as_bytes()).await.ok()?;
        answer(&mut stream).await.starts_with("HTTP/1.1 200").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_read_is_let_go() {
    let gateway = open().await;
    let mut stream = connect(&gateway).await;
    // The largest thing there is, more often than the buffers of both sides can hold, and nobody reads it.
    let ask = "GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: x\r\n\r\n".repeat(16);
    stream.write_all(ask.as_bytes()).await.expect("sent");
    let metrics = async || {
        let page = gateway.client.get(format!("http://{}/metrics", gateway.ops)).send().await.ok()?;
        page.text().await.ok()
    };
    let _page = metrics().await;
    tokio::time::sleep(Duration::from_secs(33)).await;
    let mut taken = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match timeout(SOON, stream.read(&mut buffer)).await.expect("ended") {
            Ok(0) | Err(_) => break,
            Ok(read) => taken += read,
        }
    }
    assert!(taken < 16 * 1_000_000, "{taken} bytes were kept for it");
}

/// So many answers with this status, one after the other.
async fn answers(stream: &mut TcpStream, count: usize) -> String {
    let mut all = String::new();
    let whole = |all: &str| {
        let mut rest = all;
        for _ in 0..count {
            let Some((head, after)) = rest.split_once("\r\n\r\n") else { return false };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let Some(after) =
                after.get(length.map_or(0, |length| length.parse::<usize>().expect("a number"))..)
            else {
                return false;
            };
            rest = after;
        }
        rest.is_empty()
    };
    while !whole(&all) {
        let mut buffer = vec![0; 16 * 1024];
        let read = timeout(SOON, stream.read(&mut buffer)).await.expect("answered").expect("answered");
        assert!(read > 0, "closed after {all}");
        all.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_were_taken_back_go_on_wherever_a_request_is_cut() {
    let gateway = open().await;
    let body = "{\"quantity\":1}";
    let post = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        order_path(ITEM),
        body.len()
    );
    // More than keep what they have been given.
    let mut streams = Vec::new();
    for _ in 0..1_200 {
        let mut stream = connect(&gateway).await;
        stream.write_all(GET.as_bytes()).await.expect("sent");
        streams.push(stream);
    }
    for stream in &mut streams {
        assert!(answers(stream, 1).await.starts_with("HTTP/1.1 200"));
    }
    for (n, stream) in streams.iter_mut().enumerate() {
        // Whole; cut in the head or the body; followed by a part of the next one, which comes when this one is answered.
        let cut = 1 + n % (post.len() - 1);
        stream.write_all(&post.as_bytes()[..cut]).await.expect("sent");
        if n % 7 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        stream
            .write_all(format!("{}{}", &post[cut..], &GET[..n % GET.len()]).as_bytes())
            .await
            .expect("sent");
    }
    for (n, stream) in streams.iter_mut().enumerate() {
        let first = answers(stream, 1).await;
        assert!(first.starts_with("HTTP/1.1 401"), "{n}: {first}");
        stream.write_all(format!("{}{GET}", &GET[n % GET.len()..]).as_bytes()).await.expect("sent");
        let both = answers(stream, 2).await;
        assert_eq!(both.matches("HTTP/1.1 200").count(), 2, "{n}: {both}");
    }
}
