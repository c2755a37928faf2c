//! The block list: kept, listed, told to gateways by its version, and in the audit log.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Instance, World, answer};

async fn admin(instance: &Instance, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let call = instance.call(method, path, "boss").header("x-user-role", "admin");
    answer(body.into_iter().fold(call, |call, body| call.json(&body))).await
}

fn wish(kind: &str, value: &str) -> Value {
    json!({ "kind": kind, "value": value, "reason": "resells" })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_is_kept_changed_and_lifted_and_gateways_read_the_list_when_it_has_changed() {
    let world = World::start("blocks").await;
    let instance = world.instance().await;
    let list = async |tag: &str| {
        let call = instance.call(Method::GET, "/blocks", "nobody").header("if-none-match", tag);
        let response = call.send().await.unwrap();
        let (status, tag) =
            (response.status().as_u16(), response.headers()["etag"].to_str().unwrap().to_owned());
        (status, tag, response.json::<Value>().await.unwrap_or_default())
    };
    let (status, empty, body) = list("").await;
    assert_eq!((status, &body), (200, &json!({ "items": [] })));
    assert_eq!(list(&empty).await.0, 304);

    let (status, made) =
        admin(&instance, Method::POST, "/admin/blocks", Some(wish("network", "203.0.113.9/24"))).await;
    assert_eq!(
        (status, &made["value"], &made["created_by"]),
        (201, &json!("203.0.113.0/24"), &json!("boss"))
    );
    let (status, one, body) = list(&empty).await;
    assert_eq!(status, 200);
    assert_eq!(
        body,
        json!({ "items": [{ "kind": "network", "value": "203.0.113.0/24", "expires_in_ms": null }] })
    );

    // The same again changes reason and end.
    let again = json!({ "kind": "network", "value": "203.0.113.77/24", "reason": "again", "expires_at": "2100-01-01T00:00:00Z" });
    let (status, changed) = admin(&instance, Method::POST, "/admin/blocks", Some(again)).await;
    assert_eq!((status, &changed["id"], &changed["reason"]), (201, &made["id"], &json!("again")));
    let (status, two, body) = list(&one).await;
    assert!(status == 200 && two != one && body["items"][0]["expires_in_ms"].as_u64() > Some(1));

    for (value, body) in [
        ("value", wish("user", "not a user")),
        ("value", wish("network", "0.0.0.0/0")),
        ("kind", wish("planet", "earth")),
        (
            "expires_at",
            json!({ "kind": "user", "value": "mei", "reason": "r", "expires_at": "2020-01-01T00:00:00Z" }),
        ),
        ("colour", json!({ "kind": "user", "value": "mei", "reason": "r", "colour": 1 })),
    ] {
        let (status, problem) = admin(&instance, Method::POST, "/admin/blocks", Some(body)).await;
        assert_eq!((status, problem["field"].as_str()), (400, Some(value)), "{problem}");
    }
    let as_customer = instance.call(Method::POST, "/admin/blocks", "mei").json(&wish("user", "li"));
    assert_eq!(answer(as_customer).await.0, 403);

    let lift = format!("/admin/blocks/{}", made["id"].as_str().unwrap());
    assert_eq!(admin(&instance, Method::DELETE, &lift, None).await.0, 204);
    assert_eq!(admin(&instance, Method::DELETE, &lift, None).await.0, 404);
    assert_eq!(list(&two).await.2, json!({ "items": [] }));
    let (_, log) = admin(&instance, Method::GET, "/admin/audit-log", None).await;
    let deeds: Vec<_> =
        log["items"].as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(deeds, ["block.lift", "block.change", "block.create"]);
    assert_eq!((&log["items"][0]["after"], &log["items"][2]["before"]), (&Value::Null, &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_paged_and_what_is_over_is_not_on_it() {
    let world = World::start("block_pages").await;
    let instance = world.instance().await;
    for n in 0..5 {
        let (status, _) =
            admin(&instance, Method::POST, "/admin/blocks", Some(wish("user", &format!("u{n}")))).await;
        assert_eq!(status, 201);
    }
    world.execute("UPDATE blocks SET expires_at = now() - interval '1 second' WHERE value = 'u3'").await;
    let (mut seen, mut path) = (Vec::new(), "/admin/blocks?limit=2".to_owned());
    loop {
        let (status, page) = admin(&instance, Method::GET, &path, None).await;
        assert_eq!(status, 200);
        seen.extend(
            page["items"].as_array().unwrap().iter().map(|block| block["value"].as_str().unwrap().to_owned()),
        );
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/admin/blocks?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, ["u4", "u2", "u1", "u0"]);
    assert_eq!(instance.get("/blocks", "nobody").await.1["items"].as_array().unwrap().len(), 4);
    // Whoever changes the list tidies it up.
    admin(&instance, Method::POST, "/admin/blocks", Some(wish("user", "u9"))).await;
    assert_eq!(world.number("SELECT count(*) FROM blocks").await, 5);
}
