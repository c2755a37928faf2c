//! What stock-service asks: epochs, fences, stock, definitions.

use common::api::OrderStatus;
use common::api::inventory::{EpochGranted, ItemDefinition, ItemStock, StockOrder};
use common::messages::order::Units;
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::support::{Instance, Item, Wanted, World, answer, reserved};

async fn grant(instance: &Instance, item: Item) -> EpochGranted {
    let (status, body) = instance.post(&format!("/items/{}/epochs", item.id), "stock").await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_value(body).unwrap()
}

fn stock(instance: &Instance, item: Item, granted: &EpochGranted) -> reqwest::RequestBuilder {
    let path = format!("/items/{}/stock?epoch={}&token={}", item.id, granted.epoch, granted.token);
    instance.call(Method::GET, &path, "stock")
}

/// The answer waits for the fence, and then holds everything that came before it in the partition.
#[tokio::test(flavor = "multi_thread")]
async fn stock_waits_for_the_fence_and_has_everything_before_it() {
    let world = World::start("fence").await;
    let item = world.item(Wanted { total: 50, ..Wanted::default() }).await;
    let instance = world.instance().await;
    let granted = grant(&instance, item).await;
    assert_eq!(granted.epoch, 1);

    let asking = tokio::spawn(answer(stock(&instance, item, &granted)));
    for n in 0..30 {
        world.reserve(item, &[reserved(item, &format!("u{n}"), "key")]).await;
    }
    // Fences with another token, or of an item that does not exist, count for nothing.
    world.fence(item, granted.epoch, Uuid::new_v4()).await;
    let first = reserved(item, "u0", "key").data.order_id;
    instance.order_becomes(first, "u0", OrderStatus::PendingPayment).await;
    assert_eq!(instance.post(&format!("/orders/{first}/cancel"), "u0").await.0, 200);
    assert!(!asking.is_finished(), "the fence has not come through");
    world.fence(item, granted.epoch, granted.token).await;

    let (status, body) = asking.await.unwrap();
    assert_eq!(status, 200, "{body}");
    let stock: ItemStock = serde_json::from_value(body).unwrap();
    assert_eq!(stock.orders.len(), 30, "finished ones too");
    let returned: Vec<_> = stock.orders.iter().filter(|order| order.units == Units::Returned).collect();
    assert_eq!((returned.len(), returned[0].order_id, returned[0].version), (1, first, 2));
    assert_eq!((stock.item.total, stock.item.settled), (50, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_newest_right_to_load_counts() {
    let world = World::start("epochs").await;
    let item = world.item(Wanted::default()).await;
    let instance = world.instance().await;
    let (old, new) = (grant(&instance, item).await, grant(&instance, item).await);
    assert_eq!((old.epoch, new.epoch), (1, 2));

    assert_eq!(answer(stock(&instance, item, &old)).await.0, 409);
    world.fence(item, old.epoch, old.token).await;
    world.fence(item, new.epoch, new.token).await;
    assert_eq!(answer(stock(&instance, item, &new)).await.0, 200);

    // A message that the old inventory sent passes the same guard: it is not lost.
    let late = reserved(item, "late", "key");
    world.reserve(item, std::slice::from_ref(&late)).await;
    instance.order_becomes(late.data.order_id, "late", OrderStatus::PendingPayment).await;
}

/// Nobody waits longer than the caller does.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_fence_the_answer_is_unavailable() {
    let world = World::start("nofence").await;
    let item = world.item(Wanted::default()).await;
    let instance = world.instance().await;
    let granted = grant(&instance, item).await;
    let path = format!("/items/{}/stock?epoch={}&token={}", item.id, granted.epoch, granted.token);
    let request = world
        .client
        .get(instance.url(&path))
        .header("x-internal-token", crate::support::TOKEN)
        .header("x-deadline-ms", "300");
    let (status, problem) = answer(request).await;
    assert_eq!((status, problem["code"].as_str()), (503, Some("unavailable")));
}

#[tokio::test(flavor = "multi_thread")]
async fn items_are_listed_while_they_belong_into_the_inventory() {
    let world = World::start("items").await;
    let (open, draft, over) = (
        world.item(Wanted::default()).await,
        world.item(Wanted::default()).await,
        world.item(Wanted::default()).await,
    );
    // Nobody is there to end what is overdue.
    let instance = world.instance_with(&[("EXPIRY__INTERVAL_MS", "3600000")]).await;
    let event = reserved(over, "ann", "key");
    world.reserve(over, std::slice::from_ref(&event)).await;
    instance.order_becomes(event.data.order_id, "ann", OrderStatus::PendingPayment).await;
    world
        .execute(&format!(
            "UPDATE sales SET published_at = NULL WHERE id = '{}';
             UPDATE orders SET expires_at = now() - interval '2 hours';
             UPDATE sales SET starts_at = now() - interval '5 days', ends_at = now() - interval '3 days' WHERE id = '{}'",
            draft.sale, over.sale
        ))
        .await;

    let listed = async || {
        let (status, body) = instance.get("/items", "stock").await;
        assert_eq!(status, 200);
        let items = body["items"].as_array().unwrap().clone();
        let mut ids: Vec<String> =
            items.iter().map(|item| item["item_id"].as_str().unwrap().to_owned()).collect();
        ids.sort_unstable();
        ids
    };
    let mut both = vec![open.id.to_string(), over.id.to_string()];
    both.sort_unstable();
    assert_eq!(listed().await, both, "an order waits for payment");
    assert!(!definition(&instance, over).await.settled);

    assert_eq!(instance.post(&format!("/orders/{}/cancel", event.data.order_id), "ann").await.0, 200);
    assert!(definition(&instance, over).await.settled);
    assert_eq!(listed().await, [open.id.to_string()]);
    assert!(!definition(&instance, open).await.settled);

    for path in [format!("/items/{}", draft.id), format!("/items/{}", Uuid::new_v4())] {
        assert_eq!(instance.get(&path, "stock").await.0, 404);
    }
    assert_eq!(instance.post(&format!("/items/{}/epochs", draft.id), "stock").await.0, 404);
}

async fn definition(instance: &Instance, item: Item) -> ItemDefinition {
    let (status, body) = instance.get(&format!("/items/{}", item.id), "stock").await;
    assert_eq!(status, 200);
    serde_json::from_value(body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_names_the_orders_that_exist() {
    let world = World::start("lookup").await;
    let (item, other) = (world.item(Wanted::default()).await, world.item(Wanted::default()).await);
    let instance = world.instance().await;
    let (event, elsewhere) = (reserved(item, "ann", "key"), reserved(other, "ann", "key"));
    world.reserve(item, std::slice::from_ref(&event)).await;
    world.reserve(other, std::slice::from_ref(&elsewhere)).await;
    world.number_becomes("SELECT count(*) FROM orders", 2).await;

    let path = format!("/items/{}/orders/lookup", item.id);
    let ask = async |ids: Vec<String>| {
        answer(instance.call(Method::POST, &path, "stock").json(&json!({ "order_ids": ids }))).await
    };
    let asked = [event.data.order_id.0, elsewhere.data.order_id.0, Uuid::new_v4()];
    let (status, found) = ask(asked.iter().map(Uuid::to_string).collect()).await;
    assert_eq!(status, 200);
    assert_eq!(found["orders"].as_array().unwrap().len(), 1);
    assert_eq!(found["orders"][0]["order_id"], event.data.order_id.to_string());
    assert_eq!(found["orders"][0]["status"], "pending_payment");
    let (status, problem) = ask(vec![Uuid::new_v4().to_string(); 257]).await;
    assert_eq!((status, problem["field"].as_str()), (400, Some("order_ids")));
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_listed_by_pages_once_they_have_been_quiet() {
    let world = World::start("quiet").await;
    let (item, other) = (world.item(Wanted::default()).await, world.item(Wanted::default()).await);
    let instance = world.instance().await;
    let events: Vec<_> = ["bob", "ann", "cyd"].map(|user| reserved(item, user, "key")).into();
    world.reserve(item, &events).await;
    world.reserve(other, &[reserved(other, "ann", "key")]).await;
    world.number_becomes("SELECT count(*) FROM orders", 4).await;
    let list = async |after: &str| {
        let (status, body) = instance.get(&format!("/items/{}/orders{after}", item.id), "stock").await;
        assert_eq!(status, 200);
        let orders: Vec<StockOrder> = serde_json::from_value(body["orders"].clone()).unwrap();
        orders
    };
    assert_eq!(list("").await, [], "their news may still be on their way");
    world.execute("UPDATE orders SET created_at = created_at - interval '11 seconds'").await;
    assert_eq!(list("").await, [], "they have changed since");
    world.execute("UPDATE order_transitions SET at = at - interval '11 seconds'").await;
    let users: Vec<_> = list("").await.into_iter().map(|order| order.user_id.to_string()).collect();
    assert_eq!(users, ["ann", "bob", "cyd"]);
    let ann = &list("").await[0];
    let rest = list(&format!("?after_user=ann&after_order={}", ann.order_id)).await;
    assert_eq!(rest.iter().map(|order| order.user_id.as_str()).collect::<Vec<_>>(), ["bob", "cyd"]);
}
