//! What is refused without asking, what is asked, and what the listing shows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use common::api::filter::IdFilter;
use common::api::inventory::ReserveOutcome;
use common::api::{ItemState, SaleState};
use common::problem::Code;
use serde_json::{Value, json};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_the_snapshot_refuses_costs_no_call() {
    let gateway = open().await;
    let token = gateway.token("u1", "customer").await;
    let states = [
        (ItemState::SoldOut, "sold_out"),
        (ItemState::Paused, "paused"),
        (ItemState::Ended, "ended"),
        (ItemState::Scheduled, "not_started"),
    ];
    for (state, code) in states {
        let mut item = catalogue_item(state);
        item.granted = Some(IdFilter::of(&[order_id("u1", "granted")]));
        if state == ItemState::Scheduled {
            item.starts_at = now() + TimeDelta::seconds(120);
        }
        let starts_at = item.starts_at;
        gateway.stock.answer(stock(vec![item], ReserveOutcome::Accepted));
        gateway.polled().await;
        let before = (gateway.stock.asked(), gateway.orders.asked());
        for n in 0..20 {
            let body = problem(gateway.order(&token, &format!("k{n}")).await, 409, code).await;
            if state == ItemState::Scheduled {
                assert_eq!(body["starts_at"], json!(starts_at));
            }
        }
        assert_eq!((gateway.stock.asked(), gateway.orders.asked()), before, "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_a_granted_order_is_asked_for_and_accepted() {
    let gateway = open().await;
    let token = gateway.token("u1", "customer").await;
    for state in [ItemState::SoldOut, ItemState::Paused, ItemState::Ended] {
        let mut item = catalogue_item(state);
        item.granted = Some(IdFilter::of(&[order_id("u1", "granted")]));
        gateway.stock.answer(stock(vec![item], ReserveOutcome::Accepted));
        gateway.polled().await;
        assert_eq!(gateway.order(&token, "granted").await.status(), 202);
        assert_eq!(gateway.order(&token, "stranger").await.status(), 409);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_refuses_no_longer_than_its_lease() {
    let broken = Arc::new(AtomicBool::new(false));
    let breaks = broken.clone();
    let gateway = start(&[("ADMISSION__FLIGHTS_MAX", "1")], move |call| match call.path.as_str() {
        "/internal/v1/catalogue" if breaks.load(Ordering::SeqCst) => Reply::new(500),
        "/internal/v1/catalogue" => {
            let mut item = catalogue_item(ItemState::SoldOut);
            item.granted = Some(IdFilter::of(&[]));
            let mut catalogue = catalogue(vec![item]);
            catalogue.lease_ms = 3000;
            Reply::json(200, &catalogue)
        }
        _ => all(call, &ReserveOutcome::Accepted),
    })
    .await;
    let token = gateway.token("u1", "customer").await;
    problem(gateway.order(&token, "k1").await, 409, "sold_out").await;
    assert_eq!(gateway.stock.asked(), 0);

    broken.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(3300)).await;
    assert_eq!(gateway.order(&token, "k2").await.status(), 202, "units may have come back");
    assert_eq!(gateway.stock.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_catalogue_goes_on_counting() {
    let gateway = start(&[], |call| match call.path.as_str() {
        "/internal/v1/catalogue"
            if call.headers.get("if-none-match").is_some_and(|etag| etag == "\"v1\"") =>
        {
            Reply::new(304)
        }
        "/internal/v1/catalogue" => {
            let mut item = catalogue_item(ItemState::SoldOut);
            item.granted = Some(IdFilter::of(&[]));
            let mut catalogue = catalogue(vec![item]);
            catalogue.lease_ms = 3000;
            Reply::json(200, &catalogue).header("etag", "\"v1\"")
        }
        _ => all(call, &ReserveOutcome::Accepted),
    })
    .await;
    let token = gateway.token("u1", "customer").await;
    tokio::time::sleep(Duration::from_millis(4000)).await;
    problem(gateway.order(&token, "k1").await, 409, "sold_out").await;
    assert_eq!(gateway.stock.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn near_the_opening_the_clock_of_the_inventory_decides() {
    let gateway = open().await;
    let mut item = catalogue_item(ItemState::Scheduled);
    item.starts_at = now() + TimeDelta::milliseconds(1500);
    gateway.stock.answer(stock(vec![item], ReserveOutcome::Accepted));
    gateway.polled().await;
    let token = gateway.token("u1", "customer").await;
    assert_eq!(gateway.order(&token, "k1").await.status(), 202);
}

/// The sale as both calls show it; they are rendered together, at most for a moment.
async fn shown(gateway: &Gateway) -> Value {
    let get = async |path: String| -> Value {
        gateway.get(&path).send().await.expect("answered").json().await.expect("JSON")
    };
    testkit::eventually("both show the same", async || {
        let one = get(format!("/api/v1/sales/{SALE}")).await;
        let all = get("/api/v1/sales".to_owned()).await;
        (all["items"][0]["server_time"] == one["server_time"]).then(|| {
            assert_eq!(all["items"][0], one);
            one
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listing_shows_the_stock_as_the_inventory_has_it() {
    let gateway = open().await;
    gateway.polled().await;
    let sale = shown(&gateway).await;
    assert_eq!((&sale["state"], &sale["stale"]), (&json!("active"), &json!(false)));
    assert_eq!((&sale["items"][0]["available"], &sale["items"][0]["state"]), (&json!(5), &json!("active")));

    gateway.stock.answer(stock(vec![catalogue_item(ItemState::SoldOut)], ReserveOutcome::SoldOut));
    let sold_out = testkit::eventually("it is sold out", async || {
        let sale = shown(&gateway).await;
        (sale["items"][0]["state"] == "sold_out").then_some(sale)
    })
    .await;
    assert_eq!(sold_out["items"][0]["available"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_that_the_listing_lacks_is_asked_for_before_it_is_not_found() {
    let gateway = open().await;
    gateway.orders.answer(|call| match call.path.as_str() {
        "/internal/v1/sales" => Reply::json(200, &json!({ "items": [] })),
        path if path == format!("/internal/v1/sales/{SALE}") => Reply::json(200, &sale(SaleState::Active)),
        _ => Reply::problem(Code::NotFound),
    });
    gateway.polled().await;
    let get = async |id| gateway.get(&format!("/api/v1/sales/{id}")).send().await.expect("answered");
    let found: Value = get(SALE.to_string()).await.json().await.expect("JSON");
    assert_eq!((&found["title"], &found["items"][0]["available"]), (&json!("Noodles"), &json!(5)));
    problem(get(ITEM.to_string()).await, 404, "not_found").await;
    gateway.orders.answer(|_| Reply::new(500));
    problem(get(uuid::Uuid::from_u128(0x99).to_string()).await, 503, "unavailable").await;
    assert_eq!(get(SALE.to_string()).await.status(), 200, "it is remembered for a while");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listing_survives_the_loss_of_both_services_and_says_so() {
    let gateway = start(
        &[("CATALOGUE__STALE_AFTER_MS", "500")],
        stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted),
    )
    .await;
    assert_eq!(shown(&gateway).await["stale"], false);
    gateway.stock.answer(|_| Reply::new(500));
    gateway.orders.answer(|_| Reply::new(500));
    let sale = testkit::eventually("it is marked", async || {
        let sale = shown(&gateway).await;
        (sale["stale"] == true).then_some(sale)
    })
    .await;
    assert_eq!((&sale["title"], &sale["items"][0]["available"]), (&json!("Noodles"), &json!(10)));
    testkit::eventually("the header says so too", async || {
        let listed = gateway.get("/api/v1/sales").send().await.expect("answered");
        listed.headers().get("x-stale").is_some_and(|old| old == "stock, sales").then_some(())
    })
    .await;

    gateway.stock.answer(stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted));
    testkit::eventually("it is fresh again", async || {
        (shown(&gateway).await["stale"] == false).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_gate_shows_the_figures_of_the_database_and_refuses_nobody() {
    let gateway = open().await;
    let mut item = catalogue_item(ItemState::SoldOut);
    item.open = false;
    item.granted = Some(IdFilter::of(&[]));
    gateway.stock.answer(stock(vec![item], ReserveOutcome::Unavailable));
    gateway.polled().await;
    let sale = testkit::eventually("it is marked", async || {
        let sale = shown(&gateway).await;
        (sale["stale"] == true).then_some(sale)
    })
    .await;
    assert_eq!(sale["items"][0]["available"], 10);
    let token = gateway.token("u1", "customer").await;
    problem(gateway.order(&token, "k1").await, 503, "unavailable").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_service_everything_has_an_honest_answer() {
    let away = || async { Fake::start(|_| Reply::new(500)).await };
    let gateway = behind(&[], away().await, away().await).await;
    problem(gateway.get("/api/v1/sales").send().await.expect("answered"), 503, "unavailable").await;
    let token = gateway.token("u1", "customer").await;
    problem(gateway.order(&token, "k1").await, 503, "unavailable").await;
    let readiness = gateway.client.get(format!("http://{}/readyz", gateway.ops));
    assert_eq!(readiness.try_clone().expect("no body").send().await.expect("answered").status(), 503);
    let ready = testkit::eventually("it is ready all the same", async || {
        let response = readiness.try_clone()?.send().await.ok()?;
        if response.status() == 200 { response.json::<Value>().await.ok() } else { None }
    })
    .await;
    assert_eq!(ready["checks"]["stock-service"], "gives no catalogue");
    assert_eq!(gateway.get("/healthz").send().await.expect("answered").status(), 200);
    for path in ["/readyz", "/metrics"] {
        problem(gateway.get(path).send().await.expect("answered"), 404, "not_found").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_who_publishes_a_sale_sees_it_at_once() {
    let gateway = start(
        &[("CATALOGUE__SALES_POLL_MS", "60000")],
        stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted),
    )
    .await;
    gateway.orders.answer(|call| {
        let mut sale = sale(SaleState::Active);
        sale.title = "Dumplings".to_owned();
        match call.path.as_str() {
            "/internal/v1/sales" => Reply::json(200, &json!({ "items": [sale] })),
            path if path.ends_with("/publish") => Reply::json(200, &sale),
            _ => Reply::problem(Code::NotFound),
        }
    });
    assert_eq!(shown(&gateway).await["title"], "Noodles");
    let admin = gateway.token("boss", "admin").await;
    let publish = gateway.post(&format!("/api/v1/admin/sales/{SALE}/publish")).bearer_auth(&admin);
    assert_eq!(publish.send().await.expect("answered").status(), 200);
    assert_eq!(shown(&gateway).await["title"], "Dumplings");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_sale_can_be_ordered_as_soon_as_the_admin_has_the_answer() {
    let gateway = start(&[], |_| Reply::json(200, &catalogue(vec![]))).await;
    let admin = gateway.token("boss", "admin").await;
    gateway.orders.answer(|call| match call.path.as_str() {
        "/internal/v1/sales" => Reply::json(200, &json!({ "items": [sale(SaleState::Active)] })),
        _ => Reply::json(200, &sale(SaleState::Active)),
    });
    let publish = gateway.post(&format!("/api/v1/admin/sales/{SALE}/publish")).bearer_auth(&admin).send();
    let loaded = async {
        // The inventory is still loading the sale when order-service has answered.
        testkit::eventually("published", async || {
            (!gateway.orders.calls("/publish").is_empty()).then_some(())
        })
        .await;
        gateway.polled().await;
        gateway.stock.answer(stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted));
    };
    let (published, ()) = tokio::join!(publish, loaded);
    assert_eq!(published.expect("answered").status(), 200);

    let token = gateway.token("u1", "customer").await;
    assert_eq!(gateway.order(&token, "k").await.status(), 202);
}
