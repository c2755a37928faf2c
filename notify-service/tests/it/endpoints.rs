//! Registering webhooks: what is refused is named.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::messages::order::ALL_V1;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Replica, World, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_registered_listed_without_its_secret_and_deleted() {
    let world = World::start().await;
    let replica = world.replica().await;
    let body = json!({ "url": "http://127.0.0.1:9/hook", "types": ["order.paid.v1", "order.paid.v1"] });
    let (status, created) = replica.admin_json(Method::POST, "", Some(body)).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(created["url"], "http://127.0.0.1:9/hook");
    assert_eq!(created["types"], json!(["order.paid.v1"]));
    assert!(text(&created["secret"]).starts_with("whsec_"));

    let (status, page) = replica.admin_json(Method::GET, "", None).await;
    assert_eq!((status, page["items"].as_array().unwrap().len()), (StatusCode::OK, 1));
    assert_eq!(page["next_cursor"], Value::Null);
    assert_eq!(page["items"][0]["id"], created["id"]);
    assert!(page["items"][0].get("secret").is_none());

    let path = format!("/{}", text(&created["id"]));
    let (status, _) = replica.admin_json(Method::DELETE, &path, None).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (status, problem) = replica.admin_json(Method::DELETE, &path, None).await;
    assert_eq!((status, problem["code"].as_str()), (StatusCode::NOT_FOUND, Some("not_found")));
    let (_, page) = replica.admin_json(Method::GET, "", None).await;
    assert_eq!(page["items"], json!([]));
    assert_eq!(actions(&world).await, ["webhook.create", "webhook.delete"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named() {
    let world = World::start().await;
    let replica = world.replica().await;
    let url = "http://127.0.0.1:9/hook";
    let secret = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
    let long = format!("http://127.0.0.1/{}", "a".repeat(2_000));
    let cases = [
        ("body", json!([])),
        ("body", json!([url, ["order.*"], null])),
        ("url", json!({ "types": ["order.*"] })),
        ("types", json!({ "url": url })),
        ("url", json!({ "url": 5, "types": ["order.*"] })),
        ("url", json!({ "url": "", "types": ["order.*"] })),
        ("url", json!({ "url": "not a url", "types": ["order.*"] })),
        ("url", json!({ "url": "ftp://127.0.0.1/", "types": ["order.*"] })),
        ("url", json!({ "url": "http://user:pw@127.0.0.1/", "types": ["order.*"] })),
        ("url", json!({ "url": "http://127.0.0.1/#top", "types": ["order.*"] })),
        ("url", json!({ "url": "http://127.0.0.1\r\nx: y", "types": ["order.*"] })),
        ("url", json!({ "url": long, "types": ["order.*"] })),
        ("types", json!({ "url": url, "types": [] })),
        ("types", json!({ "url": url, "types": "order.*" })),
        ("types", json!({ "url": url, "types": vec!["order.*"; 17] })),
        ("types[1]", json!({ "url": url, "types": ["order.paid.v1", "order.paid"] })),
        ("types[0]", json!({ "url": url, "types": ["stock.reserved.v1"] })),
        ("types[0]", json!({ "url": url, "types": [7] })),
        ("secret", json!({ "url": url, "types": ["order.*"], "secret": "short" })),
        ("secret", json!({ "url": url, "types": ["order.*"], "secret": secret(23) })),
        ("secret", json!({ "url": url, "types": ["order.*"], "secret": secret(65) })),
        ("colour", json!({ "url": url, "types": ["order.*"], "colour": "red" })),
    ];
    for (field, body) in cases {
        let (status, problem) = replica.admin_json(Method::POST, "", Some(body.clone())).await;
        assert_eq!(
            (status, problem["field"].as_str()),
            (StatusCode::BAD_REQUEST, Some(field)),
            "{body}: {problem}"
        );
        assert_eq!(problem["code"], "invalid_request");
        assert!(!text(&problem["detail"]).contains(" at line "), "{problem}");
    }
    for body in ["", "{", "{}x", "null"] {
        let answer = replica.admin(Method::POST, "").body(body).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
    let huge = replica.admin(Method::POST, "").body("x".repeat(17 * 1024)).send().await.unwrap();
    assert_eq!(huge.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(huge.headers()["content-type"], "application/problem+json");
    let (_, page) = replica.admin_json(Method::GET, "", None).await;
    assert_eq!(page["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_and_a_secret_of_ones_own_are_taken() {
    let world = World::start().await;
    let replica = world.replica().await;
    let secret = format!("whsec_{}", STANDARD.encode([9; 24]));
    let mut types: Vec<&str> = ALL_V1.to_vec();
    types.push("order.*");
    let body = json!({ "url": "http://127.0.0.1/", "types": types, "secret": secret });
    let (status, created) = replica.admin_json(Method::POST, "", Some(body)).await;
    assert_eq!((status, text(&created["secret"])), (StatusCode::CREATED, secret));
}

#[tokio::test(flavor = "multi_thread")]
async fn private_targets_are_refused_outside_development() {
    let world = World::start().await;
    let mut settings = world.settings();
    settings.webhooks.allow_private = false;
    let replica = world.replica_with(settings).await;
    for url in [
        "http://example.com/",
        "https://127.0.0.1/",
        "https://0x7f000001/",
        "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://localhost/",
        "https://example.com:6379/",
        // A name of this machine, which only resolving finds out.
        &format!("https://{}/", local_name()),
    ] {
        let body = json!({ "url": url, "types": ["order.*"] });
        let (status, problem) = replica.admin_json(Method::POST, "", Some(body)).await;
        assert_eq!((status, problem["field"].as_str()), (StatusCode::BAD_REQUEST, Some("url")), "{url}");
    }
    let body = json!({ "url": "https://1.1.1.1/hook", "types": ["order.*"] });
    let (status, _) = replica.admin_json(Method::POST, "", Some(body)).await;
    assert_eq!(status, StatusCode::CREATED);
}

/// The machine's name resolves to one of its own addresses; without a dot it is refused even before that.
fn local_name() -> String {
    std::fs::read_to_string("/etc/hostname").map_or("localhost".to_owned(), |name| name.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_more_webhooks_than_allowed_even_when_asked_for_at_once() {
    let world = World::start().await;
    let mut settings = world.settings();
    settings.webhooks.endpoints_max = 3;
    let replica = world.replica_with(settings).await;
    let register = async |replica: &Replica, number: u32| {
        let body = json!({ "url": format!("http://127.0.0.1/{number}"), "types": ["order.*"] });
        replica.admin_json(Method::POST, "", Some(body)).await.0
    };
    let answers = futures_util::future::join_all((0..10).map(|number| register(&replica, number))).await;
    let created = answers.iter().filter(|status| **status == StatusCode::CREATED).count();
    let refused = answers.iter().filter(|status| **status == StatusCode::CONFLICT).count();
    assert_eq!((created, refused), (3, 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_admins_may() {
    let world = World::start().await;
    let replica = world.replica().await;
    let id = uuid::Uuid::new_v4();
    for (method, path) in [
        (Method::POST, "/internal/v1/admin/webhooks".to_owned()),
        (Method::GET, "/internal/v1/admin/webhooks".to_owned()),
        (Method::GET, "/internal/v1/admin/audit-log".to_owned()),
        (Method::DELETE, format!("/internal/v1/admin/webhooks/{id}")),
        (Method::GET, format!("/internal/v1/admin/webhooks/{id}/deliveries")),
        (Method::POST, format!("/internal/v1/admin/webhooks/{id}/deliveries/{id}/redeliver")),
    ] {
        let request = replica.request(method.clone(), &path).header("x-user-id", "ann");
        let answer = request.header("x-user-role", "customer").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{method} {path}");
        let answer = replica.request(method.clone(), &path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
    }
    let wrong_method = replica.admin(Method::PUT, "").send().await.unwrap();
    assert_eq!(wrong_method.status(), StatusCode::METHOD_NOT_ALLOWED);
    let no_path = replica.admin(Method::GET, "/x/y/z").send().await.unwrap();
    assert_eq!(no_path.status(), StatusCode::NOT_FOUND);
    assert_eq!(no_path.headers()["content-type"], "application/problem+json");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_deliveries_names_what_is_wrong_with_the_query() {
    let world = World::start().await;
    let replica = world.replica().await;
    let (webhook, _) = replica.register("http://127.0.0.1:9/", &["order.*"]).await;
    for (field, query) in
        [("state", "state=lost"), ("cursor", "cursor=x"), ("limit", "limit=0"), ("limit", "limit=101")]
    {
        let (status, problem) =
            replica.admin_json(Method::GET, &format!("/{webhook}/deliveries?{query}"), None).await;
        assert_eq!((status, problem["field"].as_str()), (StatusCode::BAD_REQUEST, Some(field)), "{query}");
    }
    for path in ["/nonsense/deliveries".to_owned(), format!("/{}/deliveries", uuid::Uuid::new_v4())] {
        let (status, _) = replica.admin_json(Method::GET, &path, None).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
    }
}

async fn actions(world: &World) -> Vec<String> {
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::Text)]
        line: String,
    }
    let query = diesel::sql_query("SELECT action AS line FROM audit_log WHERE actor = 'boss' ORDER BY id");
    let rows: Vec<Row> = diesel_async::RunQueryDsl::load(query, &mut world.connection().await).await.unwrap();
    rows.into_iter().map(|row| row.line).collect()
}
