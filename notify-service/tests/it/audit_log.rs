//! What admins did can be read.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Replica, World, text};

#[tokio::test(flavor = "multi_thread")]
async fn what_admins_did_is_read_page_by_page_the_newest_first() {
    let world = World::start().await;
    let replica = world.replica().await;
    let (status, empty) = read(&replica, "").await;
    assert_eq!((status, empty), (StatusCode::OK, json!({ "items": [], "next_cursor": null })));

    let (first, secret) = replica.register("http://127.0.0.1:9/first", &["order.*"]).await;
    let (second, _) = replica.register("http://127.0.0.1:9/second", &["order.paid.v1"]).await;
    let (status, _) = replica.admin_json(Method::DELETE, &format!("/{first}"), None).await;
    assert_eq!(status, StatusCode::NO_CONTENT);

    let (_, whole) = read(&replica, "").await;
    let entries = whole["items"].as_array().unwrap();
    let deeds: Vec<_> =
        entries.iter().map(|entry| (text(&entry["action"]), text(&entry["subject"]))).collect();
    let deed = |action: &str, subject: &str| (action.to_owned(), subject.to_owned());
    assert_eq!(
        deeds,
        [deed("webhook.delete", &first), deed("webhook.create", &second), deed("webhook.create", &first)]
    );
    assert!(entries.iter().all(|entry| entry["actor"] == "boss" && entry["at"].is_string()));
    let shown = json!({ "url": "http://127.0.0.1:9/first", "types": ["order.*"] });
    assert_eq!((&entries[0]["before"], &entries[0]["after"]), (&shown, &Value::Null));
    assert_eq!((&entries[2]["before"], &entries[2]["after"]), (&Value::Null, &shown));
    assert!(!whole.to_string().contains(&secret));

    let mut paged = Vec::new();
    let mut cursor = String::new();
    loop {
        let (status, page) = read(&replica, &format!("?limit=1&cursor={cursor}")).await;
        assert_eq!((status, page["items"].as_array().unwrap().len()), (StatusCode::OK, 1), "{page}");
        paged.push(page["items"][0].clone());
        if page["next_cursor"].is_null() {
            break;
        }
        cursor = text(&page["next_cursor"]);
        assert_eq!(cursor, page["items"][0]["id"].to_string());
    }
    assert_eq!(&paged, entries);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_query_is_named() {
    let world = World::start().await;
    let replica = world.replica().await;
    for (field, query) in [
        ("cursor", "?cursor=x"),
        ("cursor", "?cursor=99999999999999999999"),
        ("limit", "?limit=0"),
        ("limit", "?limit=101"),
        ("limit", "?limit=x"),
        ("query", "?limit=1&limit=2"),
    ] {
        let (status, problem) = read(&replica, query).await;
        assert_eq!((status, problem["field"].as_str()), (StatusCode::BAD_REQUEST, Some(field)), "{query}");
    }
}

async fn read(replica: &Replica, query: &str) -> (StatusCode, Value) {
    let path = format!("/internal/v1/admin/audit-log{query}");
    let request =
        replica.request(Method::GET, &path).header("x-user-id", "boss").header("x-user-role", "admin");
    let answer = request.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}
