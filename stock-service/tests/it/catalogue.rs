//! What gateways are shown.

use common::api::inventory::{AdminHold, ReserveOutcome};
use common::api::{ItemState, OrderStatus};
use common::messages::order::Units;
use reqwest::StatusCode;
use reqwest::header::{ETAG, IF_NONE_MATCH};

use crate::support::app::{TestApp, order_id};

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_follows_sales_and_says_when_nothing_has_changed() {
    let app = TestApp::start().await;
    let item = app.open_item(2, 2).await;
    let first = app.get("/catalogue").send().await.unwrap();
    let etag = first.headers()[ETAG].clone();
    let again = app.get("/catalogue").header(IF_NONE_MATCH, etag.clone()).send().await.unwrap();
    assert_eq!((again.status(), again.headers()[ETAG].clone()), (StatusCode::NOT_MODIFIED, etag.clone()));

    let shown = app.shown(item).await.unwrap();
    assert_eq!((shown.state, shown.available, shown.total, shown.open), (ItemState::Active, 2, 2, true));
    assert_eq!((shown.per_user_limit, shown.granted), (2, None));

    assert_eq!(app.reserve(item, "u", "k", 1).await, ReserveOutcome::Accepted);
    testkit::eventually("the catalogue has changed", async || {
        let answer = app.get("/catalogue").header(IF_NONE_MATCH, etag.clone()).send().await.unwrap();
        (answer.status() == StatusCode::OK).then_some(())
    })
    .await;
    testkit::eventually("one unit is left", async || {
        app.shown(item).await.filter(|shown| shown.available == 1 && shown.granted.is_none())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_a_unit_is_in_the_filter_of_a_sold_out_paused_or_ended_item() {
    let app = TestApp::start().await;
    let item = app.open_item(30, 1).await;
    for n in 0..30 {
        assert_eq!(app.reserve(item, &format!("u{n}"), "k", 1).await, ReserveOutcome::Accepted);
    }
    let until = async |state: ItemState| {
        testkit::eventually("the state is shown", async || app.shown(item).await.filter(|s| s.state == state))
            .await
    };
    for (hold, state) in [
        (AdminHold::None, ItemState::SoldOut),
        (AdminHold::Paused, ItemState::Paused),
        (AdminHold::Ended, ItemState::Ended),
    ] {
        if hold != AdminHold::None {
            app.orders.change_item(item, |definition| definition.hold = hold).await;
        }
        let filter = until(state).await.granted.expect("an item that refuses everybody has a filter");
        assert!((0..30).all(|n| filter.may_contain(order_id(item, &format!("u{n}"), "k"))), "{state:?}");
        let strangers =
            (0..100).filter(|n| filter.may_contain(order_id(item, &format!("stranger{n}"), "k"))).count();
        assert!(strangers < 20, "{state:?}: the filter keeps nobody out");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_filter_of_a_big_item_is_built_aside_and_nobody_is_refused_until_it_is_there() {
    let app = TestApp::start_with(&[("CATALOGUE__FILTER_AT_ONCE_MAX", "10")]).await;
    let item = app.open_item(30, 1).await;
    for n in 0..30 {
        assert_eq!(app.reserve(item, &format!("u{n}"), "k", 1).await, ReserveOutcome::Accepted);
    }
    let filter = testkit::eventually("the filter is there", async || {
        let shown = app.shown(item).await.filter(|shown| shown.state == ItemState::SoldOut && shown.open)?;
        shown.granted
    })
    .await;
    assert!((0..30).all(|n| filter.may_contain(order_id(item, &format!("u{n}"), "k"))));
    // A unit comes back and goes to somebody else: the old filter must not be shown any more.
    app.orders.move_order(order_id(item, "u3", "k"), Units::Returned, OrderStatus::Cancelled).await;
    testkit::eventually("somebody else gets the unit", async || {
        (app.reserve(item, "late", "k", 1).await == ReserveOutcome::Accepted).then_some(())
    })
    .await;
    testkit::eventually("the filter knows the new owner", async || {
        let shown = app.shown(item).await.filter(|shown| shown.state == ItemState::SoldOut)?;
        let filter = shown.granted?;
        assert!(filter.may_contain(order_id(item, "late", "k")), "a filter without the new owner was shown");
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restock_and_a_resume_are_in_force_soon_and_older_news_are_ignored() {
    let app = TestApp::start().await;
    let item = app.open_item(1, 1).await;
    assert_eq!(app.reserve(item, "a", "k", 1).await, ReserveOutcome::Accepted);
    assert_eq!(app.reserve(item, "b", "k", 1).await, ReserveOutcome::SoldOut);
    app.orders.change_item(item, |definition| definition.total = 2).await;
    // Told twice and late: the definition is absolute.
    app.orders.tell_item(item).await;
    testkit::eventually("b gets the new unit", async || {
        (app.reserve(item, "b", "k", 1).await == ReserveOutcome::Accepted).then_some(())
    })
    .await;
    let books = app.assert_quiet_and_equal(item).await;
    assert_eq!((books.total, books.available), (2, 0));
}

/// The event is lost: the comparison with order-service's list finds the newer version.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_news_are_lost_is_found_by_comparing() {
    let app = TestApp::start().await;
    let item = app.open_item(1, 1).await;
    app.orders.change_item_silently(item, |definition| definition.hold = AdminHold::Paused);
    testkit::eventually("the pause is shown", async || {
        app.shown(item).await.filter(|shown| shown.state == ItemState::Paused)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_was_published_without_any_news_is_found_and_opened() {
    let app = TestApp::start().await;
    let item = common::ids::ItemId(uuid::Uuid::new_v4());
    app.orders.insert_item(crate::support::shelf::definition(item, 5, 1));
    app.until_open(item).await;
    assert_eq!(app.reserve(item, "a", "k", 1).await, ReserveOutcome::Accepted);
}
