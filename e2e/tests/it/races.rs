//! Two things at the same moment, and retries after the worst.

use std::sync::atomic::{AtomicBool, Ordering};

use common::api::{Accepted, OrderStatus};
use common::ids::{ItemId, OrderId};
use common::problem::Code;
use e2e::client::Client;
use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::json;

use crate::support::World;

const KEYS: usize = 30;
const AT_ONCE: usize = 6;
const UNITS: i64 = 60;
const BUYERS: usize = 120;
/// Admins who take units away one by one, at the same time.
const ADMINS: usize = 3;

/// The client speaks to its gateways in turn, so that the same key arrives at both of them at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn one_key_at_two_gateways_at_once_is_one_order() {
    let world = World::with_replicas(2).await;
    let sale = world.open_sale(i64::try_from(KEYS).unwrap() / 2, 100, 3_600).await;
    let item = sale.items[0].id;
    let token = world.customer("eager").await;
    assert_eq!(world.services.gateway_urls().len(), 2);

    let keys: Vec<String> = (0..KEYS).map(|key| format!("key-{key}")).collect();
    let mut accepted = 0;
    for key in &keys {
        let answers = join_all((0..AT_ONCE).map(|_| world.final_answer(&token, item, key, 1))).await;
        let statuses: Vec<StatusCode> = answers.iter().map(|answer| answer.status).collect();
        assert!(statuses.iter().all(|status| *status == statuses[0]), "{key}: {statuses:?}");
        if statuses[0] == StatusCode::ACCEPTED {
            let orders: Vec<OrderId> =
                answers.iter().map(|answer| answer.json::<Accepted>().unwrap().order_id).collect();
            assert!(orders.iter().all(|order| *order == orders[0]), "{key}: {orders:?}");
            accepted += 1;
        } else {
            assert!(answers.iter().all(|answer| answer.code() == Some(Code::SoldOut)), "{key}: {statuses:?}");
        }
    }
    let books = world.quiet(sale.id).await;
    assert_eq!((books.items[0].pending_payment, books.items[0].available), (accepted, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_redis_lost_everything_learns_of_its_order_at_the_other_gateway_too() {
    let mut world = World::with_replicas(2).await;
    let sale = world.open_sale(1, 1, 3_600).await;
    let item = sale.items[0].id;
    let token = world.customer("early").await;
    let order = world.accepted(&token, item, "mine").await;
    world.services.redis_mut().wipe().await;

    for url in world.services.gateway_urls() {
        let elsewhere = Client::new(vec![url]).unwrap();
        let retry = testkit::eventually("the retry is accepted", async || {
            let answer = elsewhere.order(&token, item, "mine", 1).await.ok()?;
            assert_ne!(answer.code(), Some(Code::SoldOut), "it was accepted");
            answer.json::<Accepted>().ok()
        })
        .await;
        assert_eq!(retry.order_id, order);
    }
    let refused = world.final_answer(&world.customer("late").await, item, "other", 1).await;
    assert_eq!(refused.code(), Some(Code::SoldOut), "its unit was not sold again");
    world.reaches(&token, order, OrderStatus::PendingPayment).await;
    assert_eq!(world.quiet(sale.id).await.items[0].pending_payment, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn units_that_are_added_while_the_last_ones_go_are_sold_and_no_more() {
    let world = World::start().await;
    let sale = world.open_sale(UNITS, 1, 3_600).await;
    let item = sale.items[0].id;
    let added = UNITS / 2;

    let restock = async {
        let path = format!("/api/v1/admin/items/{item}/restock");
        world.client.post(&path, &world.admin, &json!({ "units": added })).await.unwrap()
    };
    let buying = join_all((0..BUYERS).map(|buyer| {
        let world = &world;
        async move {
            let token = world.customer(&format!("buyer-{buyer}")).await;
            world.final_answer(&token, item, "key", 1).await.status
        }
    }));
    let (restocked, first) = tokio::join!(restock, buying);
    assert_eq!(restocked.status, StatusCode::OK);
    let mut accepted = first.iter().filter(|status| **status == StatusCode::ACCEPTED).count();
    // Who was refused before the units were there may ask again.
    testkit::eventually("the added units are sold", async || {
        let token = world.customer(&format!("second-{accepted}")).await;
        let answer = world.final_answer(&token, item, "key", 1).await;
        accepted += usize::from(answer.status == StatusCode::ACCEPTED);
        (i64::try_from(accepted).ok()? >= UNITS + added).then_some(())
    })
    .await;

    let books = world.quiet(sale.id).await;
    let item = &books.items[0];
    assert_eq!((item.pending_payment, item.available, item.rejected), (UNITS + added, 0, 0));
}

/// Takes away units one by one until no more can go; how many went.
async fn take_away(world: &World, item: ItemId) -> i64 {
    let (path, mut gone) = (format!("/api/v1/admin/items/{item}/restock"), 0);
    loop {
        let answer = world.client.post(&path, &world.admin, &json!({ "units": -1 })).await.unwrap();
        match answer.code() {
            None => {
                assert_eq!(answer.status, StatusCode::OK);
                gone += 1;
            }
            Some(Code::InvalidTransition) => return gone,
            code => assert!(matches!(code, Some(Code::Unavailable | Code::RateLimited)), "{code:?}"),
        }
    }
}

/// What is granted is not in Postgres yet: a total that is lowered to what Postgres counts would reject it.
#[tokio::test(flavor = "multi_thread")]
async fn units_that_are_taken_away_while_everybody_buys_are_nobodys() {
    let world = World::start().await;
    let sale = world.open_sale(UNITS * 2, 1, 3_600).await;
    let item = sale.items[0].id;
    let buying = join_all((0..BUYERS).map(|buyer| {
        let world = &world;
        async move {
            let token = world.customer(&format!("buyer-{buyer}")).await;
            world.final_answer(&token, item, "key", 1).await.status
        }
    }));
    let taking = join_all((0..ADMINS).map(|_| take_away(&world, item)));
    let (answers, taken_away) = tokio::join!(buying, taking);
    let accepted = answers.iter().filter(|status| **status == StatusCode::ACCEPTED).count();
    let (accepted, gone) = (i64::try_from(accepted).unwrap(), taken_away.iter().sum::<i64>());

    let books = world.quiet(sale.id).await;
    let item = &books.items[0];
    assert_eq!((item.pending_payment, item.rejected), (accepted, 0), "each that was accepted has its units");
    assert_eq!((item.total, item.available), (UNITS * 2 - gone, 0), "{accepted} accepted, {gone} taken away");
    assert_eq!(item.total, accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_of_a_sale_accepted_is_accepted_and_refused_is_refused() {
    let world = World::start().await;
    let sale = world.open_sale(10_000, 1, 3_600).await;
    let item = sale.items[0].id;
    let ended = AtomicBool::new(false);

    let buying = join_all((0..BUYERS).map(|buyer| {
        let (world, ended) = (&world, &ended);
        async move {
            let token = world.customer(&format!("buyer-{buyer}")).await;
            let answer = world.final_answer(&token, item, "key", 1).await;
            if answer.status != StatusCode::ACCEPTED {
                assert_eq!(answer.code(), Some(Code::Ended));
                assert!(ended.load(Ordering::SeqCst), "refused before an admin had ended anything");
            }
            (token, answer)
        }
    }));
    let ending = async {
        ended.store(true, Ordering::SeqCst);
        let path = format!("/api/v1/admin/sales/{}/end", sale.id);
        world.client.post(&path, &world.admin, &json!({})).await.unwrap()
    };
    let (answers, end) = tokio::join!(buying, ending);
    assert_eq!(end.status, StatusCode::OK);

    let mut accepted = 0;
    for (token, answer) in answers.iter().filter(|(_, answer)| answer.status == StatusCode::ACCEPTED) {
        let order = answer.json::<Accepted>().unwrap().order_id;
        assert_eq!(world.accepted(token, item, "key").await, order, "asked again after the end");
        accepted += 1;
    }
    let books = world.quiet(sale.id).await;
    assert_eq!((books.items[0].pending_payment, books.items[0].rejected), (accepted, 0));
}
