//! Buying, through HTTP, with every store in place.

use std::sync::atomic::Ordering;

use common::api::OrderStatus;
use common::api::inventory::{AdminHold, ReserveOutcome};
use common::messages::order::Units;
use futures_util::future::join_all;
use reqwest::StatusCode;

use crate::support::app::{TestApp, order_id};

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_buyers_get_a_hundred_units_and_everybody_a_true_answer() {
    // No relay: on a slow machine it would announce some reservations twice, as it should.
    let app = TestApp::start_with(&[("RELAY__AGE_MS", "600000")]).await;
    let item = app.open_item(100, 1).await;
    let requests: Vec<_> = (0..1_000).map(|n| app.request(item, &format!("u{n}"), "k", 1)).collect();
    let batches = requests.chunks(50).map(|batch| app.reserve_batch(item, batch.to_vec()));
    let outcomes: Vec<_> = join_all(batches).await.into_iter().flatten().collect();
    let count = |outcome: &ReserveOutcome| outcomes.iter().filter(|other| *other == outcome).count();
    assert_eq!((count(&ReserveOutcome::Accepted), count(&ReserveOutcome::SoldOut)), (100, 900));

    let books = app.assert_quiet_and_equal(item).await;
    assert_eq!((books.available, books.held), (0, 100));
    assert_eq!(
        app.orders.switches.received.load(Ordering::SeqCst),
        100,
        "each reservation was announced once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_five_hundred_times_at_once_is_one_order() {
    let app = TestApp::start().await;
    let item = app.open_item(100, 5).await;
    let outcomes = join_all((0..500).map(|_| app.reserve(item, "u", "same", 2))).await;
    assert!(outcomes.iter().all(|outcome| *outcome == ReserveOutcome::Accepted), "{outcomes:?}");
    assert_eq!(app.reserve(item, "u", "same", 3).await, ReserveOutcome::IdempotencyMismatch);
    let books = app.assert_quiet_and_equal(item).await;
    assert_eq!((books.available, books.held, books.orders.len()), (98, 2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_a_user_holds_over_many_keys_at_once() {
    let app = TestApp::start().await;
    let item = app.open_item(100, 3).await;
    let keys: Vec<String> = (0..40).map(|n| format!("k{n}")).collect();
    let outcomes = join_all(keys.iter().map(|key| app.reserve(item, "u", key, 1))).await;
    let accepted = outcomes.iter().filter(|outcome| **outcome == ReserveOutcome::Accepted).count();
    let refused = outcomes.iter().filter(|outcome| **outcome == ReserveOutcome::LimitExceeded).count();
    assert_eq!((accepted, refused), (3, 37));
    app.assert_quiet_and_equal(item).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_order_stays_accepted_after_sell_out_expiry_pause_and_end() {
    let app = TestApp::start().await;
    let item = app.open_item(1, 1).await;
    assert_eq!(app.reserve(item, "a", "k", 1).await, ReserveOutcome::Accepted);
    assert_eq!(app.reserve(item, "b", "k", 1).await, ReserveOutcome::SoldOut);
    assert_eq!(app.reserve(item, "a", "k", 1).await, ReserveOutcome::Accepted);
    app.assert_quiet_and_equal(item).await;
    app.orders.move_order(order_id(item, "a", "k"), Units::Returned, OrderStatus::Expired).await;
    testkit::eventually("the unit is back", async || {
        Some(app.books(item).await).filter(|books| books.available == 1)
    })
    .await;
    assert_eq!(app.reserve(item, "a", "k", 1).await, ReserveOutcome::Accepted);
    for (hold, refusal) in
        [(AdminHold::Paused, ReserveOutcome::Paused), (AdminHold::Ended, ReserveOutcome::Ended)]
    {
        app.orders.change_item(item, |definition| definition.hold = hold).await;
        testkit::eventually("the change is in force", async || {
            // More than anybody gets, so that it is not granted before.
            (app.reserve(item, "c", "k", 100).await == refusal).then_some(())
        })
        .await;
        assert_eq!(app.reserve(item, "a", "k", 1).await, ReserveOutcome::Accepted);
    }
    assert_eq!(app.assert_quiet_and_equal(item).await.available, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_comes_back_is_sold_again_after_the_lease() {
    let app = TestApp::start().await;
    let item = app.open_item(1, 1).await;
    assert_eq!(app.reserve(item, "a", "k", 1).await, ReserveOutcome::Accepted);
    app.assert_quiet_and_equal(item).await;
    let order = order_id(item, "a", "k");
    app.orders.move_order(order, Units::Returned, OrderStatus::Cancelled).await;
    // The same news again and again changes nothing.
    app.orders.tell(order).await;
    app.orders.tell(order).await;
    testkit::eventually("b gets the unit", async || {
        (app.reserve(item, "b", "k", 1).await == ReserveOutcome::Accepted).then_some(())
    })
    .await;
    assert_eq!(app.reserve(item, "c", "k", 1).await, ReserveOutcome::SoldOut);
    let books = app.assert_quiet_and_equal(item).await;
    assert_eq!((books.available, books.held), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_time_is_over_has_no_effect() {
    let app = TestApp::start().await;
    let item = app.open_item(5, 1).await;
    let mut request = app.request(item, "u", "k", 1);
    request.deadline_ms = 0;
    assert_eq!(app.reserve_batch(item, vec![request]).await, [ReserveOutcome::DeadlinePassed]);
    assert_eq!(app.books(item).await.available, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_item_and_a_batch_that_makes_no_sense_are_refused() {
    let app = TestApp::start().await;
    let item = app.open_item(5, 1).await;
    let other = common::ids::ItemId(uuid::Uuid::new_v4());
    testkit::eventually("every item is known", async || {
        (app.reserve(other, "u", "k", 1).await == ReserveOutcome::UnknownItem).then_some(())
    })
    .await;

    let requests = |count: usize| {
        serde_json::json!({ "requests": (0..count).map(|n| {
        serde_json::to_value(app.request(item, &format!("u{n}"), "k", 1)).unwrap()
    }).collect::<Vec<_>>() })
    };
    let path = format!("/items/{item}/reservations");
    let send = async |body: serde_json::Value| app.post(&path).json(&body).send().await.unwrap().status();
    assert_eq!(send(requests(257)).await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(send(serde_json::json!({ "requests": [{ "quantity": 0 }] })).await, StatusCode::BAD_REQUEST);
    let foreign = serde_json::json!({ "requests": [app.request(other, "u", "k", 1)] });
    assert_eq!(send(foreign).await, StatusCode::BAD_REQUEST);
    assert_eq!(app.get("/items/not-an-id/books").send().await.unwrap().status(), StatusCode::BAD_REQUEST);
    assert_eq!(
        app.get(&format!("/items/{other}/books")).send().await.unwrap().status(),
        StatusCode::NOT_FOUND
    );
    let without_token = reqwest::Client::builder().no_proxy().build().unwrap();
    let refused =
        without_token.get(format!("{}/internal/v1/catalogue", app.service.url)).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(app.books(item).await.available, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_can_be_asked_for() {
    let app = TestApp::start().await;
    // Loaded first: a new item cannot be loaded while its partition stands still.
    let item = app.open_item(5, 2).await;
    app.orders.switches.paused.store(true, Ordering::SeqCst);
    assert_eq!(app.reserve(item, "u", "k", 2).await, ReserveOutcome::Accepted);
    let hold = app.hold(order_id(item, "u", "k")).await.unwrap();
    assert_eq!((hold.user_id.as_str(), hold.quantity.get(), hold.version), ("u", 2, 0));
    assert_eq!((hold.units, hold.unit_price_cents, hold.item_id), (Units::Held, 1_999, item));
    assert_eq!(app.reservation(order_id(item, "v", "k")).await.status(), StatusCode::NOT_FOUND);
    app.orders.switches.paused.store(false, Ordering::SeqCst);
    app.assert_quiet_and_equal(item).await;
    assert_eq!(app.hold(order_id(item, "u", "k")).await.unwrap().version, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_does_not_stop_the_work() {
    let app = TestApp::start().await;
    let item = app.open_item(50, 1).await;
    for n in 0..20 {
        let request = app.request(item, &format!("u{n}"), "k", 1);
        let call = app.reserve_batch(item, vec![request]);
        // Some are cut off before, some after the script.
        tokio::time::timeout(std::time::Duration::from_millis(n % 6), call).await.ok();
    }
    let books = app.assert_quiet_and_equal(item).await;
    assert_eq!(books.held, i64::try_from(books.orders.len()).unwrap());
}
