//! Services that fail, hang or have too much to do: they are left alone, told what matters first, and never asked more often
//! because they fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::api::ItemState;
use common::api::inventory::ReserveOutcome;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;

/// An open breaker stays open for the length of a test.
const FOR_LONG: (&str, &str) = ("BREAKER__OPEN_MS", "600000");
const PATIENT: (&str, &str) = ("UPSTREAM__TIMEOUT_MS", "25000");

fn accepting() -> impl Fn(&Recorded) -> Reply + Send + Sync {
    stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted)
}

/// Waits until no more calls reach a service that fails; how many had.
async fn left_alone(fake: &Fake) -> usize {
    let mut before = usize::MAX;
    testkit::eventually("the service is left alone", async || {
        let now = fake.calls("").len();
        let quiet = now == std::mem::replace(&mut before, now);
        tokio::time::sleep(Duration::from_millis(300)).await; // Six polls.
        quiet.then_some(now)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_fails_is_left_alone_and_buyers_are_told_at_once() {
    let gateway = start(&[FOR_LONG], accepting()).await;
    let token = gateway.token("u1", "customer").await;
    gateway.stock.answer(|_| Reply::new(502));
    let calls = left_alone(&gateway.stock).await;
    for n in 0..20 {
        let refused = gateway.order(&token, &format!("k{n}")).await;
        assert!(refused.headers().contains_key("retry-after"));
        problem(refused, 503, "unavailable").await; // With X-Outcome: none.
    }
    assert_eq!(gateway.stock.calls("").len(), calls, "nothing was sent");
    // Everything else goes on.
    let listed = gateway.get("/api/v1/sales").send().await.expect("answered");
    assert_eq!(listed.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_back_is_found_by_one_call_and_gets_its_orders() {
    let gateway = start(&[], accepting()).await;
    let token = gateway.token("u1", "customer").await;
    gateway.stock.answer(|_| Reply::new(502));
    testkit::eventually("the breaker is open", async || {
        let before = gateway.stock.calls("/reservations").len();
        assert_eq!(gateway.order(&token, "refused").await.status(), 503);
        (gateway.stock.calls("/reservations").len() == before).then_some(())
    })
    .await;
    gateway.stock.answer(accepting());
    testkit::eventually("orders are accepted again", async || {
        (gateway.order(&token, "k").await.status() == 202).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_left_alone_an_order_shows_what_the_inventory_knows() {
    let gateway = start(&[FOR_LONG], accepting()).await;
    let id = order_id("u1", "k1");
    let hold = json!({
        "order_id": id, "item_id": ITEM, "sale_id": SALE, "user_id": "u1", "quantity": 1, "units": "held",
        "version": 0, "unit_price_cents": 100, "currency": "CNY", "reserved_at": now(),
    });
    gateway.stock.answer(move |call| match call.path.as_str() {
        path if path.contains("/reservations/") => Reply::json(200, &hold),
        _ => accepting()(call),
    });
    gateway.orders.answer(|_| Reply::new(502));
    let token = gateway.token("u1", "customer").await;
    let calls = left_alone(&gateway.orders).await;
    for _ in 0..10 {
        let shown = gateway.get(&format!("/api/v1/orders/{id}")).bearer_auth(&token).send().await;
        let shown = shown.expect("answered");
        assert_eq!(shown.status(), 200);
        assert_eq!(shown.json::<Value>().await.expect("JSON")["status"], "queued");
    }
    let cancelled = gateway.post(&format!("/api/v1/orders/{id}/cancel")).bearer_auth(&token).send().await;
    problem(cancelled.expect("answered"), 503, "unavailable").await;
    assert_eq!(gateway.orders.calls("").len(), calls, "nothing was sent");
    testkit::eventually("the listing says that it is old", async || {
        let listed = gateway.get("/api/v1/sales").send().await.expect("answered");
        let marked = listed.headers().get("x-stale").is_some_and(|stale| stale == "sales");
        assert_eq!(listed.status(), 200);
        marked.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_matters_most_still_gets_through_to_a_busy_service() {
    let ten = [("CONCURRENCY__MIN", "10"), ("CONCURRENCY__INITIAL", "10"), ("CONCURRENCY__MAX", "10")];
    let reached = Arc::new(AtomicUsize::new(0));
    let orders_url = format!("http://{}", hangs(reached.clone()).await);
    let settings = [ten.as_slice(), &[("ORDERS__URLS", orders_url.as_str()), PATIENT]].concat();
    let gateway = behind(&settings, Fake::start(accepting()).await, Fake::start(orders(vec![])).await).await;
    let token = gateway.token("u1", "customer").await;
    let id = order_id("u1", "k1");
    let question = || gateway.get(&format!("/api/v1/orders?cursor={id}")).bearer_auth(&token);
    let cancel = || gateway.post(&format!("/api/v1/orders/{id}/cancel")).bearer_auth(&token);
    let callback = || gateway.post("/api/v1/payments/sandbox/callback").body("{}");
    let mut waiting = Vec::new();
    let mut fill = async |request: reqwest::RequestBuilder, count: usize| {
        waiting.push(tokio::spawn(request.send()));
        testkit::eventually("the call has reached the service", async || {
            (reached.load(Ordering::SeqCst) == count).then_some(())
        })
        .await;
    };
    for count in 1..=8 {
        fill(question(), count).await;
    }
    problem(question().send().await.expect("answered"), 429, "too_busy").await;
    fill(cancel(), 9).await;
    problem(cancel().send().await.expect("answered"), 429, "too_busy").await;
    fill(callback(), 10).await;
    problem(callback().send().await.expect("answered"), 429, "too_busy").await;
    assert_eq!(reached.load(Ordering::SeqCst), 10);
    assert!(waiting.iter().all(|call| !call.is_finished()));
}

/// A service that never answers, except about sales.
async fn hangs(reached: Arc<AtomicUsize>) -> std::net::SocketAddr {
    by_hand(move |head| {
        let polls: [&[u8]; 3] =
            [b"GET /internal/v1/sales", b"GET /internal/v1/known-ids", b"GET /internal/v1/blocks"];
        let sales = polls.iter().any(|poll| head.starts_with(poll));
        reached.fetch_add(usize::from(!sales), Ordering::SeqCst);
        if sales { ByHand::Sales } else { ByHand::Silence }
    })
    .await
}

/// A service that closes the connection instead of answering about an order.
async fn breaks_off(questions: Arc<AtomicUsize>, polls: Arc<AtomicUsize>) -> std::net::SocketAddr {
    by_hand(move |head| {
        let question = head.starts_with(b"GET /internal/v1/orders/");
        let asked = if question { &questions } else { &polls };
        asked.fetch_add(1, Ordering::SeqCst);
        if question { ByHand::Close } else { ByHand::Sales }
    })
    .await
}

/// What a service does with a request.
enum ByHand {
    Sales,
    Close,
    Silence,
}

/// A service that does to each request what `act` says.
async fn by_hand(act: impl Fn(&[u8]) -> ByHand + Clone + Send + 'static) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, act.clone()));
        }
    });
    address
}

async fn serve(mut stream: TcpStream, act: impl Fn(&[u8]) -> ByHand) {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => head.extend_from_slice(&buffer[..read]),
        }
    }
    match act(&head) {
        ByHand::Close => {}
        ByHand::Silence => while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {},
        ByHand::Sales => {
            let body = json!({ "items": [] }).to_string();
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json";
            let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.ok();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_retries_add_no_more_than_a_tenth() {
    let (questions, polls) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let orders_url = format!("http://{}", breaks_off(questions.clone(), polls.clone()).await);
    let settings = [
        ("ORDERS__URLS", orders_url.as_str()),
        ("BREAKER__FAILURES_MAX", "1000000"),
        ("LIMITS__USER__READ__PER_SECOND", "100000"),
    ];
    let orders = Fake::start(orders(vec![])).await;
    let gateway = behind(&settings, Fake::start(accepting()).await, orders).await;
    let token = gateway.token("u1", "customer").await;
    let asked = 200;
    for n in 0..asked {
        let path = format!("/api/v1/orders/{}", order_id("u1", &format!("k{n}")));
        let answer = gateway.get(&path).bearer_auth(&token).send().await.expect("answered");
        problem(answer, 503, "unavailable").await;
    }
    let (questions, polls) = (questions.load(Ordering::SeqCst), polls.load(Ordering::SeqCst));
    assert!(questions > asked, "some were asked again");
    // Polls are first attempts too.
    assert!(questions <= asked + (asked + polls) / 10, "{questions} for {asked}, with {polls} polls");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_begun_for_those_who_left_while_they_waited_for_a_place() {
    let one = [("CONCURRENCY__MIN", "1"), ("CONCURRENCY__INITIAL", "1"), ("CONCURRENCY__MAX", "1"), PATIENT];
    let gateway = start(&one, |call| match call.path.as_str() {
        "/internal/v1/catalogue" => Reply::json(200, &catalogue(vec![catalogue_item(ItemState::Active)])),
        _ => {
            let Reply { status, headers, parts, .. } = all(call, &ReserveOutcome::Accepted);
            let parts = parts.into_iter().map(|(_, bytes)| (2000, bytes)).collect();
            Reply { status, headers, parts, ends: true }
        }
    })
    .await;
    let token = gateway.token("u1", "customer").await;
    let first = tokio::spawn(gateway.order_request(&token, "first").send());
    testkit::eventually("the only place is taken", async || {
        (gateway.stock.calls("/reservations").len() == 1).then_some(())
    })
    .await;
    let leaving = (0..3).map(|n| {
        let request = gateway.order_request(&token, &format!("k{n}"));
        request.timeout(Duration::from_millis(500)).send()
    });
    assert!(join_all(leaving).await.iter().all(Result::is_err), "they hung up");
    assert_eq!(first.await.expect("ran").expect("answered").status(), 202);
    let last = gateway.order(&token, "last").await;
    assert_eq!(last.status(), 202);
    let calls = gateway.stock.calls("/reservations");
    let asked: Vec<String> =
        calls.iter().map(|call| String::from_utf8_lossy(&call.body).into_owned()).collect();
    assert_eq!(calls.len(), 2, "{asked:?}");
    assert!(!asked[1].contains(&order_id("u1", "k0").0.to_string()), "{asked:?}");
}
