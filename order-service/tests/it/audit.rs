//! What admins look at: the audit of both stores, and everybody's orders as JSON and CSV.

use common::api::{OrderStatus, Sale};
use common::ids::OrderId;
use reqwest::Method;
use serde_json::{Value, json};

use crate::desk::{Desk, item_of};

/// Books that say what Postgres says.
fn books(sale: &Sale, total: i64, orders: &[(OrderId, i64, &str)]) -> Value {
    let sum =
        |units: &str| -> i64 { orders.iter().filter(|order| order.2 == units).map(|order| order.1).sum() };
    let (held, sold) = (sum("held"), sum("sold"));
    json!({
        "item_id": item_of(sale), "total": total, "available": total - held - sold, "held": held, "sold": sold,
        "unsettled": 0, "buyers": held + sold, "epoch": 1,
        "orders": orders.iter().map(|(id, quantity, units)| json!({
            "order_id": id, "quantity": quantity, "units": units,
        })).collect::<Vec<_>>(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_lays_both_books_side_by_side() {
    let desk = Desk::open("audit").await;
    let sale = desk.open_sale(10).await;
    let path = format!("/admin/sales/{}/audit", sale.id);
    let held = desk.order(&sale, "ann", 2).await;
    let sold = desk.order(&sale, "bob", 1).await;
    let payment = desk.pay("bob", sold).await;
    assert_eq!(desk.deliver(&desk.notice(payment, "success").await).await, 204);
    let back = desk.order(&sale, "cid", 1).await;
    assert_eq!(desk.instance.post(&format!("/orders/{back}/cancel"), "cid").await.0, 200);

    assert_eq!(desk.admin_get(&path).await.0, 503, "the inventory does not know the item");
    let say = |books: Value| desk.outside.books.lock().unwrap().insert(item_of(&sale).0, books);
    let known = [(held, 2, "held"), (sold, 1, "sold"), (back, 1, "returned")];
    say(books(&sale, 10, &known));
    let (status, audit) = desk.admin_get(&path).await;
    assert_eq!(status, 200);
    let expected = json!({
        "item_id": item_of(&sale), "total": 10, "available": 7, "held": 2, "sold": 1, "unsettled": 0,
        "pending_payment": 2, "paid": 1, "cancelled": 1, "expired": 0, "rejected": 0, "refunded": 0, "drift": 0,
    });
    assert_eq!((&audit["consistent"], &audit["items"][0]), (&json!(true), &expected));

    for (wrong, drift) in [
        (vec![known[0], known[1]], 1),
        (vec![known[0], known[1], known[2], (OrderId(sale.id.0), 3, "returned")], 3),
        (vec![(held, 2, "sold"), known[1], known[2]], 2),
        (vec![(held, 1, "held"), known[1], known[2]], 2),
    ] {
        say(books(&sale, 10, &wrong));
        let audit = desk.admin_get(&path).await.1;
        assert_eq!((&audit["consistent"], &audit["items"][0]["drift"]), (&json!(false), &json!(drift)));
    }
    say(books(&sale, 11, &known));
    assert_eq!(desk.admin_get(&path).await.1["consistent"], false, "another total");

    // Over and settled: the inventory may have forgotten it.
    desk.outside.books.lock().unwrap().clear();
    desk.admin_does(&format!("/admin/sales/{}/end", sale.id), json!({})).await;
    assert_eq!(desk.admin_get(&path).await.0, 503, "an order is still open");
    assert_eq!(desk.instance.post(&format!("/orders/{held}/cancel"), "ann").await.0, 200);
    let (status, audit) = desk.admin_get(&path).await;
    assert_eq!((status, &audit["consistent"], &audit["items"][0]["sold"]), (200, &json!(true), &json!(1)));
    assert_eq!(desk.admin_get(&format!("/admin/sales/{held}/audit")).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_filtered_and_paged() {
    let desk = Desk::open("orders").await;
    let (lunch, dinner) = (desk.open_sale(10).await, desk.open_sale(10).await);
    let mut of_lunch = Vec::new();
    for user in ["ann", "bob", "ann"] {
        of_lunch.push(desk.order(&lunch, user, 1).await);
    }
    let of_dinner = desk.order(&dinner, "ann", 1).await;
    assert_eq!(desk.instance.post(&format!("/orders/{}/cancel", of_lunch[0]), "ann").await.0, 200);

    let ids = async |query: &str| -> Vec<OrderId> {
        let (status, page) = desk.admin_get(&format!("/admin/orders?{query}")).await;
        assert_eq!(status, 200, "{query}: {page}");
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|o| serde_json::from_value(o["id"].clone()).unwrap())
            .collect()
    };
    assert_eq!(ids("").await, [of_dinner, of_lunch[2], of_lunch[1], of_lunch[0]]);
    assert_eq!(ids(&format!("sale_id={}", lunch.id)).await, [of_lunch[2], of_lunch[1], of_lunch[0]]);
    assert_eq!(ids("user_id=bob").await, [of_lunch[1]]);
    assert_eq!(ids("status=cancelled").await, [of_lunch[0]]);
    assert_eq!(ids(&format!("user_id=ann&status=pending_payment&sale_id={}", lunch.id)).await, [of_lunch[2]]);
    let (_, first) = desk.admin_get("/admin/orders?limit=3").await;
    assert_eq!(first["items"][1]["user_id"], "ann");
    let cursor = first["next_cursor"].as_str().unwrap();
    assert_eq!(ids(&format!("limit=3&cursor={cursor}")).await, [of_lunch[0]]);
    for (query, field) in [
        ("sale_id=x", "sale_id"),
        ("status=gone", "status"),
        ("user_id=%27%20OR%201%3D1", "user_id"),
        ("cursor=%00", "cursor"),
        ("limit=101", "limit"),
        ("state=paid", "query"),
    ] {
        let (status, problem) = desk.admin_get(&format!("/admin/orders?{query}")).await;
        assert_eq!((status, &problem["field"]), (400, &json!(field)), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_is_whole_and_no_formula() {
    const ORDERS: usize = 1_203;
    let desk = Desk::open("csv").await;
    let sale = desk.open_sale(10_000).await;
    desk.order(&sale, "-2-3", 1).await;
    desk.world
        .execute(&format!(
            "INSERT INTO orders (id, item_id, sale_id, user_id, quantity, unit_price_cents, currency, status, units,
                                 version, epoch, reserved_at, created_at)
             SELECT gen_random_uuid(), '{}', '{}', 'u' || n, 1, 990, 'CNY', 'expired', 'returned', 2, 1, now(),
                    now() - (n / 7) * interval '1 second'
               FROM generate_series(1, {}) n",
            item_of(&sale),
            sale.id,
            ORDERS - 1
        ))
        .await;
    let csv = async |query: &str| -> String {
        let path = format!("/admin/orders?{query}");
        let call = desk.instance.call(Method::GET, &path, "root").header("x-user-role", "admin");
        let response = call.header("accept", "text/csv, application/json;q=0.5").send().await.unwrap();
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/csv"));
        response.text().await.unwrap()
    };
    let all = csv("").await;
    let lines: Vec<&str> = all.split_terminator("\r\n").collect();
    assert_eq!(lines.len(), ORDERS + 1);
    assert!(
        lines[0]
            .starts_with("id,user_id,item_id,sale_id,quantity,unit_price_cents,total_cents,currency,status")
    );
    let ids: std::collections::HashSet<&str> =
        lines[1..].iter().map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(ids.len(), ORDERS, "nothing twice, nothing missing");
    assert!(lines.iter().any(|line| line.contains(",'-2-3,")), "a formula is defused");
    assert_eq!(csv("limit=5").await.lines().count(), 6);
    assert_eq!(csv("status=pending_payment").await.lines().count(), 2);
    let json = desk.admin_get("/admin/orders?status=pending_payment").await.1;
    assert_eq!(json["items"][0]["status"], serde_json::to_value(OrderStatus::PendingPayment).unwrap());
}
