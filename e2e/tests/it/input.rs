//! Wrong input: the documented problem, naming the field, with no effect.

use common::problem::Code;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::support::World;

/// Body of an order, the status it gets, the field it is about.
const BODIES: [(&str, StatusCode, Option<&str>); 16] = [
    ("", StatusCode::BAD_REQUEST, Some("body")),
    ("{", StatusCode::BAD_REQUEST, Some("body")),
    ("nonsense", StatusCode::BAD_REQUEST, Some("body")),
    ("[]", StatusCode::BAD_REQUEST, None),
    ("{}", StatusCode::BAD_REQUEST, Some("quantity")),
    (r#"{"quantity":0}"#, StatusCode::BAD_REQUEST, Some("quantity")),
    (r#"{"quantity":-1}"#, StatusCode::BAD_REQUEST, Some("quantity")),
    (r#"{"quantity":1000000000}"#, StatusCode::BAD_REQUEST, Some("quantity")),
    (r#"{"quantity":9223372036854775808}"#, StatusCode::BAD_REQUEST, Some("quantity")),
    (r#"{"quantity":1.5}"#, StatusCode::BAD_REQUEST, Some("quantity")),
    (r#"{"quantity":"1"}"#, StatusCode::BAD_REQUEST, Some("quantity")),
    (r#"{"quantity":null}"#, StatusCode::BAD_REQUEST, Some("quantity")),
    (r#"{"quantity":[1]}"#, StatusCode::BAD_REQUEST, Some("quantity")),
    (r#"{"quantity":true}"#, StatusCode::BAD_REQUEST, Some("quantity")),
    (r#"{"quantity":1,"price_cents":1}"#, StatusCode::BAD_REQUEST, Some("price_cents")),
    (r#"{"quantity":1,"quantity":2}"#, StatusCode::BAD_REQUEST, Some("quantity")),
];

#[tokio::test(flavor = "multi_thread")]
async fn wrong_input_is_refused_with_the_fields_name_and_nothing_is_written() {
    let world = World::start().await;
    let sale = world.open_sale(10, 10, 3_600).await;
    let path = format!("/api/v1/items/{}/orders", sale.items[0].id);
    let token = world.customer("clumsy").await;

    for (body, status, field) in BODIES {
        let problem = refused(&world, &path, Some(&token), body, status).await;
        if let Some(field) = field {
            assert_eq!(problem["field"], field, "{body}");
        }
    }
    let long = format!(r#"{{"quantity":1,"x":"{}"}}"#, "x".repeat(17 * 1024));
    refused(&world, &path, Some(&token), &long, StatusCode::PAYLOAD_TOO_LARGE).await;

    let good = r#"{"quantity":1}"#;
    refused(&world, &path, None, good, StatusCode::UNAUTHORIZED).await;
    refused(&world, &path, Some("x.y.z"), good, StatusCode::UNAUTHORIZED).await;
    refused(&world, &path, Some(&format!("{token}x")), good, StatusCode::UNAUTHORIZED).await;
    let unknown = format!("/api/v1/items/{}/orders", uuid::Uuid::new_v4());
    refused(&world, &unknown, Some(&token), good, StatusCode::NOT_FOUND).await;
    refused(&world, "/api/v1/items/nonsense/orders", Some(&token), good, StatusCode::NOT_FOUND).await;
    refused(&world, "/api/v1/admin/sales", Some(&token), "{}", StatusCode::FORBIDDEN).await;
    refused(&world, "/internal/v1/items", Some(&token), good, StatusCode::NOT_FOUND).await;

    let books = world.quiet(sale.id).await;
    assert_eq!((books.items[0].available, books.items[0].pending_payment), (10, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_that_makes_no_sense_is_refused_with_the_fields_name() {
    let world = World::start().await;
    let item = r#"{"sku":"a","name":"b","image_url":"","price_cents":1,"currency":"CNY","stock":1,"per_user_limit":1}"#;
    let sale = |item: &str, window: &str, ends: &str| {
        format!(
            r#"{{"title":"t","starts_at":"2026-01-01T00:00:00Z","ends_at":"{ends}","payment_window_seconds":{window},"items":[{item}]}}"#
        )
    };
    let later = "2999-01-01T00:00:00Z";
    for (body, field) in [
        (sale(item, "0", later), "payment_window_seconds"),
        (sale(item, "86401", later), "payment_window_seconds"),
        (sale(item, "60", "2025-01-01T00:00:00Z"), "ends_at"),
        (sale("", "60", later), "items"),
        (sale(&item.replace("\"stock\":1", "\"stock\":-1"), "60", later), "items[0].stock"),
        (
            sale(&item.replace("\"per_user_limit\":1", "\"per_user_limit\":0"), "60", later),
            "items[0].per_user_limit",
        ),
        (sale(&item.replace("CNY", "cny"), "60", later), "items[0].currency"),
        (sale(&item.replace("\"price_cents\":1", "\"price_cents\":-1"), "60", later), "items[0].price_cents"),
    ] {
        let problem =
            refused(&world, "/api/v1/admin/sales", Some(&world.admin), &body, StatusCode::BAD_REQUEST).await;
        assert_eq!(problem["field"], field, "{body}");
    }
    let listed: Value = world.client.get("/api/v1/admin/sales", &world.admin).await.unwrap().json().unwrap();
    assert_eq!(listed["items"].as_array().unwrap().len(), 0, "nothing was written");
}

async fn refused(world: &World, path: &str, token: Option<&str>, body: &str, status: StatusCode) -> Value {
    let mut request = world.client.request(Method::POST, path).header("Content-Type", "application/json");
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = world.client.send(request.body(body.to_owned())).await.unwrap();
    let shown = String::from_utf8_lossy(&answer.body).chars().take(300).collect::<String>();
    assert_eq!(answer.status, status, "{path} {body:.80}: {shown}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{path} {body:.80}");
    assert_eq!(answer.header("x-outcome"), Some("none"), "{path} {body:.80}");
    assert_ne!(answer.code(), Some(Code::Internal));
    serde_json::from_slice(&answer.body).unwrap()
}
