//! Lowering a total while it is sold: the inventory withdraws the units first.

use common::api::Sale;
use reqwest::Method;
use serde_json::{Value, json};

use crate::desk::{Desk, item_of, sale};

/// An open sale of 10 units of which 2 are ordered, loaded by the inventory with epoch 1.
async fn sold(desk: &Desk) -> Sale {
    let sale = desk.open_sale(10).await;
    desk.order(&sale, "ann", 2).await;
    desk.world.execute("UPDATE items SET epoch = 1").await;
    sale
}

async fn lower(desk: &Desk, sale: &Sale, units: i64) -> (u16, Value) {
    let path = format!("/admin/items/{}/restock", item_of(sale));
    desk.admin(Method::POST, &path, json!({"units": units})).await
}

/// Total and version of the item, lines of the audit log, and messages to the inventory.
async fn written(desk: &Desk) -> [i64; 4] {
    let mut numbers = [0; 4];
    let questions = [
        "SELECT total FROM items",
        "SELECT version FROM items",
        "SELECT count(*) FROM audit_log",
        "SELECT count(*) FROM outbox",
    ];
    for (number, question) in numbers.iter_mut().zip(questions) {
        *number = desk.world.number(question).await;
    }
    numbers
}

/// What the inventory was asked, and what it was given back, since the last time.
fn heard(desk: &Desk) -> (Vec<Value>, Vec<Value>) {
    let mut withdrawals = desk.outside.withdrawals.lock().unwrap();
    (std::mem::take(&mut withdrawals.asked), std::mem::take(&mut withdrawals.returned))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_unless_the_inventory_has_withdrawn_the_units() {
    let desk = Desk::open("lowering").await;
    let sale = sold(&desk).await;
    let before = written(&desk).await;

    desk.outside.inventory_says(json!({"outcome": "not_enough", "available": 3}));
    let (status, problem) = lower(&desk, &sale, -4).await;
    assert_eq!(
        (status, &problem["code"], &problem["field"]),
        (409, &json!("invalid_transition"), &json!("units"))
    );
    assert!(problem["detail"].as_str().unwrap().contains("3 units"), "{problem}");

    // Its gate is closed; it answers what makes no sense; it does not answer; it is one from before.
    for answer in [Some(json!({"outcome": "closed"})), Some(json!({"outcome": "maybe"})), None] {
        desk.outside.withdrawals.lock().unwrap().answer = answer.clone();
        let (status, problem) = lower(&desk, &sale, -4).await;
        assert_eq!((status, &problem["code"]), (503, &json!("unavailable")), "{answer:?}: {problem}");
    }
    let path = format!("/admin/items/{}/restock", item_of(&sale));
    let call = desk.instance.call(Method::POST, &path, "root").header("x-user-role", "admin");
    let response = call.json(&json!({"units": -4})).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-outcome"]),
        (503, &"none".parse().unwrap())
    );
    assert_eq!(written(&desk).await, before);
    assert_eq!(heard(&desk), (vec![json!({"units": 4}); 5], vec![]), "asked once each time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_after_the_withdrawal_leaves_the_total_as_it_is() {
    let desk = Desk::open("overtaken").await;
    let sale = sold(&desk).await;
    let before = written(&desk).await;
    // The inventory answered while its gate was open with epoch 1; somebody was granted epoch 2 since.
    desk.outside.inventory_says(json!({"outcome": "withdrawn", "epoch": 1}));
    let granted = desk.instance.post(&format!("/items/{}/epochs", item_of(&sale)), "ann").await;
    assert_eq!((granted.0, &granted.1["epoch"]), (200, &json!(2)));
    let (status, problem) = lower(&desk, &sale, -4).await;
    assert_eq!((status, &problem["code"]), (503, &json!("unavailable")), "{problem}");
    assert_eq!(written(&desk).await, before);
    let wish = json!({"units": 4, "epoch": 1});
    assert_eq!(heard(&desk), (vec![json!({"units": 4})], vec![wish]), "it is given back, if it still counts");

    // The inventory does not know the item any more, but had loaded it: somebody may hold a grant.
    desk.outside.inventory_says(json!({"outcome": "unknown_item"}));
    assert_eq!(lower(&desk, &sale, -4).await.0, 503);
    assert_eq!(written(&desk).await, before);

    desk.outside.inventory_says(json!({"outcome": "withdrawn", "epoch": 2}));
    let (status, item) = lower(&desk, &sale, -4).await;
    assert_eq!((status, &item["total"], &item["available"]), (200, &json!(6), &json!(4)));
    let [total, version, log, outbox] = before;
    assert_eq!(written(&desk).await, [total - 4, version + 1, log + 1, outbox + 1]);
    assert_eq!(heard(&desk).1, [] as [Value; 0], "what is claimed is not given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inventory_is_not_asked_about_what_it_does_not_sell_or_what_cannot_be() {
    let desk = Desk::open("not-asked").await;
    desk.outside.withdrawals.lock().unwrap().answer = None;
    let draft: Sale = serde_json::from_value(desk.admin_does("/admin/sales", sale(10)).await).unwrap();
    assert_eq!(lower(&desk, &draft, -4).await.1["total"], 6);
    assert_eq!(lower(&desk, &draft, 4).await.1["total"], 10);
    desk.admin_does(&format!("/admin/sales/{}/publish", draft.id), json!({})).await;
    desk.order(&draft, "ann", 2).await;
    assert_eq!(lower(&desk, &draft, -9).await.0, 409, "more than Postgres could give");
    assert_eq!(lower(&desk, &draft, 1).await.1["total"], 11);
    desk.admin_does(&format!("/admin/sales/{}/end", draft.id), json!({})).await;
    assert_eq!(lower(&desk, &draft, -1).await.0, 409, "over");
    assert_eq!(heard(&desk), (vec![], vec![]));
}
