//! The log of admins' changes, from the two services that keep a part of it.

use chrono::{DateTime, TimeDelta, Utc};
use common::problem::Code;
use serde_json::{Value, json};

use crate::support::*;

/// A log whose entry `id` is of so many seconds after `start`; the cursor `c<id>` is before entry `id`.
fn log(
    action: &'static str,
    start: DateTime<Utc>,
    seconds: Vec<(i64, i64)>,
) -> impl Fn(&Recorded) -> Reply + Send + Sync {
    move |call| {
        if call.path != "/internal/v1/admin/audit-log" {
            return Reply::problem(Code::NotFound);
        }
        assert_eq!(
            (call.headers["x-user-id"].as_str(), call.headers["x-user-role"].as_str()),
            ("boss", "admin")
        );
        let parameter = |name: &str| {
            let mut pairs = call.query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value.trim_start_matches('c').to_owned())
        };
        let before: i64 = parameter("cursor").map_or(i64::MAX, |id| id.parse().expect("a cursor"));
        let limit: usize = parameter("limit").expect("a limit").parse().expect("a number");
        let left: Vec<_> = seconds.iter().filter(|(id, _)| *id < before).collect();
        let page = &left[..limit.min(left.len())];
        let items = page.iter().map(|(id, second)| {
            json!({ "id": id, "at": start + TimeDelta::seconds(*second), "actor": "boss", "action": action,
                "subject": SALE.0, "before": null, "after": null })
        });
        let more = left.len() > limit;
        let next = page.last().filter(|_| more).map(|(id, _)| format!("c{id}"));
        Reply::json(200, &json!({ "items": items.collect::<Vec<_>>(), "next_cursor": next }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_logs_are_read_as_one_newest_first_page_by_page() {
    let gateway = open().await;
    let start = now();
    gateway.orders.answer(log("sale.publish", start, vec![(9, 90), (8, 50), (7, 40), (2, 5)]));
    gateway.notify.answer(log("webhook.create", start, vec![(4, 91), (3, 50), (2, 3), (1, 1)]));
    let admin = gateway.token("boss", "admin").await;
    let page = async |limit: usize, cursor: Option<&str>| -> Value {
        let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let path = format!("/api/v1/admin/audit-log?limit={limit}{cursor}");
        let response = gateway.get(&path).bearer_auth(&admin).send().await.expect("answered");
        assert_eq!(response.status(), 200);
        response.json().await.expect("JSON")
    };
    let whole = [("w", 4), ("s", 9), ("s", 8), ("w", 3), ("s", 7), ("s", 2), ("w", 2), ("w", 1)];
    for limit in 1..=9 {
        let (mut read, mut cursor) = (Vec::new(), None);
        loop {
            let got = page(limit, cursor.as_deref()).await;
            let items = got["items"].as_array().expect("items");
            assert!(items.len() <= limit);
            read.extend(items.iter().map(|entry| {
                let action = entry["action"].as_str().expect("text");
                (if action.starts_with('w') { "w" } else { "s" }, entry["id"].as_i64().expect("a number"))
            }));
            cursor = got["next_cursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
            assert!(!items.is_empty(), "or it would never end");
        }
        assert_eq!(read, whole, "{limit} at a time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_log_is_no_log_and_bad_places_are_refused() {
    let gateway = open().await;
    let start = now();
    let admin = gateway.token("boss", "admin").await;
    let get = async |query: &str| {
        let path = format!("/api/v1/admin/audit-log{query}");
        gateway.get(&path).bearer_auth(&admin).send().await.expect("answered")
    };
    gateway.orders.answer(log("sale.publish", start, vec![(1, 1)]));
    for reply in [|| Reply::problem(Code::Unavailable), || Reply::new(500), || Reply::problem(Code::NotFound)]
    {
        gateway.notify.answer(move |_| reply());
        problem(get("").await, 503, "unavailable").await;
    }
    gateway.notify.answer(log("webhook.create", start, vec![]));
    gateway.orders.answer(|_| Reply::problem(Code::Unavailable));
    problem(get("").await, 503, "unavailable").await;
    for (query, field) in [
        ("?limit=0", "limit"),
        ("?limit=101", "limit"),
        ("?limit=x", "limit"),
        ("?cursor=x", "cursor"),
        ("?cursor=%2F.x", "cursor"),
    ] {
        assert_eq!(problem(get(query).await, 400, "invalid_request").await["field"], field);
    }
}
